// Package deferred has the operations that are kept for a key while Redis is away: commands that change
// the key without its being known what it holds. It knows which commands may be kept (command.go),
// how several are one, and how they stand in a record's value, on disk, and before the script that
// does them.
//
// A List is all operations that are kept of a key, in order. Each has a stamp of its own, greater
// than the one before; by these Redis remembers how far it has done a List (script.Operate).
package deferred

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/redaside/aside/internal/stamp"
)

// Op is one operation.
type Op struct {
	Stamp   string
	Command []string // without the key; never empty
}

// List is the operations of a key.
type List struct {
	ID     string // the stamp of that which began the list: its name in the key's ledger
	Opened bool   // Redis has been asked to note its beginning in the ledger, so its operations may have been done
	Ops    []Op   // none: it only says that the list with this ID was opened
}

// A List as text is JSON of one operation a line, so that one more is added without reading all (Log):
//
//	{"id": "1763…", "opened": false, "operations": [
//	{"stamp": "1763…", "command": ["INCRBY","5"]},
//	{"stamp": "1763…", "base64": ["U0FERA==","/w=="]}
//	]}
//
// What is not UTF-8 makes the whole command base64.
const textEnd = "\n]}"

// jsonOp is an Op as it stands in the text.
type jsonOp struct {
	Stamp   string   `json:"stamp"`
	Command []string `json:"command,omitempty"`
	Base64  [][]byte `json:"base64,omitempty"`
}

type jsonList struct {
	ID         string   `json:"id"`
	Opened     bool     `json:"opened"`
	Operations []jsonOp `json:"operations"`
}

// String is what Parse reads.
func (l List) String() string {
	var b strings.Builder
	b.WriteString(l.head())
	for i, op := range l.Ops {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString("\n")
		op.write(&b)
	}
	b.WriteString(textEnd)
	return b.String()
}

func (l List) head() string { return head(l.ID, l.Opened) }

func head(id string, opened bool) string {
	return `{"id": "` + id + `", "opened": ` + strconv.FormatBool(opened) + `, "operations": [`
}

func (o Op) write(b *strings.Builder) {
	b.WriteString(`{"stamp": "` + o.Stamp + `", `)
	text := !slices.ContainsFunc(o.Command, func(s string) bool { return !utf8.ValidString(s) })
	if text {
		b.WriteString(`"command": [`)
	} else {
		b.WriteString(`"base64": [`)
	}
	for i, s := range o.Command {
		if i > 0 {
			b.WriteString(",")
		}
		if text {
			writeQuoted(b, s)
		} else {
			b.WriteString(`"` + base64.StdEncoding.EncodeToString([]byte(s)) + `"`)
		}
	}
	b.WriteString("]}")
}

func writeQuoted(b *strings.Builder, s string) {
	var text strings.Builder
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // of a string, which has no reason to fail
	b.WriteString(strings.TrimSuffix(text.String(), "\n"))
}

// Parse reads a List.
func Parse(text string) (List, error) {
	var j jsonList
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return List{}, errors.New("it is no list of operations")
	}
	l := List{ID: j.ID, Opened: j.Opened, Ops: make([]Op, 0, len(j.Operations))}
	last := ""
	for _, o := range j.Operations {
		op := Op{Stamp: o.Stamp, Command: o.Command}
		for _, b := range o.Base64 {
			op.Command = append(op.Command, string(b))
		}
		if len(op.Command) == 0 || op.Command[0] == "" || op.Stamp <= last {
			return List{}, errors.New("it has an operation without a command, or out of order")
		}
		last = op.Stamp
		l.Ops = append(l.Ops, op)
	}
	if l.ID == "" || len(l.Ops) == 0 && !l.Opened {
		return List{}, errors.New("it has no id, or no operations")
	}
	return l, nil
}

// Last is the stamp of the last operation, "" if there is none.
func (l List) Last() string {
	if len(l.Ops) == 0 {
		return ""
	}
	return l.Ops[len(l.Ops)-1].Stamp
}

// Base reports whether the list begins with what replaces all that was there, a SET or a DEL: so
// what Redis holds does not count.
func (l List) Base() bool { return len(l.Ops) > 0 && l.Ops[0].Replaces() }

