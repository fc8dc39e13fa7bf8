package aside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/internal/events"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
)

// Client is a cache-aside client: it answers from this process's memory, else from Redis, else from a loader that at most
// one process at a time runs for a key. It speaks strings; [Typed] puts a codec in front. Safe for concurrent use.
type Client struct {
	link *link.Link // the floor that asks Redis

	opt         Options // complete; immutable
	tokenPrefix string  // immutable
	lockTTL     string  // in ms, as Redis takes it; immutable
	stamps      *stamp.Stamper

	lifecycle // from New to Close, and every goroutine of ours
	reports   // the Observer, the log, and what is counted
	near      *near.Memory
	early     early   // whether most of what is read is invalidated at once
	flights   flights // who shares an answer
	loads     loads   // which loaders run
	store     outbox  // what outages leave behind
	doubts    doubts  // what servers may lack

	tokens     atomic.Uint64           // acquisitions so far
	modes      *events.Bus[ModeChange] // immutable
	roundTrips roundTripViews
}

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
	c := &Client{opt: options, tokenPrefix: prefix, lockTTL: script.InMilliseconds(options.LockTTL)}
	c.lifecycle.begin()
	c.reports = reports{life: &c.lifecycle, clock: func() int64 { return c.link.Now() }, observer: options.Observer, logger: options.Logger, log: log}
	if c.stamps, err = stamp.New(link.MostClockError); err != nil {
		return nil, err
	}
	c.link = c.newLink()
	c.near = near.New(near.Options{
		MaxBytes: options.MemoryBytes, MaxKeys: options.MemoryKeys, MaxTTL: options.MemoryTTL, AwayTTL: options.DegradedTTL,
		Now: c.link.Now, Home: func(key string) *near.Validity { return c.link.Home(key).Valid }, Early: c.noteEarly,
	})
	c.loads.places.free = options.MaxLoaders
	c.flights.seed, c.flights.now, c.flights.lease, c.flights.closing = maphash.MakeSeed(), c.link.Now, options.StaleLease, c.lifecycle.ctx
	c.flights.asks = func(key string) bool { return c.link.Shard(key).Asks() }
	c.modes = events.New[ModeChange](c.inBackground, func(f func()) { c.told("a function given to OnModeChange", f) })
	c.store.replays.Bus = events.New[Replay](c.inBackground, func(f func()) { c.told("Options.OnReplay", f) })
	if options.OnReplay != nil {
		c.store.replays.Watch(options.OnReplay)
	}
	store, err := options.openStore()
	if err != nil {
		log.Flush(logGrace) // it may say why
		return nil, err
	}
	if options.Store != nil {
		store = guardedStore{options.Store, &c.reports}
	}
	c.store.open(store, c)
	c.stamps.After(c.store.Latest())
	opened := c.link.Now()

	first := make(chan error, 1)
	c.inBackground(func() { c.link.Connect(first) }) // ends with Close
	c.inBackground(c.renewer)                        // so does this
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
	for look := time.NewTicker(5 * time.Millisecond); err == nil && options.RequireRedis && !c.link.Connected(); { // it may be loading its data
		select {
		case <-look.C:
			continue
		case <-timer.C:
			look.Stop()
		}
		break
	}
	if options.RequireRedis && !c.link.Connected() {
		if err == nil {
			err = cmp.Or(c.Health().Err, errors.New("it accepts connections but does not answer"))
		}
		err = fmt.Errorf("%w and Options.RequireRedis is set: %v within Options.ConnectTimeout (%v): %w", ErrRedisAway, options.Redis.InitAddress, options.ConnectTimeout, reason.Of(err))
		return nil, errors.Join(err, c.Close())
	}
	if options.FallbackDir != "" || options.Store != nil {
		// The process before, which had the directory, may have written until it was opened. Replayed, a write of ours within the
		// error of clocks from one of those could not be told from an earlier one, and neither would be kept.
		c.link.Sleep(2*leastClockError - time.Duration(c.link.Now()-opened))
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
func (c *Client) Close() error { return c.close(c.shutDown) }

// shutDown does what Close waits for.
func (c *Client) shutDown() (err error) {
	c.link.Freeze(func() { c.finish(c.link.Now()) }) // no prober is started after this
	running := c.loads.all()
	for _, l := range running {
		l.cancel()
	}
	if !c.ended(closeGrace) {
		err = fmt.Errorf("aside: Close left behind what did not end within %v: %d loaders ran, which may not heed their context", closeGrace, len(running))
	}
	c.link.Close()
	c.near.Close()
	ctx, cancel := context.WithTimeout(context.Background(), flushGrace)
	defer cancel()
	if failed := c.store.Close(ctx); failed != nil {
		err = errors.Join(err, fmt.Errorf("aside: Close: the fallback store: %w", reason.Of(failed)))
	}
	if failed := c.reports.flush(); failed != nil {
		err = errors.Join(err, failed)
	}
	return err
}

// Stats returns what the client has done since New.
func (c *Client) Stats() Stats {
	n, of := &c.counted, c.link.Counts()
	s := Stats{
		MemoryHits: n.memoryHits.sum(), RedisHits: n.redisHits.Load(), Loads: n.loads.Load(), LoadErrors: n.loadErrors.Load(),
		NotFound: n.notFound.Load(), Shared: n.shared.Load(), LockWaits: n.lockWaits.Load(), FillsRefused: n.fillsRefused.Load(),
		TooLarge: n.tooLarge.Load(), EncodeErrors: n.encodeErrors.Load(), DecodeErrors: n.decodeErrors.Load(),
		RedisErrors: of.RedisErrors, Invalidations: of.Invalidations, GoneEarly: n.goneEarly.Load(), Flushes: of.Flushes,
		DiskHits: n.diskHits.Load(), Journaled: n.journaled.Load(), Outages: of.Outages, Overloaded: n.overloaded.Load(), Failovers: of.Failovers,
		RedisConnected: c.link.Connected(), Waiting: c.flights.count(),
	}
	fallen := c.store.Stats()
	s.Pending = fallen.Sets + fallen.Deletes
	s.MemoryEntries, s.MemoryBytes = c.near.Size()
	return s
}
