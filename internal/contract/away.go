package contract

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
	"github.com/redaside/aside/internal/harness"
)

// What holds when Redis dies, hangs, or cannot be reached, and when it is back.

func withoutRedisTheLoaderAnswers(t *testing.T, start Start) {
	server := start(t)
	server.Kill()
	c, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Logger: harness.Quiet})
	require.NoError(t, err)
	defer c.Close()
	db, ctx := harness.NewSource("v"), harness.Context(t)
	_, ok := c.Redis()
	require.False(t, ok)
	require.False(t, c.Stats().RedisConnected)

	letGo := db.HoldUp()
	var callers []<-chan harness.Result
	for range 50 {
		callers = append(callers, harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) }))
	}
	harness.AwaitShared(t, c, 49)
	letGo()
	for _, caller := range callers {
		require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, caller))
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
	harness.Eventually(t, "it is connected", func() bool { return c.Stats().RedisConnected })
	_, err = c.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	harness.Stored(t, c, "k")
	require.Equal(t, "v", server.Do("GET", "k"))
}

func redisDiesInTheMiddleOfALoad(t *testing.T, start Start) {
	server := start(t)
	c, db, ctx := harness.NewClient(t, server.Addr(), harness.Hasty), harness.NewSource("v"), harness.Context(t)
	letGo := db.HoldUp()
	loading := harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	server.Kill()
	letGo()
	require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, loading), "what was loaded is returned though it cannot be stored")
	harness.Eventually(t, "it is noticed", func() bool { return !c.Stats().RedisConnected })
	value, err := c.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	server.Restart()
	harness.Eventually(t, "it is back", func() bool { return c.Stats().RedisConnected })
	_, err = c.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	harness.Stored(t, c, "k")
	require.Equal(t, "v", server.Do("GET", "k"))
}

func redisDiesWhileSomebodyWaitsForALock(t *testing.T, start Start) {
	server := start(t)
	holder, c, ctx := harness.NewClient(t, server.Addr(), harness.Hasty), harness.NewClient(t, server.Addr(), harness.Hasty), harness.Context(t)
	theirs, ours := harness.NewSource("v"), harness.NewSource("v")
	letGo := theirs.HoldUp()
	defer letGo()
	harness.InBackground(func() (string, error) { return holder.Get(ctx, time.Minute, "k", theirs.Load) })
	theirs.AwaitBegin(t)
	waiting := harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", ours.Load) })
	harness.Eventually(t, "it waits", func() bool { return c.Stats().LockWaits > 0 })
	server.Kill()
	require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, waiting), "it loads for itself")
}

// Promise 4: no call waits longer than RedisTimeout for a server that hangs, and after the trip
// none waits at all. Whether one waited is told by the commands that were sent, not by a clock.
func afterTheTripNoCallAsksAFrozenRedis(t *testing.T, start Start) {
	server := start(t)
	proxy := harness.Counted(t, server.Addr())
	c, ctx := harness.NewClient(t, proxy.Addr(), harness.Hasty), harness.Context(t)
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
	// What was sent before the trip may still run out of time in the background. If callers asked,
	// there would be hundreds.
	require.Less(t, c.Stats().RedisErrors-asked, int64(20), "nobody asks any more")
	t.Logf("the longest of 4,000 calls on a frozen Redis took %v", time.Duration(longest.Load()))
	server.Thaw()
	harness.Eventually(t, "it is back", func() bool { return c.Stats().RedisConnected })
	_, err := c.Get(ctx, time.Minute, "again", harness.NewSource("v").Load)
	require.NoError(t, err)
	harness.Stored(t, c, "again")
	require.Equal(t, "v", server.Do("GET", "again"))
}

