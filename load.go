package aside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/script"
)

// loadCaller is a user's loader in the form that serves one key and many, strings and types: a
// pointer, made anew for each call. load fills out, which is as long as keys and preset to "not
// found"; keys stay as they are. another returns one of the same loader for a load that may run
// beside the call's own.
type loadCaller interface {
	load(ctx context.Context, keys []string, out []loaded) error
	another() loadCaller
}

// plan is what a call wants done with keys that memory could not answer.
type plan struct {
	ttl      time.Duration
	defaults *callOptions // of the view; nil: the client's
	opts     []CallOption
	options  callOptions // what opts come to; set by obtain
	call     loadCaller
	room     uintptr // see near.Value.Room
	waited   bool    // the call has waited for WithSoftTimeout once
}

// loadEnd is the end of a load whose locks are no markers in data keys.
type loadEnd interface {
	store(l *load, items []*loadItem, storable func(*loadItem) bool)
	release(l *load, err error)
}

// loaded is what a loader gave for one key.
type loaded struct {
	raw   string // of its own: memory may keep it
	found bool
	err   error // found, but it cannot be encoded
}

// loads are the loads of a client that run, and what they share. Safe for concurrent use.
type loads struct {
	bare *places // of Options.MaxLoaders, for those that run without a lock
	most *places // of Options.MaxLoads, for all; nil: no bound

	// earlyBytes are loaded values that callers have and Redis has not acknowledged, see fill.go.
	earlyBytes atomic.Int64

	mu      sync.Mutex
	running *load // the latest of those that run, which lead to the others; guarded by mu

	lastTTL atomic.Int64 // the latest that was asked for, see milliseconds
	ttl     atomic.Pointer[ttlText]
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

func (ls *loads) add(l *load) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.next = ls.running; l.next != nil {
		l.next.previous = l
	}
	ls.running = l
}

func (ls *loads) remove(l *load) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.next != nil {
		l.next.previous = l.previous
	}
	if l.previous != nil {
		l.previous.next = l.next
	} else {
		ls.running = l.next
	}
	l.next, l.previous = nil, nil
}

func (ls *loads) all() (all []*load) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for l := ls.running; l != nil; l = l.next {
		all = append(all, l)
	}
	return all
}

// due returns the locks that are older than age, and counts them as renewed now.
func (ls *loads) due(age, now int64) (items []*loadItem) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for l := ls.running; l != nil; l = l.next {
		l.mu.Lock()
		if (!l.ended || l.storing) && now-l.renewed >= age {
			l.renewed = now
			items = append(items, pointers(slices.Clone(l.items))...) // the load goes on with its own
		}
		l.mu.Unlock()
	}
	return items
}

// has reports whether a load that has not ended for key holds its lock with marker.
func (ls *loads) has(key, marker string) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for l := ls.running; l != nil; l = l.next {
		for i := range l.items {
			if item := &l.items[i]; item.marker == marker && item.f.key == key { // store may be writing the rest of it
				return !item.f.isFinished()
			}
		}
	}
	return false
}

// load is one call of a loader, for the keys of one or many flights.
type load struct {
	c       *Client
	parent  *load // the load whose loader asked for this one
	ttl     time.Duration
	options callOptions
	call    loadCaller
	room    uintptr  // see near.Value.Room
	keys    []string // of items, in order
	items   []loadItem
	out     []loaded
	began   int64                // in link.Now's time
	free    bool                 // see loadItem
	bare    bool                 // one of items at least has no lock
	missing error                // with which the loader said that there is nothing, else nil
	unheld  bool                 // its error is that of a context, perhaps of a caller of its own, and not for others
	early   int64                // its share of loads.earlyBytes
	values  loadContext          // the loader's
	special loadEnd              // how it ends, if not by fills and releases; immutable once started
	seats   []*seating           // immutable once begun; where it is to run, in the order in which it asks
	nested  map[*caller]struct{} // calls that its loader makes and that wait; guarded by nesting

	valueTTL, absentTTL string // as Redis takes them, once needed
	next, previous      *load  // guarded by the mu of loads

	one struct { // what a load of one needs, in one piece of memory
		keys    [1]string
		out     [1]loaded
		items   [1]loadItem
		fill    [1]*loadItem
		args    [3]string // of request
		request link.Request
		call    link.Call // of its fill, unless that goes in a batch
	}

	mu      sync.Mutex
	first   *caller // whose context has its values; replaced when it has left
	live    int     // flights that somebody waits for
	ended   bool    // it returned, or it is no longer waited for
	blind   bool    // the loader asked for a value when nobody was there to give it: what it returns is nobody's
	storing bool    // its items stay as they are, and their locks are kept until they are stored
	renewed int64   // when its locks were taken or last renewed, in link.Now's time
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
		l.values.cancel()
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
		if item.locked > 0 {
			l.renewed = min(l.renewed, item.locked)
		}
		item.gen, item.outage = c.near.Generation(item.f.key), c.link.Home(item.f.key).Valid.Outage()
	}
	l.seats = c.loads.seatsFor(l)
}

// start calls the loader and returns at once.
func (l *load) start() {
	c := l.c
	c.loads.add(l)
	if !c.enterAll(2) { // the loader's goroutine, and whoever settles the load
		c.loads.remove(l)
		l.release(ErrClosed)
		return
	}
	for i := range l.items {
		item := &l.items[i]
		item.f.stripe.mu.Lock()
		item.f.load = l
		item.f.stripe.mu.Unlock()
	}
	l.values.begin()
	c.work(l)
}

