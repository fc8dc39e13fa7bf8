package aside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/events"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/logqueue"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
)

const (
	closeGrace = 2 * time.Second // for loaders and commands that do not heed their context
	flushGrace = 2 * time.Second // for a disk that hangs
)

// New makes a client and starts to connect. It waits for the first connection, ConnectTimeout at
// most. It succeeds without one, unless RequireRedis is set; the client then is degraded until
// Redis answers. The error lists all that is wrong with the options, or says why the fallback
// directory cannot be used (ErrLocked: another process has it). With a fallback directory New takes
// at least 100 milliseconds, so that its timestamps are later than its predecessor's.
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
	c := &Client{opt: options, tokenPrefix: prefix, lockTTL: script.InMilliseconds(options.LockTTL), stampTTL: script.InMilliseconds(options.StampTTL), defaults: newCallOptions(&options)}
	c.lifecycle.begin()
	c.reports = reports{life: &c.lifecycle, clock: func() int64 { return c.link.Now() }, observer: options.Observer, logger: options.Logger, log: log}
	c.tracer, _ = options.Observer.(Tracer)
	c.allHits = options.HitEvents && options.Observer != nil
	c.aside = events.NewBounded[Event](mostAside, c.inBackground, func(f func()) { f() })
	c.aside.Watch(func(e Event) { c.observe(context.Background(), e) })
	if c.stamps, err = stamp.New(link.MostClockError); err != nil {
		return nil, err
	}
	c.early.says = &c.reports
	c.link = c.newLink()
	c.near = near.New(near.Options{
		MaxBytes: options.MemoryBytes, MaxKeys: options.MemoryKeys, MaxTTL: options.MemoryTTL, AwayTTL: options.DegradedTTL, UntrackedTTL: options.UntrackedTTL,
		Now: c.link.Now, Home: func(key string) *near.Validity { return c.link.Home(key).Valid }, Early: c.early.note,
	})
	c.loads.bare = newPlaces("Options.MaxLoaders", options.MaxLoaders)
	if options.MaxLoads > 0 {
		c.loads.most = newPlaces("Options.MaxLoads", options.MaxLoads)
	}
	c.refreshes.seed, c.loads.ended.seed = maphash.MakeSeed(), maphash.MakeSeed()
	// Few keys are loaded for older processes.
	c.flights.stripes, c.older.stripes = make([]flightStripe, 256), make([]flightStripe, 16)
	c.flights.seed, c.flights.now, c.flights.lease, c.flights.closing = maphash.MakeSeed(), c.link.Now, options.StaleLease, c.lifecycle.ctx
	c.older.seed, c.older.now, c.older.lease, c.older.closing = maphash.MakeSeed(), c.link.Now, options.StaleLease, c.lifecycle.ctx
	c.older.asks = func(string) bool { return false } // what is there is not asked for
	c.older.told = func(key string) bool { return c.link.Shard(key).Asks() && c.link.Home(key).Valid.Pushes() }
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
	c.store.open(store, c.stamps.Client(), &c.reports)
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
		// The process before, which had the directory, may have written until it was opened.
		// Replayed, a write of ours within the error of clocks from one of those could not be told
		// from an earlier one, and neither would be kept.
		c.link.Sleep(2*leastClockError - time.Duration(c.link.Now()-opened))
	}
	return c, nil
}

// Close ends all waits with ErrClosed, cancels the loads and releases their locks. In this order it
// waits
//
//   - for every goroutine of the client, 2 seconds at most; it leaves a loader behind that ignores
//     its context, and the error says so. Loaded values are still stored, if Redis answers within
//     half a second, or within RedisTimeout if that is longer;
//   - for the fallback store, 2 seconds at most, to put on disk what it has accepted. Then it
//     releases the directory. It replays nothing: the next client with that directory does;
//   - for Options.Logger, half a second at most, to take its lines.
//
// rueidis may keep a sleeping goroutine for one more second after a connection that failed, and for
// five after a node has left its cluster. A second Close does nothing and returns the same error.
//
// A loader, an Observer or another callback that calls Close gets an error at once, because it
// would wait for itself. The client closes all the same, and a Close elsewhere waits until it has.
func (c *Client) Close() error { return c.close(c.shutDown) }

