package aside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/logqueue"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// Client is a cache-aside client: it answers from this process's memory, else from Redis, else from a loader that at most
// one process at a time runs for a key. It speaks strings; [Typed] puts a codec in front. Safe for concurrent use.
type Client struct {
	*link                 // the floor that asks Redis
	opt         Options   // complete; immutable
	started     time.Time // for people
	tokenPrefix string
	lockTTL     string // in ms, as Redis takes it
	near        *near.Memory
	stamps      *stamp.Stamper
	store       fallback.Store // what outages leave behind
	flights     flights
	counts      counters
	log         *logqueue.Handler // in front of the caller's, see log.go

	tokens atomic.Uint64 // acquisitions so far
	early  early

	modes      announcer[ModeChange]
	claims     claims // keys whose records are being replayed
	overtaking overtakings
	recent     recents
	doubts     doubts // what servers may lack
	replays    replays
	places     places        // of the loaders that run without a lock
	readers    chan struct{} // has one for each reader of the store
	writing    atomic.Int64  // writes under way
	earlyBytes atomic.Int64  // loaded values that callers have and Redis has not acknowledged, see fill.go

	closing    context.Context    // ends with Close
	close      context.CancelFunc // of closing
	closedAt   atomic.Int64       // when Close was called, in now's time; set before closing ends
	closeOnce  sync.Once
	closed     chan struct{}  // closed when that has ended
	closeErr   error          // set before closed is
	callbacks  sync.Map       // the numbers of the goroutines that run callbacks, see contain.go
	background sync.WaitGroup // every goroutine of ours

	idle    chan func() // to a worker that waits for one
	loadsMu sync.Mutex
	loads   map[*load]struct{} // guarded by loadsMu; those that run

	roundTrips roundTripViews

	seldomRedis, seldomStore, seldomDecode, seldomObserver, seldomDisk, seldomReplay, seldomRead seldom
}

// Loader loads the value of a key from where it really lives. It returns ErrNotFound, wrapped or not, when there is none.
// It may ask the Client for other keys, with its context; what it is loading itself, or what waits for it, is ErrRecursiveLoad.
//
// A loader runs in another goroutine than the call that started it, and may outlive that call: when its caller leaves, others may still wait
// for the load. So it must not write to its caller's variables, nor use what is the request's alone (a pooled *gin.Context or
// *fasthttp.RequestCtx, a transaction, a buffer). Copy what it needs before the call; what it finds, it returns.
//
// Its context ends with LoadTimeout, or when nobody waits any more, and not with its caller's. Its values are those of a caller that waits for the load and
// is still inside its call: the first one's; when that leaves, those of one that stays; none once the load is over. A caller's context is never
// asked after its call has returned, and a call does not return while its context's Value is being asked. So two calls of Value may be answered by
// different callers, and what the result depends on (a tenant, a language) belongs into the key. Where a loader has asked for values and no caller
// was there any more, its result is given to nobody.
type Loader[T any] func(ctx context.Context, key string) (T, error)

// BatchLoader loads many keys at once. Goroutine, context and values are as for [Loader]. A key that it leaves out is not found; keys that were not asked for are
// ignored, but where it returns such keys only, which is an error.
// When it returns an error the map is ignored, and nothing is concluded about any key; ErrNotFound means that all are absent.
type BatchLoader[T any] func(ctx context.Context, keys []string) (map[string]T, error)

const (
	closeGrace = 2 * time.Second        // for loaders and questions that do not heed their context
	fillGrace  = 500 * time.Millisecond // of that, for what was loaded and waits to be stored
	flushGrace = 2 * time.Second        // for a disk that hangs
)

