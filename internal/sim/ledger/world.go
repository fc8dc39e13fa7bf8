package ledger

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/fakeredis"
	"github.com/redaside/aside/internal/stamp"
)

const (
	processes = 3
	mostActs  = 40
	mostSums  = 20 // additions: the nth is 4^n, so that a number tells how often each was done
)

// world is one trial. Its server is used again by the next.
type world struct {
	cfg    *Config
	e      int64
	give   int64 // how long a call waits for an answer
	source rand.PCG
	rng    *rand.Rand
	log    *bytes.Buffer // nil: nobody watches

	now     int64 // the true time
	ahead   int64 // by which the server's clock is
	apart   int64 // by which the server's clock may be off; e-apart is what is left for the processes
	server  *server
	doing   *message // at the server
	counter bool     // the key is a number, else a list
	sums    int      // additions so far
	procs   [processes]process
	wires   []*message
	acts    []act
	byStamp map[string]int   // acts by their stamps
	stampAt map[string]int64 // when these were made, in true time
	byEnd   map[string]int   // acts by the end that they give the key
	margin  int64            // the greatest of any act

	begunAt map[string]int64 // when the entry of a list was begun first
	lostAt  int64            // when an entry of the ledger was lost last
	losses  int              // of what the server had acknowledged
	flushes []int64

	v verdict
}

// process is a client of the root, and its directory.
type process struct {
	life   int
	stamps *stamp.Stamper
	err    int64 // of its clock
	slack  int64 // by how much that may be off, as it knows it
	online bool
	run    int   // the server's, when last connected
	knows  int   // of how many flushes it has known
	flush  flush // the last that it has noticed, or will when it is connected again

	dir      directory
	claimed  bool   // the key is: by a replay, or by who keeps operations
	operated string // the stamp of the last operations that were put in this life
	asked    int64  // until then the server may do a step of a replay that has had no answer
	passes   []*pass
	calls    []*call
}

// flush is a FLUSHALL, as a process knows it (link.Flush).
type flush struct {
	at    int64 // by the server's clock; 0: there was none
	mark  int64 // the number of its last write when it noticed
	which int   // how many there had been until then, with this
}

// notice has process i know of a flush: what it begins from now on is behind that.
func (w *world) notice(i int) {
	if p := &w.procs[i]; p.flush.at > 0 && p.flush.mark == unnoticed {
		p.flush.mark, p.knows = p.stamps.Latest(), p.flush.which
	}
}

const unnoticed = math.MaxInt64

func newWorld(cfg *Config) *world {
	w := &world{cfg: cfg, e: cfg.ClockError.Microseconds()}
	w.give = max(250_000, 4*w.e)
	w.rng = rand.New(&w.source)
	w.server = &server{}
	w.server.Simulated = fakeredis.Simulate(w.time, w.watch)
	return w
}

func (w *world) n(n int) int              { return w.rng.IntN(n) }
func (w *world) percent(p int) bool       { return w.rng.IntN(100) < p }
func (w *world) between(a, b int64) int64 { return a + w.rng.Int64N(b-a) }
func (w *world) without(r rule) bool      { return w.cfg.Without.has(r) }

// time is the server's clock, clock what process i takes it for.
func (w *world) time() int64       { return w.now + w.ahead }
func (w *world) clock(i int) int64 { return w.now + w.procs[i].err }

func patience(us int64) time.Duration { return time.Duration(us) * time.Microsecond }

func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.log, "%14.6f  ", float64(w.now-epoch)/1e6)
	fmt.Fprintf(w.log, format+"\n", args...)
}

// trial runs one, and judges it.
func (w *world) trial(number int) verdict {
	w.source.Seed(w.cfg.Seed, uint64(number))
	w.now = epoch
	w.server.Load(nil)
	w.server.run, w.server.held, w.server.was, w.server.has = 1, history{standing: -1}, nil, false
	w.counter, w.sums = w.percent(65), 0
	w.wires, w.acts = nil, w.acts[:0]
	w.byStamp, w.byEnd, w.begunAt, w.stampAt = map[string]int{}, map[string]int{}, map[string]int64{}, map[string]int64{}
	w.margin, w.lostAt, w.losses, w.flushes = stamp.LeastMargin.Microseconds(), 0, 0, nil
	w.v = verdict{}
	w.apart = w.e / 2 * int64(w.n(2))
	w.ahead = w.off(w.apart)
	for i := range w.procs {
		w.procs[i] = process{run: 1, online: w.percent(50), dir: directory{without: w.cfg.Without}}
		w.live(i)
	}
	for range w.cfg.minEvents + w.n(w.cfg.moreEvents+1) {
		w.step()
	}
	w.heal()
	w.judge()
	return w.v
}

// live begins a process on a directory. That of another life on it takes 100 ms at least (New).
func (w *world) live(i int) {
	p := &w.procs[i]
	p.life++
	p.stamps = stamp.Of(fmt.Sprintf("%016x", w.rng.Uint64()), stamp.LeastMargin/2)
	p.dir.open()
	p.stamps.After(p.dir.index.Latest())
	if p.life > 1 {
		w.now += 100_000
	}
	if p.online {
		p.run = w.server.run
	}
	p.flush = flush{}
	w.newClock(i)
}

// kill is kill -9, and another life. What is on its way from it to the server is.
func (w *world) kill(i int) {
	p := &w.procs[i]
	p.dir.kill()
	p.claimed, p.operated, p.asked, p.passes, p.calls = false, "", 0, nil, nil
	w.live(i)
	if w.log != nil {
		w.say("p%d      is killed, and another is there; it finds %s", i, w.waits(i))
	}
}

