package aside_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// The main job: what a Get costs, who loads, who waits, and what a write does to them.

func TestAMissCostsTwoRoundTripsAndTheNextReadNone(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, db, ctx := newClient(t, proxy.Addr()), newSource("v"), testContext(t)
	_, err := c.Get(ctx, time.Minute, "warm", db.Load) // the server has the scripts now
	require.NoError(t, err)
	stored(t, c, "warm")
	proxy.ResetCounts()

	value, err := c.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	awaitNobody(t, c)
	require.Equal(t, 2, proxy.RoundTrips())
	require.Equal(t, "v", server.Do("GET", "k"), "values are raw")

	value, err = c.Get(ctx, time.Minute, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	if !oldRedis(server) {
		require.Equal(t, 2, proxy.RoundTrips(), "what was filled is in memory without being read back")
	}
}

func TestTheFirstReadOfAPresentValueCostsOneRoundTripAndTheNextNone(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr()), testContext(t)
	server.Do("SET", "warm", "v")
	_, err := c.Get(ctx, time.Minute, "warm", mustNotLoad)
	require.NoError(t, err)
	server.Do("SET", "k", "theirs", "PX", 60_000)
	proxy.ResetCounts()
	for range 3 {
		value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "theirs", value)
		require.Equal(t, 1, proxy.RoundTrips())
	}
}

func TestManyCallersOfManyClientsShareOneLoad(t *testing.T) {
	server := redistest.Start(t)
	db, ctx := newSource("v"), testContext(t)
	letGo := db.HoldUp()
	var clients []*aside.Client
	for range 4 {
		clients = append(clients, newClient(t, server.Addr()))
	}
	var results []<-chan result
	for _, c := range clients {
		for range 100 {
			results = append(results, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) }))
		}
	}
	db.AwaitBegin(t)
	for _, c := range clients {
		awaitShared(t, c, 99)
	}
	letGo()
	for _, r := range results {
		require.Equal(t, result{Value: "v"}, await(t, r))
	}
	require.EqualValues(t, 1, db.Calls.Load())
	for _, c := range clients {
		require.Zero(t, c.Stats().Waiting, "no entry remains after the last waiter")
	}
}

