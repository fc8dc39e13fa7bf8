package sim

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"time"
)

// A trial is one key, its source of truth, a server, and three instances of a program that caches
// the source in the server. Things happen to them at random: writes, reads whose loads take their
// time, connections that go and come, messages that arrive late or never, processes and servers
// that restart. At last everybody is connected again, all records are replayed, all that is under
// way arrives, and what the server then holds is compared with what was acknowledged.
//
// The program:
//
//   - It writes the source first, then the cache: Del, or Set of what it wrote. A writer that uses
//     Set must not be overtaken between the two by another writer of the same row, as every cache
//     would then keep the older value; so writers of the row wait for each other until the call has
//     returned (or the process has died). Loads wait for nobody.
//   - Connected, it sends writes to the server. If no answer comes, the write is in doubt: it waits
//     until NotAfter is over, also if the connection has been lost before, and goes to the journal
//     with its stamp.
//   - Disconnected, it writes to the journal, which has the newest Set or Del of the key and the
//     newest fill.
//   - A write or read that finds a record in its own journal has it replayed first.
//   - Replay may be sent many times, and arrive at any later time.

const (
	instances = 3
	second    = int64(time.Second / time.Microsecond) // times are µs of the server's clock, where nothing else is said
	minute    = 60 * second
	hour      = 60 * minute

	lockTTL  = 2 * second
	stampTTL = hour
	epoch    = 1_700_000_000 * second
)

// world is one trial. Its memory is used again by the next.
type world struct {
	cfg    *Config
	env    Env // but for Now and Fenced
	e      int64
	give   int64 // how long a call waits for an answer
	source rand.PCG
	rng    *rand.Rand
	log    *bytes.Buffer // nil: nobody watches

	now     int64 // the true time
	ahead   int64 // by which the server's clock is
	apart   int64 // by which the server's clock may be off; e-apart is what is left for the instances
	key     State
	runID   int
	version int // of the source; each explicit write makes one
	markers uint64
	inst    [instances]instance
	loads   []load
	wires   []wire
	call    call // the write that is waiting for its answer
	ops     []op
	settled int // the newest version whose write the server has done or taken note of

	kept struct { // a snapshot of the server
		key   State
		ops   int
		taken bool
	}
	done int // explicit writes that the server has done

	lost      bool // the server lost what it had acknowledged
	meanwhile bool // it showed what is older than a write that it had done
	back      bool // a replay put an older value over a newer
	refused   int  // fills
}

// op is an explicit write, in the order in which they happened.
type op struct {
	op       Op
	at       int64
	instance int
	client   uint64
	expires  int64 // ms; of a Set
	margin   int64 // u of its stamp
	acked    bool
	outcome  Outcome // of its replay
}

type instance struct {
	client  uint64
	counter uint64
	last    int64 // time of the latest stamp
	err     int64 // of its clock
	slack   int64 // by how much that may be off, as the instance knows it
	unsure  bool  // it is off by more than any margin allows, and the instance knows
	online  bool
	runID   int // the server's, when last connected
	writes  int // explicit writes so far; a load that saw fewer is overtaken

	pending    Record // its Set or Del, if hasPending
	pendingOp  int
	hasPending bool
	fill       Record
	fillRun    int
	hasFill    bool
}

// load is a loader under way.
type load struct {
	instance int
	client   uint64
	marker   Marker // ID 0: none, it began without the server
	start    int64  // estimate of the server's clock before
	writes   int
	runID    int
	read     bool
	version  int
}

// wire is a message under way.
type wire struct {
	kind   int // a wireX
	write  Write
	record Record
	fenced bool
	marker Marker
	op     int // index of the explicit write, or -1
	inst   int
}

const (
	wireWrite = iota
	wireReplay
	wireFill
)

type call struct {
	waiting  bool
	instance int
	op       int
	record   Record
	until    int64
}

// values are the contents by version, so that none is made in a trial.
var values = func() (v [256]string) {
	for i := range v {
		v[i] = string([]byte{byte(i)})
	}
	return v
}()

func newWorld(cfg *Config) *world {
	w := &world{cfg: cfg, e: cfg.ClockError.Microseconds()}
	w.env = Env{Margin: cfg.Margin.Microseconds(), StampTTL: stampTTL, without: cfg.without}
	w.give = max(250_000, 4*w.e)
	w.rng = rand.New(&w.source)
	return w
}

