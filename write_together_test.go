package aside_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// Under load the writes of many callers go together, with and without stamps; each is done.
func TestWritesGoTogetherUnderLoad(t *testing.T) {
	for name, stamps := range map[string]bool{"stamps": true, "without stamps": false} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := counted(t, server)
			c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.DisableStamps = !stamps }), testContext(t)
			for i := range 200 {
				server.Do("SET", fmt.Sprint("d", i), "old")
			}
			proxy.Delay(5 * time.Millisecond)
			proxy.ResetCounts()
			var callers sync.WaitGroup
			for i := range 200 {
				callers.Go(func() {
					if err := c.Set(ctx, time.Minute, fmt.Sprint("s", i), fmt.Sprint("v", i)); err != nil {
						t.Error(err)
					}
				})
				callers.Go(func() {
					if err := c.Del(ctx, fmt.Sprint("d", i)); err != nil {
						t.Error(err)
					}
				})
			}
			callers.Wait()
			require.Less(t, proxy.Commands(), 100, "of the 400 that it takes one by one")
			t.Logf("%d commands for 200 Sets and 200 Dels", proxy.Commands())
			for i := range 200 {
				require.Equal(t, fmt.Sprint("v", i), server.Do("GET", fmt.Sprint("s", i)))
				require.Positive(t, server.Do("PTTL", fmt.Sprint("s", i)))
				require.Nil(t, server.Do("GET", fmt.Sprint("d", i)))
			}
		})
	}
}

// A write that Redis refuses fails alone, though it was sent with others'.
func TestARefusedWriteFailsAlone(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr()), testContext(t)
	server.Do("ACL", "SETUSER", "default", "resetkeys", "~ok*", "~aside:*")
	proxy.Delay(5 * time.Millisecond)
	var callers sync.WaitGroup
	for i := range 100 {
		callers.Go(func() {
			require.NoError(t, c.Set(ctx, time.Minute, fmt.Sprint("ok", i), "v"))
			require.NoError(t, c.Del(ctx, fmt.Sprint("ok", i)))
		})
		if i%10 == 0 {
			callers.Go(func() {
				require.ErrorContains(t, c.Set(ctx, time.Minute, fmt.Sprint("no", i), "v"), "refused by Redis")
				require.ErrorContains(t, c.Del(ctx, fmt.Sprint("no", i)), "refused by Redis")
			})
		}
	}
	callers.Wait()
	require.Zero(t, c.Stats().Pending)
	require.True(t, c.Stats().RedisConnected)
}

// A full server refuses Sets, each with its own error, and does Dels.
func TestAFullServerRefusesSetsAndDoesDelsOfManyCallers(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr()), testContext(t)
	for i := range 100 {
		server.Do("SET", fmt.Sprint("d", i), "old")
	}
	server.Do("CONFIG", "SET", "maxmemory", "1")
	proxy.Delay(5 * time.Millisecond)
	var callers sync.WaitGroup
	for i := range 100 {
		callers.Go(func() {
			require.ErrorContains(t, c.Set(ctx, time.Minute, fmt.Sprint("s", i), "v"), "OOM")
		})
		callers.Go(func() { require.NoError(t, c.Del(ctx, fmt.Sprint("d", i))) })
	}
	callers.Wait()
	for i := range 100 {
		require.Nil(t, server.Do("GET", fmt.Sprint("s", i)))
		require.Nil(t, server.Do("GET", fmt.Sprint("d", i)))
	}
}

// behindOthers begins Sets that are out for as long as the proxy holds back answers, so that the
// next ones wait for them.
func behindOthers(ctx context.Context, t *testing.T, c *aside.Client) (done func()) {
	var others sync.WaitGroup
	for i := range 4 {
		others.Go(func() { _ = c.Set(ctx, time.Minute, fmt.Sprint("other", i), "v") })
	}
	eventually(t, "they are out", func() bool { return aside.WritesOut(c) == 4 })
	return others.Wait
}

// A caller that leaves before its write was sent is told so; one that leaves after that does not
// know what has become of it. Both are kept for replay.
func TestACallerThatLeavesBeforeItsWriteIsSent(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.RedisTimeout = 5 * time.Second }), testContext(t)
	proxy.CutReplies()
	begun := behindOthers(ctx, t, c)
	leaving, cancel := context.WithCancel(ctx)
	waits := inBackground(func() (string, error) { return "", c.Set(leaving, time.Minute, "k", "v") })
	eventually(t, "it waits", func() bool { return aside.WritesWaiting(c) == 1 })
	cancel()
	err := await(t, waits).Err
	require.ErrorIs(t, err, aside.ErrNotDurable)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, aside.ErrRedisAway, "it was not sent")
	require.NotErrorIs(t, err, aside.ErrUnknownOutcome)
	require.Nil(t, server.Do("GET", "k"))
	proxy.Heal()
	proxy.Reset()
	begun()
	eventually(t, "it is replayed", func() bool { return server.Do("GET", "k") == "v" && c.Stats().Pending == 0 })
}

