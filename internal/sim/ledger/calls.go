package ledger

import (
	"slices"
	"strconv"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/keeping"
	"github.com/redaside/aside/internal/stamp"
)

// call is an Apply, or a Set or Del, that is kept, in its steps.
type call struct {
	acts    []int
	claims  bool              // it has the claim on the key
	records []fallback.Record // that it puts next, or is putting
	put     *put
	stamp   string // of a Set or Del; "": an Apply
	made    func() fallback.Record
	until   int64 // then the server does not do it any more; 0: it was not asked
	stage   stage
}

// stage is what a call does next.
type stage int

const (
	begins stage = iota // the journal
	ends                // the index
	looks               // write.keepLate
	waits               // write.awaitTooLate
)

// apply is Client.Apply of one operation or two.
func (w *world) apply(i int) {
	p := &w.procs[i]
	if len(w.acts) >= mostActs-4 || w.sums >= mostSums-2 {
		return
	}
	var acts []int
	var commands [][]string
	for range 1 + w.n(4)/3 {
		a, command := w.operation(i)
		acts, commands = append(acts, a), append(commands, command)
	}
	if p.online && p.dir.index.Pending(key) {
		w.settle(i)
	}
	if p.online && !p.dir.index.Pending(key) { // operator.send
		by := w.stampOf(i, acts)
		window, _ := w.window(i)
		m := operateCall(window, "", 0, deferred.Together("-", by.Text, commands))
		m.direct = true
		answer, answered := w.send(i, m)
		if answered && answer != int64(0) && answer != int64(-1) {
			w.acknowledged(acts)
			w.confirmed(acts, nil)
			return
		}
		if !answered {
			return // ErrUnknownOutcome: nothing is kept
		}
	}
	if p.claimed {
		return // it waits for its turn until its caller leaves
	}
	p.claimed = true
	was, _ := w.record(i)
	was.Key = key
	by := w.stampOf(i, acts)
	for _, a := range acts {
		w.acts[a].kept = true
	}
	c := &call{acts: acts, claims: true, records: keeping.Records(was, listOf(was).ID, by, commands)}
	p.calls = append(p.calls, c)
	if w.log != nil {
		w.say("p%d      keeps %v @%s behind %s", i, commands, w.short(by.Text), w.waits(i))
	}
	w.go1(i, c)
}

// operation makes one.
func (w *world) operation(i int) (a int, command []string) {
	a = len(w.acts)
	kind := actOperation
	switch {
	case w.percent(w.cfg.mix.expire):
		kind = actExpire
		ends := (w.clock(i) + w.between(1_000, 5*second)) / 1000
		for w.byEnd[strconv.FormatInt(ends, 10)] != 0 {
			ends++
		}
		command = []string{"PEXPIREAT", strconv.FormatInt(ends, 10)}
		w.byEnd[command[1]] = a
		w.acts = append(w.acts, act{ends: ends})
	case w.counter != w.percent(w.cfg.wrong):
		command = []string{"INCRBY", strconv.FormatInt(1<<(2*w.sums), 10)}
		w.acts = append(w.acts, act{counts: true, sum: w.sums})
		w.sums++
	default:
		command = []string{"RPUSH", strconv.Itoa(a)}
		w.acts = append(w.acts, act{})
	}
	c := &w.acts[a]
	c.kind, c.process, c.life, c.began, c.flushes = kind, i, w.procs[i].life, w.now, w.procs[i].knows
	return a, command
}

// stampOf gives acts their stamps, as operator.newStamps and deferred.Together do.
func (w *world) stampOf(i int, acts []int) (last stamp.Proposal) {
	p := &w.procs[i]
	last = p.stamps.NextOf(len(acts), w.clock(i), p.slack, func() bool { return !p.dir.index.Pending(key) && len(p.calls) == 0 })
	s, _ := stamp.Parse(last.Text)
	for n, a := range acts {
		back, at := int64(len(acts)-1-n), s
		at.Micros, at.Number = at.Micros-back, at.Number-back
		w.acts[a].at, w.acts[a].slack = w.now, last.Slack
		w.byStamp[at.String()], w.stampAt[at.String()] = a, w.now
	}
	w.margin = max(w.margin, 2*last.Slack)
	return last
}