// New makes a client and starts to connect. It waits for the first connection, ConnectTimeout at most, and succeeds without
// one (unless RequireRedis is set): the client then is degraded until Redis answers. Its error says all that is wrong with
// the options, or why the fallback directory cannot be used (ErrLocked: another process has it). With one it takes 100
// milliseconds at least, so that what the process before has written is earlier for every clock.
func New(options Options) (*Client, error) {
	options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, err
	}
	prefix, err := newTokenPrefix()
	if err != nil {
		return nil, err
	}
	log := queueLog(&options)
	c := &Client{
		opt: options, log: log, closed: make(chan struct{}), tokenPrefix: prefix, lockTTL: milliseconds(options.LockTTL),
		idle: make(chan func()), loads: make(map[*load]struct{}),
		places: places{free: options.MaxLoaders}, readers: make(chan struct{}, maxReaders),
	}
	c.closing, c.close = context.WithCancel(context.Background())
	if c.stamps, err = stamp.New(mostClockError); err != nil {
		return nil, err
	}
	c.link = c.newLink()
	c.started = c.began
	c.near = near.New(near.Options{
		MaxBytes: options.MemoryBytes, MaxKeys: options.MemoryKeys, MaxTTL: options.MemoryTTL, AwayTTL: options.DegradedTTL,
		Now: c.now, Home: func(key string) *near.Validity { return c.home(key).valid }, Early: c.noteEarly,
	})
	c.modes.what, c.replays.what = "a function given to OnModeChange", "Options.OnReplay"
	if options.OnReplay != nil {
		c.replays.watch(options.OnReplay)
	}
	if c.store, err = options.openStore(); err != nil {
		log.Flush(logGrace) // it may say why
		return nil, err
	}
	if options.Store != nil {
		c.store = guardedStore{options.Store, c}
	}
	c.stamps.After(c.store.Latest())
	opened := c.now()
	c.flights.seed, c.flights.now, c.flights.lease, c.flights.closing = maphash.MakeSeed(), c.now, options.StaleLease, c.closing
	c.flights.asks = func(key string) bool { return c.shardOf(key).asks() }

	first := make(chan error, 1)
	c.inBackground(func() { c.connect(first) }) // ends with Close
	c.inBackground(c.renewer)                   // so does this
	timer := time.NewTimer(options.ConnectTimeout)
	defer timer.Stop()
	err = errors.New("no answer")
	for waiting := true; waiting; {
		select {
		case err = <-first:
			waiting = err != nil && options.RequireRedis // the next attempt may succeed
		case <-timer.C:
			waiting = false
		}
	}
	for look := time.NewTicker(5 * time.Millisecond); err == nil && options.RequireRedis && !c.connected(); { // it may be loading its data
		select {
		case <-look.C:
			continue
		case <-timer.C:
			look.Stop()
		}
		break
	}
	if options.RequireRedis && !c.connected() {
		if err == nil {
			err = cmp.Or(c.Health().Err, errors.New("it accepts connections but does not answer"))
		}
		err = fmt.Errorf("%w and Options.RequireRedis is set: %v within Options.ConnectTimeout (%v): %w", ErrRedisAway, options.Redis.InitAddress, options.ConnectTimeout, reason.Of(err))
		return nil, errors.Join(err, c.Close())
	}
	if options.FallbackDir != "" || options.Store != nil {
		// The process before, which had the directory, may have written until it was opened. Replayed, a write of ours within the
		// error of clocks from one of those could not be told from an earlier one, and neither would be kept.
		c.sleep(2*leastClockError - time.Duration(c.now()-opened))
	}
	return c, nil
}

// Close ends all waits with ErrClosed, cancels the loads, gives up their locks, and waits until every goroutine of the
// client has ended, for 2 seconds at most: a loader that does not heed its context is left behind, and the error says so. What was
// loaded already is stored, if Redis answers within half a second, or RedisTimeout if that is longer. Then it has the fallback store put on disk what it has accepted, for
// 2 seconds at most, and gives up its directory. Last it waits for half a second at most until Options.Logger has its lines. It replays nothing: the next client with that directory does.
// (rueidis may keep a sleeping goroutine for one more second after a connection that failed, and for five after a node
// has left its cluster.)
// Closing again does nothing and returns the same.
//
// A loader, an Observer or another callback that calls it gets an error at once, as it would wait for itself: the client then closes without it, and
// a Close elsewhere waits until it has.
func (c *Client) Close() error {
	inside := c.inCallback()
	c.closeOnce.Do(func() { go c.shutDown() }) // ends as told above
	if inside {
		return errCloseInside
	}
	<-c.closed
	return c.closeErr
}

var errCloseInside = errors.New("aside: Close was called by a callback that it would wait for (a loader, Observer, OnModeChange, ...): the client closes without waiting for it, call Close elsewhere to wait until it has")

// shutDown does what Close waits for, once.
func (c *Client) shutDown() {
	defer close(c.closed)
	var running map[*load]struct{}
	c.freeze(func() { // no prober
		c.loadsMu.Lock() // and no load is started after this
		defer c.loadsMu.Unlock()
		c.closedAt.Store(c.now())
		c.close()
		running = maps.Clone(c.loads)
	})
	for l := range running {
		l.cancel()
	}
	ended := make(chan struct{})
	go func() { // ends when the last loader returns
		c.background.Wait()
		close(ended)
	}()
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		c.closeErr = fmt.Errorf("aside: Close left behind what did not end within %v: %d loaders ran, which may not heed their context", closeGrace, len(running))
	}
	c.end()
	c.near.Close()
	ctx, cancel := context.WithTimeout(context.Background(), flushGrace)
	defer cancel()
	if err := c.store.Close(ctx); err != nil {
		c.closeErr = errors.Join(c.closeErr, fmt.Errorf("aside: Close: the fallback store: %w", reason.Of(err)))
	}
	if err := c.flushLog(); err != nil {
		c.closeErr = errors.Join(c.closeErr, err)
	}
}

