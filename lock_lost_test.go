package aside_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/stamp"
)

// A lock that is lost ends its load.

// quick renews locks every five seconds at the latest. RedisTimeout is there for a loaded machine: a lock
// that is lost in an outage ends no load, so a server that does not run for two seconds must be none.
func quick(o *aside.Options) { o.RedisTimeout, o.LockTTL = 5*time.Second, 10*time.Second }

const anothersLock = "\x00aside:lock:0193b1f0-0000-7000-8000-000000000000:1:1700000000000000"

// slowOnce is a loader whose first call runs until its context ends, and says why that has.
type slowOnce struct {
	calls atomic.Int64
	began chan struct{}
	cause chan error
}

func newSlowOnce() *slowOnce {
	return &slowOnce{began: make(chan struct{}, 16), cause: make(chan error, 16)}
}

func (s *slowOnce) load(ctx context.Context, _ string) (string, error) {
	if s.calls.Add(1) > 1 {
		return "again", nil
	}
	s.began <- struct{}{}
	<-ctx.Done()
	s.cause <- context.Cause(ctx)
	return "by halves", nil
}

func (s *slowOnce) loadMany(ctx context.Context, keys []string) (map[string]string, error) {
	value, err := s.load(ctx, keys[0])
	values := make(map[string]string, len(keys))
	for _, key := range keys {
		values[key] = value
	}
	return values, err
}

// What is lost in the middle of a load is given up, and who waited gets what there is, or loads.
func TestALostLockEndsItsLoadAndItsCallersStartOver(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		lose  func(server *redistest.Server, other *aside.Client)
		value string
		calls int64
	}{
		"a foreign DEL": {func(server *redistest.Server, _ *aside.Client) { server.Do("DEL", "k") }, "again", 2},
		"FLUSHALL":      {func(server *redistest.Server, _ *aside.Client) { server.Do("FLUSHALL") }, "again", 2},
		"another's Del": {func(_ *redistest.Server, other *aside.Client) { must(other.Del(context.Background(), "k")) }, "again", 2},
		"another's Set": {func(_ *redistest.Server, other *aside.Client) {
			must(other.Set(context.Background(), time.Minute, "k", "set"))
		}, "set", 1},
		"another's marker": {func(server *redistest.Server, _ *aside.Client) { server.Do("SET", "k", anothersLock, "PX", 3000) }, "again", 2},
	} {
		for _, many := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", GetMulti"}[many], func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				c, other, ctx := newClient(t, server.Addr(), quick), newClient(t, server.Addr()), testContext(t)
				db := newSlowOnce()
				get := func() (string, error) {
					if !many {
						return c.Get(ctx, time.Minute, "k", db.load)
					}
					values, err := c.GetMulti(ctx, time.Minute, []string{"k"}, db.loadMany)
					return values["k"], err
				}
				callers := []<-chan result{inBackground(get)}
				<-db.began
				for range 5 {
					callers = append(callers, inBackground(get))
				}
				awaitShared(t, c, 5)
				row.lose(server, other)
				require.ErrorIs(t, await(t, db.cause), aside.ErrLockLost)
				for _, got := range callers {
					require.Equal(t, result{Value: row.value}, await(t, got))
				}
				require.Equal(t, row.calls, db.calls.Load())
				require.EqualValues(t, 1, c.Stats().LocksLost)
				require.Zero(t, c.Stats().FillsRefused, "what it returns is dropped")
			})
		}
	}
}

// A lock that was there still after an outage is lost like any other from then on.
func TestALockThatSurvivedAnOutageCanBeLostLater(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), hasty, func(o *aside.Options) { o.LockTTL = 6 * time.Second }), testContext(t)
	db := newSlowOnce()
	caller := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.load) })
	<-db.began
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
	left := server.Do("PTTL", "k").(int64)
	eventually(t, "it is renewed", func() bool {
		before := left
		left = server.Do("PTTL", "k").(int64)
		return left > before
	})
	server.Do("DEL", "k")
	require.ErrorIs(t, await(t, db.cause), aside.ErrLockLost)
	require.Equal(t, result{Value: "again"}, await(t, caller))
}

// A key that is deleted faster than it can be loaded is loaded all the same.
func TestNoCallerStartsOverTwiceBecauseOfLostLocks(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), quick), testContext(t)
	var calls atomic.Int64
	value, err := c.Get(ctx, time.Minute, "k", func(ctx context.Context, _ string) (string, error) {
		n, lost := calls.Add(1), c.Stats().LocksLost
		server.Do("DEL", "k")
		if n > 1 {
			eventually(t, "its lock is lost", func() bool { return c.Stats().LocksLost > lost })
			return fmt.Sprint(n), ctx.Err()
		}
		<-ctx.Done()
		return "", ctx.Err()
	})
	require.NoError(t, err)
	require.Equal(t, "2", value)
}

