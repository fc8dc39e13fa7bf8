package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
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

// hasty are the options of a client that is to notice an outage while a test runs.
func hasty(o *aside.Options) {
	o.RedisTimeout, o.LockTTL, o.StaleLease = 250*time.Millisecond, 2*time.Second, time.Second
}

// forgetful clients serve nothing unverified.
func forgetful(o *aside.Options) { o.DegradedTTL = 1 }

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

	letGo := db.holdUp()
	var callers []<-chan result
	for range 50 {
		callers = append(callers, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.load) }))
	}
	awaitShared(t, c, 49)
	letGo()
	for _, caller := range callers {
		require.Equal(t, result{value: "v"}, await(t, caller))
	}
	require.EqualValues(t, 1, db.calls.Load(), "one flight in this process")
	m, err := c.GetMulti(ctx, time.Minute, []string{"a", "b"}, db.loadMany)
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
	_, err = c.Get(ctx, time.Minute, "k", db.load)
	require.NoError(t, err)
	stored(t, c, "k")
	require.Equal(t, "v", server.Do("GET", "k"))
}

func TestRequireRedisMakesNewFail(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	_, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}, RequireRedis: true, Logger: quiet})
	require.ErrorIs(t, err, aside.ErrRedisAway)
	require.ErrorContains(t, err, server.Addr())
	server.Restart()
	server.Freeze()
	_, err = aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}, RequireRedis: true, ConnectTimeout: 100 * time.Millisecond, Logger: quiet})
	require.ErrorIs(t, err, aside.ErrRedisAway)
	require.ErrorContains(t, err, "ConnectTimeout (100ms)")
	server.Thaw()
}

func TestRedisDiesInTheMiddleOfALoad(t *testing.T) {
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr(), hasty), newSource("v"), testContext(t)
	letGo := db.holdUp()
	loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.load) })
	db.awaitBegin(t)
	server.Kill()
	letGo()
	require.Equal(t, result{value: "v"}, await(t, loading), "what was loaded is returned though it cannot be stored")
	eventually(t, "it is noticed", func() bool { return !c.Stats().RedisConnected })
	value, err := c.Get(ctx, time.Minute, "k", db.load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	server.Restart()
	eventually(t, "it is back", func() bool { return c.Stats().RedisConnected })
	_, err = c.Get(ctx, time.Minute, "k", db.load)
	require.NoError(t, err)
	stored(t, c, "k")
	require.Equal(t, "v", server.Do("GET", "k"))
}

func TestRedisDiesWhileSomebodyWaitsForALock(t *testing.T) {
	server := redistest.Start(t)
	holder, c, ctx := newClient(t, server.Addr(), hasty), newClient(t, server.Addr(), hasty), testContext(t)
	theirs, ours := newSource("v"), newSource("v")
	letGo := theirs.holdUp()
	defer letGo()
	inBackground(func() (string, error) { return holder.Get(ctx, time.Minute, "k", theirs.load) })
	theirs.awaitBegin(t)
	waiting := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", ours.load) })
	eventually(t, "it waits", func() bool { return c.Stats().LockWaits == 1 })
	server.Kill()
	require.Equal(t, result{value: "v"}, await(t, waiting), "it loads for itself")
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
	_, err := c.Get(ctx, time.Minute, "again", newSource("v").load)
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
			_, err := c.GetMulti(ctx, time.Minute, []string{"a", "b"}, newSource("").loadMany)
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

// A write that was not answered may have been done, and says so.
func TestAnUnansweredWriteIsOfUnknownOutcome(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), hasty), testContext(t)
	require.NoError(t, c.Set(ctx, time.Minute, "k", "before"))
	_, _, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	proxy.CutReplies()
	require.ErrorIs(t, c.Set(ctx, time.Minute, "k", "after"), aside.ErrUnknownOutcome)
	require.Equal(t, "after", server.Do("GET", "k"), "here it was done")
	proxy.Heal()
	eventually(t, "it is back", func() bool { return c.Stats().RedisConnected })
	value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "after", value, "memory does not hold what the write replaced")
}

