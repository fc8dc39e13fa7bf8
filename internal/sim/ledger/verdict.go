package ledger

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
)

// act is what a caller wanted: an operation, a Set or a Del. In the order in which they began.
type act struct {
	kind    actKind
	process int
	life    int
	began   int64
	flushes int   // of which its process knew then
	at      int64 // of its latest stamp, in true time
	slack   int64
	ended   int64 // when its caller was answered that it is done or kept; 0: he was not
	counts  bool  // it is an addition
	sum     int   // which of them
	doneAt  int64 // when the server last did it, of a Set or Del
	ends    int64 // ms: when the key ends by it, as far as its process knows; 0: it does not

	kept     bool      // for replay
	settled  int64     // when Redis had done it, or its record left the store; 0: neither
	rejected rejection // it was put aside
	refused  bool      // the server has said that it cannot be done
	update   bool      // by Client.Update, which leaves a stamp behind it
	overdone bool      // told already
}

type actKind int

const (
	actOperation actKind = iota
	actExpire
	actSet
	actDel
)

func (k actKind) replaces() bool { return k >= actSet }

// rejection is why an operation is in quarantine.
type rejection int

const (
	notRejected rejection = iota
	ledgerLost
	refusedForGood
)

// verdict is what became of a trial.
type verdict struct {
	twice    int // acts that were done twice, with both in what the server holds
	lost     int // that were acknowledged, and are neither done nor reported, without a reason
	reported int // that were reported for a reason that there was not
	order    int // that came behind a later one of their process
	undone   int // operations that were done and overwritten by a Set or Del of before, or done over a later one
	stuck    bool

	operations int // that were acknowledged
	done       int // of them
	dropped    int // for a later Set or Del, or an end
	rejected   int // and reported, because nobody knows whether they were done
	refused    int // and reported, because Redis cannot do them
	hidden     int // overwritten by a Set or Del of before, whose process had a command come late in between
	covered    int // overwritten by a Set that came with operations (the ADR's price)
	dataLost   int // done, and lost with what the server lost
}

// actsOf are the acts that a command of the server is.
func (w *world) actsOf(name, text string) (all []int) {
	if name == "RPUSH" {
		a, _ := strconv.Atoi(text)
		return []int{a}
	}
	n, _ := strconv.ParseInt(text, 10, 64)
	for a := range w.acts {
		if c := &w.acts[a]; c.counts && n>>(2*c.sum)&3 != 0 {
			for range n >> (2 * c.sum) & 3 {
				all = append(all, a)
			}
		}
	}
	return all
}

// actsIn are those of a list.
func (w *world) actsIn(l deferred.List) (all []int) {
	for _, op := range l.Ops {
		switch op.Command[0] {
		case "INCRBY", "RPUSH":
			for _, a := range w.actsOf(op.Command[0], op.Command[1]) {
				if !slices.Contains(all, a) {
					all = append(all, a)
				}
			}
		case "PEXPIREAT":
			all = append(all, w.byEnd[op.Command[1]])
		default:
			all = append(all, w.byStamp[op.Stamp])
		}
	}
	return all
}

// tolerance is how far apart in time two stamps may be that are in the wrong order.
func (w *world) tolerance() int64 { return 2*w.margin + 10_000 }

// together is for how long additions are put together, and count as of the last.
const together = 1_000_000

// done: the server has done an operation. asOf is the last of those that were put together.
func (w *world) done(a, asOf int) {
	c, h := &w.acts[a], &w.server.held
	h.times[a]++
	if c.kind == actExpire {
		return
	}
	h.present = append(h.present, int8(a))
	if n := w.doing.flushes; w.doing.repeats && n > c.flushes && c.at+w.tolerance()+together < w.flushes[n-1] {
		w.v.undone++
		w.blame("%s is done although it was flushed", w.name(a))
	}
	if h.times[a] > 1 && !c.overdone {
		c.overdone = true
		w.v.twice++
		w.blame("%s is done twice", w.name(a))
	}
	if !c.kept || !w.doing.repeats {
		h.standing = -1
		return
	}
	for b := a + 1; b < len(w.acts); b++ {
		if o := &w.acts[b]; o.kind == actOperation && o.process == c.process && o.kept && h.times[b] > 0 && !c.overdone {
			w.v.order++
			w.blame("%s is done behind %s", w.name(a), w.name(b))
			break
		}
	}
	if asOf >= 0 && h.standing >= 0 && !h.blind {
		if o := &w.acts[h.standing]; o.process != c.process && h.at > w.acts[asOf].at+w.tolerance()+w.margin && w.now-h.at < stampTTL-w.tolerance() {
			w.v.undone++
			w.blame("%s is done over %s, which was later", w.name(a), w.name(h.standing))
		}
	}
	h.standing = -1
}