func TestAWaiterIsWokenByThePushNotByTheEndOfTheLock(t *testing.T) {
	server := redistest.Start(t)
	long := func(o *aside.Options) { o.LockTTL = time.Hour } // nobody would live to see it end
	holder, waiter := newClient(t, server.Addr(), long), newClient(t, server.Addr(), long)
	db, ctx := newSource("v"), testContext(t)
	letGo := db.HoldUp()
	first := inBackground(func() (string, error) { return holder.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	second := inBackground(func() (string, error) { return waiter.Get(ctx, time.Minute, "k", mustNotLoad) })
	eventually(t, "the second waits", func() bool { return waiter.Stats().LockWaits == 1 })
	letGo()
	require.Equal(t, result{Value: "v"}, await(t, first))
	require.Equal(t, result{Value: "v"}, await(t, second))
}

func TestASlowLoaderKeepsItsLock(t *testing.T) {
	server := redistest.Start(t)
	short := func(o *aside.Options) { o.LockTTL, o.RedisTimeout = 300*time.Millisecond, 150*time.Millisecond }
	holder, waiter := newClient(t, server.Addr(), short), newClient(t, server.Addr(), short)
	db, ctx := newSource("v"), testContext(t)
	letGo := db.HoldUp()
	first := inBackground(func() (string, error) { return holder.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	second := inBackground(func() (string, error) { return waiter.Get(ctx, time.Minute, "k", mustNotLoad) })
	marker := server.Do("GET", "k")
	for began := time.Now(); time.Since(began) < 4*300*time.Millisecond; time.Sleep(20 * time.Millisecond) {
		require.Equal(t, marker, server.Do("GET", "k"), "the lock was lost after %v", time.Since(began))
	}
	letGo()
	require.Equal(t, result{Value: "v"}, await(t, first))
	require.Equal(t, result{Value: "v"}, await(t, second))
}

func TestALockWhoseHolderDiedIsTakenOver(t *testing.T) {
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr()), newSource("v"), testContext(t)
	server.Do("SET", "k", "\x00aside:lock:0190-dead:1:0000000000000000", "PX", 300)
	value, err := c.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	stored(t, c, "k")
	require.Equal(t, "v", server.Do("GET", "k"))
}

// Promise 2, in its four forms: a Set or Del that returned is not undone by a load that began before it, whoever made it.
func TestAWriteDuringALoadIsNotUndone(t *testing.T) {
	for _, from := range []string{"the same client", "another client"} {
		for _, verb := range []string{"Set", "Del"} {
			t.Run(verb+" from "+from, func(t *testing.T) {
				server := redistest.Start(t)
				c, db, ctx := newClient(t, server.Addr()), newSource("old"), testContext(t)
				writer := c
				if from == "another client" {
					writer = newClient(t, server.Addr())
				}
				letGo := db.HoldUp()
				loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
				db.AwaitBegin(t)
				db.Set("new")
				if verb == "Set" {
					require.NoError(t, writer.Set(ctx, time.Minute, "k", "new"))
				} else {
					require.NoError(t, writer.Del(ctx, "k"))
				}
				// Who asks after the write must not be given what was read before it. In the process that wrote, a new
				// flight starts; in another the caller joins the old one, whose fill will be refused.
				var late <-chan result
				if from == "another client" {
					late = inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
					awaitShared(t, c, 1)
					letGo()
				} else {
					done := make(chan struct{})
					late = inBackground(func() (string, error) {
						defer close(done)
						return c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "new", nil })
					})
					await(t, done) // it does not wait for the old load
					letGo()
				}
				require.Equal(t, result{Value: "old"}, await(t, loading), "who asked before the write may have either")
				require.Equal(t, result{Value: "new"}, await(t, late))
				stored(t, c, "k")
				require.Equal(t, "new", server.Do("GET", "k"))
				value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
				require.NoError(t, err)
				require.Equal(t, "new", value)
				eventually(t, "the fill of the old value is refused", func() bool { return c.Stats().FillsRefused == 1 })
				require.Equal(t, "new", server.Do("GET", "k"))
			})
		}
	}
}

// What is refused is handed to those who asked before the loader was called: it was read after they asked.
func TestARefusedFillAnswersWhoeverAskedBeforeTheLoad(t *testing.T) {
	server := redistest.Start(t)
	holder, c := newClient(t, server.Addr()), newClient(t, server.Addr())
	db, ctx := newSource("theirs"), testContext(t)
	db.Fail(errors.New("no"))
	letGo := db.HoldUp()
	first := inBackground(func() (string, error) { return holder.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)

	// Three callers of c wait for the holder's lock. Its load fails, so that one of them gets to load.
	own := newSource("mine")
	letOwnGo := own.HoldUp()
	var waiting []<-chan result
	for range 3 {
		waiting = append(waiting, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", own.Load) }))
	}
	awaitShared(t, c, 2)
	letGo()
	require.Error(t, await(t, first).Err)
	own.AwaitBegin(t)
	require.NoError(t, holder.Del(ctx, "k")) // voids c's load
	letOwnGo()
	for _, w := range waiting {
		require.Equal(t, result{Value: "mine"}, await(t, w))
	}
	require.EqualValues(t, 1, own.Calls.Load())
	require.Nil(t, server.Do("GET", "k"), "it was refused")
}

func TestAProcessReadsItsOwnWrites(t *testing.T) {
	server := redistest.Start(t)
	c, other, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	for i := range 300 {
		want := fmt.Sprint(i)
		require.NoError(t, c.Set(ctx, time.Minute, "k", want))
		value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, want, value)
		_, err = other.Get(ctx, time.Minute, "k", mustNotLoad)
		require.NoError(t, err)
	}
	require.NoError(t, c.Del(ctx, "k"))
	_, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "", aside.ErrNotFound })
	require.ErrorIs(t, err, aside.ErrNotFound)
}

