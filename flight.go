package aside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside/internal/wire"
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

// loadCaller is a user's loader in the form that serves one key and many, strings and types: a pointer, made anew for each
// call. load fills out, which is as long as keys and preset to "not found"; keys stay as they are.
type loadCaller interface {
	load(ctx context.Context, keys []string, out []loaded) error
}

// plan is what a call wants done with keys that memory could not answer.
type plan struct {
	ttl  time.Duration
	opts []CallOption
	call loadCaller
	room uintptr // see near.commit
}

// loaded is what a loader gave for one key.
type loaded struct {
	raw   string
	found bool
	err   error // found, but it cannot be encoded
}

// load is one call of a loader, for the keys of one or many flights.
type load struct {
	c       *Client
	parent  *load // the load whose loader asked for this one
	ttl     time.Duration
	options callOptions
	call    loadCaller
	room    uintptr  // see near.commit
	keys    []string // of items, in order
	items   []loadItem
	out     []loaded
	cancel  context.CancelFunc
	began   int64 // in Client.now's time
	free    bool  // see loadItem
	bare    bool  // one of items at least has no lock
	missing error // with which the loader said that there is nothing, else nil
	unheld  bool  // its error is that of a context, perhaps of a caller of its own, and not for others
	lent    int64 // its share of Client.lent
	values  loadContext
	seating seating
	nested  map[*caller]struct{} // calls that its loader makes and that wait; guarded by nesting

	valueTTL, absentTTL string // as Redis takes them, once needed

	one struct { // what a load of one needs, in one piece of memory
		keys  [1]string
		out   [1]loaded
		items [1]loadItem
		fill  [1]*loadItem
		seat  seat
	}

	mu      sync.Mutex
	first   *caller // whose context has its values; replaced when it has left
	live    int     // flights that somebody waits for
	ended   bool    // it returned, or it is no longer waited for
	blind   bool    // the loader asked for a value when nobody was there to give it: what it returns is nobody's
	storing bool    // its items stay as they are, and their locks are kept until they are stored
	renewed int64   // when its locks were taken or last renewed, in Client.now's time
}

type loadItem struct {
	f      *flight
	shard  *shard // nil without a lock
	marker string // "" without a lock
	free   bool   // without a lock because Redis is away: there is nobody to ask whether the key has changed
	locked int64  // before the lock was asked for, in Client.now's time, if others were asked for since

	gen      uint64      // of its key when the load began, or, if it has failed, when its lock was to be released; see near
	outage   uint64      // of its key's shard then
	n        int         // its place in load.items, for store
	reserved reservation // for store
	entry    *entry      // for store: what memory will have if the fill is accepted
}

// loadContext has the values of a caller that waits for the load, see Loader, and nobody's end.
type loadContext struct{ l *load }

type loadContextKey struct{}

func (*loadContext) Deadline() (deadline time.Time, ok bool) { return deadline, false }
func (*loadContext) Done() <-chan struct{}                   { return nil }
func (*loadContext) Err() error                              { return nil }

func (c *loadContext) Value(key any) any {
	if key == (loadContextKey{}) {
		return c.l
	}
	for who := c.l.caller(); who != nil; who = c.l.caller() {
		if value, inside := who.lookUp(key); inside && (value != nil || who.inside()) {
			return value
		}
	}
	c.l.mu.Lock()
	c.l.blind = true
	c.l.mu.Unlock()
	return nil
}

