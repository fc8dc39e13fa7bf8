package aside

import (
	"cmp"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"
)

// Callers of one key in this process share a flight: one of them, the leader, asks Redis; the others wait for what
// comes of it. Each waits on its own context.
//
//	asking    the leader asks on its own context and returns as soon as that ends; the others then start over
//	loading   the loader runs in its own goroutine, on a context that ends when its last waiter has left
//	handed    the loader has returned: who joined before it was called has what it gave. The others wait until it is stored
//	done      everybody has the outcome
//
// A Set or Del of this process takes the flight of its key off the table: who comes later starts a new one, so that it
// cannot be given what was read before. What another process deletes meanwhile is noticed by the fill:
//
//	accepted   nobody deleted between lock and fill: every waiter may have the value
//	refused    who was there before the loader was called may have it, for the load began after they asked; others start over
//
// And a push that has reached this process before a caller joined is heeded: an outcome from before it is not for that caller.
type flights struct {
	seed    maphash.Seed
	stripes [256]flightStripe
}

type flightStripe struct {
	mu    sync.Mutex
	byKey map[string]*flight // guarded by mu; one per key, removed when done, or after the hold-off of an error
	lent  []*flight          // guarded by mu; those that are handed and not done, on the table or not
	_     [24]byte           // a cache line each
}

type flight struct {
	key string

	// Guarded by the stripe's mu.
	callers   []*caller     // who has joined, those that have left among them; in first as long as there is one
	loaded    chan struct{} // closed once early or out is set, for who joined before the loader was called; made by the first that waits
	done      chan struct{} // closed once out is set, for the others; made by the first that waits
	load      *load         // once the loader has been started
	heldUntil int64         // how long a failed flight answers new callers, in Client.now's time
	waiting   int32
	handed    bool
	finished  bool

	early outcome // set with handed, not changed after
	out   outcome // set with finished, not changed after

	// The leader's own, while it asks.
	stuck stuck // the lock that it waits for
	polls int   // how often one was found
	again bool  // it has been asked for a second time, see askAgain
	large int64 // bytes that were found, and are to be asked for in turn

	first [1]*caller

	// Of its lock, when its load has failed; set before complete.
	told    bool // it was released, and changes since are pushed
	written bool // somebody else had written the key
}

// outcome is what comes of a flight.
type outcome struct {
	raw     string
	err     error      // of the loader
	by      loadCaller // who loaded it; nil: it was found
	gen     uint64     // see near; a caller that joined at a later one has heard of a change since
	entry   *entry     // where it is in memory, or will be; nil: nowhere
	absent  bool
	missing error // with which the loader has said so, else nil
	proven  bool  // nobody had changed the key when Redis was asked, at generation gen
	free    bool  // loaded while Redis was away: boardableLocked decided who may share it
	again   bool  // nothing: the leader left before it knew
}

// serves says whether a caller may have the outcome. leader: it led the flight. early: it joined before the loader was
// called. joined: the generation of its key then.
func (o *outcome) serves(leader, early bool, joined uint64) bool {
	switch {
	case leader, o.free:
		return true
	case o.by != nil && early:
		return true // what the loader read, it read after this caller had asked
	default:
		return o.proven && joined <= o.gen
	}
}

// answer is what a caller may look at: who joined before the loader was called, as soon as it has returned. nil: not yet.
// To be called with the stripe's mu held, or when the channel of waitLocked is closed.
func (f *flight) answer(early bool) *outcome {
	switch {
	case early && f.handed:
		return &f.early
	case f.finished:
		return &f.out
	}
	return nil
}

// waitLocked returns what is closed when there will be an outcome. There must be none yet.
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

// notFound is what a caller gets for an absence: what the loader has returned, which may wrap an error of the caller's domain.
func (o *outcome) notFound() error { return cmp.Or(o.missing, ErrNotFound) }

// own says that it was loaded by the loader of this very call, which has the value itself.
func (o *outcome) own(call loadCaller) bool { return o.by != nil && o.by == call }

func (fs *flights) stripe(key string) *flightStripe {
	return &fs.stripes[maphash.String(fs.seed, key)%uint64(len(fs.stripes))]
}

// join returns the flight of key. leader: the caller has to lead it. early: the loader has not been called yet.
func (c *Client) join(who *caller, key string) (f *flight, leader, early bool, err error) {
	if who.load != nil {
		return c.joinNested(who, key)
	}
	s := c.flights.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	f, leader, early = c.joinLocked(s, who, key)
	return f, leader, early, nil
}