// do calls the loader and, unless the load has expired meanwhile, settles it. It ends when the
// loader returns.
func (l *load) do() {
	c := l.c
	defer c.background.Done()
	notFound, err := l.run()
	mine, deserted := l.end()
	if !mine {
		return
	}
	took := time.Duration(c.link.Now() - l.began)
	switch {
	case deserted: // what it returned may have been made without values
		l.fail(err, deserted, took)
		l.settled()
	case err == nil:
		l.observe(nil, took)
		l.store()
	case notFound:
		l.missing = err
		l.observe(err, took)
		clear(l.out)
		l.store()
	default:
		l.unheld = ofContext(err)
		l.fail(err, deserted, took)
		l.settled()
	}
}

// run calls the loader, and examines its errors. A panic becomes an error, and so does the end of
// its goroutine (runtime.Goexit, t.FailNow).
func (l *load) run() (notFound bool, err error) {
	seated := 0
	defer func() {
		for _, s := range slices.Backward(l.seats[:seated]) {
			s.of.leave(s)
		}
	}()
	for ; seated < len(l.seats); seated++ {
		if err := l.seats[seated].of.enter(&l.values, l.seats[seated]); err != nil {
			return false, err
		}
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		if p := recover(); p != nil {
			notFound, err = false, newPanicError(p)
			return
		}
		// Goexit cannot be stopped: this goroutine ends after its deferred calls, so settle here.
		if mine, deserted := l.end(); mine {
			l.fail(goexited("the loader"), deserted, 0)
			l.settled()
		}
	}()
	err = l.call.load(&l.values, l.keys, l.out)
	notFound = examine(err)
	for i := range l.out {
		examine(l.out[i].err)
	}
	returned = true
	return notFound, err
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
	switch {
	case l.c.lifecycle.ctx.Err() != nil:
		err = ErrClosed
	case deserted:
		err = nil // its last waiter left: nothing to say, who joins meanwhile starts over
	case errors.Is(l.values.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("%w (%v)", ErrLoadTimeout, l.options.loadTimeout)
	}
	l.observe(cmp.Or(err, context.Canceled), took)
	l.release(err)
}

// settled is the end of a load: all who waited for it know.
func (l *load) settled() {
	l.values.end(context.Canceled)
	l.c.loads.earlyBytes.Add(-l.early)
	l.c.loads.remove(l)
	l.c.background.Done()
}

func (l *load) observe(err error, took time.Duration) {
	c := l.c
	c.counted.loads.Add(1)
	if err != nil && !isNotFound(err) { // examined, or ours
		c.counted.loadErrors.Add(1)
	}
	c.observe(Event{Kind: EventLoad, Key: l.keys[0], Source: SourceLoader, Duration: took, Err: err})
}

// renewer keeps the locks of loaders that are slow: all that are due, with one command per shard. A
// lock that is lost stays lost: its fill will be refused. It ends with Close.
func (c *Client) renewer() {
	tick := time.NewTicker(c.opt.LockTTL / 6)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.lifecycle.ctx.Done():
			return
		}
		// Due after a third of LockTTL, found within half of it at the latest.
		if items := c.loads.due(int64(c.opt.LockTTL/3), c.link.Now()); len(items) > 0 {
			c.over(items, overLocks{one: script.Renew, many: script.Renew, head: []string{c.renewedTTL()}})
		}
	}
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
	for i := range l.items {
		l.items[i].gen = c.near.Generation(l.items[i].f.key)
	}
	c.over(pointers(l.items), overLocks{one: release, many: release, answer: func(_ bool, item *loadItem, ours bool, err error) {
		item.f.told, item.f.written = ours && err == nil, !ours && err == nil
	}})
	for i := range l.items {
		item := &l.items[i]
		if item.shard != nil {
			if item.shard.Echoes() { // the push was our own
				item.gen = c.near.Generation(item.f.key)
			}
		}
		c.near.Wake(item.f.key)
		c.flights.complete(item.f, outcome{err: err, again: err == nil})
		if c.near.Generation(item.f.key) != item.gen { // a push came before there was an error that it could end
			c.flights.dropError(item.f.key)
		}
	}
}

func pointers[T any](all []T) []*T {
	to := make([]*T, len(all))
	for i := range all {
		to[i] = &all[i]
	}
	return to
}

// orphaned reports whether a marker is one of ours, of a load that has ended for this key: Redis
// went away, or refused, before it could be filled or given back.
func (c *Client) orphaned(key, marker string) bool {
	return strings.HasPrefix(marker, c.tokenPrefix) && !c.loads.has(key, marker)
}

// setTTL decides for how long what was loaded for item i is stored.
func (l *load) setTTL(i int) {
	ttl := l.ttl
	if !l.out[i].found {
		ttl = min(ttl, l.options.negativeTTL)
	}
	if l.options.jitter > 0 && ttl > 0 {
		ttl = freshness.Jittered(ttl, l.options.jitter, rand.Float64())
	}
	if ttl > 0 { // an absence that is not remembered has none
		ttl = freshness.Sum(ttl, l.options.grace)
	}
	l.items[i].ttl = ttl
}