// caller returns one that waits for the load and is inside its call: always the same for as long as that stays. nil: nobody is, or the load is over.
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
			for _, next := range l.c.callersOf(l.items[i].f) {
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

// callersOf returns those who have joined f and are present.
func (c *Client) callersOf(f *flight) (callers []*caller) {
	s := c.flights.stripe(f.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, who := range f.callers {
		if who.present() {
			callers = append(callers, who)
		}
	}
	return callers
}

func loadOf(ctx context.Context) *load {
	l, _ := ctx.Value(loadContextKey{}).(*load)
	return l
}

// revive says that somebody waits again for a flight that nobody waited for; false: too late, the load is cancelled.
func (l *load) revive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live == 0 {
		return false
	}
	l.live++
	return true
}

// desert says that nobody waits for one of the flights any more.
func (l *load) desert() {
	l.mu.Lock()
	l.live--
	last := l.live == 0
	l.mu.Unlock()
	if last {
		l.cancel()
	}
}

// end says mine to the one that may settle the load: its goroutine or expire. deserted: nobody waits for it any more, or it is blind.
func (l *load) end() (mine, deserted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false, false
	}
	l.ended = true
	return true, l.live == 0 || l.blind
}

// start calls the loader for items, whose flights who leads, and returns at once. It keeps items.
func (c *Client) start(who *caller, p *plan, options callOptions, items []loadItem) {
	l := &load{c: c, parent: who.load, first: who, ttl: p.ttl, options: options, call: p.call, room: p.room, live: len(items), began: c.now()}
	if len(items) > 1 {
		l.keys, l.out, l.items = make([]string, len(items)), make([]loaded, len(items)), items
	} else {
		l.keys, l.out, l.items = l.one.keys[:], l.one.out[:], append(l.one.items[:0], items...)
		items = l.items
	}
	l.renewed, l.values = l.began, loadContext{l}
	for i, item := range items {
		l.keys[i] = item.f.key
		l.free = l.free || item.free
		l.bare = l.bare || item.marker == ""
		if item.locked > 0 {
			l.renewed = min(l.renewed, item.locked)
		}
		items[i].gen, items[i].outage = c.near.generation(item.f.key), c.home(item.f.key).outage.Load()
	}
	ctx, cancel := context.WithTimeout(&l.values, options.loadTimeout)
	l.cancel = cancel

	c.loadsMu.Lock()
	if c.closing.Err() != nil {
		c.loadsMu.Unlock()
		l.cancel()
		l.release(ErrClosed)
		return
	}
	c.loads[l] = struct{}{}
	c.background.Add(2) // the loader's goroutine, and whoever settles the load
	c.loadsMu.Unlock()

	for _, item := range items {
		s := c.flights.stripe(item.f.key)
		s.mu.Lock()
		item.f.load = l
		s.mu.Unlock()
	}
	stop := context.AfterFunc(ctx, func() { l.expire(ctx) })
	c.work(func() { // ends when the loader returns
		defer c.background.Done()
		notFound, err := l.run(ctx)
		stop()
		mine, deserted := l.end()
		if !mine {
			return
		}
		switch {
		case deserted: // what it returned may have been made without values
			l.fail(ctx, err, deserted, time.Duration(c.now()-l.began))
			l.settled()
		case err == nil:
			l.observe(nil, time.Duration(c.now()-l.began))
			l.store()
		case notFound:
			l.missing = err
			l.observe(err, time.Duration(c.now()-l.began))
			clear(l.out)
			l.store()
		default:
			l.unheld = ofContext(err)
			l.fail(ctx, err, deserted, time.Duration(c.now()-l.began))
			l.settled()
		}
	})
}

// work runs a load in a goroutine: one that has just finished another, if there is one, because it has the stack that a load
// needs; growing a new one was a fifteenth of what a miss costs us.
func (c *Client) work(do func()) {
	select {
	case c.idle <- do:
	default:
		c.background.Add(1) // not from zero: the load counts until it has ended
		go c.worker(do)
	}
}

// worker ends when it has been idle for a second, with Close, or with a loader that ends its goroutine.
func (c *Client) worker(do func()) {
	defer c.background.Done()
	defer c.callback()()
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	for {
		do()
		timer.Reset(time.Second)
		select {
		case do = <-c.idle:
		case <-timer.C:
			return
		case <-c.closing.Done():
			return
		}
	}
}