func TestAnotherProcessSeesAWriteByThePush(t *testing.T) {
	server := redistest.Start(t)
	c, other, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	for i := range 50 {
		want := fmt.Sprint(i)
		require.NoError(t, c.Set(ctx, time.Minute, "k", want))
		eventually(t, "the other client reads "+want, func() bool {
			value, err := other.Get(ctx, time.Minute, "k", mustNotLoad)
			require.NoError(t, err)
			return value == want
		})
	}
	require.GreaterOrEqual(t, other.Stats().Invalidations, int64(49))
}

func TestAnAbsenceIsRemembered(t *testing.T) {
	server := redistest.Start(t)
	c, other, db, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), newSource(""), testContext(t)
	db.Fail(fmt.Errorf("user 7: %w", aside.ErrNotFound))
	for range 3 {
		_, err := c.Get(ctx, time.Minute, "k", db.Load)
		require.ErrorIs(t, err, aside.ErrNotFound)
		_, err = other.Get(ctx, time.Minute, "k", db.Load)
		require.ErrorIs(t, err, aside.ErrNotFound)
	}
	require.EqualValues(t, 1, db.Calls.Load())
	ttl := server.Do("PTTL", "k").(int64)
	require.LessOrEqual(t, ttl, int64(30_000), "NegativeTTL, not the value's")
	require.Greater(t, ttl, int64(0))
	_, ok, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	require.False(t, ok)

	db.Fail(nil)
	db.Set("born")
	require.NoError(t, c.Set(ctx, time.Minute, "k", "born"))
	value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "born", value)
}

func TestAnAbsenceLivesNoLongerThanAValueWould(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	absent := func(context.Context, string) (string, error) { return "", aside.ErrNotFound }
	_, err := c.Get(ctx, time.Second, "short", absent)
	require.ErrorIs(t, err, aside.ErrNotFound)
	stored(t, c, "short")
	require.LessOrEqual(t, server.Do("PTTL", "short"), int64(1000))
	_, err = c.Get(ctx, time.Hour, "own", absent, aside.WithNegativeTTL(3*time.Second))
	require.ErrorIs(t, err, aside.ErrNotFound)
	stored(t, c, "own")
	require.LessOrEqual(t, server.Do("PTTL", "own"), int64(3000))
	_, err = c.Get(ctx, time.Hour, "never", absent, aside.WithNegativeTTL(-1))
	require.ErrorIs(t, err, aside.ErrNotFound)
	stored(t, c, "never")
	require.Nil(t, server.Do("GET", "never"), "the lock is given back, nothing is stored")
}

func TestALoadersErrorReleasesTheLock(t *testing.T) {
	server := redistest.Start(t)
	c, other, db, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), newSource("v"), testContext(t)
	broken := errors.New("database is down")
	db.Fail(broken)
	_, err := c.Get(ctx, time.Minute, "k", db.Load)
	require.ErrorIs(t, err, broken)
	require.Nil(t, server.Do("GET", "k"))
	db.Fail(nil)
	value, err := other.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
}

func TestAPanicFreesTheKey(t *testing.T) {
	server := redistest.Start(t)
	c, other, db, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), newSource("v"), testContext(t)
	_, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { panic(errors.New("boom")) })
	var p *aside.PanicError
	require.ErrorAs(t, err, &p)
	require.ErrorContains(t, p.Unwrap(), "boom")
	require.Contains(t, string(p.Stack), "TestAPanicFreesTheKey")
	value, err := other.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)

	_, err = c.Get(ctx, time.Minute, "exit", func(context.Context, string) (string, error) { runtime.Goexit(); return "", nil })
	require.ErrorContains(t, err, "ended its goroutine")
	require.Nil(t, server.Do("GET", "exit"))
}