// write is a Set or Del (write.perform).
func (w *world) write(i int, kind actKind) {
	p := &w.procs[i]
	if len(w.acts) >= mostActs-2 {
		return
	}
	a := len(w.acts)
	ttl := w.between(60_000, 3*3_600_000)
	if w.percent(20 * min(1, w.cfg.mix.expire)) {
		ttl = w.between(100, 5_000)
	}
	w.acts = append(w.acts, act{kind: kind, process: i, life: p.life, began: w.now, flushes: p.knows})
	if p.online && p.dir.index.Pending(key) {
		w.settle(i)
	}
	op := fallback.OpDel
	if kind == actSet {
		op = fallback.OpSet
	}
	record := func(by stamp.Proposal) fallback.Record {
		r := fallback.Record{Op: op, Key: key, Stamp: by.Text, Slack: by.Slack}
		if kind == actSet {
			r.Value, r.Expires = "0", w.clock(i)/1000+ttl
			w.acts[a].ends = max(w.acts[a].ends, r.Expires)
		}
		return r
	}
	by := w.stampOf(i, []int{a})
	c := &call{acts: []int{a}, stamp: by.Text, records: []fallback.Record{record(by)}, stage: begins}
	c.made = func() fallback.Record {
		by := w.stampOf(i, []int{a})
		c.stamp = by.Text
		w.acts[a].settled = 0
		return record(by)
	}
	if p.online && !p.dir.index.Pending(key) {
		window, notAfter := w.window(i)
		if w.without(writeHasWindow) {
			window = anyTime
		}
		m := delCall(window, by.Text)
		if kind == actSet {
			m = setCall(window, by.Text, "0", ttl)
		}
		m.cause = a
		answer, answered := w.send(i, m)
		if answered && answer == int64(1) {
			w.acknowledged(c.acts)
			w.confirmed(c.acts, nil)
			if r, ok := w.record(i); ok && r.Stamp < by.Text { // outbox.settleOlder
				if s, _ := stamp.Parse(r.Stamp); s.Client == p.stamps.Client() {
					p.dir.settle(r)
				}
			}
			return
		}
		if !answered {
			c.until = notAfter + p.slack
		}
	}
	w.acts[a].kept = true
	p.calls = append(p.calls, c)
	if w.log != nil {
		w.say("p%d      keeps %s @%s, there is %s", i, op, w.short(by.Text), w.waits(i))
	}
	w.go1(i, c)
}

// update is Client.Update: a command of the caller's own, and a stamp behind it.
func (w *world) update(i int) {
	p := &w.procs[i]
	if len(w.acts) >= mostActs-2 || w.sums >= mostSums-2 || !p.online {
		return
	}
	if p.dir.index.Pending(key) {
		if w.settle(i); p.dir.index.Pending(key) {
			return
		}
	}
	a, command := w.operation(i)
	w.acts[a].at, w.acts[a].update = w.now, true
	if w.acts[a].kind == actExpire {
		return
	}
	answer, answered := w.send(i, &message{command: append([]string{command[0], key}, command[1:]...), cause: -1})
	if _, failed := answer.(error); !answered || failed {
		return
	}
	if w.percent(10) {
		return // it dies, or loses Redis: see Update
	}
	by := w.stampOf(i, []int{a})
	window, _ := w.window(i)
	m := markCall(window, by.Text)
	m.marks = a
	w.send(i, m)
	w.acknowledged([]int{a})
	w.confirmed([]int{a}, nil)
}

// advance has one of the calls of process i take a step.
func (w *world) advance(i int) {
	if n := len(w.procs[i].calls); n > 0 {
		c := w.procs[i].calls[w.n(n)]
		w.next(i, c)
		w.go1(i, c)
	}
}

// go1 has a call take some steps at once: most are quick.
func (w *world) go1(i int, c *call) {
	for w.percent(80) && slices.Contains(w.procs[i].calls, c) {
		w.next(i, c)
	}
}

// next has a call take a step.
func (w *world) next(i int, c *call) {
	p := &w.procs[i]
	w.instant()
	switch c.stage {
	case begins:
		if c.stamp == "" { // underWay.enter
			p.operated = max(p.operated, c.records[len(c.records)-1].Stamp)
		}
		c.put = p.dir.begin(c.records)
		c.stage = ends
	case ends:
		p.dir.end(c.put)
		if c.stamp == "" {
			w.finish(i, c)
			return
		}
		if c.stage = looks; c.claims { // of keepOneAgain
			c.claims, p.claimed = false, false
			c.stage = waits
		}
	case looks: // write.keepLate
		if now, ok := p.dir.index.Stamp(key); !ok || now != c.records[0].Stamp {
			if w.without(lateSetIsKeptAgain) {
				c.stage = waits
				return
			}
			if p.claimed {
				return
			}
			if there, ok := w.record(i); ok && p.dir.index.Pending(key) && keeping.Stands(there, c.records[0].Stamp) {
				c.stage = waits
				return
			}
			w.keepOneAgain(p, c)
			return
		}
		later := slices.ContainsFunc(p.calls, func(o *call) bool { // underWay.later
			return o.stamp == "" && o.records[len(o.records)-1].Stamp > c.records[0].Stamp
		})
		if later && !w.without(underWayCounts) {
			c.records, c.stage = []fallback.Record{c.made()}, begins
			return
		}
		if p.operated > c.records[0].Stamp && !w.without(passedIsKeptAgain) { // underWay.passed
			if p.claimed {
				return
			}
			there, ok := w.record(i)
			if !(ok && p.dir.index.Pending(key) && keeping.Stands(there, c.records[0].Stamp)) {
				w.keepOneAgain(p, c)
				return
			}
		}
		c.stage = waits
	case waits:
		if c.until > w.clock(i) {
			if w.percent(50) {
				return
			}
			w.now += c.until - w.clock(i)
		}
		w.finish(i, c)
	}
}

// keepOneAgain is write.keepOneAgain, once it has the claim.
func (*world) keepOneAgain(p *process, c *call) {
	c.claims, p.claimed = true, true
	c.records, c.stage = []fallback.Record{c.made()}, begins
}

// finish acknowledges a call that is kept.
func (w *world) finish(i int, c *call) {
	p := &w.procs[i]
	if c.claims {
		p.claimed = false
	}
	p.calls = slices.DeleteFunc(p.calls, func(o *call) bool { return o == c })
	w.acknowledged(c.acts)
	if w.log != nil {
		w.say("p%d      acknowledges %s; there is %s", i, w.names(c.acts), w.waits(i))
	}
}