// ofContext reports whether an error of a loader says that a context has ended.
func ofContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// run calls the loader, and examines its errors. A panic becomes an error, and so does the end of its goroutine (runtime.Goexit, t.FailNow).
func (l *load) run(ctx context.Context) (notFound bool, err error) {
	if l.bare { // nobody else spares the database this
		if err := l.c.places.enter(ctx, l); err != nil {
			return false, err
		}
		defer l.c.places.leave(l)
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
			l.fail(ctx, goexited("the loader"), deserted, 0)
			l.settled()
		}
	}()
	err = l.call.load(ctx, l.keys, l.out)
	notFound = examine(err)
	for i := range l.out {
		examine(l.out[i].err)
	}
	returned = true
	return notFound, err
}

// expire ends a load that has not returned though its context has ended: its deadline has passed, nobody waits for it any
// more, or the client is being closed.
func (l *load) expire(ctx context.Context) {
	if mine, deserted := l.end(); mine {
		l.fail(ctx, ctx.Err(), deserted, l.options.loadTimeout)
		l.settled()
	}
}

// fail gives up the locks and hands out the error.
func (l *load) fail(ctx context.Context, err error, deserted bool, took time.Duration) {
	switch {
	case l.c.closing.Err() != nil:
		err = ErrClosed
	case deserted:
		err = nil // its last waiter left: nothing to say, who joins meanwhile starts over
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("%w (%v)", ErrLoadTimeout, l.options.loadTimeout)
	}
	l.observe(cmp.Or(err, context.Canceled), took)
	l.release(err)
}

// settled is the end of a load: all who waited for it know.
func (l *load) settled() {
	l.cancel()
	l.c.lent.Add(-l.lent)
	l.c.loadsMu.Lock()
	delete(l.c.loads, l)
	l.c.loadsMu.Unlock()
	l.c.background.Done()
}

func (l *load) observe(err error, took time.Duration) {
	c := l.c
	c.counts.loads.Add(1)
	if err != nil && !isNotFound(err) { // examined, or ours
		c.counts.loadErrors.Add(1)
	}
	c.observe(Event{Kind: EventLoad, Key: l.keys[0], Source: SourceLoader, Duration: took, Err: err})
}

// renewer keeps the locks of loaders that are slow: all that are due, in one question per shard. A lock that is lost stays
// lost: its fill will be refused. It ends with Close.
func (c *Client) renewer() {
	defer c.background.Done()
	tick := time.NewTicker(c.opt.LockTTL / 6)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.closing.Done():
			return
		}
		// Due after a third of LockTTL, found within half of it at the latest.
		if items := c.dueForRenewal(int64(c.opt.LockTTL / 3)); len(items) > 0 {
			c.overLocks(scriptRenew, scriptRenew, []string{c.renewedTTL()}, items, 0, markerOnly, nil)
		}
	}
}

// orphaned says that a marker is one of ours, of a load that has ended for this key: Redis went away, or refused, before it could be filled or given back.
func (c *Client) orphaned(key, marker string) bool {
	if !strings.HasPrefix(marker, c.tokenPrefix) {
		return false
	}
	c.loadsMu.Lock()
	defer c.loadsMu.Unlock()
	for l := range c.loads {
		for i := range l.items {
			if item := &l.items[i]; item.marker == marker && item.f.key == key { // store may be writing the rest of it
				return c.isFinished(item.f)
			}
		}
	}
	return true
}