// enter begins work that Close waits for; the caller ends it with c.background.Done. false: the client is closed.
func (c *Client) enter() bool {
	c.loadsMu.Lock()
	defer c.loadsMu.Unlock()
	if c.closing.Err() != nil {
		return false
	}
	c.background.Add(1)
	return true
}

// inBackground runs fn in a goroutine that Close waits for; not at all once the client is closed.
func (c *Client) inBackground(fn func()) bool {
	c.loadsMu.Lock()
	defer c.loadsMu.Unlock()
	if c.closing.Err() != nil {
		return false
	}
	c.background.Go(fn)
	return true
}

// Get returns the value of key: from memory, from Redis, or from load, whose value is then stored for ttl. At most one
// process loads a key at a time, and only once for all its callers. load runs in another goroutine and may outlive the call: see [Loader].
//
// ttl must be a millisecond at least. It is rounded up to whole milliseconds, and applies when this call's load is stored: what is already
// stored keeps the ttl that it has. Any bytes are fine as key. The error is ErrNotFound if there is no such value (who called the loader, or waited for it, gets the error in
// which the loader has wrapped it), what load returned, or ctx's. What load returned, also an error that wraps no ErrNotFound, is for all who wait for this
// load, and for who asks within Options.ErrorTTL (50 ms) after it, so that a failing database is not asked by each of them in turn: WithErrorTTL(-1)
// for a loop that tries again at once. A value that was loaded is returned even if storing it failed, and before it is stored: Redis gets it meanwhile, and
// Close waits for that (Options.StoreFirst changes it).
func (c *Client) Get(ctx context.Context, ttl time.Duration, key string, load Loader[string], opts ...CallOption) (string, error) {
	if e := c.near.Lookup(key); e != nil && ttl >= leastTTL && load != nil {
		c.hit(key)
		if e.Absent() {
			return "", ErrNotFound
		}
		return e.Raw(), nil
	}
	if load == nil {
		return "", errNilLoader
	}
	out, err := c.obtain(ctx, key, "", &plan{ttl: ttl, opts: opts, call: &stringLoad{load}})
	if err != nil {
		return "", err
	}
	if out.absent {
		return "", out.notFound()
	}
	return out.raw, nil
}

// stringLoad is a loader of strings as loadCaller.
type stringLoad struct{ user Loader[string] }

func (l *stringLoad) load(ctx context.Context, keys []string, out []loaded) error {
	value, err := l.user(ctx, keys[0])
	out[0] = loaded{raw: strings.Clone(value), found: true}
	return err
}

// hit counts an answer from memory.
func (c *Client) hit(key string) {
	c.counts.memoryHits.add()
	if c.opt.Observer != nil {
		c.observeHit(key)
	}
}

var errNilLoader = fmt.Errorf("%w: the loader is nil: pass the function that loads the value, or use Peek", ErrInvalidArgument)

// obtain is the life of a Get behind memory.
//
//	join the key's flight; if there is none, lead one:
//	    if a write of the key waits to be replayed, have it replayed
//	    ask Redis, read-or-lock
//	        a value              → memory, done
//	        a lock of our own    → call the loader, fill, done
//	        somebody else's lock → wait until Redis says that the key has changed, or the lock has run out; ask again
//	        no answer            → once more, if Redis still counts as well; then what the fallback store has; else call the loader without a lock, done
//	wait for the flight, or for ctx
//
// bad is the fingerprint of what the key was found to hold and could not be decoded, else "".
func (c *Client) obtain(ctx context.Context, key, bad string, p *plan) (outcome, error) {
	options, err := c.check(p.ttl, p.opts)
	if err == nil {
		err = c.checkKey(key)
	}
	if err != nil {
		return outcome{}, err
	}
	key = strings.Clone(key) // flights, loads and what rueidis has still to send outlive the call, whose key may be a buffer's that is written again
	who := enterCall(ctx)
	defer who.leave()
	for {
		if c.closing.Err() != nil {
			return outcome{}, ErrClosed
		}
		if err := who.Err(); err != nil {
			return outcome{}, err
		}
		t, err := c.flights.join(who, key, c.near.Generation(key))
		if err != nil {
			return outcome{}, err
		}
		if t.leader {
			c.lead(who, t.f, bad, p, options)
		} else {
			c.shares(key)
		}
		out, err := t.wait(who)
		switch {
		case err != nil:
			return outcome{}, err
		case out.again && !who.inside():
			return outcome{}, errNoValues
		case out.again:
		case out.err != nil:
			return out, out.err
		case t.serves(&out):
			return out, nil
		}
	}
}