func (w *world) n(n int) int              { return w.rng.IntN(n) }
func (w *world) percent(p int) bool       { return w.rng.IntN(100) < p }
func (w *world) between(a, b int64) int64 { return a + w.rng.Int64N(b-a) }

func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.log, "%11.6f  ", float64(w.now-epoch)/1e6)
	fmt.Fprintf(w.log, format+"\n", args...)
}

// trial runs one, and judges it.
func (w *world) trial(number int) verdict {
	w.source.Seed(w.cfg.Seed, uint64(number))
	w.now, w.key, w.runID, w.version, w.markers = epoch, State{}, 1, 0, 0
	w.loads, w.wires, w.ops = w.loads[:0], w.wires[:0], w.ops[:0]
	w.call, w.settled, w.done = call{}, 0, 0
	w.kept.taken = false
	w.lost, w.meanwhile, w.back, w.refused = false, false, false, 0
	w.apart = w.e / 2 * int64(w.n(2))
	w.newServerClock()
	for i := range w.inst {
		w.inst[i] = instance{online: w.percent(67), runID: 1}
		w.newLife(i)
		w.newClock(i)
	}
	for range w.cfg.minEvents + w.n(w.cfg.moreEvents+1) {
		w.step()
	}
	w.heal()
	return w.judge()
}

func (w *world) newLife(i int) {
	in := &w.inst[i]
	in.client, in.counter = w.rng.Uint64(), 0
}

func (w *world) newClock(i int) {
	in := &w.inst[i]
	if in.unsure {
		in.last = 0 // what it said then binds nobody
	}
	in.unsure = w.cfg.unsure && !in.online && w.percent(25)
	in.slack = w.e
	if w.cfg.Late && w.percent(40) { // the answer that told it the time was long in coming
		in.slack = w.env.Margin/2 + w.between(1, 10*w.env.Margin)
	}
	switch {
	case in.unsure:
		in.err = w.between(-2*minute, 2*minute)
	default:
		in.err = w.ahead + w.off(in.slack-w.apart)
	}
}

// newServerClock is another server's, or the same after a restart.
func (w *world) newServerClock() { w.ahead = w.off(w.apart) }

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

// clock is what instance i takes the server's clock for.
func (w *world) clock(i int) int64 { return w.now + w.inst[i].err }

// margin is u of what was stamped by a clock that was off by slack, if that is more than what is assumed
// of all.
func (w *world) margin(slack int64) int64 {
	if w.cfg.Late {
		return w.env.margin(2 * slack)
	}
	return 0
}

// time is the server's clock.
func (w *world) time() int64 { return w.now + w.ahead }

// stamp is of what instance i does now. Stamps grow, also where the clock is found to be behind them: by
// that they are off, too.
func (w *world) stamp(i int) (s Stamp, slack int64) {
	in := &w.inst[i]
	in.counter++
	now := w.clock(i)
	in.last = max(now, in.last+1)
	return Stamp{in.last, in.client, in.counter}, in.slack + in.last - now
}

// pause lets time go by: an instant, within the margin, seconds, minutes, more than a StampTTL.
func (w *world) pause() {
	switch p := w.n(1000); {
	case p < 400:
		w.now += w.between(1, 2_000)
	case p < 600:
		w.now += w.between(1, w.env.Margin/2)
	case p < 800:
		w.now += w.between(1, 2*w.env.Margin)
	case p < 930:
		w.now += w.between(1, 3*second)
	case p < 985:
		w.now += w.between(1, 20*minute)
	default:
		w.now += w.between(stampTTL-20*minute, stampTTL+20*minute)
	}
	if w.call.waiting && w.now >= w.call.until {
		w.unanswered()
	}
}

func (w *world) instant() { w.now += w.between(1, 2_000) }

// mix says how often what happens, relative to each other.
type mix struct {
	write, read, load, renew, link, replay, wire, process, clock int
	snapshot, empty, older, evict                                int
}