func (c *Client) isFinished(f *flight) bool {
	s := c.flights.stripe(f.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.finished
}

// dueForRenewal returns the locks that are older than age, and counts them as renewed.
func (c *Client) dueForRenewal(age int64) (items []*loadItem) {
	c.loadsMu.Lock()
	defer c.loadsMu.Unlock()
	now := c.now()
	for l := range c.loads {
		l.mu.Lock()
		if (!l.ended || l.storing) && now-l.renewed >= age {
			l.renewed = now
			items = append(items, pointers(slices.Clone(l.items))...) // the load goes on with its own
		}
		l.mu.Unlock()
	}
	return items
}

// release gives up the locks and fails the flights with err; nil lets who joined meanwhile start over.
func (l *load) release(err error) {
	c, script := l.c, scriptRelease
	if err != nil && !l.unheld && l.options.errorTTL > 0 {
		script = scriptReleaseFailed
	}
	for i := range l.items {
		l.items[i].gen = c.near.generation(l.items[i].f.key)
	}
	c.overLocks(script, script, nil, pointers(l.items), 0, markerOnly, func(_ bool, item *loadItem, ours bool, err error) {
		item.f.told, item.f.written = ours && err == nil, !ours && err == nil
	})
	for i := range l.items {
		item := &l.items[i]
		if item.shard != nil {
			if run := item.shard.run.Load(); run != nil && run.echoes { // the push was our own
				item.gen = c.near.generation(item.f.key)
			}
		}
		c.near.wake(item.f.key)
		c.complete(item.f, outcome{err: err, again: err == nil})
		if c.near.generation(item.f.key) != item.gen { // a push came before there was an error that it could end
			c.forgetError(item.f.key)
		}
	}
}

func pointers(items []loadItem) []*loadItem {
	all := make([]*loadItem, len(items))
	for i := range items {
		all[i] = &items[i]
	}
	return all
}

func markerOnly(to []string, item *loadItem) []string { return append(to, item.marker) }

// store hands out what was loaded, puts it into Redis and memory, and settles the load; perhaps after it has returned.
func (l *load) store() {
	c := l.c
	fill := l.one.fill[:0]   // to store
	var giveBack []*loadItem // to be unlocked only
	if len(l.items) > 1 {
		fill = make([]*loadItem, 0, len(l.items))
	}
	for i := range l.items {
		item, out := &l.items[i], &l.out[i]
		item.n = i
		storable := true
		switch {
		case !out.found:
			c.counts.notFound.Add(1)
			storable = l.options.negativeTTL > 0
		case out.err != nil:
			c.counts.encodeErrors.Add(1)
			c.observe(Event{Kind: EventStoreFailed, Key: item.f.key, Err: out.err})
			storable = false
		case len(out.raw) > c.opt.MaxValueBytes:
			c.counts.tooLarge.Add(1)
			c.observe(Event{Kind: EventStoreFailed, Key: item.f.key, Err: ErrTooLarge})
			c.warn(&c.seldomStore, "a loaded value is too large, so it is not stored", keyAttr(item.f.key), "bytes", len(out.raw), "MaxValueBytes", c.opt.MaxValueBytes)
			storable = false
		}
		if item.marker == "" {
			l.give(i, outcome{free: item.free, entry: l.retain(i)})
			continue
		}
		if item.shard = c.shardOf(item.f.key); item.shard != nil { // another may have taken over since the lock
			item.reserved = c.near.reserve(item.f.key, item.shard)
			if most := item.shard.longest.most(c.now()); storable && int64(len(wire.Pack(out.raw))) > most {
				c.counts.tooLarge.Add(1)
				c.observe(Event{Kind: EventStoreFailed, Key: item.f.key, Err: ErrTooLarge})
				c.warn(&c.seldomStore, "a loaded value is too large for Redis, so it is not stored", keyAttr(item.f.key), "bytes", len(out.raw), "proto-max-bulk-len", most)
				storable = false // and its lock is given back
			}
		}
		l.lent += lentItem
		if !storable {
			giveBack = append(giveBack, item)
			continue
		}
		l.lent += int64(len(out.raw))
		if item.shard != nil {
			item.entry = c.near.newEntry(item.f.key, item.reserved, c.near.own(out.raw), !out.found, l.ttlOf(i), l.room)
			if item.entry != nil {
				item.entry.filled = true
			}
		}
		fill = append(fill, item)
	}
	l.mu.Lock()
	l.storing = true // which may take longer than LockTTL, where much is on the way
	renewed := l.renewed
	l.mu.Unlock()
	l.lend()
	if ttl := c.renewedTTL(); ttl != c.lockTTL && len(fill) > 0 {
		locks := pointers(slices.Clone(l.items))
		c.inBackground(func() { // ends with the answer: now rather than in a third of LockTTL, when it may come too late
			c.overLocks(scriptRenew, scriptRenew, []string{ttl}, locks, 0, markerOnly, nil)
		})
	}
	if len(l.items) == 1 && len(fill) == 1 { // the life of a plain Get
		l.fillOne()
		return
	}
	pieces := int64(0)
	if l.lent > 0 {
		pieces = renewed + int64(c.opt.LockTTL/3) // so that no lock runs out before its fill
	}
	c.overLocks(scriptFill, scriptFillMany, nil, fill, pieces, l.fillArgs, l.filled)
	if len(giveBack) > 0 {
		c.overLocks(scriptRelease, scriptRelease, nil, giveBack, 0, markerOnly, func(_ bool, item *loadItem, ours bool, _ error) {
			l.give(item.n, outcome{proven: ours, gen: item.reserved.gen}) // a lock that was ours to the end proves as much as an accepted fill
		})
	}
	l.settled()
}

// fillOne fills the only item of a load: before it returns, or, where the question goes with others', later.
func (l *load) fillOne() {
	item, seat := &l.items[0], &l.one.seat
	seat.key, seat.args, seat.load = item.f.key, l.fillArgs(make([]string, 0, 3), item), l
	joins := item.shard.joins()
	if joins && !item.shard.fills.enter(seat) {
		return
	}
	moved, accepted, err := l.c.overLock(scriptFill, item, seat.args)
	if joins {
		item.shard.fills.leave(l.c)
	}
	l.filledOne(moved, accepted, err)
}

func (l *load) filledOne(moved, accepted bool, err error) {
	l.filled(moved, &l.items[0], accepted, err)
	l.settled()
}

// fillArgs appends what an item takes of scriptFill's ARGV.
func (l *load) fillArgs(to []string, item *loadItem) []string {
	stored, ttl := wire.Absent, &l.absentTTL
	if l.out[item.n].found {
		stored, ttl = wire.Pack(l.out[item.n].raw), &l.valueTTL
	}
	if *ttl == "" {
		*ttl = milliseconds(l.ttlOf(item.n))
	}
	return append(to, item.marker, stored, *ttl)
}

// filled hands out an item whose fill was answered.
func (l *load) filled(moved bool, item *loadItem, accepted bool, err error) {
	c := l.c
	out := outcome{proven: accepted, gen: item.reserved.gen}
	switch {
	case err != nil:
		out.entry = l.retain(item.n)
	case !accepted:
		c.counts.fillsRefused.Add(1)
	case !moved:
		out.entry = c.near.put(item.f.key, item.reserved, item.entry)
	}
	l.give(item.n, out)
	switch { // an Observer may ask for this very key
	case err != nil:
		c.observe(Event{Kind: EventStoreFailed, Key: item.f.key, Err: err})
	case !accepted:
		c.observe(Event{Kind: EventFillRefused, Key: item.f.key})
	}
}

func (l *load) ttlOf(i int) time.Duration {
	if l.out[i].found {
		return l.ttl
	}
	return min(l.ttl, l.options.negativeTTL)
}

// give completes the flight of item i with what was loaded.
func (l *load) give(i int, out outcome) {
	l.c.near.wake(l.items[i].f.key)
	l.c.complete(l.items[i].f, l.outcome(i, out))
}

// outcome adds what was loaded for item i to out.
func (l *load) outcome(i int, out outcome) outcome {
	out.raw, out.absent, out.by = l.out[i].raw, !l.out[i].found, l.call
	if out.absent {
		out.missing = l.missing
	}
	if err := l.out[i].err; err != nil {
		out.err = &encodeError{err}
	}
	return out
}