func (c *Client) joinLocked(s *flightStripe, who *caller, key string) (f *flight, leader, early bool) {
	if f = s.byKey[key]; f != nil && c.boardableLocked(f) {
		f.waiting++
		f.joinedLocked(who)
		return f, false, f.load == nil || f.finished
	}
	f = &flight{key: key, waiting: 1}
	f.callers = append(f.first[:0], who)
	if s.byKey == nil {
		s.byKey = make(map[string]*flight)
	}
	s.byKey[key] = f
	return f, true, true
}

// boardableLocked says whether one more may join. A load that was started without Redis is open only while Redis is away, and
// for StaleLease: nobody will say whether the key has changed since it began.
func (c *Client) boardableLocked(f *flight) bool {
	now := c.now()
	switch {
	case f.finished:
		return now < f.heldUntil
	case f.load == nil:
		return true
	case f.load.free && (now-f.load.began >= int64(c.opt.StaleLease) || c.shardOf(f.key).asks()):
		return false
	}
	return f.waiting > 0 || f.load.revive()
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

// leave is called by a waiter whose context has ended.
func (c *Client) leave(f *flight) {
	s := c.flights.stripe(f.key)
	s.mu.Lock()
	f.waiting--
	deserted := f.waiting == 0 && f.load != nil && !f.finished
	s.mu.Unlock()
	if deserted {
		f.load.desert()
	}
}

// bump makes later callers start a new flight: the key was set or deleted by this process.
func (c *Client) bump(key string) {
	s := c.flights.stripe(key)
	s.mu.Lock()
	delete(s.byKey, key)
	s.mu.Unlock()
}

// complete hands the outcome to all waiters. Only the first call for a flight counts.
func (c *Client) complete(f *flight, out outcome) {
	s := c.flights.stripe(f.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.finished {
		return
	}
	f.finished, f.out = true, out
	if f.handed {
		i := slices.Index(s.lent, f)
		s.lent = slices.Delete(s.lent, i, i+1)
	}
	if s.byKey[f.key] == f {
		if hold := c.holds(f, out.err); hold > 0 {
			f.heldUntil = c.now() + int64(hold)
			time.AfterFunc(hold, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.byKey[f.key] == f {
					delete(s.byKey, f.key)
				}
			})
		} else {
			delete(s.byKey, f.key)
		}
	}
	f.callers, f.first[0] = nil, nil
	if f.loaded != nil && !f.handed {
		close(f.loaded)
	}
	if f.done != nil {
		close(f.done)
	}
}

// holds returns how long the error of a loader answers new callers too (Options.ErrorTTL), so that a failing database is not asked by a hundred
// waiters one after another.
func (c *Client) holds(f *flight, err error) time.Duration {
	if err == nil || f.load == nil || f.load.unheld || f.written || isEncodeError(err) || c.closing.Err() != nil {
		return 0
	}
	if !f.told { // somebody may have written it already, of which no push will tell
		return min(f.load.options.errorTTL, defaultErrorTTL)
	}
	return f.load.options.errorTTL
}

// forgetErrors ends the errors that are held for key, or for all: it has changed, or may have.
func (c *Client) forgetError(key string) {
	s := c.flights.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.byKey[key]; f != nil && f.finished {
		delete(s.byKey, key)
	}
}

func (c *Client) forgetErrors() {
	for i := range c.flights.stripes {
		s := &c.flights.stripes[i]
		s.mu.Lock()
		maps.DeleteFunc(s.byKey, func(_ string, f *flight) bool { return f.finished })
		s.mu.Unlock()
	}
}

// abandon lets the others start over where the leader of f has left it with neither an outcome nor a load: its context has
// ended, or something on its way panicked.
func (c *Client) abandon(f *flight) {
	s := c.flights.stripe(f.key)
	s.mu.Lock()
	left := !f.finished && f.load == nil
	s.mu.Unlock()
	if left {
		c.complete(f, outcome{again: true})
	}
}

// inFlight counts the keys for which a flight is under way.
func (c *Client) inFlight() (keys int) {
	for i := range c.flights.stripes {
		s := &c.flights.stripes[i]
		s.mu.Lock()
		keys += len(s.byKey)
		for _, f := range s.lent {
			if s.byKey[f.key] != f {
				keys++
			}
		}
		s.mu.Unlock()
	}
	return keys
}
