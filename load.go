package aside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redaside/aside/internal/drill"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/script"
)

// loadEnd is the end of a load whose locks are no markers in data keys.
type loadEnd interface {
	store(l *load, items []*loadItem, storable func(*loadItem) bool)
	release(l *load, err error)
}

// load is one call of a loader, for the keys of one or many flights.
type load struct {
	c       *Client
	parent  *load // the load whose loader asked for this one
	ttl     time.Duration
	options *callOptions
	call    loadCaller
	room    uintptr  // see near.Value.Room
	keys    []string // of items, in order
	items   []loadItem
	out     []loaded
	began   int64                 // in link.Now's time
	done    int64                 // when its loader has returned, likewise
	free    bool                  // see loadItem
	bare    bool                  // one of items at least has no lock
	missing error                 // with which the loader said that there is nothing, else nil
	unsure  bool                  // the state of a group of theirs was not known when it began
	unheld  bool                  // its error is that of a context, perhaps of a caller of its own, and not for others
	early   int64                 // its share of loads.earlyBytes
	values  loadContext           // the loader's
	drill   *drill.Drill          // for which some of its keys are loaded, else nil; immutable once started
	drilled int                   // how many
	special loadEnd               // how it ends, if not by fills and releases; immutable once started
	groups  groupStates           // of its groups, before the loader was called
	seats   []*seating            // immutable once begun; where it is to run, in the order in which it asks
	nested  map[*caller][]*flight // what its loader has asked for and waits for, by call; guarded by nesting

	next, previous *load // guarded by the mu of loads

	one struct { // what a load of one needs, in one piece of memory
		keys    [1]string
		out     [1]loaded
		items   [1]loadItem
		fill    [1]*loadItem
		args    [3]string // of request
		request link.Request
		early   [1]outcome
	}

	mu      sync.Mutex
	first   *caller // whose context has its values; replaced when it has left
	live    int     // flights that somebody waits for
	lost    int     // items whose locks are lost
	says    *says   // what the loader has said; nil: nothing. Not changed once ended
	ended   bool    // it returned, or it is no longer waited for
	blind   bool    // the loader asked for a value when nobody was there to give it: what it returns is nobody's
	storing bool    // its items stay as they are, and their locks are kept until they are stored
	renewed int64   // when its locks were taken or last renewed, in link.Now's time

	traced  context.Context //nolint:containedctx // what a Tracer has made of values; nil: nothing
	tracing bool            // a Tracer is being told: what it asks of values has no consequences
}

// said is what a loader has said of a key.
type said struct {
	ttl      time.Duration // 0: nothing
	grace    time.Duration
	graceful bool // of grace
	noStore  bool
	tags     []string
}

// revive notes that somebody waits again for a flight that nobody waited for; false: too late, the
// load is cancelled.
func (l *load) revive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live == 0 {
		return false
	}
	l.live++
	return true
}

// joined notes that who, which a loader calls, waits for the load.
func (l *load) joined(who *caller) {
	for _, s := range l.seats {
		s.of.joined(s, who)
	}
}

// desert notes that nobody waits for one of the flights any more.
func (l *load) desert() {
	l.mu.Lock()
	l.live--
	last := l.live == 0
	l.mu.Unlock()
	if last {
		l.values.cancel(context.Canceled)
	}
}

// lockHeld notes that the ith lock was found to be there in, or after, that outage of its key's shard.
func (l *load) lockHeld(i int, outage uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.items[i].held = outage
}

// lockLost notes that the lock of item i was found to be gone, or somebody else's. Once all are, what
// the loader returns cannot be stored, and it may run beside another: its context ends, and its
// callers start over. But no caller starts over twice for that, or a key that is deleted again and
// again would never be loaded: then the load goes on for those that wait.
func (l *load) lockLost(i int) {
	l.mu.Lock()
	if l.ended { // it has just been filled, or given back
		l.mu.Unlock()
		return
	}
	l.items[i].lost = true
	l.lost++
	all := l.lost == len(l.items)
	l.mu.Unlock()
	l.c.counted.locksLost.Add(1)
	for i := range l.items {
		all = all && !l.items[i].f.insists()
	}
	if all {
		l.values.cancel(ErrLockLost)
	}
}