func TestTheLeadersCancelledContextDoesNotFailItsFollowers(t *testing.T) {
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr()), newSource("v"), testContext(t)
	letGo := db.HoldUp()
	leaderCtx, cancel := context.WithCancel(context.WithValue(ctx, ctxKey{}, "the leader's"))
	leader := inBackground(func() (string, error) { return c.Get(leaderCtx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	follower := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", mustNotLoad) })
	awaitShared(t, c, 1)
	cancel()
	require.ErrorIs(t, await(t, leader).Err, context.Canceled)
	letGo()
	require.Equal(t, result{Value: "v"}, await(t, follower))
	require.EqualValues(t, 1, db.Calls.Load())
}

type ctxKey struct{}

func TestTheLoaderSeesTheValuesOfTheContextAndADeadline(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr())
	ctx := context.WithValue(testContext(t), ctxKey{}, "trace")
	_, err := c.Get(ctx, time.Minute, "k", func(ctx context.Context, key string) (string, error) {
		require.Equal(t, "k", key)
		require.Equal(t, "trace", ctx.Value(ctxKey{}))
		deadline, ok := ctx.Deadline()
		require.True(t, ok)
		require.WithinDuration(t, time.Now().Add(42*time.Second), deadline, 10*time.Second)
		return "v", nil
	}, aside.WithLoadTimeout(42*time.Second))
	require.NoError(t, err)
}

func TestALoadIsCancelledWhenItsLastWaiterHasLeft(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	began, ended := make(chan struct{}), make(chan error, 1)
	slow := func(ctx context.Context, _ string) (string, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return "", ctx.Err()
	}
	leaderCtx, cancelLeader := context.WithCancel(ctx)
	followerCtx, cancelFollower := context.WithCancel(ctx)
	leader := inBackground(func() (string, error) { return c.Get(leaderCtx, time.Minute, "k", slow) })
	await(t, began)
	follower := inBackground(func() (string, error) { return c.Get(followerCtx, time.Minute, "k", mustNotLoad) })
	awaitShared(t, c, 1)
	cancelLeader()
	require.ErrorIs(t, await(t, leader).Err, context.Canceled)
	require.Empty(t, ended, "cancelled though somebody waits")
	cancelFollower()
	require.ErrorIs(t, await(t, follower).Err, context.Canceled)
	require.ErrorIs(t, await(t, ended), context.Canceled)
	eventually(t, "the lock is released", func() bool { return server.Do("GET", "k") == nil })
	// The cancellation is not an answer to those who come now.
	value, err := c.Get(ctx, time.Minute, "k", newSource("v").Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
}

func TestALoaderThatDoesNotHeedItsContextIsLeftBehind(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	release := make(chan struct{})
	returned := make(chan struct{})
	_, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) {
		defer close(returned)
		<-release
		return "too late", nil
	}, aside.WithLoadTimeout(50*time.Millisecond))
	require.ErrorIs(t, err, aside.ErrLoadTimeout)
	require.Nil(t, server.Do("GET", "k"), "its lock is released")
	close(release)
	await(t, returned)
	require.Nil(t, server.Do("GET", "k"), "what it returns then is dropped")
}

func TestALoaderThatAsksForItsOwnKeyGetsAnError(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	var get func(ctx context.Context, key string) (string, error)
	get = func(ctx context.Context, _ string) (string, error) { return c.Get(ctx, time.Minute, "k", get) }
	_, err := get(ctx, "k")
	require.ErrorIs(t, err, aside.ErrRecursiveLoad)

	// Through another key, and through a batch.
	_, err = c.Get(ctx, time.Minute, "a", func(ctx context.Context, _ string) (string, error) {
		return c.Get(ctx, time.Minute, "b", func(ctx context.Context, _ string) (string, error) {
			m, err := c.GetMulti(ctx, time.Minute, []string{"c", "a"}, newSource("v").LoadMany)
			require.Equal(t, map[string]string{"c": "v"}, m)
			return "", err
		})
	})
	require.ErrorIs(t, err, aside.ErrRecursiveLoad)
	// Other keys are fine.
	value, err := c.Get(ctx, time.Minute, "x", func(ctx context.Context, _ string) (string, error) {
		return c.Get(ctx, time.Minute, "y", newSource("v").Load)
	})
	require.NoError(t, err)
	require.Equal(t, "v", value)
}

