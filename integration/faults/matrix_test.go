package faults_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
)

const (
	redisTimeout = 250 * time.Millisecond // aside's defaults, which the rows are run with
	staleLease   = time.Second
	slowCall     = 20 * time.Millisecond
	recoverIn    = 10 * time.Second // to recover in; then the load ends, as the machine may be too busy for both
	// noisy is how late a goroutine may be woken on a machine from which anything about time can be
	// concluded.
	noisy = 50 * time.Millisecond
	// settled is how long after the trip nothing is left of what was asked before.
	settled = redisTimeout + 150*time.Millisecond
)

// measured is what came of a row.
type measured struct {
	row     *row
	callers int
	calls   int // in the time between inject and heal, as all that follows

	longestGet, longestWrite time.Duration
	longestPut               time.Duration // of the writes to disk

	longestGetAfter, longestWriteAfter time.Duration // of those that began after the trip

	slow, slowAfter int // calls that took longer than slowCall; those of them that began after the trip
	askedAfter      int // requests to Redis that failed and began after the trip, by the observer's events
	asked           int // those that failed, or passed the proxy, from a moment after the trip on
	outcomes        map[outcome]int
	overslept       time.Duration // how late a caller was woken at most
	calm            bool          // the machine had time for us
	longestBack     time.Duration // of the calls that began between heal and health

	tripped    bool
	already    bool // it was degraded before; toDegraded says nothing
	toDegraded time.Duration
	back       time.Duration // from the server's first answer to health, if it recovered under load
	recovered  bool
	backAt     time.Time
	relapses   int // times that it became degraded again after the server had answered
	backlog    int // records to replay when the server answered

	stale, staleRedis   int // reads
	lost, lostRedis     int // writes
	turned, journaled   int
	leftFiles, leftLock int
	left                footprint

	idle idleness
}

const (
	untilIdle        = 5 * time.Second // after its latest call a client counts as idle after LockTTL and a second; and a PING's pause
	longestUnnoticed = 2 * time.Second // of an outage, by a client that nobody uses
)

// idleness is what clients noticed that nobody used.
type idleness struct {
	clients, noticed int
	toDegraded, back time.Duration // the longest
}

// slowdown is by how much less is asked of a program that is instrumented.
var slowdown = 1

// TestMatrix runs each row twice: with clients that nobody uses, which tells how soon the prober
// notices, and under load. The short form runs several rows at once, with fewer calls each: it is
// to show what must hold, not how long it takes.
func TestMatrix(t *testing.T) {
	ownServers(t)
	var all []*measured
	for _, r := range rows() {
		if !r.onlyFull || *full {
			all = append(all, &measured{row: r, callers: r.number()})
		}
	}
	sum, before := summary{disk: newDisk(t)}, newFootprint()
	idle := func(m *measured) { t.Run("idle/"+m.row.name, func(t *testing.T) { runIdle(t, m) }) }
	loaded := func(m *measured) { t.Run(m.row.name, func(t *testing.T) { runLoaded(t, m) }) }
	if *full {
		atOnce(2, all, idle)
		for _, m := range all {
			before := newFootprint()
			loaded(m)
			if m.left = beyond(before); m.left != (footprint{}) {
				t.Errorf("%s: left behind are %v", m.row.name, m.left)
			}
		}
	} else {
		atOnce(3, all, func(m *measured) { idle(m); loaded(m) })
	}
	t.Run("backlog", func(t *testing.T) { sum.backlog = runBacklog(t) })
	if more := beyond(before); more != (footprint{}) {
		t.Errorf("left behind are %v", more)
	}

	sum.rows = slices.DeleteFunc(all, func(m *measured) bool { return m.calls == 0 }) // not chosen by -run
	for _, m := range sum.rows {
		t.Log(m)
	}
	for _, g := range sum.goals() {
		t.Log(g)
	}
	if *table != "" {
		sum.write(t, *table)
	}
}

