package aside_test

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
	"github.com/redaside/aside/internal/redistest"
)

// Traps that other libraries of this kind fall into, each in its shortest form. Most are looked at more closely elsewhere.
func TestTraps(t *testing.T) {
	server := redistest.Start(t)
	for _, trap := range []struct {
		name string
		test func(t *testing.T, server *redistest.Server)
	}{
		{"a plain miss trips the fallback", func(t *testing.T, server *redistest.Server) {
			c, ctx := newClient(t, server.Addr()), testContext(t)
			for i := range 50 {
				_, ok, err := c.Peek(ctx, fmt.Sprint("miss", i))
				require.NoError(t, err)
				require.False(t, ok)
				_, err = c.Get(ctx, time.Minute, fmt.Sprint("miss", i), func(context.Context, string) (string, error) { return "", aside.ErrNotFound })
				require.ErrorIs(t, err, aside.ErrNotFound)
			}
			require.Equal(t, aside.Healthy, c.Health().Mode)
			require.Zero(t, c.Stats().Outages)
		}},
		{"values written to Redis cannot be read back", func(t *testing.T, server *redistest.Server) {
			type user struct{ Name string }
			ctx := testContext(t)
			a, b := aside.Typed(newClient(t, server.Addr()), codec.JSON[user]()), aside.Typed(newClient(t, server.Addr()), codec.JSON[user]())
			require.NoError(t, a.Set(ctx, time.Minute, "user", user{"Ann"}))
			got, ok, err := b.Peek(ctx, "user")
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, user{"Ann"}, got)
			require.JSONEq(t, `{"Name":"Ann"}`, server.Do("GET", "user").(string))
		}},
		{"a string's quotes are trimmed", func(t *testing.T, server *redistest.Server) {
			_, option := durable(t)
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := newClient(t, proxy.Addr(), hasty, option), testContext(t)
			proxy.Refuse()
			awaitMode(t, c, aside.Degraded)
			values := []string{`"quoted"`, `""`, `"`, ``, `null`, `{"a": 1 }`, "\x00\xff", "\r\n"}
			for i, value := range values {
				require.NoError(t, c.Set(ctx, time.Hour, fmt.Sprint("quotes", i), value))
			}
			proxy.Heal()
			awaitMode(t, c, aside.Healthy)
			for i, value := range values {
				require.Equal(t, value, server.Do("GET", fmt.Sprint("quotes", i)))
			}
		}},
		{"a ttl below a second becomes none", func(t *testing.T, server *redistest.Server) {
			c, ctx := newClient(t, server.Addr()), testContext(t)
			require.NoError(t, c.Set(ctx, 900*time.Millisecond, "short", "v"))
			ms, _ := server.Do("PTTL", "short").(int64)
			require.Positive(t, ms)
			require.LessOrEqual(t, ms, int64(900))
		}},
		{"what lives for ever is never replayed", func(t *testing.T, server *redistest.Server) {
			_, option := durable(t)
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := newClient(t, proxy.Addr(), hasty, option), testContext(t)
			proxy.Refuse()
			awaitMode(t, c, aside.Degraded)
			require.NoError(t, c.Set(ctx, 100*365*24*time.Hour, "for ever", "v"))
			proxy.Heal()
			awaitMode(t, c, aside.Healthy)
			require.Equal(t, "v", server.Do("GET", "for ever"))
			ms, _ := server.Do("PTTL", "for ever").(int64)
			require.Greater(t, ms, int64(99*365*24*time.Hour/time.Millisecond))
		}},
		{"a failed replay deletes its files", func(t *testing.T, server *redistest.Server) {
			dir, _ := durable(t)
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := newDurable(t, proxy.Addr(), dir), testContext(t)
			t.Cleanup(func() { server.Do("CONFIG", "SET", "maxmemory", "0") })
			server.Do("CONFIG", "SET", "maxmemory", "1") // it answers, and refuses, also if it is tried again in between
			for round := range 3 {
				proxy.Refuse()
				awaitMode(t, c, aside.Degraded)
				require.NoError(t, c.Set(ctx, time.Hour, fmt.Sprint("failed", round), "v"))
				proxy.Heal()
				awaitMode(t, c, aside.Healthy)
				require.Equal(t, round+1, c.Stats().Pending)
				require.NotEmpty(t, files(t, dir))
			}
			require.NoError(t, c.Close())
			server.Do("CONFIG", "SET", "maxmemory", "0")
			again := newDurable(t, server.Addr(), dir)
			eventually(t, "all is replayed", func() bool { return again.Stats().Pending == 0 })
			for round := range 3 {
				require.Equal(t, "v", server.Do("GET", fmt.Sprint("failed", round)))
			}
		}},
		{"a delete while degraded is forgotten, or its pending write reappears", func(t *testing.T, server *redistest.Server) {
			dir, _ := durable(t)
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := newDurable(t, proxy.Addr(), dir, func(o *aside.Options) { o.Fallback.MaxQueue = 1 }), testContext(t)
			require.NoError(t, c.Set(ctx, time.Hour, "there", "v"))
			proxy.Refuse()
			awaitMode(t, c, aside.Degraded)
			require.NoError(t, c.Set(ctx, time.Hour, "written", "v"))
			require.NoError(t, c.Del(ctx, "written", "there"))
			require.NoError(t, c.Close())
			again := newDurable(t, server.Addr(), dir)
			awaitMode(t, again, aside.Healthy)
			require.Nil(t, server.Do("GET", "written"))
			require.Nil(t, server.Do("GET", "there"))
		}},
		{"Close drops what was acknowledged", func(t *testing.T, server *redistest.Server) {
			dir, _ := durable(t)
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := newDurable(t, proxy.Addr(), dir), testContext(t)
			proxy.Refuse()
			awaitMode(t, c, aside.Degraded)
			require.NoError(t, c.Set(ctx, time.Hour, "closed", "v"))
			require.NoError(t, c.Close())
			again := newDurable(t, server.Addr(), dir)
			awaitMode(t, again, aside.Healthy)
			require.Equal(t, "v", server.Do("GET", "closed"))
		}},
		{"a fresh directory never leaves the fallback", func(t *testing.T, server *redistest.Server) {
			dir, _ := durable(t)
			c := newDurable(t, server.Addr(), dir)
			require.Equal(t, aside.Healthy, c.Health().Mode)
			require.Empty(t, files(t, dir))
		}},
		{"no configuration kills the process", func(t *testing.T, server *redistest.Server) {
			c, err := aside.New(aside.Options{ConnectTimeout: time.Millisecond, Logger: quiet})
			require.NoError(t, err)
			require.NoError(t, c.Close())
		}},
		{"a batch loader that omits a key loops", func(t *testing.T, server *redistest.Server) {
			c, ctx := newClient(t, server.Addr()), testContext(t)
			calls := 0
			m, err := c.GetMulti(ctx, time.Minute, []string{"given", "omitted"}, func(context.Context, []string) (map[string]string, error) {
				calls++
				return map[string]string{"given": "v", "unasked": "v"}, nil
			})
			require.NoError(t, err)
			require.Equal(t, map[string]string{"given": "v"}, m)
			require.Equal(t, 1, calls)
		}},
		{"a loader slower than the lock livelocks", func(t *testing.T, server *redistest.Server) {
			short := func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 50*time.Millisecond, 100*time.Millisecond }
			a, b, ctx := newClient(t, server.Addr(), short), newClient(t, server.Addr(), short), testContext(t)
			db := newSource("v")
			letGo := db.HoldUp()
			var callers []<-chan result
			for _, c := range []*aside.Client{a, b} {
				callers = append(callers, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "slow", db.Load) }))
			}
			db.AwaitBegin(t)
			end := time.Now().Add(500 * time.Millisecond) // five times the lock's ttl
			eventually(t, "the lock would have run out", func() bool { return time.Now().After(end) })
			letGo()
			for _, caller := range callers {
				require.Equal(t, result{Value: "v"}, await(t, caller))
			}
			require.EqualValues(t, 1, db.Calls.Load())
		}},
		{"a load overwrites a newer value", func(t *testing.T, server *redistest.Server) {
			c, ctx := newClient(t, server.Addr()), testContext(t)
			db := newSource("old")
			letGo := db.HoldUp()
			loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "newer", db.Load) })
			db.AwaitBegin(t)
			require.NoError(t, c.Set(ctx, time.Minute, "newer", "new"))
			letGo()
			await(t, loading)
			require.Equal(t, "new", server.Do("GET", "newer"))
		}},
		{"a value that looks like a lock loops", func(t *testing.T, server *redistest.Server) {
			c, ctx := newClient(t, server.Addr()), testContext(t)
			lock := "\x00aside:lock:00000000-0000-7000-8000-000000000000:1:0000000000000000"
			value, err := c.Get(ctx, time.Minute, "lock-like", newSource(lock).Load)
			require.NoError(t, err)
			require.Equal(t, lock, value)
			value, err = newClient(t, server.Addr()).Get(ctx, time.Minute, "lock-like", mustNotLoad)
			require.NoError(t, err)
			require.Equal(t, lock, value)
		}},
		{"a panic blocks the key until its ttl", func(t *testing.T, server *redistest.Server) {
			c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.LockTTL = time.Hour }), testContext(t)
			_, err := c.Get(ctx, time.Minute, "panic", func(context.Context, string) (string, error) { panic("a bug") })
			var p *aside.PanicError
			require.ErrorAs(t, err, &p)
			value, err := newClient(t, server.Addr()).Get(ctx, time.Minute, "panic", newSource("v").Load)
			require.NoError(t, err)
			require.Equal(t, "v", value)
		}},
		{"a failing loader is called by its waiters one after another", func(t *testing.T, server *redistest.Server) {
			c, ctx := newClient(t, server.Addr()), testContext(t)
			db := newSource("")
			db.Fail(errors.New("broken"))
			letGo := db.HoldUp()
			var callers sync.WaitGroup
			for range 100 {
				callers.Go(func() { _, _ = c.Get(ctx, time.Minute, "failing", db.Load) })
			}
			awaitShared(t, c, 99)
			letGo()
			callers.Wait()
			require.EqualValues(t, 1, db.Calls.Load())
		}},
		{"the leader's cancelled context fails its followers", func(t *testing.T, server *redistest.Server) {
			c, ctx := newClient(t, server.Addr()), testContext(t)
			db := newSource("v")
			letGo := db.HoldUp()
			leader, cancel := context.WithCancel(ctx)
			leading := inBackground(func() (string, error) { return c.Get(leader, time.Minute, "led", db.Load) })
			db.AwaitBegin(t)
			following := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "led", db.Load) })
			awaitShared(t, c, 1)
			cancel()
			require.ErrorIs(t, await(t, leading).Err, context.Canceled)
			letGo()
			require.Equal(t, result{Value: "v"}, await(t, following))
			require.EqualValues(t, 1, db.Calls.Load())
		}},
		{"the first Get after an outage waits for a whole lock", func(t *testing.T, server *redistest.Server) {
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := newClient(t, proxy.Addr(), hasty, func(o *aside.Options) { o.LockTTL = time.Hour }), testContext(t)
			db := newSource("v")
			letGo := db.HoldUp()
			loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "after", db.Load) })
			db.AwaitBegin(t)
			proxy.Refuse()
			awaitMode(t, c, aside.Degraded)
			letGo()
			require.Equal(t, result{Value: "v"}, await(t, loading)) // and its lock, for an hour, stays behind
			proxy.Heal()
			awaitMode(t, c, aside.Healthy)
			value, err := c.Get(ctx, time.Minute, "after", newSource("v").Load)
			require.NoError(t, err, "it does not wait for %v", time.Hour)
			require.Equal(t, "v", value)
		}},
		{"the wait table grows with every key ever read", func(t *testing.T, server *redistest.Server) {
			c, ctx := newClient(t, server.Addr()), testContext(t)
			for i := range 1000 {
				_, err := c.Get(ctx, time.Minute, fmt.Sprint("grow", i), newSource("v").Load)
				require.NoError(t, err)
			}
			awaitNobody(t, c)
		}},
	} {
		t.Run(trap.name, func(t *testing.T) {
			server.Empty()
			trap.test(t, server)
		})
	}
}