func (w *world) step() {
	w.pause()
	i := w.n(instances)
	m := &w.cfg.mix
	p := w.n(m.write + m.read + m.load + m.renew + m.link + m.replay + m.wire + m.process + m.clock + m.snapshot + m.empty + m.older + m.evict)
	is := func(weight int) bool { p -= weight; return p < 0 }
	switch {
	case is(m.write):
		w.write(i)
	case is(m.read):
		w.read(i)
	case is(m.load):
		w.proceed()
	case is(m.renew):
		w.renew()
	case is(m.link):
		w.link(i)
	case is(m.replay):
		w.replay(i, true)
	case is(m.wire):
		w.deliver()
	case is(m.process):
		w.restart(i)
	case is(m.clock):
		w.newClock(i)
	case is(m.snapshot):
		w.kept.key, w.kept.ops, w.kept.taken = w.key, w.done, true
		if w.log != nil {
			w.say("server  snapshot")
		}
	case is(m.empty):
		w.lose(State{}, w.done != 0)
	case is(m.older):
		if w.kept.taken {
			w.lose(w.kept.key, w.done != w.kept.ops)
		}
	case is(m.evict):
		if w.percent(50) {
			w.key.Companion = Companion{}
		} else {
			w.key = w.key.emptied()
		}
		if w.log != nil {
			w.say("server  evicts: %s", w.key)
		}
	}
}

// write is an explicit write of the program: the source, then the cache.
func (w *world) write(i int) {
	if w.call.waiting || w.version == len(values)-1 {
		return // another writer has the row
	}
	in := &w.inst[i]
	w.version++
	value := values[w.version]
	if w.log != nil {
		w.say("i%d      writes v%d to the source", i, w.version)
	}
	if w.percent(30) { // somebody loads between the two
		w.proceed()
	}
	w.instant()

	kind, ttl := OpDel, int64(0)
	if w.n(w.cfg.sets+w.cfg.dels) < w.cfg.sets {
		kind = OpSet
		switch w.n(3) {
		case 0:
			ttl = w.between(100, 3_000) // ms
		case 1:
			ttl = w.between(60_000, 1_800_000)
		default:
			ttl = w.between(1_800_000, 3*3_600_000)
		}
	}
	stamp, off := w.stamp(i)
	record := Record{Op: kind, Stamp: stamp, Margin: w.margin(off), Unsure: in.unsure}
	if kind == OpSet {
		record.Value, record.Expires = value, ms(w.clock(i))+ttl
	}
	w.ops = append(w.ops, op{op: kind, at: w.now, instance: i, client: in.client, expires: ms(w.now) + ttl, margin: max(record.Margin, w.env.Margin)})
	o := len(w.ops) - 1
	in.writes++
	in.hasFill = false

	if in.online && in.hasPending {
		w.replay(i, false)
	}
	if !in.online || in.hasPending {
		if w.log != nil {
			w.say("i%d      journals %s", i, record)
		}
		w.journal(i, record, o)
		return
	}
	give := max(w.give, 4*in.slack)
	slack := int64(0) // by which a clock that is ahead makes a write outlive its call
	if w.env.without.has(lateIsRefused) {
		slack = 2*w.e + 100_000
	}
	cmd := wire{kind: wireWrite, op: o, inst: i, record: record,
		write: Write{Op: kind, Stamp: record.Stamp, Value: record.Value, TTL: ttl, NotAfter: w.clock(i) + give - in.slack + slack}}
	if w.log != nil {
		w.say("i%d      sends %s", i, record)
	}
	if w.percent(60) {
		if w.arrive(cmd) == Late { // the answer says so: it has not been done and will not be
			w.journal(i, record, o)
			return
		}
		w.answered(i, o)
		return
	}
	w.wires = append(w.wires, cmd)
	if w.cfg.Deaths && w.percent(20) { // it dies on the way, and the row is free
		w.call = call{instance: i, op: o}
		w.restart(i)
		return
	}
	w.call = call{true, i, o, record, w.now + give}
}

func (w *world) journal(i int, r Record, o int) {
	in := &w.inst[i]
	in.pending, in.pendingOp, in.hasPending = r, o, true
	w.ops[o].acked = true
}

// answered: the server has done a write, and its caller knows.
func (w *world) answered(i, o int) {
	w.inst[i].hasPending = false
	w.ops[o].acked = true
	if w.call.op == o {
		w.call.waiting = false
	}
}

// unanswered: the caller of a write gives up.
func (w *world) unanswered() {
	w.call.waiting = false
	if w.log != nil {
		w.say("i%d      gives up waiting and journals %s", w.call.instance, w.call.record)
	}
	w.journal(w.call.instance, w.call.record, w.call.op)
}

