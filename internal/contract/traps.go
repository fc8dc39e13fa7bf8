package contract

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/harness"
)

// Traps that other libraries of this kind fall into, each in its shortest form. Most are looked at
// more closely elsewhere.

func aMissIsNoOutage(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	for i := range 50 {
		_, ok, err := c.Peek(ctx, fmt.Sprint("miss", i))
		require.NoError(t, err)
		require.False(t, ok)
		_, err = c.Get(ctx, time.Minute, fmt.Sprint("miss", i), func(context.Context, string) (string, error) { return "", aside.ErrNotFound })
		require.ErrorIs(t, err, aside.ErrNotFound)
	}
	require.Equal(t, aside.Healthy, c.Health().Mode)
	require.Zero(t, c.Stats().Outages)
}

func whatIsWrittenCanBeReadBack(t *testing.T, start Start) {
	server := start(t)
	type user struct{ Name string }
	ctx := harness.Context(t)
	a, b := aside.Typed(harness.NewClient(t, server.Addr()), codec.JSON[user]()), aside.Typed(harness.NewClient(t, server.Addr()), codec.JSON[user]())
	require.NoError(t, a.Set(ctx, time.Minute, "user", user{"Ann"}))
	got, ok, err := b.Peek(ctx, "user")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, user{"Ann"}, got)
	require.JSONEq(t, `{"Name":"Ann"}`, server.Do("GET", "user").(string))
}

func aStringIsReplayedByteForByte(t *testing.T, start Start) {
	server := start(t)
	_, option := harness.Durable(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := harness.NewClient(t, proxy.Addr(), harness.Hasty, option), harness.Context(t)
	proxy.Refuse()
	harness.AwaitMode(t, c, aside.Degraded)
	values := []string{`"quoted"`, `""`, `"`, ``, `null`, `{"a": 1 }`, "\x00\xff", "\r\n"}
	for i, value := range values {
		require.NoError(t, c.Set(ctx, time.Hour, fmt.Sprint("quotes", i), value))
	}
	proxy.Heal()
	harness.AwaitMode(t, c, aside.Healthy)
	for i, value := range values {
		require.Equal(t, value, server.Do("GET", fmt.Sprint("quotes", i)))
	}
}

func aTTLBelowASecondStays(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	before := time.Now()
	require.NoError(t, c.Set(ctx, 900*time.Millisecond, "short", "v"))
	ms, _ := server.Do("PTTL", "short").(int64)
	if ms == -2 { // the machine was held up, and it has ended
		require.GreaterOrEqual(t, time.Since(before), 900*time.Millisecond, "it ended too soon")
		return
	}
	require.Positive(t, ms)
	require.LessOrEqual(t, ms, int64(900))
}

func whatLivesForEverIsReplayed(t *testing.T, start Start) {
	server := start(t)
	_, option := harness.Durable(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := harness.NewClient(t, proxy.Addr(), harness.Hasty, option), harness.Context(t)
	proxy.Refuse()
	harness.AwaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, 100*365*24*time.Hour, "for ever", "v"))
	proxy.Heal()
	harness.AwaitMode(t, c, aside.Healthy)
	require.Equal(t, "v", server.Do("GET", "for ever"))
	ms, _ := server.Do("PTTL", "for ever").(int64)
	require.Greater(t, ms, int64(99*365*24*time.Hour/time.Millisecond))
}

