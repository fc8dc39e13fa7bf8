package aside_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// What happens to the healthy half when Redis is not.

func TestWithoutRedisTheLoaderAnswers(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	c, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Logger: quiet})
	require.NoError(t, err)
	defer c.Close()
	db, ctx := newSource("v"), testContext(t)
	_, ok := c.Redis()
	require.False(t, ok)
	require.False(t, c.Stats().RedisConnected)

	letGo := db.HoldUp()
	var callers []<-chan result
	for range 50 {
		callers = append(callers, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) }))
	}
	awaitShared(t, c, 49)
	letGo()
	for _, caller := range callers {
		require.Equal(t, result{Value: "v"}, await(t, caller))
	}
	require.EqualValues(t, 1, db.Calls.Load(), "one flight in this process")
	m, err := c.GetMulti(ctx, time.Minute, []string{"a", "b"}, db.LoadMany)
	require.NoError(t, err)
	require.Len(t, m, 2)
	_, _, err = c.Peek(ctx, "unheard of")
	require.ErrorIs(t, err, aside.ErrRedisAway)
	for _, err := range []error{c.Set(ctx, time.Minute, "k", "w"), c.Del(ctx, "k"), c.Touch(ctx, time.Minute, "k")} {
		require.ErrorIs(t, err, aside.ErrRedisAway)
		require.NotErrorIs(t, err, aside.ErrUnknownOutcome)
	}
	_, ok, err = c.Peek(ctx, "k")
	require.NoError(t, err)
	require.False(t, ok, "it was deleted here")

	server.Restart() // and it connects by itself
	eventually(t, "it is connected", func() bool { return c.Stats().RedisConnected })
	_, err = c.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	stored(t, c, "k")
	require.Equal(t, "v", server.Do("GET", "k"))
}

func TestRedisDiesInTheMiddleOfALoad(t *testing.T) {
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr(), hasty), newSource("v"), testContext(t)
	letGo := db.HoldUp()
	loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	server.Kill()
	letGo()
	require.Equal(t, result{Value: "v"}, await(t, loading), "what was loaded is returned though it cannot be stored")
	eventually(t, "it is noticed", func() bool { return !c.Stats().RedisConnected })
	value, err := c.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	server.Restart()
	eventually(t, "it is back", func() bool { return c.Stats().RedisConnected })
	_, err = c.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	stored(t, c, "k")
	require.Equal(t, "v", server.Do("GET", "k"))
}

func TestRedisDiesWhileSomebodyWaitsForALock(t *testing.T) {
	server := redistest.Start(t)
	holder, c, ctx := newClient(t, server.Addr(), hasty), newClient(t, server.Addr(), hasty), testContext(t)
	theirs, ours := newSource("v"), newSource("v")
	letGo := theirs.HoldUp()
	defer letGo()
	inBackground(func() (string, error) { return holder.Get(ctx, time.Minute, "k", theirs.Load) })
	theirs.AwaitBegin(t)
	waiting := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", ours.Load) })
	eventually(t, "it waits", func() bool { return c.Stats().LockWaits == 1 })
	server.Kill()
	require.Equal(t, result{Value: "v"}, await(t, waiting), "it loads for itself")
}

// Promise 4: no call waits longer than RedisTimeout for a server that hangs, and after the trip none waits at all. Whether
// one waited is told by the questions that were sent, not by a clock.
func TestAfterTheTripNoCallAsksAFrozenRedis(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr(), hasty), testContext(t)
	var longest atomic.Int64
	call := func(key string) {
		began := time.Now()
		_, err := c.Get(ctx, time.Minute, key, func(context.Context, string) (string, error) { return "v", nil })
		if err != nil {
			t.Error(err)
		}
		for took := int64(time.Since(began)); ; {
			was := longest.Load()
			if took <= was || longest.CompareAndSwap(was, took) {
				return
			}
		}
	}
	call("warm")
	server.Freeze()
	var callers sync.WaitGroup
	for i := range 3000 {
		callers.Go(func() { call(fmt.Sprint("k", i)) })
	}
	callers.Wait()
	require.False(t, c.Stats().RedisConnected)
	asked := c.Stats().RedisErrors
	for i := range 1000 {
		call(fmt.Sprint("after", i))
	}
	// What was sent before the trip may still run out of time in the background. If callers asked, there would be hundreds.
	require.Less(t, c.Stats().RedisErrors-asked, int64(20), "nobody asks any more")
	t.Logf("the longest of 4,000 calls on a frozen Redis took %v", time.Duration(longest.Load()))
	server.Thaw()
	eventually(t, "it is back", func() bool { return c.Stats().RedisConnected })
	_, err := c.Get(ctx, time.Minute, "again", newSource("v").Load)
	require.NoError(t, err)
	stored(t, c, "again")
	require.Equal(t, "v", server.Do("GET", "again"))
}