// overwritten: what was there is gone, for the cause of what the server does.
func (w *world) overwritten() {
	h, by := &w.server.held, w.doing.cause
	ends := by < 0 || slices.ContainsFunc(w.acts, func(o act) bool { return o.ends > 0 && o.ends == w.time()/1000 }) // by itself, in this millisecond
	for _, a := range h.present {
		if ends {
			break
		}
		c, o := &w.acts[a], &w.acts[by]
		switch {
		case c.ended == 0 || c.update && !h.marked[a]:
		case !w.doing.repeats: // by the call itself
			if o.ended != 0 && c.began > o.ended {
				w.v.undone++
				w.blame("%s is overwritten by %s, whose caller had been answered before", w.name(int(a)), w.name(by))
			}
		case c.at <= w.doing.at+w.tolerance() || o.process == c.process && c.began <= o.ended:
		case o.settled != 0 && c.began > o.settled && o.ended != 0 && c.began > o.ended && !h.blind:
			w.v.undone++
			w.blame("%s is overwritten by %s, which was settled before", w.name(int(a)), w.name(by))
		case w.doing.script == script.Operate:
			w.v.covered++
		case h.blind, w.now-c.at > stampTTL-w.tolerance(), o.ended == 0:
		case h.hides == o.process+1:
			w.v.hidden++
		default:
			w.v.undone++
			w.blame("%s is overwritten by the replay of %s, which was before", w.name(int(a)), w.name(by))
		}
	}
	h.present = nil
	if by >= 0 {
		h.times[by], h.standing, h.at = 1, by, w.doing.at
		if !w.doing.repeats {
			h.at, w.acts[by].doneAt = w.now, w.now
		}
	}
}

// acknowledged: the caller is told that his acts are done, or kept.
func (w *world) acknowledged(acts []int) {
	for _, a := range acts {
		w.acts[a].ended = w.now
	}
}

// confirmed: Redis has answered for acts. s: they were replayed.
func (w *world) confirmed(acts []int, s *pass) {
	for _, a := range acts {
		w.acts[a].settled = w.now
	}
	if s != nil && s.lost > 0 {
		w.v.lost += s.lost
		w.blame("%d of %s are settled, and were not done", s.lost, w.names(acts))
	}
}

// unaccounted says for how many of acts nothing speaks: they are not done, no error of Redis's was seen, and nobody has
// set or deleted the key since.
func (w *world) unaccounted(acts []int) (n int) {
	for _, a := range acts {
		c := &w.acts[a]
		if w.server.held.times[a] > 0 || c.kind != actOperation || c.refused || w.dropped(a) {
			continue
		}
		n++
	}
	return n
}

// dropped reports whether there is a reason not to do an operation: the key was set or deleted since, or has ended, or was
// flushed.
func (w *world) dropped(a int) bool {
	c := &w.acts[a]
	if w.replaced(a) {
		return true
	}
	for b := range w.acts {
		o := &w.acts[b]
		switch {
		case b == a:
		case o.kind.replaces() && o.process != c.process && max(o.at, o.doneAt) > c.at:
			return true
		case o.kind.replaces() && o.process != c.process && (o.ended == 0 || o.ended > c.began): // its caller still waited, so either order is right
			return true
		case o.ends > 0 && o.process == c.process && o.ends*1000 >= c.at-w.tolerance() && o.ends*1000 <= w.time()+w.tolerance():
			return true
		}
	}
	for _, at := range w.flushes[c.flushes:] {
		if at+w.tolerance() >= c.at {
			return true
		}
	}
	return false
}

// replaced reports whether there is a Set or Del of the same process that has not ended before it began: the store keeps the later
// one.
func (w *world) replaced(a int) bool {
	c := &w.acts[a]
	for b := range w.acts {
		if o := &w.acts[b]; b != a && o.kind.replaces() && o.process == c.process && (o.ended == 0 || o.ended > c.began) {
			return true
		}
	}
	return false
}

