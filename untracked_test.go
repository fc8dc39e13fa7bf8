package aside_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

func untrackedFor(d time.Duration) func(*aside.Options) {
	return func(o *aside.Options) { o.Redis.DisableCache, o.Redis.AlwaysRESP2, o.UntrackedTTL = true, true, d }
}

// Where Redis tells of no changes, memory is bounded by time, and says so.
func TestAMemoryWithoutTracking(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, other, ctx := newClient(t, server.Addr(), untrackedFor(time.Hour)), newClient(t, server.Addr()), testContext(t)
	require.Equal(t, time.Hour, c.Health().UntrackedTTL)
	require.Zero(t, other.Health().UntrackedTTL)
	view := aside.Typed(c, codec.String())
	value, err := view.Get(ctx, fresh, "k", newSource("1").Load)
	require.NoError(t, err)
	require.Equal(t, "1", value)
	stored(t, c, "k")
	got, err := view.Fetch(ctx, fresh, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, aside.SourceMemory, got.Source)
	require.True(t, got.Untracked)
	found, err := c.Look(ctx, "k")
	require.NoError(t, err)
	require.True(t, found.Untracked)

	require.NoError(t, other.Set(ctx, fresh, "k", "2"))
	value, err = view.Get(ctx, fresh, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "1", value, "nobody has told")
	require.NoError(t, c.Set(ctx, fresh, "k", "3"))
	value, err = view.Get(ctx, fresh, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "3", value, "its own write is seen")
	found, err = other.Look(ctx, "k")
	require.NoError(t, err)
	require.False(t, found.Untracked)
	require.NoError(t, c.Del(ctx, "k"))
	_, ok, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	require.False(t, ok)
}

// Its time runs from when Redis was asked, and goes on while Redis is away.
func TestAMemoryWithoutTrackingEndsInTime(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), hasty, untrackedFor(2*time.Second)), testContext(t)
	server.Do("SET", "k", "1", "EX", 3600)
	began := time.Now()
	_, err := c.Get(ctx, fresh, "k", mustNotLoad)
	require.NoError(t, err)
	server.Do("SET", "k", "2", "EX", 3600)
	eventually(t, "it is read anew", func() bool {
		value, err := c.Get(ctx, fresh, "k", mustNotLoad)
		require.NoError(t, err)
		return value == "2"
	})
	require.GreaterOrEqual(t, time.Since(began), 2*time.Second)
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	db := newSource("loaded")
	eventually(t, "it ends while Redis is away", func() bool {
		value, err := c.Get(ctx, fresh, "k", db.Load)
		require.NoError(t, err)
		return value == "loaded"
	})
}

// A process that is told of no changes has what it has itself refreshed. What another one has refreshed,
// and it has not heard of, it does not load again.
func TestARefreshWhereNoChangesAreTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr(), untrackedFor(time.Hour)), newClient(t, server.Addr(), untrackedFor(time.Hour)), testContext(t)
	server.Do("SET", "k", "1", "PX", (grace / 2).Milliseconds())
	for _, c := range []*aside.Client{a, b} {
		value, err := aside.Typed(c, codec.String()).Get(ctx, fresh, "k", mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "1", value, "to who gives no grace it is fresh")
	}
	db := newSource("2")
	get := getGracefully(ctx, t, db)
	require.Equal(t, "1", get(a))
	eventually(t, "it is refreshed", refreshed(a))
	require.EqualValues(t, 1, db.Calls.Load())
	require.Equal(t, "2", get(a))
	require.Equal(t, "1", get(b), "nobody has told")
	eventually(t, "it has asked whether it is to refresh it", refreshed(b))
	require.EqualValues(t, 1, db.Calls.Load())
	require.Equal(t, "2", server.Do("GET", "k"))
}

// Without the option there is no memory, as before.
func TestWithoutTrackingThereIsNoMemoryUnasked(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), untracked), testContext(t)
	require.NoError(t, c.Set(ctx, fresh, "k", "1"))
	for range 3 {
		_, err := c.Get(ctx, fresh, "k", mustNotLoad)
		require.NoError(t, err)
	}
	require.Zero(t, c.Stats().MemoryHits)
	require.Zero(t, c.Stats().MemoryEntries)
	_, err := aside.New(aside.Options{UntrackedTTL: -1})
	require.ErrorContains(t, err, "UntrackedTTL")
	_, err = aside.New(aside.Options{UntrackedTTL: 30})
	require.ErrorContains(t, err, "UntrackedTTL")
}
