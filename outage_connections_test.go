package aside_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// cutOff is a client whose connection can be broken while Redis is away for it.
type cutOff struct {
	*aside.Client
	proxy *faultproxy.Proxy
	heard atomic.Int64 // how often it was told that anything may have changed, and has drawn the consequences
}

func newCutOff(t *testing.T, server *redistest.Server, change ...func(*aside.Options)) *cutOff {
	c := &cutOff{proxy: faultproxy.New(t, server.Addr())}
	c.Client = newClient(t, c.proxy.Addr(), append(change, hasty, func(o *aside.Options) {
		o.Redis.OnInvalidations = func(keys []rueidis.RedisMessage) {
			if keys == nil {
				c.heard.Add(1)
			}
		}
	})...)
	return c
}

// away has Redis be away for c, whose connection stands.
func (c *cutOff) away(t *testing.T) {
	t.Helper()
	c.proxy.BlackHole()
	awaitMode(t, c.Client, aside.Degraded)
}

// breaks has the connection of c break.
func (c *cutOff) breaks(t *testing.T) {
	t.Helper()
	heard := c.heard.Load()
	c.proxy.Reset()
	eventually(t, "the connection has broken", func() bool { return c.heard.Load() > heard })
}

// A connection that breaks while Redis is away says nothing of what is loaded without it: that is
// kept in memory, and on disk for the replay.
func TestWhatIsLoadedWhileAConnectionBreaksIsKept(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, option := durable(t)
	c, ctx := newCutOff(t, server, option), testContext(t)
	c.away(t)
	db := newSource("loaded")
	letGo := db.HoldUp()
	one := inBackground(func() (string, error) { return c.Get(ctx, time.Hour, "one", db.Load) })
	db.AwaitBegin(t)
	many := inBackground(func() (string, error) {
		values, err := c.GetMulti(ctx, time.Hour, []string{"a", "b"}, db.LoadMany)
		return values["a"] + values["b"], err
	})
	db.AwaitBegin(t)
	c.breaks(t)
	letGo()
	require.Equal(t, result{Value: "loaded"}, await(t, one))
	require.Equal(t, result{Value: "loadedloaded"}, await(t, many))
	for _, key := range []string{"one", "a", "b"} {
		value, err := c.Get(ctx, time.Hour, key, mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "loaded", value)
	}
	c.proxy.Heal()
	awaitMode(t, c.Client, aside.Healthy)
	for _, key := range []string{"one", "a", "b"} {
		require.Equal(t, "loaded", server.Do("GET", key))
	}
}

// Nor does it say anything of a refresh: what has gone from the source is not served any more.
func TestWhatARefreshHasNotFoundWhileAConnectionBreaksIsGone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newCutOff(t, server), testContext(t)
	db, view := newSource("1"), graceful(c.Client)
	_, err := view.Get(ctx, fresh, "k", db.Load)
	require.NoError(t, err)
	stored(t, c.Client, "k")
	makeStale(t, server, "k")
	awaitStale(t, c.Client, "k")
	c.away(t)
	db.Fail(aside.ErrNotFound)
	db.AwaitBegin(t) // that was the first load
	letGo := db.HoldUp()
	value, err := view.Get(ctx, fresh, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "1", value, "it is stale, and refreshed")
	db.AwaitBegin(t)
	c.breaks(t)
	letGo()
	eventually(t, "it is refreshed", refreshed(c.Client))
	_, err = view.Get(ctx, fresh, "k", mustNotLoad, aside.WithoutLoad())
	require.Error(t, err)
}