// Nor does one that takes nothing stale, because of lost refresh locks.
func TestNoCallerStartsOverTwiceBecauseOfLostRefreshLocks(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, many := range []bool{false, true} {
		t.Run(map[bool]string{false: "Get", true: "GetMulti"}[many], func(t *testing.T) {
			t.Parallel()
			c, ctx, key := newClient(t, server.Addr(), quick), testContext(t), t.Name()
			var calls atomic.Int64
			load := func(ctx context.Context, _ string) (string, error) {
				n, lost := calls.Add(1), c.Stats().LocksLost
				server.Do("DEL", stamp.RefreshLock(key))
				if n > 1 {
					eventually(t, "its lock is lost", func() bool { return c.Stats().LocksLost > lost })
					return fmt.Sprint(n), ctx.Err()
				}
				<-ctx.Done()
				return "", ctx.Err()
			}
			server.Do("SET", key, "old", "PX", (grace / 2).Milliseconds())
			var value string
			var err error
			if many {
				var values map[string]string
				values, err = graceful(c).GetMulti(ctx, fresh, []string{key}, func(ctx context.Context, keys []string) (map[string]string, error) {
					value, err := load(ctx, keys[0])
					return map[string]string{key: value}, err
				}, aside.WithMaxStale(0))
				value = values[key]
			} else {
				value, err = graceful(c).Get(ctx, fresh, key, load, aside.WithMaxStale(0))
			}
			require.NoError(t, err)
			require.Equal(t, "2", value)
		})
	}
}

// A batch goes on for the keys whose locks it has; it ends with the last of them.
func TestABatchGoesOnUntilAllItsLocksAreLost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), quick), testContext(t)
	values, err := c.GetMulti(ctx, time.Minute, []string{"a", "b"}, func(ctx context.Context, keys []string) (map[string]string, error) {
		server.Do("DEL", "a")
		eventually(t, "its lock is lost", func() bool { return c.Stats().LocksLost == 1 })
		return map[string]string{"a": "1", "b": "1"}, ctx.Err()
	})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "1", "b": "1"}, values, "it was loaded after they had asked")
	stored(t, c, "b")
	require.Nil(t, server.Do("GET", "a"), "it is not stored")

	var calls atomic.Int64
	values, err = c.GetMulti(ctx, time.Minute, []string{"c", "d"}, func(ctx context.Context, keys []string) (map[string]string, error) {
		if calls.Add(1) > 1 {
			return map[string]string{"c": "2", "d": "2"}, nil
		}
		server.Do("DEL", "c")
		eventually(t, "its lock is lost", func() bool { return c.Stats().LocksLost == 2 })
		require.NoError(t, ctx.Err())
		server.Do("DEL", "d")
		<-ctx.Done()
		require.ErrorIs(t, context.Cause(ctx), aside.ErrLockLost)
		return nil, ctx.Err()
	})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"c": "2", "d": "2"}, values)
}

// A refresh that has lost its lock ends quietly: another process may be refreshing.
func TestARefreshWhoseLockIsLostEndsQuietly(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), quick), testContext(t)
	server.Do("SET", "k", "1", "PX", (grace / 2).Milliseconds())
	db := newSlowOnce()
	get := func() string {
		value, err := graceful(c).Get(ctx, fresh, "k", db.load)
		require.NoError(t, err)
		return value
	}
	require.Equal(t, "1", get())
	<-db.began
	server.Do("SET", stamp.RefreshLock("k"), anothersLock, "PX", time.Hour.Milliseconds())
	require.ErrorIs(t, await(t, db.cause), aside.ErrLockLost)
	eventually(t, "it is over", refreshed(c))
	require.Equal(t, anothersLock, server.Do("GET", stamp.RefreshLock("k")), "no back-off is left")
	require.EqualValues(t, 1, db.calls.Load())
	server.Do("PEXPIRE", stamp.RefreshLock("k"), 1000)
	require.Equal(t, "1", get())
	eventually(t, "it is refreshed when that lock has run out", func() bool { return get() == "again" })
	require.EqualValues(t, 2, db.calls.Load())
}

// A process that was stopped for longer than its lock lasts learns that another has taken over.
func TestALoadThatWasStoppedForTooLongIsGivenUp(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := newClient(t, server.Addr())
	stopped := startChild(t, "loser", server.Addr())
	stopped.say("k")
	require.Equal(t, "loading", stopped.line())
	require.NoError(t, stopped.cmd.Process.Signal(syscall.SIGSTOP))
	value, err := c.Get(testContext(t), time.Minute, "k", newSource("another's").Load)
	require.NoError(t, err)
	require.Equal(t, "another's", value)
	require.NoError(t, stopped.cmd.Process.Signal(syscall.SIGCONT))
	require.Equal(t, "ended: "+aside.ErrLockLost.Error(), stopped.line())
	require.Equal(t, "got another's <nil>", stopped.line())
}

// A loader that heeds the end of its lock late still runs beside the one that its caller has started
// over with.
func TestALoaderThatEndsLateDisturbsNobody(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), quick), testContext(t)
	var calls atomic.Int64
	again, late := make(chan struct{}), make(chan struct{})
	value, err := aside.Typed(c, codec.String()).Get(ctx, time.Minute, "k", func(ctx context.Context, _ string) (string, error) {
		if calls.Add(1) > 1 {
			close(again)
			return "second", nil
		}
		defer close(late)
		server.Do("DEL", "k")
		<-ctx.Done()
		<-again
		return "first", nil
	})
	require.NoError(t, err)
	require.Equal(t, "second", value)
	<-late
	stored(t, c, "k")
	require.Equal(t, "second", server.Do("GET", "k"))
}
