package aside

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/redaside/aside/internal/near"
)

// Callers of one key in this process share a flight. One of them, the leader, asks Redis; the
// others wait for the outcome, each on its own context.
//
//	asking    the leader asks on its own context and returns when that ends; the others then start over
//	loading   the loader runs in its own goroutine, on a context that ends when its last waiter has left
//	early     the loader has returned: callers that joined before it was called have its value, the others
//	          wait until that is stored
//	done      everybody has the outcome
//
// A Set or Del of this process detaches the flight from its key: later callers start a new one, so
// that they cannot get what was read before. The fill notices what other processes delete
// meanwhile:
//
//	accepted   nobody deleted between lock and fill: every waiter may have the value
//	refused    callers that joined before the loader was called may have it, because the load began after
//	           they asked; the others start over
//
// An invalidation counts as well that has reached this process before a caller joined: that caller
// does not get an outcome from before it.

// flights are the flights of a client. Safe for concurrent use.
type flights struct {
	now     func() int64          // Link.Now; immutable
	asks    func(key string) bool // reports whether Redis can be asked for key; immutable
	told    func(key string) bool // reports whether what detaches a flight is told for as long as its load runs; nil: never. Immutable
	lease   time.Duration         // Options.StaleLease; immutable
	closing context.Context       // ends with Close; immutable
	seed    maphash.Seed          // immutable
	stripes []flightStripe        // immutable
}

type flightStripe struct {
	mu    sync.Mutex
	byKey map[string]*flight // guarded by mu; one per key, removed when done, or when its error is no longer held
	early []*flight          // guarded by mu; those that are early and not done, attached to their key or not
	held  int                // guarded by mu; how many are there for their error only

	changed map[string]*flight // guarded by mu; whose error is remembered though their key has changed since, see remembered.go

	_ [8]byte // a cache line each
}

type flight struct {
	key    string        // immutable
	stripe *flightStripe // immutable

	// Guarded by the stripe's mu.
	callers   []*caller     // who has joined, those that have left among them; in first as long as there is one
	loaded    chan struct{} // closed once early or out is set, for early tickets; made by the first that waits
	done      chan struct{} // closed once out is set, for the others; made by the first that waits
	load      *load         // once the loader has been started
	heldUntil int64         // how long a failed flight answers new callers, in link.Now's time; set before it is finished: by the error of an earlier load
	release   *time.Timer   // ends that
	waiting   int32
	finished  bool
	insisted  bool // a caller that waits has started over already because of a lost lock

	early *outcome // what it answers early; nil: nothing yet. Not changed after
	out   outcome  // set with finished, not changed after

	// Of its lock, when its load has failed; set before complete.
	told    bool // it was released, and changes since are pushed
	written bool // somebody else had written the key

	first [1]*caller
}

// outcome is what comes of a flight.
type outcome struct {
	raw     string
	err     error       // of the loader
	by      loadCaller  // who loaded it; nil: it was found
	gen     uint64      // see near; a caller that joined at a later one has heard of a change since
	entry   *near.Entry // where it is in memory, or will be; nil: it is not
	meta    *near.Meta  // what its header says, or what is stored with what was loaded; nil: it has none
	expired bool        // a group has made stale what was found
	ends    int64       // when its key does, in link.Now's time; 0: it does not, or it is not stored
	at      int64       // when Redis was asked, or its load began, or it was set, in link.Now's time
	began   int64       // when its load began, or it was set; 0: not known
	judged  int64       // when its caller was allowed to have it, in link.Now's time; 0: nobody has looked. In a caller's copy only
	source  Source
	absent  bool
	missing error         // with which the loader has said so, else nil
	proven  bool          // nobody had changed the key when Redis was asked, at generation gen
	free    bool          // loaded while Redis was away: canShareLocked decided who may share it
	again   bool          // nothing: the leader left before it knew, or its lock was lost
	lost    bool          // that was so
	drilled bool          // loaded for a drill, and so kept nowhere
	bare    bool          // Redis was not asked, or did not answer
	unsure  bool          // loaded, and the state of a group was not known: what was stored is a miss to whoever reads it
	waited  bool          // the leader has waited for another process's load
	held    time.Duration // with again, of a refresh: for how long another process holds its lock; negative: there can be none
}

// stored is what its key was found to hold.
func (o *outcome) stored() string {
	return stored(&near.Value{Raw: o.raw, Absent: o.absent, Meta: o.meta})
}

func (o *outcome) newer(version int64) bool { return isNewer(o.meta, version) }

// own reports whether it was loaded by the loader of this very call, which has the value itself.
func (o *outcome) own(call loadCaller) bool { return o.by != nil && o.by == call }