// A command that its caller has given up on may reach the server much later. Then it must not be done.
func TestALateWriteIsNotDone(t *testing.T) {
	for _, verb := range []string{"Set", "Del", "Touch"} {
		t.Run(verb, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.RedisTimeout = 50 * time.Millisecond }), testContext(t)
			require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
			scripts := scriptCalls(server)
			proxy.CutRequests()
			var err error
			switch verb {
			case "Set":
				err = c.Set(ctx, time.Hour, "k", "late")
			case "Del":
				err = c.Del(ctx, "k")
			case "Touch":
				err = c.Touch(ctx, time.Hour, "k")
			}
			require.ErrorIs(t, err, aside.ErrUnknownOutcome)
			late := time.Now().Add(400 * time.Millisecond) // past the deadline and its margin
			eventually(t, "it is late", func() bool { return time.Now().After(late) })
			if verb != "Touch" { // which is not replayed
				require.NoError(t, newClient(t, server.Addr()).Set(ctx, time.Minute, "k", "v")) // newer than its replay, too
			}
			proxy.Heal()
			eventually(t, "the command has arrived", func() bool { return scriptCalls(server) > scripts })
			eventually(t, "it is back", func() bool { return c.Stats().RedisConnected && c.Stats().Pending == 0 })
			require.Equal(t, "v", server.Do("GET", "k"))
			require.LessOrEqual(t, server.Do("PTTL", "k"), int64(60_000))
		})
	}
}

// scriptCalls is how many scripts the server has run.
func scriptCalls(server *redistest.Server) (n int) {
	for line := range strings.SplitSeq(fmt.Sprint(server.Do("INFO", "commandstats")), "\r\n") {
		if strings.HasPrefix(line, "cmdstat_eval") {
			calls, _, _ := strings.Cut(line[strings.Index(line, "calls=")+6:], ",")
			more, _ := strconv.Atoi(calls)
			n += more
		}
	}
	return n
}

// Promise 3: what another process has changed is not served beyond StaleLease, even if the network fails silently (and
// beyond that for DegradedTTL, which is next to nothing here).
func TestASilentPartitionDoesNotMakeReadsStaleBeyondTheLease(t *testing.T) {
	for _, fault := range []string{"black hole", "replies cut"} {
		t.Run(fault, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			const lease = 400 * time.Millisecond
			cut := newClient(t, proxy.Addr(), hasty, forgetful, func(o *aside.Options) { o.StaleLease = lease })
			writer, ctx := newClient(t, server.Addr()), testContext(t)
			require.NoError(t, writer.Set(ctx, time.Hour, "k", "old"))
			_, err := cut.Get(ctx, time.Hour, "k", mustNotLoad)
			require.NoError(t, err)
			db := newSource("new")
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
				value, err := cut.Get(ctx, time.Hour, "k", db.load)
				require.NoError(t, err)
				if value == "old" {
					stale, lastStale = stale+1, asked
				}
			}
			require.Positive(t, stale, "the fault had no effect")
			require.LessOrEqual(t, lastStale, lease)
			t.Logf("the last stale read began %v after the cut, of a lease of %v", lastStale, lease)
			proxy.Heal()
			eventually(t, "it is back", func() bool { return cut.Stats().RedisConnected })
			value, err := cut.Get(ctx, time.Hour, "k", db.load)
			require.NoError(t, err)
			require.Equal(t, "new", value)
		})
	}
}

// What was read on a connection that is lost is not served, for changes were not pushed meanwhile.
func TestALostConnectionGivesUpTheMemory(t *testing.T) {
	for _, fault := range []string{"reset", "CLIENT KILL", "restart"} {
		t.Run(fault, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := newClient(t, proxy.Addr(), hasty, forgetful), testContext(t)
			for i := range 20 {
				want := fmt.Sprint(i)
				server.Do("SET", "k", want)
				eventually(t, "it is connected and reads "+want, func() bool {
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
				eventually(t, "the loss is noticed", func() bool { return c.Stats().Flushes > flushes })
				eventually(t, "it reads what is there now", func() bool {
					value, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "", errors.New("away") })
					require.NotEqual(t, want, value)
					return err == nil && value == "changed"
				})
			}
		})
	}
}

