package aside_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// What is on the way, and not the server, makes an answer late: it must not look like an outage,
// and nothing that is in Redis is loaded.

// defaults are the timeouts of a service that has set none, and no memory, so that all is asked
// for.
func defaults(o *aside.Options) {
	o.RedisTimeout, o.LockTTL, o.StaleLease, o.MemoryBytes = 0, 0, 0, -1
}

// fillDirectly puts n values of that size into server, as another process would have.
func fillDirectly(t testing.TB, server *redistest.Server, n, size int) (keys []string) {
	t.Helper()
	value := strings.Repeat("v", size)
	c := newClient(t, server.Addr(), untracked, func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 20*time.Second, time.Minute })
	redis, _ := c.Redis()
	for i := 0; i < n; i += 1000 {
		commands := make([]rueidis.Completed, 0, 1000)
		for j := i; j < min(i+1000, n); j++ {
			keys = append(keys, fmt.Sprintf("volume:%d", j))
			commands = append(commands, redis.B().Set().Key(keys[j]).Value(value).Build())
		}
		for _, result := range redis.DoMulti(testContext(t), commands...) {
			require.NoError(t, result.Error())
		}
	}
	return keys
}

// besides sets small values, one after the other, until the returned function is called. Each must
// be acknowledged.
func besides(t testing.TB, c *aside.Client) (end func()) {
	t.Helper()
	stop := make(chan struct{})
	var sets sync.WaitGroup
	sets.Go(func() { // ends with stop
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if err := c.Set(testContext(t), time.Minute, "beside", "small"); err != nil {
				t.Errorf("small Set %d: %v", i, err)
				return
			}
		}
	})
	return func() {
		close(stop)
		sets.Wait()
	}
}

func requireNeverAway(t testing.TB, c *aside.Client) {
	t.Helper()
	require.Equal(t, aside.Healthy, c.Health().Mode)
	require.Zero(t, c.Stats().Outages, "%v", c.Health().Err)
}

func TestManyKeysAtOnceAreNoOutage(t *testing.T) {
	for _, test := range []struct{ keys, bytes int }{{500, 100 << 10}, {5_000, 10 << 10}, {20_000, 1 << 10}, {40_000, 100}} {
		t.Run(fmt.Sprintf("%d of %d bytes", test.keys, test.bytes), func(t *testing.T) {
			server := redistest.Start(t)
			keys := fillDirectly(t, server, test.keys, test.bytes)
			c, db := newClient(t, server.Addr(), defaults), newSource("loaded")
			end := besides(t, c)
			values, err := c.GetMulti(testContext(t), time.Minute, keys, db.LoadMany)
			end()
			require.NoError(t, err)
			require.Len(t, values, len(keys))
			require.Zero(t, db.Calls.Load())
			requireNeverAway(t, c)
		})
	}
}

func TestLargeValuesOnASlowLinkAreNoOutage(t *testing.T) {
	for _, test := range []struct{ keys, bytes, megabits int }{{3, 8 << 20, 100}, {4, 8 << 20, 400}, {16, 4 << 20, 1000}} {
		t.Run(fmt.Sprintf("%d of %d bytes at %d Mbit", test.keys, test.bytes, test.megabits), func(t *testing.T) {
			server := redistest.Start(t)
			keys := fillDirectly(t, server, test.keys, test.bytes)
			proxy := faultproxy.New(t, server.Addr())
			c, db := newClient(t, proxy.Addr(), defaults), newSource("loaded")
			proxy.Throttle(test.megabits * 1e6 / 8)
			end := besides(t, c)
			var gets sync.WaitGroup
			for _, key := range keys {
				gets.Go(func() {
					value, err := c.Get(testContext(t), time.Minute, key, db.Load)
					if err != nil || len(value) != test.bytes {
						t.Errorf("%s: %d bytes, %v", key, len(value), err)
					}
				})
			}
			gets.Wait()
			end()
			require.Zero(t, db.Calls.Load())
			requireNeverAway(t, c)
		})
	}
}

func TestLargeValuesAreStoredThroughASlowLink(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), defaults), testContext(t)
	proxy.Throttle(100e6 / 8)
	large := strings.Repeat("v", 8<<20)
	db := newSource(large)
	end := besides(t, c)
	var writes sync.WaitGroup
	for i := range 2 {
		writes.Go(func() {
			if err := c.Set(ctx, time.Minute, fmt.Sprintf("set:%d", i), large); err != nil {
				t.Error(err)
			}
		})
	}
	_, err := c.Get(ctx, time.Minute, "loaded", db.Load)
	require.NoError(t, err)
	writes.Wait()
	awaitNobody(t, c)
	end()
	proxy.Throttle(0)
	for _, key := range []string{"set:0", "set:1", "loaded"} {
		value, ok, err := c.Peek(ctx, key)
		require.NoError(t, err)
		require.True(t, ok, key)
		require.Len(t, value, len(large))
	}
	requireNeverAway(t, c)
}

func TestADelOfManyKeysIsNoOutage(t *testing.T) {
	server := redistest.Start(t)
	keys := fillDirectly(t, server, 100_000, 10)
	c := newClient(t, server.Addr(), defaults)
	end := besides(t, c)
	require.NoError(t, c.Del(testContext(t), keys...))
	end()
	found, err := c.LookMulti(testContext(t), keys[:1000])
	require.NoError(t, err)
	require.Empty(t, found)
	requireNeverAway(t, c)
}

// A frozen server is noticed though large values are on the way to it and from it.
func TestAFreezeIsNoticedBehindLargeValues(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	keys := fillDirectly(t, server, 4, 8<<20)
	proxy := faultproxy.New(t, server.Addr())
	c, db := newClient(t, proxy.Addr(), defaults, func(o *aside.Options) { o.FallbackDir = t.TempDir() }), newSource("loaded")
	proxy.Throttle(50e6 / 8)
	ctx := t.Context()
	var gets sync.WaitGroup
	for _, key := range keys {
		gets.Go(func() { _, _ = c.Get(ctx, time.Minute, key, db.Load) })
	}
	gets.Go(func() { _ = c.Set(ctx, time.Minute, "large", strings.Repeat("v", 8<<20)) })
	proxy.BlackHole()
	eventually(t, "the freeze is noticed", func() bool { return c.Health().Mode == aside.Degraded })
	gets.Wait()
	require.EqualValues(t, len(keys), db.Calls.Load())
}

// What callers have given up stays in rueidis's ring until it is answered. If it were full, others
// would wait in it whatever their context says.
func TestASmallRingIsNeverFull(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c := newClient(t, proxy.Addr(), func(o *aside.Options) {
		o.Redis.RingScaleEachConn, o.RedisTimeout, o.LockTTL, o.StaleLease = 3, 20*time.Second, time.Minute, time.Minute
	})
	proxy.CutReplies()
	proxy.ResetCounts()
	ctx, cancel := context.WithCancel(context.Background())
	var gets sync.WaitGroup
	for i := range 30 {
		gets.Go(func() { _, _ = c.Get(ctx, time.Minute, fmt.Sprint(i), mustNotLoad) })
	}
	eventually(t, "as many commands are out as may be", func() bool { return proxy.Commands() >= 4 })
	cancel()
	gets.Wait()
	next, end := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer end()
	_, err := c.Get(next, time.Minute, "next", mustNotLoad)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	proxy.Heal()
	value, err := c.Get(testContext(t), time.Minute, "next", newSource("v").Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
}