func (w *world) newClock(i int) {
	p := &w.procs[i]
	p.slack = w.e
	if w.cfg.Late && w.percent(40) { // the answer that told it the time was long in coming
		p.slack += w.between(1, 400_000)
	}
	p.err = w.ahead + w.off(max(p.slack-w.apart, 0))
}

// off is an error of a clock, often the greatest.
func (w *world) off(most int64) int64 {
	switch w.n(3) {
	case 0:
		return -most
	case 1:
		return most
	}
	return w.between(-most, most+1)
}

// pause lets time go by.
func (w *world) pause() {
	switch p := w.n(100); {
	case p < 45:
		w.instant()
	case p < 70:
		w.now += w.between(2_000, 200_000)
	case p < 88:
		w.now += w.between(200_000, 4*second)
	case p < 97:
		w.now += w.between(4*second, 3*minute)
	case p < 99:
		w.now += w.between(3*minute, 2*hour)
	default:
		if w.cfg.Forgets {
			w.now += w.between(ledgerTTL/2, 2*ledgerTTL)
			w.ledgerLost()
		}
	}
}

func (w *world) instant() { w.now += w.between(1, 2_000) }

// mix says how often what happens, relative to each other.
type mix struct {
	apply, set, del, update, expire         int
	call, replay, flush, link, kill, clock  int
	wire                                    int
	restart, snapshot, older, replica, wipe int
	evict                                   int
	first                                   int // per cent that is by process 0, beyond its share
}

func (w *world) step() {
	w.pause()
	i := w.n(processes)
	m := &w.cfg.mix
	if w.percent(m.first) {
		i = 0
	}
	all := []struct {
		weight int
		do     func()
	}{
		{m.apply, func() { w.apply(i) }},
		{m.set, func() { w.write(i, actSet) }},
		{m.del, func() { w.write(i, actDel) }},
		{m.update, func() { w.update(i) }},
		{m.call, func() { w.advance(i) }},
		{m.replay, func() { w.replay(i) }},
		{m.flush, func() { w.procs[i].dir.flush() }},
		{m.link, func() { w.link(i) }},
		{m.kill, func() { w.kill(i) }},
		{m.clock, func() { w.newClock(i) }},
		{m.wire, w.deliver},
		{m.restart, func() { w.fail(saved{}, "restarts with all that it had") }},
		{m.snapshot, func() { w.server.older, w.server.has = w.save(), true }},
		{m.older, func() {
			if w.server.has {
				w.fail(w.server.older, "restarts with what its disk has")
			}
		}},
		{m.replica, func() {
			if n := len(w.server.was); n > 0 {
				w.fail(w.server.was[w.n(n)], "is followed by a replica that lacks the latest")
			}
		}},
		{m.wipe, w.flush},
		{m.evict, w.evict},
	}
	total := 0
	for _, one := range all {
		total += one.weight
	}
	p := w.n(total)
	for _, one := range all {
		if p -= one.weight; p < 0 {
			one.do()
			return
		}
	}
}

func (w *world) link(i int) {
	p := &w.procs[i]
	if p.online {
		w.offline(i)
	} else {
		p.online = true
		if p.run != w.server.run {
			p.run, p.flush = w.server.run, flush{}
		}
		w.notice(i)
		w.newClock(i)
	}
	if w.log != nil {
		w.say("p%d      connected: %v", i, p.online)
	}
}

func (w *world) offline(i int) { w.procs[i].online = false }

// send sends a message. arrives: it does so now; answered: and its answer comes back.
func (w *world) send(i int, m *message) (answer any, answered bool) {
	p := &w.procs[i]
	m.from, m.life, m.run = i, p.life, w.server.run
	if w.log != nil {
		w.say("p%d      sends %s", i, w.tell(m))
	}
	switch luck := w.n(100); {
	case luck < 65:
		return w.arrive(m), true
	case luck < 80:
		w.arrive(m) // the answer is lost
	default:
		w.wires = append(w.wires, m) // late, or never
	}
	return nil, false
}

// deliver lets a message arrive, or loses it. Nobody waits for its answer any more.
func (w *world) deliver() {
	if len(w.wires) == 0 {
		return
	}
	k := w.n(len(w.wires))
	m := w.wires[k]
	w.wires[k] = w.wires[len(w.wires)-1]
	w.wires = w.wires[:len(w.wires)-1]
	if m.late = true; w.percent(80) {
		w.arrive(m)
	}
}

// heal connects everybody and lets all come to rest. What is late arrives.
func (w *world) heal() {
	for i := range w.procs {
		if !w.procs[i].online {
			w.link(i)
		}
	}
	for range 3000 {
		left := len(w.wires)
		for i := range w.procs {
			p := &w.procs[i]
			left += len(p.calls) + len(p.passes)
			if p.dir.index.Pending(key) {
				left++
			}
		}
		if left == 0 {
			return
		}
		w.instant()
		i := w.n(processes)
		switch w.n(4) {
		case 0:
			w.deliver()
		case 1:
			w.advance(i)
		case 2:
			w.replay(i)
		case 3:
			w.procs[i].dir.flush()
		}
		if w.percent(10) {
			w.now += w.between(10_000, w.give*2/5)
		}
	}
	w.v.stuck = true
}

// record is the record of process i, if one waits.
func (w *world) record(i int) (fallback.Record, bool) {
	r, ok, _ := w.procs[i].dir.index.Get(key)
	return r, ok
}