func TestKeysMayBeAnyBytes(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	keys := []string{"", " ", "{}", "}{", "}", "{", "a{b}c", "{}x", "\x00aside:lock:", "\xff\xfe", "ключ", "\r\n$3\r\n", string(all), strings.Repeat("k", 1023), strings.Repeat("k", 1024)}
	for _, key := range keys {
		value, err := c.Get(ctx, time.Minute, key, func(_ context.Context, asked string) (string, error) { return "of " + asked, nil })
		require.NoError(t, err, "%q", key)
		require.Equal(t, "of "+key, value)
		stored(t, c, key)
		require.Equal(t, "of "+key, server.Do("GET", key))
		require.NoError(t, c.Touch(ctx, time.Hour, key))
		require.NoError(t, c.Set(ctx, time.Minute, key, "set"))
		value, ok, err := c.Peek(ctx, key)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "set", value)
		require.NoError(t, c.Del(ctx, key))
		require.Nil(t, server.Do("GET", key))
	}
	many, err := c.GetMulti(ctx, time.Minute, keys, newSource("m").LoadMany)
	require.NoError(t, err)
	require.Len(t, many, len(keys))

	tooLong := strings.Repeat("k", 1025)
	_, err = c.Get(ctx, time.Minute, tooLong, mustNotLoad)
	require.ErrorIs(t, err, aside.ErrTooLarge)
	require.ErrorContains(t, err, "MaxKeyBytes (1024)")
	require.Less(t, len(err.Error()), 500, "not the whole key")
	require.ErrorIs(t, c.Set(ctx, time.Minute, tooLong, "v"), aside.ErrTooLarge)
	require.ErrorIs(t, c.Del(ctx, tooLong), aside.ErrTooLarge)
	require.ErrorIs(t, c.Touch(ctx, time.Minute, tooLong), aside.ErrTooLarge)
	_, _, err = c.Peek(ctx, tooLong)
	require.ErrorIs(t, err, aside.ErrTooLarge)
	m, err := c.GetMulti(ctx, time.Minute, []string{"ok", tooLong}, newSource("v").LoadMany)
	require.ErrorIs(t, err, aside.ErrTooLarge)
	require.Equal(t, map[string]string{"ok": "v"}, m)
}

// A value that begins as our markers and headers do is a value: it is never taken for a lock and never lost.
func TestValuesMayBeAnyBytes(t *testing.T) {
	server := redistest.Start(t)
	c, other, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	values := []string{"", " ", "\x00", "\x00aside:", "\x00aside:lock:", "\x00aside:lock:a:1:0", "\x00aside:1n", "\x00aside:1e", "\x00aside:1e\x00aside:1e", "\x00aside:2", `"quoted"`, "null", "\xff\x00\xfe", strings.Repeat("x", 100_000)}
	for i, want := range values {
		key := fmt.Sprint("loaded", i)
		for range 2 {
			for _, client := range []*aside.Client{c, other} {
				got, err := client.Get(ctx, time.Minute, key, func(context.Context, string) (string, error) { return want, nil })
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
		}
		require.EqualValues(t, i+1, c.Stats().Loads, "%q is loaded once", want)
		require.NoError(t, c.Set(ctx, time.Minute, "set", want))
		eventually(t, "the push has reached the other", func() bool {
			got, ok, err := other.Peek(ctx, "set")
			require.NoError(t, err)
			require.True(t, ok)
			return got == want
		})
		many, err := other.GetMulti(ctx, time.Minute, []string{key}, newSource("never").LoadMany)
		require.NoError(t, err)
		require.Equal(t, map[string]string{key: want}, many)
	}
	require.Zero(t, other.Stats().Loads)
}

func TestAValueThatIsTooLargeIsReturnedAndNotStored(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.MaxValueBytes = 1000 }), testContext(t)
	for size, kept := range map[int]bool{999: true, 1000: true, 1001: false} {
		key := fmt.Sprint(size)
		want := strings.Repeat("x", size)
		value, err := c.Get(ctx, time.Minute, key, newSource(want).Load)
		require.NoError(t, err)
		require.Equal(t, want, value)
		stored(t, c, key)
		require.Equal(t, kept, server.Do("GET", key) != nil, "%d bytes", size)
	}
	require.EqualValues(t, 1, c.Stats().TooLarge)
	err := c.Set(ctx, time.Minute, "set", strings.Repeat("x", 1001))
	require.ErrorIs(t, err, aside.ErrTooLarge)
	require.ErrorContains(t, err, "1001 bytes")
	// Escaping does not make a value too large.
	require.NoError(t, c.Set(ctx, time.Minute, "set", "\x00aside:"+strings.Repeat("x", 993)))
}