// lead asks Redis for the key of a flight until it is done or its loader has been started.
func (c *Client) lead(ctx *caller, f *flight, bad string, p *plan, options callOptions) {
	defer c.flights.abandon(f)
	for ; ; f.polls++ {
		sh := c.shardOf(f.key)
		item := loadItem{f: f, shard: sh}
		var r near.Reservation
		var found finding
		err := errNotAsked
		if !c.unsettled(ctx, f.key) {
			r, found, err = c.readOrLock(ctx, sh, f.key, bad, f.large)
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return
		case err != nil && c.askAgain(f, sh, err):
			continue
		case err != nil:
			c.refusedRead(f.key, err)
			if !c.recall(ctx, f, p.room) && ctx.Err() == nil {
				item.free = errors.Is(err, errNotAsked)
				c.start(ctx, p, options, []loadItem{item})
			}
			return
		}
		if f.large = found.large; f.large > 0 {
			continue
		}
		switch found.content {
		case wire.Value, wire.Absence:
			c.found(f, r, found, p.room)
			return
		case wire.Unreadable:
			bad = fingerprint(found.stored)
			c.counts.decodeErrors.Add(1)
			c.observe(Event{Kind: EventDecodeFailed, Key: f.key, Err: errUnknownHeader})
			c.warn(&c.seldomDecode, "a stored value has a header of another version, so it is loaded again", keyAttr(f.key))
		case wire.Lock:
			if found.mine {
				item.marker = found.stored
				c.start(ctx, p, options, []loadItem{item})
				return
			}
			if f.stuck.overdue(found, c.now(), c.opt.LockTTL) || c.orphaned(f.key, found.stored) {
				bad = fingerprint(found.stored) // it is nobody's
				continue
			}
			c.waitsForLock(f.key)
			if !c.awaitHolder(ctx, f.key, r, found.ttl, f.polls) {
				return
			}
		}
	}
}

var errUnknownHeader = errors.New("aside: the stored value has a header of another version")

// askAgain reports whether the leader of f should ask sh once more: one late answer of a server that is well must not call the loader while
// somebody else holds the lock.
func (c *Client) askAgain(f *flight, sh *shard, err error) bool {
	if f.again || !sh.asks() || !unanswered(err) && !errors.Is(err, errLeftOut) {
		return false
	}
	f.again = true
	return true
}

// found completes a flight with what Redis had.
func (c *Client) found(f *flight, r near.Reservation, found finding, room uintptr) {
	c.counts.redisHits.Add(1)
	c.observe(Event{Kind: EventHit, Key: f.key, Source: SourceRedis})
	out := outcome{raw: found.value, absent: found.content == wire.Absence, proven: true, gen: r.Generation()}
	out.entry = c.near.Commit(f.key, r, near.Value{Raw: out.raw, Absent: out.absent, TTL: found.ttl, Room: room})
	c.flights.complete(f, out)
}

// awaitHolder waits until somebody else's lock on key has changed hands; false: ctx or the client has ended first.
func (c *Client) awaitHolder(ctx context.Context, key string, r near.Reservation, ttl time.Duration, polls int32) bool {
	changed, leave, ok := c.near.Wait(key, r, nil)
	if !ok {
		return ctx.Err() == nil // it has changed while the answer was on its way
	}
	defer leave()
	timer := time.NewTimer(c.patience(r.Pushes(), ttl, polls))
	defer timer.Stop()
	select {
	case <-changed:
		return true
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-c.closing.Done():
		return false
	}
}

// patience is how long to wait for a push about a lock with that much of its ttl left. Where nothing is pushed, it is the
// time until the next look.
func (c *Client) patience(pushed bool, ttl time.Duration, polls int32) time.Duration {
	const slack = 10 * time.Millisecond // Redis removes an expired key when it is asked for it
	end := min(max(ttl, 0), c.opt.LockTTL) + slack
	if ttl < 0 { // a marker that does not expire was not made by us; never wait for it for ever
		end = c.opt.LockTTL
	}
	if !pushed {
		return min(end, jitter(min(time.Millisecond<<min(polls, 10), 50*time.Millisecond)))
	}
	return end
}