func aReplayThatFailsKeepsItsFiles(t *testing.T, start Start) {
	server := start(t)
	dir, _ := harness.Durable(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := harness.NewDurable(t, proxy.Addr(), dir), harness.Context(t)
	t.Cleanup(func() { server.Do("CONFIG", "SET", "maxmemory", "0") })
	server.Do("CONFIG", "SET", "maxmemory", "1") // it answers, and refuses, also if it is tried again in between
	for round := range 3 {
		proxy.Refuse()
		harness.AwaitMode(t, c, aside.Degraded)
		require.NoError(t, c.Set(ctx, time.Hour, fmt.Sprint("failed", round), "v"))
		proxy.Heal()
		harness.AwaitMode(t, c, aside.Healthy)
		require.Equal(t, round+1, c.Stats().Pending)
		require.NotEmpty(t, harness.Files(t, dir))
	}
	harness.Close(t, c, dir)
	server.Do("CONFIG", "SET", "maxmemory", "0")
	again := harness.NewDurable(t, server.Addr(), dir)
	harness.Eventually(t, "all is replayed", func() bool { return again.Stats().Pending == 0 })
	for round := range 3 {
		require.Equal(t, "v", server.Do("GET", fmt.Sprint("failed", round)))
	}
}

func aDelWhileAwayIsReplayedAndEndsTheSetBefore(t *testing.T, start Start) {
	server := start(t)
	dir, _ := harness.Durable(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := harness.NewDurable(t, proxy.Addr(), dir, func(o *aside.Options) { o.Fallback.MaxQueue = 1 }), harness.Context(t)
	require.NoError(t, c.Set(ctx, time.Hour, "there", "v"))
	proxy.Refuse()
	harness.AwaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, time.Hour, "written", "v"))
	require.NoError(t, c.Del(ctx, "written", "there"))
	harness.Close(t, c, dir)
	again := harness.NewDurable(t, server.Addr(), dir)
	harness.AwaitMode(t, again, aside.Healthy)
	require.Nil(t, server.Do("GET", "written"))
	require.Nil(t, server.Do("GET", "there"))
}

func closeKeepsWhatWasAcknowledged(t *testing.T, start Start) {
	server := start(t)
	dir, _ := harness.Durable(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := harness.NewDurable(t, proxy.Addr(), dir), harness.Context(t)
	proxy.Refuse()
	harness.AwaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, time.Hour, "closed", "v"))
	harness.Close(t, c, dir)
	again := harness.NewDurable(t, server.Addr(), dir)
	harness.AwaitMode(t, again, aside.Healthy)
	require.Equal(t, "v", server.Do("GET", "closed"))
}

func aFreshDirectoryIsHealthy(t *testing.T, start Start) {
	server := start(t)
	dir, _ := harness.Durable(t)
	c := harness.NewDurable(t, server.Addr(), dir, func(o *aside.Options) { o.RequireRedis = true })
	require.Equal(t, aside.Healthy, c.Health().Mode)
	require.Empty(t, harness.Files(t, dir))
}

func aClientWithoutRedisStarts(t *testing.T, _ Start) {
	c, err := aside.New(aside.Options{ConnectTimeout: time.Millisecond, Logger: harness.Quiet})
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func aBatchLoaderMayOmitAKey(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	calls := 0
	m, err := c.GetMulti(ctx, time.Minute, []string{"given", "omitted"}, func(context.Context, []string) (map[string]string, error) {
		calls++
		return map[string]string{"given": "v", "unasked": "v"}, nil
	})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"given": "v"}, m)
	require.Equal(t, 1, calls)
}

func aLoaderSlowerThanTheLockIsCalledOnce(t *testing.T, start Start) {
	server := start(t)
	// The lock is renewed within half of its life. A loaded machine must not be later than that.
	const ttl = 2 * time.Second
	short := func(o *aside.Options) { o.RedisTimeout, o.LockTTL = ttl/2, ttl }
	a, b, ctx := harness.NewClient(t, server.Addr(), short), harness.NewClient(t, server.Addr(), short), harness.Context(t)
	db := harness.NewSource("v")
	letGo := db.HoldUp()
	var callers []<-chan harness.Result
	for _, c := range []*aside.Client{a, b} {
		callers = append(callers, harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "slow", db.Load) }))
	}
	db.AwaitBegin(t)
	end := time.Now().Add(ttl * 9 / 4)
	harness.Eventually(t, "the lock would have run out", func() bool { return time.Now().After(end) })
	letGo()
	for _, caller := range callers {
		require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, caller))
	}
	require.EqualValues(t, 1, db.Calls.Load())
}