func TestWhatATTLMeans(t *testing.T) {
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr()), newSource("v"), testContext(t)
	for _, ttl := range []time.Duration{0, -1, -time.Hour, math.MinInt64} {
		_, err := c.Get(ctx, ttl, "k", db.Load)
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
		require.ErrorContains(t, err, ttl.String())
		require.ErrorIs(t, c.Set(ctx, ttl, "k", "v"), aside.ErrInvalidArgument)
		require.ErrorIs(t, c.Touch(ctx, ttl, "k"), aside.ErrInvalidArgument)
		_, err = c.GetMulti(ctx, ttl, []string{"k"}, db.LoadMany)
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
	}
	require.Zero(t, db.Calls.Load())
	// A ttl is checked even where memory could answer.
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	_, _, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	_, err = c.Get(ctx, 0, "k", db.Load)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)

	for _, ttl := range []time.Duration{time.Millisecond, time.Millisecond + 1} { // part of a millisecond is a whole one
		require.NoError(t, c.Set(ctx, ttl, "short", "v"))
		eventually(t, "it expires", func() bool { return server.Do("EXISTS", "short") == int64(0) })
		_, err := c.Get(ctx, ttl, "short", db.Load)
		require.NoError(t, err)
		eventually(t, "it expires in memory as well", func() bool {
			_, ok, err := c.Peek(ctx, "short")
			require.NoError(t, err)
			return !ok
		})
	}
	require.NoError(t, c.Set(ctx, math.MaxInt64, "long", "v"))
	require.EqualValues(t, -1, server.Do("PTTL", "long"), "longer than LongestTTL is none")
	value, err := c.Get(ctx, math.MaxInt64, "longer", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	_, err = c.Get(ctx, time.Minute, "longer", mustNotLoad)
	require.NoError(t, err)
	// A value without expiry, written by somebody else, is fine.
	server.Do("SET", "forever", "v")
	for range 2 {
		_, err = c.Get(ctx, time.Minute, "forever", mustNotLoad)
		require.NoError(t, err)
	}
}

func TestGetMultiAnswersFromEverywhereAtOnce(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr()), testContext(t)
	server.Do("SET", "redis", "r")
	server.Do("SET", "absent", "\x00aside:1n")
	require.NoError(t, c.Set(ctx, time.Minute, "memory", "m"))
	_, err := c.Get(ctx, time.Minute, "memory", mustNotLoad)
	require.NoError(t, err)
	_, err = c.GetMulti(ctx, time.Minute, []string{"warm", "up"}, newSource("w").LoadMany)
	require.NoError(t, err)
	stored(t, c, "warm", "up")
	proxy.ResetCounts()
	got, err := c.GetMulti(ctx, time.Minute, []string{"memory", "redis", "loaded", "missing", "absent", "loaded", "memory"},
		func(_ context.Context, keys []string) (map[string]string, error) {
			require.ElementsMatch(t, []string{"loaded", "missing"}, keys)
			keys[0], keys[1] = "spoiled", "spoiled"
			return map[string]string{"loaded": "l", "not asked for": "x"}, nil
		})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"memory": "m", "redis": "r", "loaded": "l"}, got)
	awaitNobody(t, c)
	require.Equal(t, 2, proxy.RoundTrips())
	require.Nil(t, server.Do("GET", "not asked for"))
	// The key that the loader left out is a remembered absence, not a loop.
	_, err = c.Get(ctx, time.Minute, "missing", mustNotLoad)
	require.ErrorIs(t, err, aside.ErrNotFound)
	if !oldRedis(server) {
		// Up to Redis 7.0 the keys that were locked beside one that was read are pushed back, right behind the answer. If that comes as late
		// as the loader's return, what is filled is not kept, and read once more.
		require.LessOrEqual(t, proxy.RoundTrips(), 3)
	}
}