// readOrLock asks for one key. The reservation was made before; it is void if the answer must not be kept.
// large is how many bytes the key was found to have, if these are too many to be asked for beside others.
func (c *Client) readOrLock(ctx context.Context, sh *shard, key, bad string, large int64) (near.Reservation, finding, error) {
	if sh == nil {
		return near.Reservation{}, finding{}, errNotAsked
	}
	r := c.near.Reserve(key, sh.valid)
	if bad == "" && large == 0 && sh.canBatch() {
		place := &request{key: key, done: make(chan struct{})}
		if !sh.batcher(locks).enter(place) {
			return c.awaitSeat(ctx, place, r)
		}
		defer sh.batcher(locks).leave(c.link)
	}
	marker := c.newMarker(sh)
	q := newCall(script.ReadOrLock, key, marker, c.lockTTL, mostAnswered)
	if bad != "" {
		q.script, q.args[2] = script.ReplaceOrLock, bad
	}
	q.expects = large
	if large > 0 {
		q.args[2] = anyLength
	}
	c.inTurn(ctx, sh, []*call{q}, func() { c.run(ctx, sh, q) })
	found, err := q.finding(marker)
	if err != nil && unanswered(err) {
		c.disown(sh, q.keys, marker)
	}
	if q.moved {
		r.Void()
	}
	return r, found, err
}

// What is given to scripts as the most bytes to answer.
var (
	mostAnswered = strconv.Itoa(maxBatchBytes)
	anyLength    = strconv.Itoa(math.MaxInt32)
)

// awaitSeat is readOrLock for a caller whose question goes with others'.
func (c *Client) awaitSeat(ctx context.Context, place *request, r near.Reservation) (near.Reservation, finding, error) {
	if !place.wait(ctx, c.closing) {
		return r, finding{}, cmp.Or(ctx.Err(), ErrClosed)
	}
	answers, _ := place.result.(*lockAnswers)
	if answers != nil && answers.q.moved {
		r.Void()
	}
	if place.err != nil {
		return r, finding{}, place.err
	}
	found := answers.found[place.at]
	return r, found, found.err
}

func (c *Client) check(ttl time.Duration, opts []CallOption) (callOptions, error) {
	if err := tooShort("ttl", ttl, "must be positive; what is to live very long may have a ttl of years"); err != nil {
		return callOptions{}, err
	}
	return c.callOptions(opts)
}

// leastTTL is the shortest that Redis knows. What is shorter is a number that was meant to be one of seconds.
const leastTTL = time.Millisecond

// tooShort is the error of a duration that a caller gave, nil if it is one that can be.
func tooShort(what string, d time.Duration, remedy string) error {
	switch {
	case d <= 0:
		return fmt.Errorf("%w: %s is %v: %s", ErrInvalidArgument, what, d, remedy)
	case d < leastTTL:
		return fmt.Errorf("%w: %s is %v: must be at least %v; a bare number counts nanoseconds, write %d*time.Second for seconds", ErrInvalidArgument, what, d, leastTTL, d)
	}
	return nil
}

func (c *Client) checkKey(key string) error {
	if len(key) > c.opt.MaxKeyBytes {
		return fmt.Errorf("%w: key %s is longer than Options.MaxKeyBytes (%d): shorten or hash it, or raise the limit", ErrTooLarge, quoted(key), c.opt.MaxKeyBytes)
	}
	return nil
}

// Stats returns what the client has done since New.
func (c *Client) Stats() Stats {
	n, of := &c.counts, &c.link.counts
	s := Stats{
		MemoryHits: n.memoryHits.sum(), RedisHits: n.redisHits.Load(), Loads: n.loads.Load(), LoadErrors: n.loadErrors.Load(),
		NotFound: n.notFound.Load(), Shared: n.shared.Load(), LockWaits: n.lockWaits.Load(), FillsRefused: n.fillsRefused.Load(),
		TooLarge: n.tooLarge.Load(), EncodeErrors: n.encodeErrors.Load(), DecodeErrors: n.decodeErrors.Load(),
		RedisErrors: of.redisErrors.Load(), Invalidations: of.invalidations.Load(), GoneEarly: n.goneEarly.Load(), Flushes: of.flushes.Load(),
		DiskHits: n.diskHits.Load(), Journaled: n.journaled.Load(), Outages: of.outages.Load(), Overloaded: n.overloaded.Load(), Failovers: of.failovers.Load(),
		RedisConnected: c.connected(), Waiting: c.flights.count(),
	}
	fallen := c.store.Stats()
	s.Pending = fallen.Sets + fallen.Deletes
	s.MemoryEntries, s.MemoryBytes = c.near.Size()
	return s
}