// read is a read of the program. What it finds is not looked at here; that nothing old is shown is
// looked at after each change of the server.
func (w *world) read(i int) {
	in := &w.inst[i]
	if in.online && in.hasPending {
		w.replay(i, false)
	}
	start := w.clock(i) - max(in.slack-w.env.Margin/2, 0) // too early is the safe side
	l := load{instance: i, client: in.client, start: start, writes: in.writes, runID: in.runID}
	if in.online && !in.hasPending {
		w.markers++
		l.marker = Marker{w.markers, l.start}
		w.instant()
		var found Content
		w.key, found = ReadOrLock(w.key, l.marker, ms(lockTTL), w.at(true))
		if found != Nothing {
			return
		}
	} else if in.hasPending && in.pending.Op == OpSet || in.hasFill {
		return // served from disk
	}
	if w.log != nil {
		w.say("i%d      begins a load, marker %s", i, l.marker)
	}
	w.loads = append(w.loads, l)
}

// proceed takes one load a step further.
func (w *world) proceed() {
	if len(w.loads) == 0 {
		return
	}
	k := w.n(len(w.loads))
	l := &w.loads[k]
	in := &w.inst[l.instance]
	if !l.read {
		l.read, l.version = true, w.version
		if w.log != nil {
			w.say("i%d      loads v%d from the source, marker %s", l.instance, l.version, l.marker)
		}
		return
	}
	done := *l
	w.loads[k] = w.loads[len(w.loads)-1]
	w.loads = w.loads[:len(w.loads)-1]
	if done.client != in.client {
		return // its process has died
	}
	if w.percent(10) { // the loader fails
		if done.marker.ID != 0 && in.online {
			w.key, _ = Release(w.key, done.marker, w.at(true))
		}
		return
	}
	ttl := w.between(200, 2*3_600_000)
	if done.marker.ID != 0 && in.online {
		cmd := wire{kind: wireFill, op: -1, inst: done.instance, marker: done.marker, write: Write{Value: values[done.version], TTL: ttl}}
		if w.percent(70) {
			w.arrive(cmd)
		} else {
			w.wires = append(w.wires, cmd)
		}
		return
	}
	if !in.online && done.writes == in.writes {
		start := done.start
		if w.cfg.fillsStampedLate {
			start = w.clock(done.instance)
		}
		in.fill = Record{Op: OpFill, Stamp: Stamp{Time: start, Client: in.client}, Value: values[done.version], Expires: ms(w.clock(done.instance)) + ttl, Margin: w.margin(in.slack), Unsure: in.unsure}
		in.fillRun, in.hasFill = done.runID, true
		if w.log != nil {
			w.say("i%d      journals %s", done.instance, in.fill)
		}
	}
}

func (w *world) renew() {
	if len(w.loads) == 0 {
		return
	}
	l := &w.loads[w.n(len(w.loads))]
	if in := &w.inst[l.instance]; l.marker.ID != 0 && in.online && l.client == in.client {
		w.key, _ = Renew(w.key, l.marker, ms(lockTTL), w.at(true))
	}
}

// link cuts an instance off, or connects it.
func (w *world) link(i int) {
	in := &w.inst[i]
	in.online = !in.online
	if in.online {
		in.runID = w.runID
	} else if w.call.waiting && w.call.instance == i && w.env.without.has(waitsItOut) {
		w.unanswered()
	}
	w.newClock(i)
	if w.log != nil {
		w.say("i%d      connected: %v", i, in.online)
	}
}

// replay sends a record of instance i, if it has one: a Set or Del before a fill. astray: it may be
// late, or its answer lost.
func (w *world) replay(i int, astray bool) {
	in := &w.inst[i]
	if !in.online {
		return
	}
	cmd := wire{kind: wireReplay, inst: i, op: -1}
	switch {
	case in.hasPending:
		cmd.record, cmd.op = in.pending, in.pendingOp
	case in.hasFill:
		cmd.record, cmd.fenced = in.fill, in.fillRun == w.runID
	default:
		return
	}
	if astray && w.percent(20) { // under way, and sent again later
		w.wires = append(w.wires, cmd)
		if w.log != nil {
			w.say("i%d      sends its record %s", i, cmd.record)
		}
		return
	}
	w.arrive(cmd)
	if astray && w.percent(20) {
		return // the answer is lost
	}
	if cmd.op >= 0 {
		in.hasPending = false
	} else {
		in.hasFill = false
	}
}