// Replaces reports whether the operation replaces all that was there: whether it is a SET or a DEL.
func (o Op) Replaces() bool { return o.Command[0] == "SET" || o.Command[0] == "DEL" }

// Together is the list, or the part of it, that came at once: the commands' stamps precede the last's by
// a microsecond and a number each, as Stamps gives them.
func Together(id, last string, commands [][]string) List {
	l := List{ID: id, Ops: make([]Op, len(commands))}
	s, _ := stamp.Parse(last)
	for i, command := range commands {
		back, at := int64(len(commands)-1-i), s
		at.Micros, at.Number = at.Micros-back, at.Number-back
		l.Ops[i] = Op{Stamp: at.String(), Command: command}
	}
	if len(l.Ops) > 0 {
		l.Ops[len(l.Ops)-1].Stamp = last
	}
	return l
}

// AtOnce reports whether b came right behind a, as Together has it.
func AtOnce(a, b Op) bool {
	was, ok := stamp.Parse(a.Stamp)
	is, too := stamp.Parse(b.Stamp)
	return ok && too && was.Client == is.Client && was.Micros+1 == is.Micros && was.Number+1 == is.Number
}

// Since is the list without the operations in front that gone says are not to be done any more, by their
// stamps. The last one stays, and of those that came at once all stay that one of stays. A SET or DEL that is
// left out is a DEL, so what was there before it does not come back. Shorter reports whether any was left out.
func (l List) Since(gone func(stamp string) bool) (since List, shorter bool) {
	before := 0
	for before < len(l.Ops)-1 && gone(l.Ops[before].Stamp) {
		before++
	}
	for before > 0 && (before > 1 || !l.Base()) && AtOnce(l.Ops[before-1], l.Ops[before]) { // a SET in front is a record of its own
		before--
	}
	if before == 0 {
		return l, false
	}
	left := l.Ops[before:]
	if by, ok := replacing(l.Ops[:before]); ok {
		left = slices.Concat([]Op{Del(by)}, left)
	}
	l.Ops = left
	return l, true
}

// Replacing returns the stamp of the last SET or DEL, which is what is left of a list of which all are left out.
func (l List) Replacing() (stamp string, ok bool) { return replacing(l.Ops) }

func replacing(ops []Op) (stamp string, ok bool) {
	for _, op := range slices.Backward(ops) {
		if op.Replaces() {
			return op.Stamp, true
		}
	}
	return "", false
}

// Packed is a List as the script takes it: for each operation its packed stamp, how many words it
// has, and each with its length (4 bytes) in front.
func (l List) Packed() (string, bool) {
	var b []byte
	for _, op := range l.Ops {
		packed, ok := stamp.Packed(op.Stamp)
		if !ok || len(op.Command) > math.MaxInt32 {
			return "", false
		}
		b = append(b, packed...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(op.Command)))
		for _, s := range op.Command {
			b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
			b = append(b, s...)
		}
	}
	return string(b), true
}

// Unpack reads what Packed has written. The stamps stay packed.
func Unpack(packed string) ([]Op, error) {
	bad := errors.New("these are no operations")
	const stampBytes = 20
	var all []Op
	for len(packed) > 0 {
		if len(packed) < stampBytes+4 {
			return nil, bad
		}
		op := Op{Stamp: packed[:stampBytes]}
		words := binary.BigEndian.Uint32([]byte(packed[stampBytes:]))
		packed = packed[stampBytes+4:]
		for range words {
			if len(packed) < 4 {
				return nil, bad
			}
			n := int(binary.BigEndian.Uint32([]byte(packed)))
			if packed = packed[4:]; n > len(packed) {
				return nil, bad
			}
			op.Command, packed = append(op.Command, packed[:n]), packed[n:]
		}
		all = append(all, op)
	}
	return all, nil
}

// Set is the operation that a Set is, which was kept before others came.
func Set(s, value string, expires int64) Op {
	return Op{Stamp: s, Command: []string{"SET", value, "PXAT", strconv.FormatInt(expires, 10)}}
}

// Del is the operation that a Del is.
func Del(s string) Op { return Op{Stamp: s, Command: []string{"DEL"}} }