func TestGetMultiOfAHundredColdKeysCostsThreeRoundTrips(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, db, ctx := newClient(t, proxy.Addr()), newSource("v"), testContext(t)
	_, err := c.GetMulti(ctx, time.Minute, []string{"warm", "up"}, db.LoadMany)
	require.NoError(t, err)
	stored(t, c, "warm", "up")
	proxy.ResetCounts()
	var keys []string
	for i := range 100 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	for range 2 {
		got, err := c.GetMulti(ctx, time.Minute, keys, db.LoadMany)
		require.NoError(t, err)
		require.Len(t, got, 100)
	}
	require.EqualValues(t, 2, db.Calls.Load(), "one batch, beside the warm-up")
	require.LessOrEqual(t, proxy.RoundTrips(), 3)
}

func TestPeekNeverLoadsAndNeverLocks(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, db, ctx := newClient(t, proxy.Addr()), newSource("v"), testContext(t)
	_, ok, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	require.False(t, ok)
	require.Nil(t, server.Do("GET", "k"))
	letGo := db.HoldUp()
	loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	_, ok, err = c.Peek(ctx, "k")
	require.NoError(t, err)
	require.False(t, ok, "a lock is not a value")
	letGo()
	await(t, loading)
	stored(t, c, "k")
	proxy.ResetCounts()
	value, ok, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "v", value)
	if !oldRedis(server) {
		require.Zero(t, proxy.Commands(), "from memory")
	}
	server.Do("SET", "other", "o")
	proxy.ResetCounts()
	for range 2 {
		value, _, err = c.Peek(ctx, "other")
		require.NoError(t, err)
		require.Equal(t, "o", value)
	}
	require.Equal(t, 1, proxy.RoundTrips(), "Peek fills memory")
	_, _, err = c.Peek(ctx, "list")
	require.NoError(t, err)
	server.Do("RPUSH", "list", "x")
	eventually(t, "a key of another type is an error", func() bool { _, _, err := c.Peek(ctx, "list"); return err != nil })
}

func TestTouchMovesTheEndOfValuesOnly(t *testing.T) {
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr()), newSource("v"), testContext(t)
	require.NoError(t, c.Set(ctx, time.Minute, "value", "v"))
	_, _, err := c.Peek(ctx, "value")
	require.NoError(t, err)
	_, err = c.Get(ctx, time.Minute, "absent", func(context.Context, string) (string, error) { return "", aside.ErrNotFound })
	require.ErrorIs(t, err, aside.ErrNotFound)
	letGo := db.HoldUp()
	loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "locked", db.Load) })
	db.AwaitBegin(t)
	require.NoError(t, c.Set(ctx, time.Minute, "like an absence", "\x00aside:1n"))
	require.NoError(t, c.Touch(ctx, time.Hour, "value", "absent", "locked", "nothing", "like an absence"))
	require.Greater(t, server.Do("PTTL", "value"), int64(60_000))
	require.Greater(t, server.Do("PTTL", "like an absence"), int64(60_000))
	require.LessOrEqual(t, server.Do("PTTL", "absent"), int64(30_000))
	require.LessOrEqual(t, server.Do("PTTL", "locked"), int64(10_000))
	require.Equal(t, int64(0), server.Do("EXISTS", "nothing"))
	letGo()
	require.Equal(t, result{Value: "v"}, await(t, loading), "the lock was not lost")
	require.NoError(t, c.Touch(ctx, 50*time.Millisecond, "value"))
	eventually(t, "memory follows", func() bool { _, ok, err := c.Peek(ctx, "value"); require.NoError(t, err); return !ok })
}

