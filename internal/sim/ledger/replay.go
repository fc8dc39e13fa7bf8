package ledger

import (
	"slices"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/keeping"
	"github.com/redaside/aside/internal/stamp"
)

// pass is a replay of the key's record, in its steps: replayer.claimed and ledgers.replayOperations. A process may have
// two, of which one has the claim.
type pass struct {
	record fallback.Record
	list   deferred.List
	claims bool
	note   *put // that the list is open
	stage  passStage
	lost   int             // acts of the record for which nothing speaks
	flush  flush           // that its process had noticed when it looked whether the record was flushed
	whole  []int           // acts of the record, those in it included that a flush has taken along
	acts   []int           // that are settled
	why    rejection       // what is put aside, and why
	bad    []int           //
	says   fallback.Record // settled at the end
}

type passStage int

const (
	claimed  passStage = iota // the record was read
	opening                   // 1
	noting                    // 2, the journal
	noted                     // 2, the index
	doing                     // 3
	aside                     // what is rejected goes into quarantine
	settling                  // 4
)

// replay begins a pass of process i, or has one take a step.
func (w *world) replay(i int) {
	p := &w.procs[i]
	if len(p.passes) > 0 && (len(p.passes) == 2 || w.percent(70)) {
		w.stepOf(i, p.passes[w.n(len(p.passes))])
		return
	}
	r, ok := w.record(i)
	if !ok || !p.online {
		return
	}
	s := &pass{record: r}
	p.passes = append(p.passes, s)
	for w.percent(70) && slices.Contains(p.passes, s) { // most are quick
		w.stepOf(i, s)
	}
}

// settle is Client.settle: a caller has the record replayed first.
func (w *world) settle(i int) {
	p := &w.procs[i]
	r, ok := w.record(i)
	if !ok || len(p.passes) == 2 {
		return
	}
	s := &pass{record: r}
	p.passes = append(p.passes, s)
	for range 12 {
		if !slices.Contains(p.passes, s) || s.stage == claimed && p.claimed {
			return
		}
		w.stepOf(i, s)
	}
}

// leave ends a pass.
func (w *world) leave(i int, s *pass) {
	p := &w.procs[i]
	if s.claims {
		p.claimed = false
	}
	p.passes = slices.DeleteFunc(p.passes, func(o *pass) bool { return o == s })
}

func (w *world) stepOf(i int, s *pass) {
	p := &w.procs[i]
	w.instant()
	switch s.stage {
	case claimed:
		if p.claimed {
			return
		}
		s.claims, p.claimed = true, true
		if p.asked > w.now && !w.without(unansweredIsWaitedFor) {
			w.leave(i, s)
			return
		}
		if now, ok := p.dir.index.Stamp(key); !ok || now != s.record.Stamp {
			w.leave(i, s) // replayed by somebody else, or overtaken
			return
		}
		if !w.without(recordIsReadAgain) {
			s.record, _ = w.record(i)
		}
		s.says = s.record
		switch {
		case s.record.Op != fallback.OpOperations:
			w.replayWrite(i, s)
		case w.wasFlushed(i, s.record.Stamp, marginOf(s.record)):
			list := listOf(s.record)
			s.acts = w.actsIn(list)
			if by, ok := list.Replacing(); ok {
				s.record = fallback.Record{Op: fallback.OpDel, Key: key, Stamp: by, Slack: s.record.Slack}
				w.replayWrite(i, s)
				return
			}
			s.stage = settling
			s.lost = w.unaccounted(s.acts)
		default:
			s.list, s.stage = listOf(s.record), doing
			s.whole, s.flush = w.actsIn(s.list), p.flush
			if !w.without(eachIsBeforeOrAfter) {
				s.list, _ = s.list.Since(func(by string) bool { return w.wasFlushed(i, by, marginOf(s.record)) })
			}
			if !s.list.Opened {
				s.stage = opening
			}
		}
	case opening:
		if !p.online {
			w.leave(i, s)
			return
		}
		s.stage = noting
		if w.without(listIsBegun) || w.without(entryIsOfTheList) {
			return
		}
		window, _ := w.window(i)
		if w.without(beginHasWindow) {
			window = anyTime
		}
		answer, answered := w.send(i, ledgerCall(window, s.list.ID))
		if !answered {
			w.unanswered(i)
		}
		if !answered || answer != int64(1) {
			w.leave(i, s)
		}
	case noting:
		if w.without(openingIsNoted) {
			s.stage = doing
			return
		}
		s.note, s.stage = p.dir.begin([]fallback.Record{keeping.Opened(key, s.list.ID)}), noted
	case noted:
		p.dir.end(s.note)
		s.stage = doing
	case doing:
		w.operate(i, s)
	case aside:
		w.reject(s)
		s.stage = settling
	case settling:
		p.dir.settle(s.says)
		w.confirmed(s.acts, s)
		if w.log != nil {
			w.say("p%d      settles %s; there is %s", i, w.names(s.acts), w.waits(i))
		}
		w.leave(i, s)
	}
}