// atOnce has do done for all, n at a time.
func atOnce(n int, all []*measured, do func(*measured)) {
	places := make(chan struct{}, n)
	var running sync.WaitGroup
	for _, m := range all {
		places <- struct{}{}
		running.Go(func() { // ends with do
			defer func() { <-places }()
			do(m)
		})
	}
	running.Wait()
}

// runIdle has a row happen to clients that nobody uses. They began at different times, so that some
// prober has just asked.
func runIdle(t *testing.T, m *measured) {
	const clients = 8
	w, calm := &world{t: t}, watchClock(t)
	m.row.build(w)
	ctx, silence := testContext(t), newTruth(1)
	parties := make([]*party, clients)
	for i := range parties {
		parties[i] = w.join(w.through(), nil)
		if _, err := parties[i].Get(ctx, ttl, "k00000", silence.load); err != nil {
			t.Fatal(err)
		}
		time.Sleep(23 * time.Millisecond)
	}
	if m.row.prepare != nil {
		m.row.prepare(w)
	}
	time.Sleep(untilIdle)
	lasts := m.row.lasts
	if m.row.noticed == always && lasts > 0 {
		lasts = max(lasts, longestUnnoticed+time.Second)
	}
	shard, injected := w.shard(), time.Now()
	m.row.inject(w)
	time.Sleep(lasts)
	m.row.heal(w)
	healed := time.Now()
	m.idle = idleness{clients: clients}
	for _, p := range parties {
		p.awaitRecovery(t)
		changes := p.announced(t)
		at, ok := firstTo(changes, shard, aside.Degraded, injected)
		if !ok {
			continue
		}
		m.idle.noticed++
		m.idle.toDegraded = max(m.idle.toDegraded, at.Sub(injected))
		m.idle.back = max(m.idle.back, changes[len(changes)-1].At.Sub(healed))
	}
	if calm() && m.row.noticed == always && m.idle.noticed < clients {
		t.Errorf("%d of %d clients have not noticed", clients-m.idle.noticed, clients)
	}
}

// runLoaded has a row happen under load, and checks what must hold.
func runLoaded(t *testing.T, m *measured) {
	r := m.row
	// More keys than callers, so that each has some of its own; think times with which two cores
	// have half their time left.
	pace := 60 * slowdown // µs for a call
	if !*full {
		pace *= 6
	}
	tr, think := newTruth(max(2000, m.callers)), time.Duration(m.callers*pace)*time.Microsecond
	w, calm := &world{t: t, truth: tr}, watchClock(t)
	r.build(w)
	ours, theirs := w.join(w.through(), tr), w.join(w.direct(), nil)
	looker, err := rueidis.NewClient(disableCache(w.direct()))
	if err != nil {
		t.Fatal(err)
	}
	defer looker.Close()
	ctx := testContext(t)
	for _, f := range tr.keys { // so that there is something in memory and in Redis
		if err := f.get(ctx, ours.Client); err != nil {
			t.Fatal(err)
		}
	}

	calls := tr.start(ours.Client, m.callers, think, r.allowed)
	others := tr.watch(theirs.Client, 10, staleLease)
	time.Sleep(400 * time.Millisecond)
	if r.prepare != nil {
		r.prepare(w)
	}
	time.Sleep(400 * time.Millisecond)

	for end := time.Now().Add(recoverIn); !ours.isWell() && time.Now().Before(end); { // should a pause of the machine have looked like an outage
		time.Sleep(time.Millisecond)
	}
	before := ours.Stats()
	shard, injected := w.shard(), time.Now()
	r.inject(w)
	struck := time.Now()
	quiet := w.listen(ours, shard, injected)
	time.Sleep(r.lasts)
	asked := quiet()
	m.backlog = ours.Stats().Pending
	r.heal(w)
	healed := time.Now()
	for end := healed.Add(recoverIn); !ours.isWell() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	m.recovered, m.backAt = ours.isWell(), time.Now()
	time.Sleep(200 * time.Millisecond)
	samples := calls.stop()
	others.stop()
	stopped := time.Now()
	ours.awaitRecovery(t) // without load, if need be; and what was written last may wait, too
	theirs.awaitRecovery(t)
	m.journaled = int(ours.Stats().Journaled - before.Journaled)

	m.measure(tr, samples, ours, shard, injected, healed)
	if w.sentinel != nil && w.sentinel.Promotions() > 1 { // at any time since: also after the row was healed
		t.Log("the Sentinels made two servers the primary, one after the other: what the first acknowledged is lost, and this run says nothing of losses")
		struck = stopped
	}
	gone := loss{struck: struck.Sub(tr.began)}
	if r.loses {
		gone.of = w.concerns
	}
	m.asked, m.calm = asked, calm()
	m.check(t, w, tr, ours, theirs, looker, gone)
	ours.close(t)
	theirs.close(t)
	if left := files(t, ours.dir); len(left) > 0 {
		t.Errorf("left after Close: %s", strings.Join(left, " "))
	}
}

