package aside

import (
	"maps"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
)

// What the Client does when the link has something to tell.

// newLink makes the floor that asks Redis.
func (c *Client) newLink() *link.Link {
	return link.New(c.lifecycle.ctx, link.Options{
		Redis: c.opt.Redis, ClientBuilder: c.opt.ClientBuilder, ConnectTimeout: c.opt.ConnectTimeout, RedisTimeout: c.opt.RedisTimeout,
		StaleLease: c.opt.StaleLease, DegradedTTL: c.opt.DegradedTTL, FlushKeyTTL: max(24*time.Hour, 2*c.opt.StampTTL),
		Memory: c.opt.MemoryBytes > 0, ID: c.stamps.Client(), Logger: c.opt.Logger,
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
		Outage:       c.outageBegins,
		Unreplayed:   c.unreplayed,
		Started:      func(sh *link.Shard) { c.inBackground(replayer{c, sh}.run) }, // ends when sh leaves, or with Close
		TookOver:     c.tookOver,
		Flushed:      c.flushed,
		Send:         [...]func(*link.Shard, []*link.Request){locks: c.sendLocks, fills: c.sendFills},
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
	c.flights.dropError(key)
}

// lost is called when anything may have changed.
func (c *Client) lost() {
	c.near.WakeAll()
	c.flights.dropErrors()
}

func (c *Client) modeChanged(change link.ModeChange) {
	c.modes.Announce(ModeChange{Shard: change.Addr, From: Mode(change.From), To: Mode(change.To), At: change.At, Err: change.Err}, nil)
}

// observed tells the observer what has happened to a shard.
func (c *Client) observed(e link.Event) {
	kind := [...]EventKind{link.EventFailed: EventRedisError, link.EventAway: EventRedisAway, link.EventBack: EventRedisBack, link.EventFailover: EventFailover}[e.Kind]
	event := Event{Kind: kind, Key: e.Addr, Duration: e.Duration, Err: e.Err}
	if e.Kind == link.EventFailed { // others' commands may wait for those that have failed
		c.observeAside(event)
		return
	}
	c.observe(event)
}

// outageBegins returns how an outage goes, for the log: what waits, and what the loaders were spared.
func (c *Client) outageBegins() func() []any {
	loads := c.counted.loads.Load()
	return func() []any {
		kept := c.store.Stats()
		return []any{"pending", kept.Sets + kept.Deletes, "bytes", kept.Bytes, "loads", c.counted.loads.Load() - loads}
	}
}

// unreplayed reports whether there is anything that sh may have to be told.
func (c *Client) unreplayed(sh *link.Shard) bool {
	kept := c.store.Stats()
	return kept.Sets+kept.Deletes+kept.Fills > 0 || c.doubts.about(sh)
}

// flushed says that what was kept for sh, and is from before it was flushed, will not be brought back.
func (c *Client) flushed(sh *link.Shard) {
	if kept := c.store.Stats(); kept.Sets+kept.Fills > 0 {
		c.opt.Logger.Warn("aside: Redis was flushed: what was set or loaded before that is not brought back", "address", c.link.Address(sh), "sets", kept.Sets, "loaded", kept.Fills)
	}
}

// tookOver has a server that has taken over looked at for what it may lack. What counts is when the other was well last: how long it
// took until somebody took over says nothing of what was replicated.
func (c *Client) tookOver(t link.Takeover) {
	lacking := c.store.recent.since(t.Since - int64(recentFor))
	maps.DeleteFunc(lacking, func(key string, _ fallback.Record) bool { return c.link.Shard(key) != t.Shard || !t.Had(key) })
	c.doubts.add(t.Shard, lacking)
	c.opt.Logger.Warn("aside: another server answers than before: a failover, a restart, or an address that leads elsewhere", append([]any{"address", c.link.Address(t.Shard), "recentWrites", len(lacking)}, t.Attrs...)...)
}