// unanswered is that of the outbox, of what process i has just sent.
func (w *world) unanswered(i int) {
	p := &w.procs[i]
	p.asked = w.now + w.give + 2*p.slack
}

// marginOf is replayer.marginOf.
func marginOf(r fallback.Record) int64 { return max(2*r.Slack, stamp.LeastMargin.Microseconds()) }

// wasFlushed is the root's.
func (w *world) wasFlushed(i int, by string, margin int64) bool {
	p := &w.procs[i]
	s, _ := stamp.Parse(by)
	if !w.without(numbersCount) && s.Client == p.stamps.Client() && s.Number > p.flush.mark {
		return false
	}
	return p.flush.at > 0 && s.Micros-margin <= p.flush.at
}

// replayWrite replays a Set or Del.
func (w *world) replayWrite(i int, s *pass) {
	if !w.procs[i].online {
		w.leave(i, s)
		return
	}
	by, _ := stamp.Parse(s.record.Stamp)
	ends, op := s.record.Expires, byte('d')
	if s.record.Op == fallback.OpSet {
		op = 's'
	}
	if w.wasFlushed(i, s.record.Stamp, marginOf(s.record)) {
		ends = 0
	}
	window, _ := w.window(i)
	m := replayCall(window, op, by, marginOf(s.record), ends, s.record.Value)
	m.cause, m.at, m.repeats = w.byStamp[s.record.Stamp], w.stampAt[s.record.Stamp], true
	answer, answered := w.send(i, m)
	all, ok := answer.([]any)
	if !answered || answer != int64(1) && (!ok || len(all) != 1) {
		w.leave(i, s)
		return
	}
	s.stage = settling
	if len(s.acts) == 0 {
		s.acts = []int{m.cause}
	}
	s.lost = w.unaccounted(s.acts)
}

// operate is ledgers.operate, and ledgers.outcome.
func (w *world) operate(i int, s *pass) {
	p := &w.procs[i]
	if !p.online {
		w.leave(i, s)
		return
	}
	u, id := marginOf(s.record), s.list.ID
	switch {
	case w.without(laterSetDrops):
		u = 1 << 40
	case w.without(marginCounts):
		u = 0
	}
	if w.without(entryIsOfTheList) {
		of, _ := stamp.Parse(id)
		id = stamp.Stamp{Micros: 4_000_000_000_000_000, Client: of.Client}.String()
	}
	window, _ := w.window(i)
	m := operateCall(window, id, u, s.list)
	m.flushes = s.flush.which
	m.repeats, m.begins = true, w.without(entryIsOfTheList) || w.without(listIsBegun)
	if s.list.Base() {
		m.cause, m.at = w.byStamp[s.list.Ops[0].Stamp], w.stampAt[s.list.Ops[0].Stamp]
	}
	answer, answered := w.send(i, m)
	if !answered {
		w.unanswered(i)
	}
	if !answered && w.without(answerSettles) {
		s.acts, s.stage = s.whole, settling
		s.lost = w.unaccounted(s.acts)
		return
	}
	all, ok := answer.([]any)
	if !answered || !ok {
		w.leave(i, s)
		return
	}
	one := all[0].([]any)
	s.acts = s.whole
	switch one[0] {
	case int64(5):
		if w.without(lostIsRejected) {
			s.stage = opening
			return
		}
		s.why, s.bad, s.stage = ledgerLost, s.acts, aside
	case int64(1), int64(2):
		s.stage = settling
		refused := one[1].([]any)
		stamps := stampsOf(s.list)
		for n := 0; n < len(refused); n += 2 {
			if at := slices.Index(stamps, refused[n].(string)); at >= 0 {
				s.bad, s.why, s.stage = append(s.bad, w.actsIn(deferred.List{Ops: s.list.Ops[at : at+1]})...), refusedForGood, aside
			}
		}
		s.lost = w.unaccounted(s.acts)
	default: // 7
		w.leave(i, s)
	}
}