func TestCloseWakesEverybodyAndGivesUpItsLocks(t *testing.T) {
	server := redistest.Start(t)
	c, other, db, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), newSource("v"), testContext(t)
	db.HoldUp()
	loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	foreign := newSource("v")
	letGo := foreign.HoldUp()
	holder := inBackground(func() (string, error) { return other.Get(ctx, time.Minute, "theirs", foreign.Load) })
	foreign.AwaitBegin(t)
	waiting := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "theirs", mustNotLoad) })
	eventually(t, "it waits", func() bool { return c.Stats().LockWaits == 1 })
	require.NoError(t, c.Close())
	require.ErrorIs(t, await(t, loading).Err, aside.ErrClosed)
	require.ErrorIs(t, await(t, waiting).Err, aside.ErrClosed)
	require.Nil(t, server.Do("GET", "k"), "the lock was given up")
	require.NoError(t, c.Close(), "twice is fine")
	letGo()
	require.NoError(t, await(t, holder).Err)

	_, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
	require.ErrorIs(t, err, aside.ErrClosed)
	_, err = c.GetMulti(ctx, time.Minute, []string{"k"}, db.LoadMany)
	require.ErrorIs(t, err, aside.ErrClosed)
	_, _, err = c.Peek(ctx, "k")
	require.ErrorIs(t, err, aside.ErrClosed)
	require.ErrorIs(t, c.Set(ctx, time.Minute, "k", "v"), aside.ErrClosed)
	require.ErrorIs(t, c.Del(ctx, "k"), aside.ErrClosed)
	require.ErrorIs(t, c.Touch(ctx, time.Minute, "k"), aside.ErrClosed)
	c.Stats()
}

// Without pushes there is no memory, and who waits for a lock looks again and again.
func TestWithoutTrackingEverythingWorksByAsking(t *testing.T) {
	for name, mode := range map[string]func(*aside.Options){
		"DisableCache": untracked,
		"RESP2":        func(o *aside.Options) { o.Redis.AlwaysRESP2, o.Redis.DisableCache = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			a, b, db, ctx := newClient(t, server.Addr(), mode), newClient(t, server.Addr(), mode), newSource("v"), testContext(t)
			letGo := db.HoldUp()
			first := inBackground(func() (string, error) { return a.Get(ctx, time.Minute, "k", db.Load) })
			db.AwaitBegin(t)
			second := inBackground(func() (string, error) { return b.Get(ctx, time.Minute, "k", mustNotLoad) })
			batch := inBackground(func() (string, error) {
				m, err := b.GetMulti(ctx, time.Minute, []string{"k", "l"}, newSource("v").LoadMany)
				return m["k"], err
			})
			eventually(t, "they poll", func() bool { return b.Stats().LockWaits >= 3 })
			letGo()
			for _, r := range []<-chan result{first, second, batch} {
				require.Equal(t, result{Value: "v"}, await(t, r))
			}
			require.NoError(t, a.Set(ctx, time.Minute, "k", "w"))
			value, err := b.Get(ctx, time.Minute, "k", mustNotLoad)
			require.NoError(t, err)
			require.Equal(t, "w", value, "nothing is served from memory")
			require.Zero(t, b.Stats().MemoryHits)
		})
	}
}

func TestWithoutMemoryEveryReadAsksRedis(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.MemoryBytes = -1 }), testContext(t)
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	proxy.ResetCounts()
	for range 3 {
		_, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
		require.NoError(t, err)
	}
	require.GreaterOrEqual(t, proxy.RoundTrips(), 3)
}