// ticket is a caller's right to the outcome of a flight. Immutable.
type ticket struct {
	f      *flight
	of     *flights
	leader bool   // the caller must lead the flight
	early  bool   // it has joined before the loader was called
	gen    uint64 // of the key, before it has joined
}

// wait waits for the outcome of the flight.
func (t *ticket) wait(ctx context.Context) (outcome, error) {
	s := t.f.stripe
	s.mu.Lock()
	if out := t.f.answer(t.early); out != nil {
		s.mu.Unlock()
		return *out, nil
	}
	there := t.f.waitLocked(t.early)
	s.mu.Unlock()
	select {
	case <-there:
		return *t.f.answer(t.early), nil
	case <-ctx.Done():
		t.f.leave()
		return outcome{}, ctx.Err()
	case <-t.of.closing.Done():
		t.f.leave()
		return outcome{}, ErrClosed
	}
}

// serves reports whether the caller may have the outcome. If not, it starts over.
func (t *ticket) serves(o *outcome) bool {
	switch {
	case t.leader, o.free:
		return true
	case o.by != nil && t.early:
		return true // what the loader read, it read after this caller had asked
	default:
		return o.proven && t.gen <= o.gen
	}
}

// answer returns what a caller may look at, nil if there is nothing yet. early: it has joined
// before the loader was called. The stripe's mu must be held, or the channel of waitLocked closed.
func (f *flight) answer(early bool) *outcome {
	switch {
	case early && f.early != nil:
		return f.early
	case f.finished:
		return &f.out
	}
	return nil
}

// waitLocked returns a channel that is closed when there is an outcome. There must be none yet.
func (f *flight) waitLocked(early bool) <-chan struct{} {
	c := &f.done
	if early {
		c = &f.loaded
	}
	if *c == nil {
		*c = make(chan struct{})
	}
	return *c
}

// present returns the callers that have joined and are still inside their calls.
func (f *flight) present() (callers []*caller) {
	f.stripe.mu.Lock()
	defer f.stripe.mu.Unlock()
	for _, who := range f.callers {
		if who.present() {
			callers = append(callers, who)
		}
	}
	return callers
}

// insist notes that a caller waits which must not start over again because of a lost lock.
func (f *flight) insist() {
	f.stripe.mu.Lock()
	defer f.stripe.mu.Unlock()
	f.insisted = true
}

func (f *flight) insists() bool {
	f.stripe.mu.Lock()
	defer f.stripe.mu.Unlock()
	return f.insisted
}

// loading returns the load of f, nil if there is none yet.
func (f *flight) loading() *load {
	f.stripe.mu.Lock()
	defer f.stripe.mu.Unlock()
	return f.load
}

func (f *flight) isFinished() bool {
	f.stripe.mu.Lock()
	defer f.stripe.mu.Unlock()
	return f.finished
}

// leave is called by a waiter whose context has ended.
func (f *flight) leave() {
	f.stripe.mu.Lock()
	f.waiting--
	deserted := f.waiting == 0 && f.load != nil && !f.finished
	f.stripe.mu.Unlock()
	if deserted {
		f.load.desert()
	}
}

// joinedLocked notes that who waits for f, and forgets, now and then, those that have left.
func (f *flight) joinedLocked(who *caller) {
	if f.finished {
		return
	}
	if len(f.callers) == cap(f.callers) {
		f.callers = slices.DeleteFunc(f.callers, func(other *caller) bool { return !other.present() })
	}
	f.callers = append(f.callers, who)
}

func (fs *flights) stripe(key string) *flightStripe {
	return &fs.stripes[maphash.String(fs.seed, key)%uint64(len(fs.stripes))]
}

// flightRoom makes the flights of a call for many keys, several in a piece of memory.
type flightRoom struct {
	left   []flight
	needed int // at most
}

// flightsTogether bounds a piece: one flight that stays, with the error of its load, holds all of it.
const flightsTogether = 64

// next returns a new flight. Without room it is by itself.
func (r *flightRoom) next() *flight {
	if r == nil {
		return new(flight)
	}
	if len(r.left) == 0 {
		r.left = make([]flight, min(max(r.needed, 1), flightsTogether))
		r.needed -= len(r.left)
	}
	f := &r.left[0]
	r.left = r.left[1:]
	return f
}

func (fs *flights) joinLocked(s *flightStripe, who *caller, key string, gen uint64, room *flightRoom) ticket {
	f := s.byKey[key]
	if f != nil && fs.canShareLocked(f) && !f.outdatedLocked(gen) {
		f.waiting++
		f.joinedLocked(who)
		return ticket{f: f, of: fs, early: f.load == nil || f.finished && f.out.err != nil, gen: gen}
	}
	if f != nil {
		s.removeLocked(f)
	}
	f = room.next()
	f.key, f.stripe, f.waiting = key, s, 1
	f.callers = append(f.first[:0], who)
	if s.byKey == nil {
		s.byKey = make(map[string]*flight)
	}
	s.byKey[key] = f
	return ticket{f: f, of: fs, leader: true, early: true, gen: gen}
}