func aCallEndsWithItsOwnContextWhileRedisHangs(t *testing.T, start Start) {
	server := start(t)
	c := harness.NewClient(t, server.Addr(), func(o *aside.Options) { o.RedisTimeout, o.LockTTL, o.StaleLease = time.Hour, 3*time.Hour, time.Hour })
	server.Freeze()
	defer func() {
		server.Thaw()
		harness.Eventually(t, "what was kept is replayed", func() bool { return c.Stats().Pending == 0 })
	}()
	for _, call := range []func(ctx context.Context) error{
		func(ctx context.Context) error {
			_, err := c.Get(ctx, time.Minute, "k", harness.MustNotLoad)
			return err
		},
		func(ctx context.Context) error {
			_, err := c.GetMulti(ctx, time.Minute, []string{"a", "b"}, harness.NewSource("").LoadMany)
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

// Promise 3: what another process has changed is not served beyond StaleLease, even if the network
// fails silently (and beyond that for DegradedTTL, which is next to nothing here).
func aSilentPartitionDoesNotMakeReadsStaleBeyondTheLease(t *testing.T, start Start) {
	for _, fault := range []string{"black hole", "replies cut"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			server := start(t)
			proxy := faultproxy.New(t, server.Addr())
			// It has longer to answer than the lease: else a client on a machine that stalls would take it for away, which
			// gives up memory, too, before it has served what is stale.
			const lease = time.Second
			cut := harness.NewClient(t, proxy.Addr(), harness.Forgetful, func(o *aside.Options) { o.StaleLease = lease })
			writer, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
			require.NoError(t, writer.Set(ctx, time.Hour, "k", "old"))
			_, err := cut.Get(ctx, time.Hour, "k", harness.MustNotLoad)
			require.NoError(t, err)
			db := harness.NewSource("new")
			if fault == "black hole" {
				proxy.BlackHole()
			} else {
				proxy.CutReplies()
			}
			began := time.Now() // nothing that the server says after this arrives
			require.NoError(t, writer.Set(ctx, time.Hour, "k", "new"))
			stale, lastStale := 0, time.Duration(0)
			for time.Since(began) < 3*lease {
				asked := time.Since(began)
				value, err := cut.Get(ctx, time.Hour, "k", db.Load)
				require.NoError(t, err)
				if value == "old" {
					stale, lastStale = stale+1, asked
				}
			}
			require.Positive(t, stale, "the fault had no effect")
			require.LessOrEqual(t, lastStale, lease)
			t.Logf("the last stale read began %v after the cut, of a lease of %v", lastStale, lease)
			proxy.Heal()
			harness.Eventually(t, "it is back", func() bool { return cut.Stats().RedisConnected })
			value, err := cut.Get(ctx, time.Hour, "k", db.Load)
			require.NoError(t, err)
			require.Equal(t, "new", value)
		})
	}
}

// What was read on a connection that is lost is not served, for changes were not pushed meanwhile.
func aLostConnectionGivesUpTheMemory(t *testing.T, start Start) {
	for _, fault := range []string{"reset", "CLIENT KILL", "restart"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			server := start(t)
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := harness.NewClient(t, proxy.Addr(), harness.Hasty, harness.Forgetful), harness.Context(t)
			for i := range 8 {
				want := fmt.Sprint(i)
				server.Do("SET", "k", want)
				harness.Eventually(t, "it is connected and reads "+want, func() bool {
					value, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "", errors.New("away") })
					return err == nil && value == want
				})
				flushes := c.Stats().Flushes
				switch fault {
				case "reset":
					proxy.Refuse()
					server.Do("SET", "k", "changed") // while nobody is told
					proxy.Heal()
				case "CLIENT KILL":
					server.Do("CLIENT", "KILL", "TYPE", "normal")
					server.Do("SET", "k", "changed")
				case "restart":
					if i > 2 {
						return
					}
					server.Kill()
					server.Restart()
					server.Do("SET", "k", "changed")
				}
				harness.Eventually(t, "the loss is noticed", func() bool { return c.Stats().Flushes > flushes })
				harness.Eventually(t, "it reads what is there now", func() bool {
					value, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "", errors.New("away") })
					require.NotEqual(t, want, value)
					return err == nil && value == "changed"
				})
			}
		})
	}
}

