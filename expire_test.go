package aside_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/wire"
)

// Expire makes stale what Del would remove: the old value is served once more while one process
// refreshes it, also where the loader fails.
func TestExpireMakesStaleWhatDelWouldRemove(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*aside.Options){"stamps": func(*aside.Options) {}, "without stamps": func(o *aside.Options) { o.DisableStamps = true }, "untracked": untracked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			a, b, ctx := newClient(t, server.Addr(), change), newClient(t, server.Addr(), change), testContext(t)
			db := newSource("1")
			get := getGracefully(ctx, t, db)
			require.Equal(t, "1", get(a))
			stored(t, a, "k")
			require.Equal(t, "1", get(b))
			require.NoError(t, graceful(a).Expire(ctx, "k", "nothing"))
			require.LessOrEqual(t, server.Do("PTTL", "k"), grace.Milliseconds())
			require.EqualValues(t, 0, server.Do("EXISTS", "nothing"))
			awaitStale(t, b, "k")
			db.Set("2")
			db.Fail(errors.New("the source fails"))
			require.Equal(t, "1", get(a), "nobody waits, nobody gets the error")
			require.Equal(t, "1", get(b))
			eventually(t, "the refresh has failed", func() bool { return db.Calls.Load() == 2 })
			eventually(t, "and is over", func() bool { return refreshed(a)() && refreshed(b)() })
			db.Fail(nil)
			for _, c := range []*aside.Client{a, b} {
				eventually(t, "it is refreshed after the back-off", func() bool { return get(c) == "2" })
			}
			require.EqualValues(t, 3, db.Calls.Load())
		})
	}
}

// It never prolongs a life, removes what has no grace, and needs no value to be of ours.
func TestExpireShortensOnly(t *testing.T) {
	t.Parallel()
	for name, stamps := range map[string]bool{"stamps": true, "without stamps": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.DisableStamps = !stamps }), testContext(t)
			server.Do("SET", "long", "v", "EX", 3600)
			server.Do("SET", "short", "v", "EX", 10)
			server.Do("SET", "shortest", "v", "PX", 9)
			server.Do("SET", "endless", "v")
			server.Do("RPUSH", "list", "v")
			server.Do("SET", "their lock", "__redcache:lock:1", "EX", 3600)
			require.NoError(t, c.Expire(ctx, grace, "long", "short", "shortest", "endless", "list", "their lock", "nothing"))
			for _, key := range []string{"long", "endless", "list"} {
				require.InDelta(t, grace.Milliseconds(), server.Do("PTTL", key), 10_000, key)
				require.LessOrEqual(t, server.Do("PTTL", key), grace.Milliseconds(), key)
			}
			require.LessOrEqual(t, server.Do("PTTL", "short"), int64(9_990))
			require.EqualValues(t, 0, server.Do("EXISTS", "shortest", "their lock", "nothing"))

			require.NoError(t, c.Expire(ctx, 0, "long"))
			require.NoError(t, aside.Typed(c, codec.String()).Expire(ctx, "endless"))
			require.EqualValues(t, 0, server.Do("EXISTS", "long", "endless"), "without a grace it is a Del")
			require.ErrorIs(t, c.Expire(ctx, -time.Second, "k"), aside.ErrInvalidArgument)
			require.ErrorIs(t, c.Expire(ctx, 30, "k"), aside.ErrInvalidArgument)
			require.ErrorContains(t, c.Expire(ctx, 2*aside.LongestTTL, "k"), "grace is ")
		})
	}
}

// A load or refresh that began before an Expire is not stored after it: it may have read what was
// there before. Waiters of the load start over.
func TestExpireIsNotUndoneByALoadThatBeganBefore(t *testing.T) {
	for _, from := range []string{"the same client", "another client"} {
		for name, stamps := range map[string]bool{"stamps": true, "without stamps": false} {
			t.Run(from+", "+name, func(t *testing.T) {
				server := redistest.Start(t)
				change := func(o *aside.Options) { o.DisableStamps = !stamps }
				c, ctx := newClient(t, server.Addr(), change), testContext(t)
				writer := c
				if from == "another client" {
					writer = newClient(t, server.Addr(), change)
				}
				db := newSource("old")
				letGo := db.HoldUp()
				loading := inBackground(func() (string, error) { return graceful(c).Get(ctx, fresh, "cold", db.Load) })
				db.AwaitBegin(t)
				require.NoError(t, graceful(writer).Expire(ctx, "cold"))
				letGo()
				require.Equal(t, result{Value: "old"}, await(t, loading), "who asked before may have it")
				eventually(t, "its fill is refused", func() bool { return c.Stats().FillsRefused == 1 })
				require.Nil(t, server.Do("GET", "cold"))

				server.Do("SET", "stale", "1", "PX", (grace / 2).Milliseconds())
				awaitStale(t, c, "stale")
				letGo = db.HoldUp()
				_, err := graceful(c).Get(ctx, fresh, "stale", db.Load)
				require.NoError(t, err)
				db.AwaitBegin(t)
				require.NoError(t, graceful(writer).Expire(ctx, "stale"))
				letGo()
				eventually(t, "the refresh is refused", func() bool { return c.Stats().FillsRefused == 2 })
				require.Equal(t, "1", server.Do("GET", "stale"))
				db.Set("new")
				eventually(t, "the next one is not", func() bool {
					value, err := graceful(c).Get(ctx, fresh, "stale", db.Load)
					return err == nil && value == "new"
				})
			})
		}
	}
}