// end says mine to the one that may settle the load: its goroutine or expire. deserted: nobody
// waits for it any more, or it is blind.
func (l *load) end() (mine, deserted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false, false
	}
	l.ended = true
	return true, l.live == 0 || l.blind
}

// caller returns one that waits for the load and is inside its call: always the same for as long as
// that stays. nil: nobody is, or the load is over.
func (l *load) caller() *caller {
	for range 3 { // callers may come and go while we look
		l.mu.Lock()
		who, over := l.first, l.ended || l.live == 0
		l.mu.Unlock()
		switch {
		case over:
			return nil
		case who.inside():
			return who
		}
		for i := range l.items {
			for _, next := range l.items[i].f.present() {
				if next.inside() {
					l.mu.Lock()
					l.first = next
					l.mu.Unlock()
					return next
				}
			}
		}
	}
	return nil
}

// over reports whether the load has been settled, or is about to be: nobody waits for its loader
// any more.
func (l *load) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// newLoad makes a load for items, whose flights who leads. It keeps items.
func (c *Client) newLoad(who *caller, p *plan, items []loadItem) *load {
	if len(items) == 1 {
		return c.newLoadOfOne(who, p, items[0])
	}
	l := &load{keys: make([]string, len(items)), out: make([]loaded, len(items)), items: items}
	l.begin(c, who, p)
	return l
}

// newLoadOfOne is newLoad for one item, in one piece of memory.
func (c *Client) newLoadOfOne(who *caller, p *plan, item loadItem) *load {
	l := new(load)
	l.one.items[0] = item
	l.keys, l.out, l.items = l.one.keys[:], l.one.out[:], l.one.items[:]
	l.begin(c, who, p)
	return l
}

// begin sets the rest of a load that has its items.
func (l *load) begin(c *Client, who *caller, p *plan) {
	l.c, l.parent, l.first, l.live = c, who.load, who, len(l.items)
	l.ttl, l.options, l.call, l.room = p.ttl, p.options, p.call, p.room
	l.began = c.link.Now()
	l.renewed, l.values.l, l.values.ends = l.began, l, l.began+int64(p.options.loadTimeout)
	for i := range l.items {
		item := &l.items[i]
		l.keys[i] = item.f.key
		l.free = l.free || item.free
		l.bare = l.bare || item.marker == ""
		if item.drill != nil {
			l.drill, l.drilled = item.drill, l.drilled+1
		}
		if item.locked > 0 {
			l.renewed = min(l.renewed, item.locked)
		}
		item.gen, item.outage = c.near.Changes(item.f.key), c.link.Home(item.f.key).Valid.Outage()
		item.held = item.outage
	}
	l.seats = c.loads.seatsFor(l)
}

// seatsFor returns where l is to run.
func (ls *loads) seatsFor(l *load) (seats []*seating) {
	add := func(p *places) {
		if p != nil {
			seats = append(seats, &seating{of: p, load: l})
		}
	}
	add(l.options.places)
	add(ls.most)
	if l.bare { // nobody else spares the database this
		add(ls.bare)
	}
	return seats
}

// expire ends a load that has not returned though its context has ended: its deadline has passed,
// nobody waits for it any more, or the client is being closed.
func (l *load) expire() {
	if mine, deserted := l.end(); mine {
		l.fail(l.values.Err(), deserted, l.options.loadTimeout)
		l.settled()
	}
}