// A load that began while Redis was away answers nobody who asks once it is back: another process
// may have deleted.
func aLoadWithoutRedisAnswersNobodyOnceRedisIsBack(t *testing.T, start Start) {
	server := start(t)
	proxy := faultproxy.New(t, server.Addr())
	a, b, ctx := harness.NewClient(t, proxy.Addr(), harness.Hasty), harness.NewClient(t, server.Addr()), harness.Context(t)
	proxy.Refuse()
	harness.Eventually(t, "it is noticed", func() bool { return !a.Stats().RedisConnected })
	db := harness.NewSource("old")
	letGo := db.HoldUp()
	first := harness.InBackground(func() (string, error) { return a.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	proxy.Heal()
	harness.Eventually(t, "it is back", func() bool { return a.Stats().RedisConnected })
	require.NoError(t, b.Del(ctx, "k"))
	value, err := a.Get(ctx, time.Minute, "k", harness.NewSource("new").Load)
	require.NoError(t, err)
	require.Equal(t, "new", value)
	letGo()
	require.Equal(t, harness.Result{Value: "old"}, harness.Await(t, first), "who asked before may have it")
	harness.Stored(t, a, "k")
	require.Equal(t, "new", server.Do("GET", "k"))
}

func whatWasSetAndDeletedWhileAwayIsReplayed(t *testing.T, start Start) {
	server := start(t)
	dir, option := harness.Durable(t)
	c, ctx := harness.NewClient(t, server.Addr(), harness.Hasty, option), harness.Context(t)
	for i := range 50 {
		require.NoError(t, c.Set(ctx, time.Hour, fmt.Sprint("old", i), "before"))
	}
	server.Freeze()
	for i := range 50 { // the first waits for RedisTimeout; nobody after the trip
		require.NoError(t, c.Set(ctx, time.Hour, fmt.Sprint("new", i), "while away"))
		require.NoError(t, c.Del(ctx, fmt.Sprint("old", i)))
	}
	harness.AwaitMode(t, c, aside.Degraded)
	require.Equal(t, 100, c.Stats().Pending)
	require.NotEmpty(t, harness.Files(t, dir))
	for i := range 50 {
		value, err := c.Get(ctx, time.Hour, fmt.Sprint("new", i), harness.MustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "while away", value)
		value, err = c.Get(ctx, time.Hour, fmt.Sprint("old", i), harness.NewSource("loaded").Load)
		require.NoError(t, err)
		require.Equal(t, "loaded", value, "what was deleted is not served")
	}
	server.Thaw()
	harness.AwaitMode(t, c, aside.Healthy)
	require.Zero(t, c.Stats().Pending)
	for i := range 50 {
		require.Equal(t, "while away", server.Do("GET", fmt.Sprint("new", i)))
		require.Nil(t, server.Do("GET", fmt.Sprint("old", i)))
	}
	harness.Eventually(t, "nothing is left on disk", func() bool { return len(harness.Files(t, dir)) == 0 })
	replay := c.Health().Replay
	require.False(t, replay.Running)
	require.Equal(t, replay.Report.Total, replay.Done)
	require.GreaterOrEqual(t, replay.Report.Total, 100)
}

// The process ends while Redis is away; the next one with the directory, started while Redis is
// still away, has it all.
func theNextProcessReplaysWhatThisOneCouldNot(t *testing.T, start Start) {
	server := start(t)
	dir, _ := harness.Durable(t)
	first, ctx := harness.NewDurable(t, server.Addr(), dir), harness.Context(t)
	require.NoError(t, first.Set(ctx, time.Hour, "deleted", "v"))
	require.NoError(t, first.Set(ctx, time.Hour, "replaced", "v"))
	server.Freeze()
	require.NoError(t, first.Set(ctx, time.Hour, "set", "v"))
	require.NoError(t, first.Set(ctx, time.Hour, "replaced", "w"))
	require.NoError(t, first.Del(ctx, "deleted"))
	_, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}, FallbackDir: dir, Logger: harness.Quiet})
	require.ErrorIs(t, err, aside.ErrLocked)
	require.ErrorContains(t, err, dir)
	harness.Close(t, first, dir)
	require.NotEmpty(t, harness.Files(t, dir), "Close replays nothing")

	second := harness.NewDurable(t, server.Addr(), dir)
	require.Equal(t, aside.Degraded, second.Health().Mode)
	require.Equal(t, 3, second.Stats().Pending)
	value, err := second.Get(ctx, time.Hour, "replaced", harness.MustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "w", value)
	value, err = second.Get(ctx, time.Hour, "deleted", harness.NewSource("loaded").Load)
	require.NoError(t, err)
	require.Equal(t, "loaded", value)
	server.Thaw()
	harness.AwaitMode(t, second, aside.Healthy)
	require.Equal(t, "v", server.Do("GET", "set"))
	require.Equal(t, "w", server.Do("GET", "replaced"))
	require.Nil(t, server.Do("GET", "deleted"))
	harness.Close(t, second, dir)
	require.Empty(t, harness.Files(t, dir))
}