// While Redis is away it is kept as a Del: nothing of before is served here, and others hear of it
// when it is replayed. What was Set later by another stays.
func TestExpireIsKeptAndReplayedAsADel(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, other, ctx := newClient(t, proxy.Addr(), hasty, option), newClient(t, server.Addr()), testContext(t)
	for _, key := range []string{"k", "later"} {
		require.NoError(t, other.Set(ctx, time.Hour, key, "old"))
		_, err := graceful(c).Get(ctx, fresh, key, mustNotLoad)
		require.NoError(t, err)
	}
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	beyondTheMargin(t)
	require.NoError(t, graceful(c).Expire(ctx, "k", "later"))
	require.Equal(t, 2, c.Stats().Pending)
	value, err := graceful(c).Get(ctx, fresh, "k", newSource("new").Load)
	require.NoError(t, err)
	require.Equal(t, "new", value)
	beyondTheMargin(t)
	require.NoError(t, other.Set(ctx, time.Hour, "later", "newer"))
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
	eventually(t, "it is replayed", func() bool { return c.Stats().Pending == 0 })
	require.NotEqual(t, "old", server.Do("GET", "k"))
	require.Equal(t, "newer", server.Do("GET", "later"))
}

// A Set of a process that was cut off, from before an Expire, does not come back; one from after it
// replaces what was made stale.
func TestAReplayIsOrderedWithAnExpire(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	cut, other, ctx := newClient(t, proxy.Addr(), hasty, option), newClient(t, server.Addr()), testContext(t)
	require.NoError(t, other.Set(ctx, time.Hour, "before", "1"))
	require.NoError(t, other.Set(ctx, time.Hour, "after", "1"))
	require.NoError(t, other.Expire(ctx, grace, "after"))
	proxy.Refuse()
	awaitMode(t, cut, aside.Degraded)
	beyondTheMargin(t)
	require.NoError(t, cut.Set(ctx, time.Hour, "before", "2"))
	require.NoError(t, cut.Set(ctx, time.Hour, "after", "2"))
	beyondTheMargin(t)
	require.NoError(t, other.Expire(ctx, grace, "before"))
	proxy.Heal()
	awaitMode(t, cut, aside.Healthy)
	eventually(t, "all is replayed", func() bool { return cut.Stats().Pending == 0 })
	require.Equal(t, "1", server.Do("GET", "before"), "the Expire was later")
	require.Equal(t, "2", server.Do("GET", "after"))
}

// A write of a process that was cut off removes what an Expire by another has left since: that was
// loaded before the write. A value that another has Set since stays.
func TestAWriteThatWaitedRemovesWhatAnExpireHasLeft(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	cut, other, ctx := newClient(t, proxy.Addr(), hasty, option), newClient(t, server.Addr()), testContext(t)
	db := newSource("1")
	for _, key := range []string{"expired", "set", "expired, and was set"} {
		_, err := graceful(other).Get(ctx, fresh, key, db.Load)
		require.NoError(t, err)
		stored(t, other, key)
	}
	proxy.Refuse()
	awaitMode(t, cut, aside.Degraded)
	beyondTheMargin(t)
	db.Set("2")
	require.NoError(t, cut.Del(ctx, "expired", "set"))
	require.NoError(t, cut.Set(ctx, time.Hour, "expired, and was set", "cut"))
	beyondTheMargin(t)
	require.NoError(t, graceful(other).Expire(ctx, "expired", "expired, and was set"))
	require.NoError(t, other.Set(ctx, time.Hour, "set", "3"))
	proxy.Heal()
	awaitMode(t, cut, aside.Healthy)
	eventually(t, "all is replayed", func() bool { return cut.Stats().Pending == 0 })
	require.Nil(t, server.Do("GET", "expired"))
	require.Nil(t, server.Do("GET", "expired, and was set"))
	require.Equal(t, "3", server.Do("GET", "set"))
	for _, c := range []*aside.Client{cut, other} {
		eventually(t, "it has heard of it", func() bool {
			value, err := graceful(c).Get(ctx, fresh, "expired", db.Load)
			require.NoError(t, err)
			return value == "2"
		})
	}
}

// In a slot that moves a script with two keys is refused, so stamp and value are done one by one.
func TestExpireInASlotThatMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	c, ctx := newClient(t, "", patient, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), testContext(t)
	slot, tag := firstSlot(cluster, 1)
	require.NoError(t, c.Set(ctx, time.Hour, tag+"there", "v"))
	require.NoError(t, c.Set(ctx, time.Hour, tag+"gone", "v"))
	cluster.BeginMigration(slot, 1, 2)
	migrate(t, cluster, 1, 2, tag+"gone")
	require.NoError(t, c.Expire(ctx, grace, tag+"there", tag+"gone"))
	for _, key := range []string{tag + "there", tag + "gone"} {
		found, err := c.Look(ctx, key)
		require.NoError(t, err)
		require.Equal(t, "v", found.Value)
		require.LessOrEqual(t, found.TTL, grace)
	}
}

// A header may state less grace than the view: then that is what the value has left.
func TestExpireHeedsTheGraceOfAHeader(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	for _, stated := range []time.Duration{0, 10 * time.Second, 2 * grace} {
		server.Do("SET", "k", wire.PackHeader(wire.Header{Began: time.Now().UnixMicro(), TTL: fresh, Grace: stated}, "v"), "EX", 7200)
		require.NoError(t, graceful(c).Expire(ctx, "k"))
		if stated == 0 {
			require.Nil(t, server.Do("GET", "k"))
			continue
		}
		require.InDelta(t, min(stated, grace).Milliseconds(), server.Do("PTTL", "k"), 8_000)
		db := newSource("new")
		value, err := graceful(c).Get(ctx, fresh, "k", db.Load)
		require.NoError(t, err)
		require.Equal(t, "v", value)
		eventually(t, "it is refreshed", func() bool { return server.Do("GET", "k") == "new" })
	}
}