// reject puts operations aside, and looks whether it is for a reason.
func (w *world) reject(s *pass) {
	for _, a := range s.bad {
		c := &w.acts[a]
		if c.rejected == notRejected {
			c.rejected = s.why
		}
		switch s.why {
		case ledgerLost:
			packed, _ := stamp.Packed(s.list.ID)
			if begun, ok := w.begunAt[packed]; !ok || w.lostAt < begun {
				w.v.reported++
				w.blame("%s is reported although its ledger was there", w.name(a))
			}
		case refusedForGood:
			if !c.refused {
				w.v.reported++
				w.blame("%s is reported although Redis has not refused it", w.name(a))
			}
		case notRejected:
		}
	}
	if w.log != nil {
		w.say("p%d      puts %s aside", w.acts[s.bad[0]].process, w.names(s.bad))
	}
}

// judge looks at what is there at last.
func (w *world) judge() {
	h := &w.server.held
	for a := range w.acts {
		c := &w.acts[a]
		if c.ended == 0 {
			continue
		}
		if c.kept && c.settled == 0 && !w.replaced(a) {
			w.v.lost++
			w.blame("%s was acknowledged and nothing came of it", w.name(a))
		}
		if c.kind != actOperation {
			continue
		}
		w.v.operations++
		switch {
		case h.times[a] > 0:
			w.v.done++
		case c.rejected == ledgerLost:
			w.v.rejected++
		case c.refused:
			w.v.refused++
		case w.dropped(a):
			w.v.dropped++
		default:
			w.v.dataLost++
			if w.losses == 0 {
				w.v.lost++
				w.blame("%s was acknowledged and is not there", w.name(a))
			}
		}
	}
	if w.log != nil {
		w.say("at rest the server holds %s", w.content())
	}
	if is, told := w.content(), w.told(); is != told {
		panic(fmt.Sprintf("trial of seed %d: the server holds %s, and the simulation takes it for %s", w.cfg.Seed, is, told))
	}
}

// content is what the server holds.
func (w *world) content() string {
	if kind, _ := w.server.Do("TYPE", key); kind == "list" {
		all, _ := w.server.Do("LRANGE", key, "0", "-1")
		return fmt.Sprint(all)
	}
	text, _ := w.server.Do("GET", key)
	if text == nil {
		return "nothing"
	}
	return text.(string)
}

// told is content as the history has it.
func (w *world) told() string {
	w.lookForEnd()
	if kind, _ := w.server.Do("TYPE", key); kind == "list" {
		var all []any
		for _, a := range w.server.held.present {
			all = append(all, strconv.Itoa(int(a)))
		}
		return fmt.Sprint(all)
	}
	if there, _ := w.server.Do("EXISTS", key); there == int64(0) && len(w.server.held.present) == 0 {
		return "nothing"
	}
	n := int64(0)
	for _, a := range w.server.held.present {
		n += 1 << (2 * w.acts[a].sum)
	}
	return strconv.FormatInt(n, 10)
}

// For traces.

func (w *world) blame(format string, args ...any) {
	if w.log != nil {
		w.say("!!!     "+format, args...)
	}
}

func (w *world) name(a int) string {
	c := &w.acts[a]
	return fmt.Sprintf("%s%d of p%d", [...]string{"op", "end", "Set", "Del"}[c.kind], a, c.process)
}

func (w *world) names(acts []int) string {
	all := make([]string, len(acts))
	for i, a := range acts {
		all[i] = w.name(a)
	}
	return strings.Join(all, ", ")
}

func (w *world) short(text string) string {
	s, _ := stamp.Parse(text)
	return fmt.Sprintf("%.6f/%s/%d", float64(s.Micros-epoch)/1e6, first([]string{s.Client}, 0)[:min(4, len(s.Client))], s.Number)
}

func (w *world) waits(i int) string {
	r, ok := w.record(i)
	if !ok {
		return "nothing"
	}
	text := string(r.Op) + " @" + w.short(r.Stamp)
	if r.Op == fallback.OpOperations {
		l := listOf(r)
		text = fmt.Sprintf("list %s (opened: %v)", w.short(l.ID), l.Opened)
		for _, op := range l.Ops {
			text += fmt.Sprintf(" %s@%s", w.names(w.actsIn(deferred.List{Ops: []deferred.Op{op}})), w.short(op.Stamp))
		}
	}
	return text
}

func (w *world) tell(m *message) string {
	who := fmt.Sprintf("of p%d.%d", m.from, m.life)
	switch {
	case m.command != nil:
		return fmt.Sprintf("%v %s", m.command, who)
	case m.script == script.Operate:
		return fmt.Sprintf("operate %s %s", w.names(w.actsIn(m.list)), who)
	case m.cause >= 0:
		return fmt.Sprintf("%s of %s", m.script.Name(), w.name(m.cause))
	}
	return m.script.Name() + " " + who
}