func aLoadDoesNotReplaceANewerValue(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	db := harness.NewSource("old")
	letGo := db.HoldUp()
	loading := harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "newer", db.Load) })
	db.AwaitBegin(t)
	require.NoError(t, c.Set(ctx, time.Minute, "newer", "new"))
	letGo()
	harness.Await(t, loading)
	require.Equal(t, "new", server.Do("GET", "newer"))
}

func aValueThatLooksLikeALockIsAValue(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	lock := "\x00aside:lock:00000000-0000-7000-8000-000000000000:1:0000000000000000"
	value, err := c.Get(ctx, time.Minute, "lock-like", harness.NewSource(lock).Load)
	require.NoError(t, err)
	require.Equal(t, lock, value)
	value, err = harness.NewClient(t, server.Addr()).Get(ctx, time.Minute, "lock-like", harness.MustNotLoad)
	require.NoError(t, err)
	require.Equal(t, lock, value)
}

func aPanicDoesNotBlockTheKey(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr(), func(o *aside.Options) { o.LockTTL = time.Hour }), harness.Context(t)
	_, err := c.Get(ctx, time.Minute, "panic", func(context.Context, string) (string, error) { panic("a bug") })
	var p *aside.PanicError
	require.ErrorAs(t, err, &p)
	value, err := harness.NewClient(t, server.Addr()).Get(ctx, time.Minute, "panic", harness.NewSource("v").Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
}

func aFailingLoaderIsCalledOnce(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	db := harness.NewSource("")
	db.Fail(errors.New("broken"))
	letGo := db.HoldUp()
	var callers sync.WaitGroup
	for range 100 {
		callers.Go(func() { _, _ = c.Get(ctx, time.Minute, "failing", db.Load) })
	}
	harness.AwaitShared(t, c, 99)
	letGo()
	callers.Wait()
	require.EqualValues(t, 1, db.Calls.Load())
}

func theLeaderMayLeave(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	db := harness.NewSource("v")
	letGo := db.HoldUp()
	leader, cancel := context.WithCancel(ctx)
	leading := harness.InBackground(func() (string, error) { return c.Get(leader, time.Minute, "led", db.Load) })
	db.AwaitBegin(t)
	following := harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "led", db.Load) })
	harness.AwaitShared(t, c, 1)
	cancel()
	require.ErrorIs(t, harness.Await(t, leading).Err, context.Canceled)
	letGo()
	require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, following))
	require.EqualValues(t, 1, db.Calls.Load())
}

func theFirstGetAfterAnOutageWaitsForNoLock(t *testing.T, start Start) {
	server := start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := harness.NewClient(t, proxy.Addr(), harness.Hasty, func(o *aside.Options) { o.LockTTL = time.Hour }), harness.Context(t)
	db := harness.NewSource("v")
	letGo := db.HoldUp()
	loading := harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "after", db.Load) })
	db.AwaitBegin(t)
	proxy.Refuse()
	harness.AwaitMode(t, c, aside.Degraded)
	letGo()
	require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, loading)) // and its lock, for an hour, stays behind
	proxy.Heal()
	harness.AwaitMode(t, c, aside.Healthy)
	value, err := c.Get(ctx, time.Minute, "after", harness.NewSource("v").Load)
	require.NoError(t, err, "it does not wait for %v", time.Hour)
	require.Equal(t, "v", value)
}

func nothingIsKeptOfAKeyThatWasRead(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	for i := range 1000 {
		_, err := c.Get(ctx, time.Minute, fmt.Sprint("grow", i), harness.NewSource("v").Load)
		require.NoError(t, err)
	}
	harness.AwaitNobody(t, c)
}