func disableCache(o rueidis.ClientOption) rueidis.ClientOption {
	o.DisableCache = true
	return o
}

// listen counts, from a moment after the trip on, the requests to Redis that are not the prober's:
// those that fail, and those that pass the proxy. The function that it returns ends that. A shard
// that has come back in between was rightly asked: then nothing is concluded.
func (w *world) listen(p *party, shard string, injected time.Time) (end func() (asked int)) {
	type snapshot struct{ failed, passed, changes int }
	look := func() (s snapshot) {
		for _, q := range p.requests() {
			if q.shard == shard {
				s.failed++
			}
		}
		if w.proxy != nil {
			s.passed = w.proxy.Commands()
		}
		s.changes = len(p.modes())
		return s
	}
	stop, first := make(chan struct{}), make(chan *snapshot, 1)
	go func() { // ends with end
		for {
			tripped, ok := firstTo(p.modes(), shard, aside.Degraded, injected)
			wait := time.Millisecond
			if ok {
				wait = time.Until(tripped.Add(settled))
			}
			select {
			case <-stop:
				first <- nil
				return
			case <-time.After(wait):
			}
			if ok {
				s := look()
				first <- &s
				return
			}
		}
	}()
	return func() int {
		last := look()
		close(stop)
		s := <-first
		if s == nil || s.changes != last.changes {
			return 0
		}
		return last.failed - s.failed + last.passed - s.passed
	}
}

// measure reads the figures from what was noted.
func (m *measured) measure(tr *truth, samples []sample, p *party, shard string, injected, healed time.Time) {
	changes := p.modes()
	tripped, ok := firstTo(changes, shard, aside.Degraded, injected)
	if degradedAt(changes, shard, injected) { // a busy machine has looked like an outage just before
		tripped, ok, m.already = injected, true, true
	}
	if m.tripped = ok; ok {
		m.toDegraded = tripped.Sub(injected)
	}
	for _, c := range changes {
		switch after := c.At.Sub(healed); {
		case after < 0:
		case c.To == aside.Healthy && !c.At.After(m.backAt):
			m.back = after
		case c.To == aside.Degraded:
			m.relapses++
		}
	}
	begin, end := injected.Sub(tr.began), healed.Sub(tr.began)
	m.outcomes = map[outcome]int{}
	m.longestPut = p.store.longest(begin, end)
	for _, s := range samples {
		if s.began >= end && s.began < end+m.back {
			m.longestBack = max(m.longestBack, s.took)
		}
		if s.ended() < begin || s.began >= end {
			continue
		}
		m.calls++
		m.outcomes[s.outcome]++
		m.overslept = max(m.overslept, s.overslept)
		after := ok && s.began > tripped.Sub(tr.began)
		longest, longestAfter := &m.longestGet, &m.longestGetAfter
		if s.write {
			longest, longestAfter = &m.longestWrite, &m.longestWriteAfter
		}
		*longest = max(*longest, s.took)
		if after {
			*longestAfter = max(*longestAfter, s.took)
		}
		if s.took > slowCall {
			m.slow++
			if after {
				m.slowAfter++
			}
		}
	}
	for _, q := range p.requests() {
		if ok && q.shard == shard && q.began.After(tripped) && q.ended.Before(healed) && degradedAt(changes, shard, q.began) {
			m.askedAfter++
		}
	}
}