// A caller that leaves while its write is out with others' does not know what has become of it.
func TestACallerThatLeavesWhileItsWriteIsOut(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.RedisTimeout = 5 * time.Second }), testContext(t)
	proxy.Delay(400 * time.Millisecond) // in which it has come to wait, also on a busy machine
	begun := behindOthers(ctx, t, c)
	leaving, cancel := context.WithCancel(ctx)
	waits := inBackground(func() (string, error) { return "", c.Set(leaving, time.Minute, "k", "v") })
	eventually(t, "it waits", func() bool { return aside.WritesWaiting(c) == 1 })
	eventually(t, "it is out", func() bool { return aside.WritesWaiting(c) == 0 })
	proxy.CutReplies()
	eventually(t, "it is done", func() bool { return server.Do("GET", "k") == "v" })
	cancel()
	err := await(t, waits).Err
	require.ErrorIs(t, err, aside.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.Canceled)
	proxy.Heal()
	proxy.Reset()
	begun()
	eventually(t, "it is replayed", func() bool { return c.Stats().Pending == 0 })
	require.Equal(t, "v", server.Do("GET", "k"))
}

// Close answers the writes that wait: what it says to be done is done, the rest is kept.
func TestCloseAnswersTheWritesThatWait(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	dir, _ := durable(t)
	c, ctx := newDurable(t, proxy.Addr(), dir, func(o *aside.Options) {
		o.RequireRedis, o.ConnectTimeout, o.RedisTimeout, o.LockTTL = true, patience, 20*time.Second, time.Minute
	}), testContext(t)
	proxy.CutRequests() // until so many wait, however long that takes
	var callers sync.WaitGroup
	var done atomic.Int64
	for i := range 300 {
		callers.Go(func() {
			switch err := c.Set(ctx, time.Minute, fmt.Sprint("k", i), "v"); {
			case err == nil:
				done.Add(1)
			case !errors.Is(err, aside.ErrClosed):
				t.Error(err)
			}
		})
	}
	eventually(t, "they wait", func() bool { return aside.WritesWaiting(c) > 100 })
	proxy.Heal()
	proxy.Delay(10 * time.Millisecond)
	closeClient(t, c, dir)
	callers.Wait()
	require.Greater(t, done.Load(), int64(100))
	there := 0
	for i := range 300 {
		if server.Do("GET", fmt.Sprint("k", i)) == "v" {
			there++
		}
	}
	require.EqualValues(t, done.Load(), there)
}

// Many callers write few keys while connections break. Once they are done, the last write of each
// is what Redis has, for this client and for another.
func TestManyWritersOfFewKeys(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	dir, _ := durable(t)
	c, other, ctx := newDurable(t, proxy.Addr(), dir), newClient(t, server.Addr()), testContext(t)
	var writers sync.WaitGroup
	var keys [8]struct {
		sync.Mutex
		last string
	}
	for w := range 64 {
		writers.Go(func() {
			key := &keys[w%len(keys)]
			name := fmt.Sprint("k", w%len(keys))
			for i := range 50 {
				if w >= 2*len(keys) { // others of the same key, whose order with the two that take turns nobody knows
					if err := c.Set(ctx, time.Minute, fmt.Sprint("own", w), fmt.Sprint(i)); err != nil {
						t.Error(err)
					}
					continue
				}
				key.Lock()
				key.last = fmt.Sprint(w, ":", i)
				err := c.Set(ctx, time.Minute, name, key.last)
				if i%7 == 6 {
					key.last = ""
					err = errors.Join(err, c.Del(ctx, name))
				}
				if value, _, peeked := c.Peek(ctx, name); peeked == nil && value != key.last {
					t.Errorf("%s is %q, not %q", name, value, key.last)
				}
				key.Unlock()
				if err != nil {
					t.Error(err)
				}
				if w == 0 && i%10 == 5 {
					proxy.Reset()
				}
			}
		})
	}
	writers.Wait()
	eventually(t, "all is replayed", func() bool { return c.Stats().Pending == 0 && c.Stats().RedisConnected })
	for k := range keys {
		name := fmt.Sprint("k", k)
		for _, client := range []*aside.Client{c, other} {
			value, _, err := client.Peek(ctx, name)
			require.NoError(t, err)
			require.Equal(t, keys[k].last, value, name)
		}
	}
	for w := 2 * len(keys); w < 64; w++ {
		require.Equal(t, "49", server.Do("GET", fmt.Sprint("own", w)))
	}
}

// The time that one caller has is not the window of the others that go with it.
func TestTheDeadlineOfOneCallerIsNotThatOfOthers(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 20*time.Second, time.Minute }), testContext(t)
	proxy.CutRequests()
	begun := behindOthers(ctx, t, c)
	short, cancel := context.WithTimeout(ctx, 5*time.Second) // it has to be there still when all wait
	defer cancel()
	hurries := inBackground(func() (string, error) { return "", c.Set(short, time.Minute, "short", "v") })
	var callers sync.WaitGroup
	for i := range 20 {
		callers.Go(func() {
			if err := c.Set(ctx, time.Minute, fmt.Sprint("k", i), "v"); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "all wait", func() bool { return aside.WritesWaiting(c) == 21 })
	proxy.Heal()
	callers.Wait()
	begun()
	_ = await(t, hurries)
	require.NoError(t, c.Health().Err)
}

// Many writers of one key go together, too, in the order of their stamps.
func TestWritersOfOneKeyGoTogether(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.RedisTimeout = 5 * time.Second }), testContext(t)
	proxy.Delay(20 * time.Millisecond)
	begun := behindOthers(ctx, t, c)
	server.Do("CONFIG", "RESETSTAT")
	var callers sync.WaitGroup
	for i := range 96 {
		callers.Go(func() {
			if err := c.Set(ctx, time.Minute, "k", fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	begun()
	byName, _ := commandsSeen(server)
	require.LessOrEqual(t, byName["evalsha"]+byName["eval"], 40, byName)
	require.NoError(t, c.Set(ctx, time.Minute, "k", "last"))
	require.Equal(t, "last", server.Do("GET", "k"))
}