func TestACallEndsWithItsOwnContextWhileRedisHangs(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr(), func(o *aside.Options) { o.RedisTimeout, o.LockTTL, o.StaleLease = time.Hour, 3*time.Hour, time.Hour })
	server.Freeze()
	defer func() {
		server.Thaw()
		eventually(t, "what was kept is replayed", func() bool { return c.Stats().Pending == 0 })
	}()
	for _, call := range []func(ctx context.Context) error{
		func(ctx context.Context) error { _, err := c.Get(ctx, time.Minute, "k", mustNotLoad); return err },
		func(ctx context.Context) error {
			_, err := c.GetMulti(ctx, time.Minute, []string{"a", "b"}, newSource("").LoadMany)
			return err
		},
		func(ctx context.Context) error { _, _, err := c.Peek(ctx, "k"); return err },
		func(ctx context.Context) error { return c.Set(ctx, time.Minute, "k", "v") },
		func(ctx context.Context) error { return c.Del(ctx, "k") },
		func(ctx context.Context) error { return c.Touch(ctx, time.Minute, "k") },
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		require.ErrorIs(t, call(ctx), context.DeadlineExceeded)
		cancel()
		require.ErrorIs(t, call(ctx), context.DeadlineExceeded) // it had ended before the call
	}
}

func TestScriptFlushCostsARoundTripAndNothingElse(t *testing.T) {
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr()), newSource("v"), testContext(t)
	for i := range 10 {
		server.Do("SCRIPT", "FLUSH")
		letGo := db.HoldUp()
		loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.Load) })
		db.AwaitBegin(t)
		server.Do("SCRIPT", "FLUSH")
		letGo()
		require.Equal(t, result{Value: "v"}, await(t, loading))
		stored(t, c, fmt.Sprint("k", i))
		require.Equal(t, "v", server.Do("GET", fmt.Sprint("k", i)))
		server.Do("SCRIPT", "FLUSH")
		_, err := c.GetMulti(ctx, time.Minute, []string{fmt.Sprint("k", i), fmt.Sprint("m", i)}, db.LoadMany)
		require.NoError(t, err)
		server.Do("SCRIPT", "FLUSH")
		require.NoError(t, c.Set(ctx, time.Minute, "s", "v"))
		server.Do("SCRIPT", "FLUSH")
		require.NoError(t, c.Touch(ctx, time.Minute, "s"))
		server.Do("SCRIPT", "FLUSH")
		require.NoError(t, c.Del(ctx, "s"))
	}
	require.Zero(t, c.Stats().FillsRefused)
}

// A server that takes no writes still answers hits; what is missing is loaded and not stored.
func TestHitsWorkOnAFullOrReadOnlyServer(t *testing.T) {
	for _, kind := range []string{"full", "read-only"} {
		t.Run(kind, func(t *testing.T) {
			server := redistest.Start(t)
			c, db, ctx := newClient(t, server.Addr()), newSource("loaded"), testContext(t)
			require.NoError(t, c.Set(ctx, time.Hour, "present", "v"))
			if kind == "full" {
				server.Do("CONFIG", "SET", "maxmemory", "1")
				t.Cleanup(func() { server.Do("CONFIG", "SET", "maxmemory", "0") })
			} else {
				server.Do("REPLICAOF", "127.0.0.1", "1") // nobody is there: a replica with the data that it had
				t.Cleanup(func() { server.Do("REPLICAOF", "NO", "ONE") })
			}
			value, err := c.Get(ctx, time.Hour, "present", mustNotLoad)
			require.NoError(t, err)
			require.Equal(t, "v", value)
			for range 2 {
				value, err = c.Get(ctx, time.Hour, "missing", db.Load)
				require.NoError(t, err)
				require.Equal(t, "loaded", value)
				if kind == "read-only" { // nothing can be locked, filled or set: that is an outage, and memory answers
					eventually(t, "that is noticed", func() bool { return !c.Stats().RedisConnected })
				}
				m, err := c.GetMulti(ctx, time.Hour, []string{"present", "missing too"}, db.LoadMany)
				require.NoError(t, err)
				require.Equal(t, map[string]string{"present": "v", "missing too": "loaded"}, m)
			}
			if kind == "full" {
				require.EqualValues(t, 4, db.Calls.Load())
			}
			err = c.Set(ctx, time.Hour, "k", "v")
			require.Error(t, err)
			require.Equal(t, kind == "read-only", errors.Is(err, aside.ErrRedisAway), "%v", err)
			require.Equal(t, kind == "full", c.Stats().RedisConnected, "an answer, if only no, is not an outage")
			if kind == "read-only" {
				server.Do("REPLICAOF", "NO", "ONE")
				eventually(t, "writes work again", func() bool { return c.Stats().RedisConnected && c.Stats().Pending == 0 })
				require.Equal(t, "v", server.Do("GET", "k"), "and the Set was replayed")
			}
		})
	}
}

func TestAKeyOfAnotherTypeIsLoadedAndLeftAlone(t *testing.T) {
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr()), newSource("v"), testContext(t)
	server.Do("RPUSH", "list", "x")
	value, err := c.Get(ctx, time.Minute, "list", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	require.Equal(t, int64(1), server.Do("LLEN", "list"))
	require.NoError(t, c.Del(ctx, "list"))
	require.Equal(t, int64(0), server.Do("EXISTS", "list"))
}

// A hundred outages leave nothing behind: goroutines are checked by goleak at the end of the run.
func TestManyOutagesLeaveNothingBehind(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, db, ctx := newClient(t, proxy.Addr(), hasty), newSource("v"), testContext(t)
	for i := range 100 {
		proxy.Reset()
		_, err := c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.Load)
		require.NoError(t, err)
	}
	eventually(t, "it is back", func() bool { return c.Stats().RedisConnected })
	eventually(t, "with one connection", func() bool { return proxy.Connections() == 1 })
	awaitNobody(t, c)
}