func TestFlushAllAndFullTrackingTables(t *testing.T) {
	server := redistest.Start(t, redistest.WithArgs("--tracking-table-max-keys", "10"))
	c, db, ctx := newClient(t, server.Addr()), newSource("v"), testContext(t)
	for range 5 {
		for i := range 100 { // ten times what the table can hold: most are invalidated again at once
			_, err := c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.load)
			require.NoError(t, err)
		}
	}
	require.EqualValues(t, 100, db.calls.Load())
	eventually(t, "the server has given up keys", func() bool {
		_, err := c.Get(ctx, time.Minute, "k0", db.load)
		require.NoError(t, err)
		return c.Stats().Invalidations > 50
	})
	_, err := c.Get(ctx, time.Minute, "k1", db.load)
	require.NoError(t, err)
	flushes := c.Stats().Flushes
	db.set("new")
	server.Do("FLUSHALL")
	eventually(t, "the flush is heard of", func() bool { return c.Stats().Flushes > flushes })
	value, err := c.Get(ctx, time.Minute, "k1", db.load)
	require.NoError(t, err)
	require.Equal(t, "new", value)
}

// A full server makes room by evicting keys, also while it runs our own commands. What was evicted is not tracked any
// more, so it must not stay in memory: nobody would tell us when it is written again.
func TestKeysThatOurOwnWritesEvictLeaveTheMemory(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	big := strings.Repeat("x", 50_000)
	keys := make([]string, 20)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
		require.NoError(t, c.Set(ctx, time.Hour, keys[i], big))
		_, err := c.Get(ctx, time.Hour, keys[i], mustNotLoad)
		require.NoError(t, err)
	}
	_, used, _ := strings.Cut(fmt.Sprint(server.Do("INFO", "memory")), "used_memory:")
	used, _, _ = strings.Cut(used, "\r\n")
	bytes, err := strconv.Atoi(used)
	require.NoError(t, err)
	server.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
	server.Do("CONFIG", "SET", "maxmemory", fmt.Sprint(bytes+100_000))
	t.Cleanup(func() {
		server.Do("CONFIG", "SET", "maxmemory", "0")
		server.Do("CONFIG", "SET", "maxmemory-policy", "noeviction")
	})
	for i := range 12 {
		require.NoError(t, c.Set(ctx, time.Hour, fmt.Sprint("mine", i), big))
	}
	server.Do("CONFIG", "SET", "maxmemory", "0")
	evicted := 0
	for _, key := range keys {
		if server.Do("EXISTS", key) == int64(0) {
			evicted++
			server.Do("SET", key, "written again")
			eventually(t, "it is read again", func() bool {
				value, _, err := c.Peek(ctx, key)
				require.NoError(t, err)
				return value == "written again"
			})
		}
	}
	require.Positive(t, evicted)
}

func TestScriptFlushCostsARoundTripAndNothingElse(t *testing.T) {
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr()), newSource("v"), testContext(t)
	for i := range 10 {
		server.Do("SCRIPT", "FLUSH")
		letGo := db.holdUp()
		loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.load) })
		db.awaitBegin(t)
		server.Do("SCRIPT", "FLUSH")
		letGo()
		require.Equal(t, result{value: "v"}, await(t, loading))
		stored(t, c, fmt.Sprint("k", i))
		require.Equal(t, "v", server.Do("GET", fmt.Sprint("k", i)))
		server.Do("SCRIPT", "FLUSH")
		_, err := c.GetMulti(ctx, time.Minute, []string{fmt.Sprint("k", i), fmt.Sprint("m", i)}, db.loadMany)
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
				value, err = c.Get(ctx, time.Hour, "missing", db.load)
				require.NoError(t, err)
				require.Equal(t, "loaded", value)
				if kind == "read-only" { // nothing can be locked, filled or set: that is an outage, and memory answers
					eventually(t, "that is noticed", func() bool { return !c.Stats().RedisConnected })
				}
				m, err := c.GetMulti(ctx, time.Hour, []string{"present", "missing too"}, db.loadMany)
				require.NoError(t, err)
				require.Equal(t, map[string]string{"present": "v", "missing too": "loaded"}, m)
			}
			if kind == "full" {
				require.EqualValues(t, 4, db.calls.Load())
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
	value, err := c.Get(ctx, time.Minute, "list", db.load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	require.Equal(t, int64(1), server.Do("LLEN", "list"))
	require.NoError(t, c.Del(ctx, "list"))
	require.Equal(t, int64(0), server.Do("EXISTS", "list"))
}

// The caller leaves while its read-or-lock is on its way: the lock that it may have taken is given back.
func TestALockThatNobodyHeardOfIsGivenBack(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.LockTTL = time.Hour }), testContext(t)
	_, err := c.Get(ctx, time.Minute, "warm", newSource("v").load)
	require.NoError(t, err)
	proxy.Delay(50 * time.Millisecond)
	for i := range 5 {
		short, cancel := context.WithTimeout(ctx, 60*time.Millisecond)
		_, err = c.Get(short, time.Minute, fmt.Sprint("k", i), mustNotLoad)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		short, cancel = context.WithTimeout(ctx, 60*time.Millisecond)
		_, err = c.GetMulti(short, time.Minute, []string{fmt.Sprint("m", i), fmt.Sprint("n", i)}, newSource("v").loadMany)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	eventually(t, "no lock is left", func() bool { return fmt.Sprint(keysOf(server)) == "[warm]" })
}