// canShareLocked reports whether another caller may wait for f. A load that was started without
// Redis is open only while Redis is away, and for StaleLease: nobody will tell whether the key has
// changed since it began.
func (fs *flights) canShareLocked(f *flight) bool {
	now := fs.now()
	switch {
	case f.finished:
		return now < f.heldUntil
	case f.load == nil:
		return true
	case f.load.free && fs.asks(f.key):
		return false
	case f.load.free && now-f.load.began >= int64(fs.lease) && (fs.told == nil || !fs.told(f.key)):
		return false
	}
	return f.waiting > 0 || f.load.revive()
}

// outdatedLocked reports whether f holds a value, and its key has changed since, whose generation is
// gen now.
func (f *flight) outdatedLocked(gen uint64) bool {
	return f.finished && f.out.err == nil && gen > f.out.gen
}

// removeLocked detaches f from its key, if it is attached.
func (s *flightStripe) removeLocked(f *flight) {
	if s.byKey[f.key] != f {
		return
	}
	delete(s.byKey, f.key)
	if f.release != nil {
		f.release.Stop()
		s.held--
	}
}

// detach makes later callers of key start a new flight: this process has set or deleted it.
func (fs *flights) detach(key string) {
	s := fs.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.byKey[key]; f != nil {
		s.removeLocked(f)
	}
	s.forgetLocked(key)
}

// detachAll is detach for all keys.
func (fs *flights) detachAll() {
	for i := range fs.stripes {
		s := &fs.stripes[i]
		s.mu.Lock()
		for _, f := range s.byKey {
			s.removeLocked(f)
		}
		s.forgetAllLocked()
		s.mu.Unlock()
	}
}

// complete gives the outcome to all waiters. Only the first call for a flight counts.
func (fs *flights) complete(f *flight, out outcome) {
	s := f.stripe
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.finished {
		return
	}
	f.finished, f.out = true, out
	if out.err == nil && !out.again {
		s.forgetLocked(f.key)
	}
	if f.early != nil {
		i := slices.Index(s.early, f)
		s.early = slices.Delete(s.early, i, i+1)
	}
	if hold := fs.holdsLocked(f); hold > 0 {
		f.heldUntil = fs.now() + int64(hold)
		s.held++
		f.release = time.AfterFunc(hold, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.removeLocked(f)
			if s.changed[f.key] == f {
				s.forgetLocked(f.key)
			}
		})
	} else {
		s.removeLocked(f)
	}
	f.callers, f.first[0] = nil, nil
	if f.loaded != nil && f.early == nil {
		close(f.loaded)
	}
	if f.done != nil {
		close(f.done)
	}
}

// answerEarly gives what was loaded to the callers that joined before the loader was called.
// complete follows, for the others.
func (f *flight) answerEarly(out *outcome) {
	s := f.stripe
	s.mu.Lock()
	defer s.mu.Unlock()
	f.early = out
	if out.absent && f.load.options.negativeTTL < 0 {
		s.removeLocked(f) // who asks from now on is not to get it
	}
	s.early = append(s.early, f)
	if f.loaded != nil {
		close(f.loaded)
	}
}

// storing appends, for each early value of key, a channel that is closed when it is stored or
// cannot be.
func (fs *flights) storing(to []<-chan struct{}, key string) []<-chan struct{} {
	s := fs.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.early {
		if f.key == key {
			to = append(to, f.waitLocked(false))
		}
	}
	return to
}

// abandon lets the others start over where the leader of f has left it with neither an outcome nor
// a load: its context has ended, or something on its way panicked.
func (fs *flights) abandon(f *flight) {
	f.stripe.mu.Lock()
	left := !f.finished && f.load == nil
	f.stripe.mu.Unlock()
	if left {
		fs.complete(f, outcome{again: true})
	}
}

// busy reports whether a call waits for key.
func (fs *flights) busy(key string) bool {
	s := fs.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.byKey[key]
	return f != nil && !f.finished
}

// count returns for how many keys a flight is under way.
func (fs *flights) count() (keys int) {
	for i := range fs.stripes {
		s := &fs.stripes[i]
		s.mu.Lock()
		keys += len(s.byKey)
		for _, f := range s.early {
			if s.byKey[f.key] != f {
				keys++
			}
		}
		s.mu.Unlock()
	}
	return keys
}

// gone reports whether a group has made what was found stale and nobody would refresh it: its reader
// gives it no such grace, or it does not expire.
func (o *outcome) gone(grace time.Duration) bool {
	return o.expired && (o.ends == 0 || o.meta.GraceOr(grace) == 0)
}