// deliver lets a message arrive, or loses it.
func (w *world) deliver() {
	if len(w.wires) == 0 {
		return
	}
	k := w.n(len(w.wires))
	cmd := w.wires[k]
	w.wires[k] = w.wires[len(w.wires)-1]
	w.wires = w.wires[:len(w.wires)-1]
	if w.percent(20) {
		return
	}
	outcome := w.arrive(cmd)
	if cmd.kind == wireWrite && w.call.waiting && w.call.op == cmd.op && w.percent(60) {
		if outcome == Late {
			w.unanswered()
		} else {
			w.answered(cmd.inst, cmd.op)
		}
	}
}

func (w *world) at(fenced bool) Env {
	e := w.env
	e.Now, e.Fenced = w.time(), fenced
	return e
}

// arrive is a message at the server.
func (w *world) arrive(cmd wire) (outcome Outcome) {
	w.instant()
	before := w.key.At(w.time())
	switch cmd.kind {
	case wireWrite:
		w.key, outcome = w.cfg.Policy.apply(before, cmd.write, w.at(true))
		if outcome != Late {
			w.done++
			w.settled = max(w.settled, cmd.op+1)
		}
		if w.log != nil {
			w.say("server  %s: %s; %s", cmd.record, outcome, w.key)
		}
	case wireReplay:
		w.key, outcome = w.cfg.Policy.replay(before, cmd.record, w.at(cmd.fenced))
		if cmd.op >= 0 {
			w.done++
			w.settled = max(w.settled, cmd.op+1)
			if outcome != Done {
				w.ops[cmd.op].outcome = outcome
			}
		}
		if w.log != nil {
			w.say("server  replay of %s: %s; %s", cmd.record, outcome, w.key)
		}
		if before.Content == Value && w.key.Content == Value && version(w.key) < version(before) {
			w.back = true
		}
	case wireFill:
		var ok bool
		w.key, ok = w.cfg.Policy.fill(before, cmd.marker, cmd.write.Value, cmd.write.TTL, w.at(true))
		if !ok {
			w.refused++
		}
		if w.log != nil {
			w.say("server  fill of marker %s with v%d: %v; %s", cmd.marker, cmd.write.Value[0], ok, w.key)
		}
	}
	if w.key.Content == Value && version(w.key) < w.settled {
		w.meanwhile = true
	}
	return outcome
}

// version is that of the value in the server. The nth explicit write makes the nth version of the
// source.
func version(s State) int { return int(s.Value[0]) }

// restart ends the process of an instance and begins another one on the same disk.
func (w *world) restart(i int) {
	if w.call.waiting && w.call.instance == i {
		if !w.cfg.Deaths {
			return
		}
		w.call.waiting = false // its write is nobody's any more
	}
	w.newLife(i)
	in := &w.inst[i]
	in.last = 0
	if in.hasPending && !in.pending.Unsure {
		in.last = in.pending.Stamp.Time
	}
	w.newClock(i)
	if w.log != nil {
		w.say("i%d      is a new process", i)
	}
}

// lose restarts the server with what is left of the key. Connections are cut; some are there again
// at once. A client that connects looks at the server's clock before it writes.
func (w *world) lose(left State, acknowledged bool) {
	w.key = left
	w.runID++
	w.newServerClock()
	w.wires = w.wires[:0]
	w.lost = w.lost || acknowledged
	for i := range w.inst {
		if in := &w.inst[i]; in.online {
			if w.percent(50) {
				in.online = false
			} else {
				in.runID = w.runID
			}
			w.newClock(i)
		}
	}
	if w.log != nil {
		w.say("server  restarts, acknowledged data lost: %v; %s", acknowledged, w.key)
	}
}

// heal connects everybody and lets all come to rest.
func (w *world) heal() {
	if w.call.waiting {
		if w.percent(50) {
			w.deliver()
		}
		if w.call.waiting {
			w.now = max(w.now, w.call.until)
			w.unanswered()
		}
	}
	for i := range w.inst {
		if !w.inst[i].online {
			w.link(i)
		}
	}
	for {
		left := len(w.wires) + len(w.loads)
		for i := range w.inst {
			if w.inst[i].hasPending || w.inst[i].hasFill {
				left++
			}
		}
		if left == 0 {
			return
		}
		w.instant()
		switch w.n(3) {
		case 0:
			w.deliver()
		case 1:
			w.proceed()
		case 2:
			w.replay(w.n(instances), true)
		}
	}
}
