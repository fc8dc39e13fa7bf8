package deferred

import (
	"slices"
	"strconv"
	"strings"

	"github.com/redaside/aside/internal/stamp"
)

// Log is a List that operations are added to, one after the other: to add one costs the same however
// many there are. It knows its text's length and what its operations come to without reading them.
//
// A Log does not change: With and Begun return another. That shares the text with the one it was
// made of, which goes on to see its own part of it only. So With is for one caller at a time, and for
// the latest Log; the rest is safe for concurrent use.
type Log struct {
	id     string
	opened bool
	body   []byte // the lines of all operations but the last: each a newline, the operation and a comma
	last   Op
	line   string // of last
	before Value  // what the operations before last come to, from an unknown value on
}

// LogOf is a List as a Log. The List has operations.
func LogOf(l List) *Log {
	g := &Log{id: l.ID, opened: l.Opened}
	for i, op := range l.Ops {
		if i > 0 {
			g.push()
		}
		g.setLast(op)
	}
	return g
}

// push makes room for another last operation.
func (g *Log) push() {
	g.body = append(append(append(g.body, '\n'), g.line...), ',')
	g.before = g.before.After([]Op{g.last})
}

func (g *Log) setLast(op Op) {
	var b strings.Builder
	op.write(&b)
	g.last, g.line = op, b.String()
}

// ID is the name of the list.
func (g *Log) ID() string { return g.id }

// Opened is as of a List.
func (g *Log) Opened() bool { return g.opened }

// Len is how long String is.
func (g *Log) Len() int {
	return len(head(g.id, g.opened)) + len(g.body) + 1 + len(g.line) + len(textEnd)
}

// Beside is how many bytes a Log holds beside its text.
func (g *Log) Beside() int { return len(g.before.Text) }

// Now is what a key holds after the operations, if that follows from them alone.
func (g *Log) Now() Value { return g.before.After([]Op{g.last}) }

// String is the List as text.
func (g *Log) String() string {
	var b strings.Builder
	b.Grow(g.Len())
	b.WriteString(head(g.id, g.opened))
	b.Write(g.body)
	b.WriteString("\n")
	b.WriteString(g.line)
	b.WriteString(textEnd)
	return b.String()
}

// Begun is the Log once its list was opened.
func (g *Log) Begun() *Log {
	begun := *g
	begun.opened = true
	begun.body = slices.Clip(begun.body) // whichever of the two goes on, it writes over nothing of the other's
	return &begun
}

// With is the Log with those operations behind it that are newer than its last. Additions that
// nobody may have done yet are put together.
func (g *Log) With(ops []Op) *Log {
	more := *g
	for _, op := range ops {
		if op.Stamp <= more.last.Stamp {
			continue
		}
		if sum, ok := together(more.last, op); ok && !more.opened {
			more.setLast(sum)
			continue
		}
		more.push()
		more.setLast(op)
	}
	return &more
}

// mostTogether is how long, in µs, a sum takes additions: it counts as of the last of them when a
// replay looks whether somebody has written the key since.
const mostTogether = 1_000_000

// together returns what two INCRBYs of one second come to.
func together(a, b Op) (Op, bool) {
	if len(a.Command) < 2 || len(b.Command) != 2 || a.Command[0] != "INCRBY" || b.Command[0] != "INCRBY" {
		return Op{}, false
	}
	x, err := strconv.ParseInt(a.Command[1], 10, 64)
	y, also := strconv.ParseInt(b.Command[1], 10, 64)
	first, ok := stamp.Micros(a.Stamp)
	last, alsoOK := stamp.Micros(b.Stamp)
	if err != nil || also != nil || !ok || !alsoOK || first/mostTogether != last/mostTogether {
		return Op{}, false
	}
	if sum := x + y; (sum > x) == (y > 0) && (x >= 0) == (y >= 0) { // else one of them may overflow in Redis, and not the sum
		return Op{Stamp: b.Stamp, Command: []string{"INCRBY", strconv.FormatInt(sum, 10)}}, true
	}
	return Op{}, false
}