// degradedAt reports whether a shard was degraded at a time.
func degradedAt(changes []aside.ModeChange, shard string, at time.Time) bool {
	mode := aside.Healthy
	for _, c := range changes {
		if c.Shard == shard && !c.At.After(at) {
			mode = c.To
		}
	}
	return mode == aside.Degraded
}

// check is what must hold however slow the machine is.
func (m *measured) check(t *testing.T, w *world, tr *truth, ours, theirs *party, looker rueidis.Client, gone loss) {
	r := m.row
	for _, problem := range tr.problems {
		t.Error(problem)
	}

	// Modes. What depends on when something was done by whom can be told only if the machine had
	// time for us.
	changes := ours.announced(t)
	theirs.announced(t)
	switch {
	case !m.calm:
		t.Log("the machine was busy with other things: what its clocks say proves nothing")
	case (r.noticed == always || r.noticed == underLoad) && !m.tripped:
		t.Error("it was not noticed")
	case r.noticed == never && m.tripped:
		t.Errorf("it was taken for an outage: %v", changes)
	}
	for _, c := range changes {
		if c.Shard != w.shard() && w.cluster != nil && m.calm && r.lasts > 0 {
			t.Errorf("shard %s became %v (%v) though nothing happened to it", c.Shard, c.To, c.Err)
		}
	}
	if n := max(m.askedAfter, m.asked); n > 0 && m.calm {
		t.Errorf("%d requests were sent after the trip", n)
	}

	// What was answered.
	stale, redis := tr.staleReads(gone)
	m.stale, m.staleRedis = len(stale), redis
	complain(t, "stale reads", stale)

	// What was written.
	var v verdict
	eventually(t, "no lock is left", func() bool {
		v = tr.inRedis(t, looker, gone)
		return v.locks == 0
	})
	m.lost, m.lostRedis, m.turned, m.leftLock = len(v.lost), v.lostRedis, v.turned, v.locks
	complain(t, "lost writes", v.lost)
	time.Sleep(staleLease - 300*time.Millisecond) // since the load has ended it is longer than that ago
	for name, p := range map[string]*party{"our": ours, "the other": theirs} {
		complain(t, "wrong answers of "+name+" client in the end", tr.served(t, p, gone))
	}

	// What is left.
	for end := time.Now().Add(patience); !ours.isEmpty(t) && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	left := files(t, ours.dir)
	m.leftFiles = len(left)
	complain(t, "files left", left)
}

func complain(t *testing.T, what string, list []string) {
	t.Helper()
	if len(list) > 0 {
		t.Errorf("%d %s:\n\t%s", len(list), what, strings.Join(list[:min(len(list), 5)], "\n\t"))
	}
}

func (m *measured) String() string {
	toDegraded := "not noticed"
	if m.tripped {
		toDegraded = fmt.Sprintf("degraded after %v, back after %v (%v) with %d relapses", ms(m.toDegraded), ms(m.back), m.recovered, m.relapses)
	}
	return fmt.Sprintf("%s: %d calls, longest Get %v, write %v (to disk %v), after the trip %v and %v, coming back %v; %d slow, %d of them after the trip; %d ended by their deadline, %d of unknown outcome, %d refused, %d overloaded; %s; %d journaled, backlog %d, %d turned into deletes; Redis lost %d and caused %d stale reads; callers woken up to %v late; idle: %d of %d after %v, back after %v",
		m.row.name, m.calls, ms(m.longestGet), ms(m.longestWrite), ms(m.longestPut), ms(m.longestGetAfter), ms(m.longestWriteAfter), ms(m.longestBack), m.slow, m.slowAfter, m.outcomes[deadline], m.outcomes[unknown], m.outcomes[refused], m.outcomes[overload],
		toDegraded, m.journaled, m.backlog, m.turned, m.lostRedis, m.staleRedis, ms(m.overslept), m.idle.noticed, m.idle.clients, ms(m.idle.toDegraded), ms(m.idle.back))
}