// Under load the questions of many callers go together; each gets the answer for its own key.
func TestQuestionsGoTogetherUnderLoad(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr()), testContext(t)
	proxy.Delay(5 * time.Millisecond)
	proxy.ResetCounts()
	server.Do("RPUSH", "k7", "of another type")
	var loads atomic.Int64
	var callers sync.WaitGroup
	for i := range 400 {
		key := fmt.Sprint("k", i)
		if i%4 == 0 {
			server.Do("SET", key, "of "+key)
		}
		callers.Go(func() {
			value, err := c.Get(ctx, time.Minute, key, func(context.Context, string) (string, error) {
				loads.Add(1)
				return "of " + key, nil
			})
			if err != nil || value != "of "+key {
				t.Errorf("%s: %q, %v", key, value, err)
			}
		})
	}
	callers.Wait()
	require.EqualValues(t, 300, loads.Load())
	require.Less(t, proxy.Commands(), 400, "of the 700 that it takes one by one")
	t.Logf("%d commands for 400 reads and 300 fills", proxy.Commands())
	for i := range 400 {
		if i != 7 {
			require.Equal(t, fmt.Sprint("of k", i), server.Do("GET", fmt.Sprint("k", i)))
		}
	}
	require.Zero(t, c.Stats().FillsRefused)
	require.True(t, c.Stats().RedisConnected)
}

// Who leaves before its joint question is answered leaves no lock behind, and spoils it for nobody.
func TestLeavingAJointQuestion(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.LockTTL = time.Hour }), testContext(t)
	proxy.Delay(20 * time.Millisecond)
	short, cancel := context.WithCancel(ctx)
	var stay, leave []<-chan result
	for i := range 100 {
		stay = append(stay, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("stay", i), newSource("v").load) }))
		leave = append(leave, inBackground(func() (string, error) { return c.Get(short, time.Minute, fmt.Sprint("leave", i), newSource("v").load) }))
	}
	eventually(t, "all are on their way", func() bool { return c.Stats().Waiting >= 150 })
	cancel()
	for i := range 100 {
		require.Equal(t, result{value: "v"}, await(t, stay[i]))
		if r := await(t, leave[i]); r.err != nil {
			require.ErrorIs(t, r.err, context.Canceled)
		}
	}
	eventually(t, "no lock is left", func() bool {
		for i := range 100 {
			if held := server.Do("GET", fmt.Sprint("leave", i)); held != nil && held != "v" {
				return false
			}
		}
		return true
	})
	// And Close while many are on their way answers them all.
	stay = nil
	for i := range 100 {
		stay = append(stay, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("late", i), newSource("v").load) }))
	}
	require.NoError(t, c.Close())
	for _, s := range stay {
		if r := await(t, s); r.err != nil {
			require.ErrorIs(t, r.err, aside.ErrClosed)
		}
	}
}

func TestCloseEndsWhileRedisHangs(t *testing.T) {
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr(), hasty), newSource("v"), testContext(t)
	db.holdUp()
	loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.load) })
	db.awaitBegin(t)
	server.Freeze()
	defer server.Thaw()
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	require.ErrorIs(t, await(t, loading).err, aside.ErrClosed)
	require.NoError(t, await(t, closed))
}

// What was loaded before Close is stored if Redis answers in time: nobody waits for locks that we leave.
func TestCloseStoresWhatWasLoaded(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, db, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.LockTTL = time.Hour }), newSource("v"), testContext(t)
	letGo := db.holdUp()
	const n = 40 // few enough for a slow machine to store them in time
	for i := range n {
		inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.load) })
	}
	for range n {
		db.awaitBegin(t)
	}
	proxy.Delay(20 * time.Millisecond)
	letGo()
	eventually(t, "all have been loaded", func() bool { return c.Stats().Loads == n })
	require.NoError(t, c.Close())
	for i := range n {
		require.Contains(t, []any{"v", nil}, server.Do("GET", fmt.Sprint("k", i)), "no lock is left")
	}
}