// shutDown does what Close waits for.
func (c *Client) shutDown() (err error) {
	c.link.Freeze(func() { c.finish(c.link.Now()) }) // no prober is started after this
	running := c.loads.all()
	for _, l := range running {
		l.values.cancel(context.Canceled)
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

// What the Client does when the link has something to tell.

// newLink makes the floor that asks Redis.
func (c *Client) newLink() *link.Link {
	return link.New(c.lifecycle.ctx, link.Options{
		Redis: c.opt.Redis, ClientBuilder: c.opt.ClientBuilder, ConnectTimeout: c.opt.ConnectTimeout, RedisTimeout: c.opt.RedisTimeout,
		RestAfter:  c.opt.LockTTL + time.Second, // a caller that waits for a lock asks again after LockTTL, and is no idleness
		StaleLease: c.opt.StaleLease, DegradedTTL: c.opt.DegradedTTL, FlushKeyTTL: max(24*time.Hour, 2*c.opt.StampTTL),
		Memory: c.opt.MemoryBytes > 0, ID: c.stamps.Client(), Logger: c.opt.Logger, Observed: c.observer != nil,
	}, link.Hooks{
		InBackground: c.inBackground,
		Contain:      c.contained,
		Told:         c.told,
		Examine:      examined,
		Warn:         func(msg string, args ...any) { c.warn(&c.seldomRedis, msg, args...) },
		Invalidated:  c.invalidated,
		Lost:         c.lost,
		Woken:        func() { c.near.WakeAll() },
		ModeChanged:  c.modeChanged,
		Observed:     c.observed,
		Outage:       hooks{c}.outageBegins,
		Unreplayed:   hooks{c}.unreplayed,
		Started:      func(sh *link.Shard) { c.inBackground(replayer{Client: c, sh: sh}.run) }, // ends when sh leaves, or with Close
		TookOver:     hooks{c}.tookOver,
		Flushed:      hooks{c}.flushed,
		Senders: [...]link.Sender{
			locks: {Send: c.sendLocks}, fills: {Send: c.sendFills},
			sets: {Send: c.writesBy(script.Set, script.SetBare).send, MaxRequests: maxWrites, Insist: true, Repeats: true},
			dels: {Send: c.writesBy(script.Del, script.DelBare).send, MaxRequests: maxWrites, Insist: true, Repeats: true},
		},
	})
}

// told runs a function of the user's that is told something, and logs what keeps it from returning.
func (c *Client) told(what string, fn func()) {
	if err := c.contained(what, fn); err != nil {
		c.warn(&c.seldomObserver, what+" did not return", "error", err)
	}
}

// invalidated forgets what is known of a key that has changed.
func (c *Client) invalidated(key string) {
	c.near.Invalidate(key)
	c.flights.keyChanged(key)
	c.older.detach(key)
}

// lost is called when anything may have changed.
func (c *Client) lost() {
	c.near.WakeAll()
	c.flights.dropErrors()
	c.older.detachAll()
}

func (c *Client) modeChanged(change link.ModeChange) {
	c.modes.Announce(ModeChange{Shard: change.Addr, From: Mode(change.From), To: Mode(change.To), At: change.At, Err: change.Err}, nil)
}

// observed tells the observer what has happened to a shard.
func (c *Client) observed(e link.Event) {
	kind := [...]EventKind{
		link.EventFailed: EventRedisError, link.EventAway: EventRedisAway, link.EventBack: EventRedisBack, link.EventFailover: EventFailover,
		link.EventMode: EventMode, link.EventProbed: EventProbe, link.EventAnswered: EventCommand,
	}[e.Kind]
	c.observeAside(Event{ // others' commands may wait for those that have failed
		Kind: kind, Op: e.Script, Key: e.Addr, Keys: e.Keys, Duration: e.Duration, Err: e.Err, From: Mode(e.From), To: Mode(e.To),
	})
}

// hooks are what the Client does for the link about outages and servers that change.
type hooks struct{ *Client }

// outageBegins returns how an outage goes, for the log: what waits, and what the loaders were
// spared.
func (c hooks) outageBegins() func() []any {
	loads := c.counted.loads.Load()
	return func() []any {
		kept := c.store.Stats()
		return []any{"pending", kept.Pending(), "bytes", kept.Bytes, "loads", c.counted.loads.Load() - loads}
	}
}

// unreplayed reports whether there is anything that sh may have to be told.
func (c hooks) unreplayed(sh *link.Shard) bool {
	kept := c.store.Stats()
	return kept.Pending()+kept.Fills > 0 || c.doubts.about(sh)
}

// flushed logs that what was kept for sh from before it was flushed will not be brought back, and
// returns the number of this client's latest operation: what it begins later comes after the flush.
func (c hooks) flushed(sh *link.Shard) int64 {
	mark := c.stamps.Latest()
	if kept := c.store.Stats(); kept.Sets+kept.Fills > 0 {
		c.opt.Logger.Warn("aside: Redis was flushed: what was set or loaded before that is not brought back", "address", c.link.Address(sh), "sets", kept.Sets, "loaded", kept.Fills)
	}
	return mark
}

// tookOver has a server that has taken over looked at for what it may lack. What counts is when the
// other was well last: how long it took until somebody took over says nothing of what was
// replicated.
func (c hooks) tookOver(t link.Takeover) {
	lacking := c.store.recent.since(t.Since - int64(recentFor))
	maps.DeleteFunc(lacking, func(key string, _ fallback.Record) bool { return c.link.Shard(key) != t.Shard || !t.Had(key) })
	c.doubts.add(t.Shard, lacking)
	c.opt.Logger.Warn("aside: another server answers than before: a failover, a restart, or an address that leads elsewhere", append([]any{"address", c.link.Address(t.Shard), "recentWrites", len(lacking)}, t.Attrs...)...)
}

// queueLog puts a queue in front of o.Logger, and returns it.
func queueLog(o *Options) *logqueue.Handler {
	queue := logqueue.NewHandler(o.Logger.Handler())
	o.Logger = slog.New(queue)
	return queue
}