// fail gives up the locks and hands out the error.
func (l *load) fail(err error, deserted bool, took time.Duration) {
	ended := context.Canceled
	switch {
	case l.c.lifecycle.ctx.Err() != nil:
		err = ErrClosed
	case l.values.lockLost():
		err, ended = nil, ErrLockLost // who waited starts over
	case deserted:
		err = nil // its last waiter left: nothing to say, who joins meanwhile starts over
	case l.drill != nil && l.drill.Over():
		err = nil // who waits for it starts over, and asks Redis
	case errors.Is(l.values.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("%w (%v)", ErrLoadTimeout, l.options.loadTimeout)
	}
	l.observe(cmp.Or(err, ended), took)
	l.release(err)
}

// settled is the end of a load: all who waited for it know.
func (l *load) settled() {
	l.values.end(context.Canceled)
	l.c.loads.earlyBytes.Add(-l.early)
	l.c.loads.remove(l)
	l.c.background.Done()
}

// release gives up the locks and fails the flights with err; nil lets who joined meanwhile start
// over.
func (l *load) release(err error) {
	if l.special != nil {
		l.special.release(l, err)
		return
	}
	c, release := l.c, script.Release
	if err != nil && !l.unheld && l.options.errorTTL > 0 {
		release = script.ReleaseFailed
	}
	c.giveUp(l.items, release, func(int) outcome { return outcome{err: err, again: err == nil, lost: l.values.lockLost()} })
}

// giveUp gives back the locks of items, and completes their flights.
func (c *Client) giveUp(items []loadItem, release *script.Script, outcomeOf func(i int) outcome) {
	for i := range items {
		items[i].gen = c.near.Generation(items[i].f.key)
	}
	c.over(pointers(items), overLocks{one: release, many: release, answer: func(_ bool, item *loadItem, ours bool, err error) {
		item.f.told, item.f.written = ours && err == nil, !ours && err == nil
	}})
	for i := range items {
		item := &items[i]
		if item.shard != nil {
			if item.shard.Echoes() { // the push was our own
				item.gen = c.near.Generation(item.f.key)
			}
		}
		c.near.Wake(item.f.key)
		c.flights.complete(item.f, outcomeOf(i))
		if c.near.Generation(item.f.key) != item.gen { // a push came before the error was held, and counts all the same
			c.flights.keyChanged(item.f.key)
		}
	}
}

func (l *load) isLoading(key string) bool { return !l.over() && slices.Contains(l.keys, key) }

// says are what the loader of a load has said.
type says struct {
	of     []said         // by key
	wrong  error          // the first value that was wrong
	places map[string]int // of the keys of a batch; once needed
}

// saidOf returns what the loader has said of item i, once it has returned.
func (l *load) saidOf(i int) said {
	if l.says == nil {
		return said{}
	}
	return l.says.of[i]
}

// What the Observer is told of a load.

// trace tells a Tracer that the loader begins, and returns the context that this gets.
func (l *load) trace() context.Context {
	if l.c.tracer == nil {
		return &l.values
	}
	tracing := func(tracing bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.tracing = tracing
	}
	tracing(true)
	made := l.c.tellStart(&l.values, l.event())
	tracing(false)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.traced = made
	return made
}

// observed is the context with which the Observer is told of the load.
func (l *load) observed() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.traced != nil {
		return l.traced
	}
	return &l.values
}

func (l *load) event() Event {
	return Event{Kind: EventLoad, Source: SourceLoader, View: l.options.view, Key: l.keys[0], Keys: len(l.keys), Refresh: l.special != nil}
}

func (l *load) observe(err error, took time.Duration) {
	c := l.c
	if l.drill != nil {
		l.drill.Returned(err, took)
	}
	c.counted.loads.Add(1)
	if err != nil && !isNotFound(err) { // examined, or ours
		c.counted.loadErrors.Add(1)
	}
	c.loads.ended.note(l.keys, c.link.Now(), took, err)
	if c.observer != nil {
		e := l.event()
		e.Duration, e.Err = took, err
		c.observe(l.observed(), e)
	}
}

// tell tells the Observer what has become of a loaded value.
func (l *load) tell(kind EventKind, key string, err error) {
	if l.c.observer != nil {
		l.c.observe(l.observed(), Event{Kind: kind, View: l.options.view, Key: key, Keys: 1, Err: err})
	}
}

// observedLoad returns what a Tracer has made of the context of f's load; nil: nothing.
func (f *flight) observedLoad() context.Context {
	l := f.loading()
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.traced
}