// An Observer that asks for other keys waits for fills, and must not be what they wait for.
func TestAnObserverMayAsk(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	ctx := testContext(t)
	var c *aside.Client
	var refused atomic.Int64
	c = newClient(t, proxy.Addr(), func(o *aside.Options) {
		o.Observer = aside.ObserverFunc(func(e aside.Event) {
			if e.Kind == aside.EventFillRefused {
				_, err := c.Get(ctx, time.Minute, "again-"+e.Key, newSource("v").load)
				require.NoError(t, err)
				refused.Add(1)
			}
		})
	})
	db := newSource("v")
	letGo := db.holdUp()
	const n = 100
	var loading []<-chan result
	for i := range n {
		loading = append(loading, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.load) }))
	}
	for i := range n {
		db.awaitBegin(t)
		server.Do("DEL", fmt.Sprint("k", i))
	}
	for i := range n { // those that had not begun then
		server.Do("DEL", fmt.Sprint("k", i))
	}
	proxy.Delay(5 * time.Millisecond)
	letGo()
	for _, l := range loading {
		require.Equal(t, result{value: "v"}, await(t, l))
	}
	eventually(t, "all fills are refused", func() bool { return refused.Load() == n })
}

// Fills that wait to be sent with others have nobody who waits for them: Close ends them all the same.
func TestCloseEndsFillsThatWaitForOthers(t *testing.T) {
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.RedisTimeout = time.Second }), newSource("v"), testContext(t)
	letGo := db.holdUp()
	const n = 50
	var loading []<-chan result
	for i := range n {
		loading = append(loading, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.load) }))
	}
	for range n {
		db.awaitBegin(t)
	}
	server.Freeze()
	defer server.Thaw()
	letGo()
	eventually(t, "all have been loaded", func() bool { return c.Stats().Loads == n })
	require.NoError(t, c.Close(), "nothing is left behind")
	for _, l := range loading {
		if r := await(t, l); r.err != nil {
			require.ErrorIs(t, r.err, aside.ErrClosed)
		}
	}
}

func TestCloseWhileConnectingAndWhileRedisIsAway(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	for range 3 {
		c, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Logger: quiet})
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	hole := faultproxy.New(t, server.Addr())
	hole.Stall()
	c, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{hole.Addr()}}, ConnectTimeout: 10 * time.Millisecond, Logger: quiet})
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func TestCloseSaysWhatItLeftBehind(t *testing.T) {
	server := redistest.Start(t)
	c, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Logger: quiet})
	require.NoError(t, err)
	began, release, returned := make(chan struct{}), make(chan struct{}), make(chan struct{})
	loading := inBackground(func() (string, error) {
		return c.Get(testContext(t), time.Minute, "k", func(context.Context, string) (string, error) {
			defer close(returned)
			close(began)
			<-release // whatever the context says
			return "", nil
		})
	})
	await(t, began)
	err = c.Close()
	require.ErrorContains(t, err, "left behind")
	require.Equal(t, err, c.Close(), "twice says the same")
	require.ErrorIs(t, await(t, loading).err, aside.ErrClosed)
	close(release)
	await(t, returned)
}

func TestABuilderThatPanicsOrReturnsNothingIsAnError(t *testing.T) {
	for name, builder := range map[string]func(rueidis.ClientOption) (rueidis.Client, error){
		"panicked": func(rueidis.ClientOption) (rueidis.Client, error) { panic("boom") },
		"neither":  func(rueidis.ClientOption) (rueidis.Client, error) { return nil, nil },
	} {
		_, err := aside.New(aside.Options{ClientBuilder: builder, RequireRedis: true, Logger: quiet})
		require.ErrorContains(t, err, name)
	}
}

// A hundred outages leave nothing behind: goroutines are checked by goleak at the end of the run.
func TestManyOutagesLeaveNothingBehind(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, db, ctx := newClient(t, proxy.Addr(), hasty), newSource("v"), testContext(t)
	for i := range 100 {
		proxy.Reset()
		_, err := c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.load)
		require.NoError(t, err)
	}
	eventually(t, "it is back", func() bool { return c.Stats().RedisConnected })
	eventually(t, "with one connection", func() bool { return proxy.Connections() == 1 })
	awaitNobody(t, c)
}
