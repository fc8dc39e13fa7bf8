package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// Tests make a value stale by giving its key less than the grace to live, as time would.
const (
	fresh = time.Hour
	grace = time.Minute
)

func makeStale(t *testing.T, server *redistest.Server, keys ...string) {
	t.Helper()
	for _, key := range keys {
		require.EqualValues(t, 1, server.Do("PEXPIRE", key, (grace/2).Milliseconds()))
	}
}

// getGracefully returns a function that gets k by a graceful view of a client.
func getGracefully(ctx context.Context, t *testing.T, db *source) func(c *aside.Client) string {
	t.Helper()
	return func(c *aside.Client) string {
		t.Helper()
		value, err := graceful(c).Get(ctx, fresh, "k", db.Load)
		require.NoError(t, err)
		return value
	}
}

// graceful is a view with a grace of a client that knows of key what Redis holds.
func graceful(c *aside.Client, opts ...aside.ViewOption) *aside.TypedClient[string] {
	return aside.Typed(c, codec.String(), append([]aside.ViewOption{aside.WithGrace(grace)}, opts...)...)
}

// awaitStale waits until a client has heard that keys are stale.
func awaitStale(t *testing.T, c *aside.Client, keys ...string) {
	t.Helper()
	for _, key := range keys {
		eventually(t, "it has heard of it", func() bool {
			found, err := c.Look(testContext(t), key)
			return err == nil && found.TTL <= grace
		})
	}
}

var refreshed = func(c *aside.Client) func() bool { return func() bool { return c.Stats().Waiting == 0 } }

// Stale-while-revalidate: nobody waits for the loader, one refreshes, and all get what it loads.
func TestAStaleValueIsServedWhileOneRefreshesIt(t *testing.T) {
	for name, change := range map[string]func(*aside.Options){"with memory": func(*aside.Options) {}, "untracked": untracked, "store first": func(o *aside.Options) { o.StoreFirst = true }} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			a, b, ctx := newClient(t, server.Addr(), change), newClient(t, server.Addr(), change), testContext(t)
			db := newSource("1")
			get := getGracefully(ctx, t, db)
			require.Equal(t, "1", get(a))
			stored(t, a, "k")
			require.InDelta(t, (fresh + grace).Milliseconds(), server.Do("PTTL", "k"), 20_000)
			require.Equal(t, "1", get(b))
			makeStale(t, server, "k")
			awaitStale(t, a, "k")
			awaitStale(t, b, "k")
			db.Set("2")
			letGo := db.HoldUp()
			for range 10 {
				require.Equal(t, "1", get(a), "it waits for no loader")
				require.Equal(t, "1", get(b))
			}
			eventually(t, "one refreshes", func() bool { return db.Calls.Load() == 2 })
			for range 10 {
				require.Equal(t, "1", get(a))
				require.Equal(t, "1", get(b))
			}
			require.EqualValues(t, 2, db.Calls.Load())
			require.GreaterOrEqual(t, a.Stats().StaleHits+b.Stats().StaleHits, int64(40))
			letGo()
			for _, c := range []*aside.Client{a, b} {
				eventually(t, "all get what it has loaded", func() bool { return get(c) == "2" })
			}
			require.EqualValues(t, 2, db.Calls.Load())
			require.Equal(t, "2", server.Do("GET", "k"), "raw")
			require.InDelta(t, (fresh + grace).Milliseconds(), server.Do("PTTL", "k"), 20_000)
			require.Nil(t, server.Do("GET", stamp.RefreshLock("k")), "its lock is given back")
		})
	}
}

// What is written or deleted while a refresh runs wins.
func TestAWriteDuringARefreshWins(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		write func(server *redistest.Server, mine, other *aside.Client)
		holds any
	}{
		"a Set of its process": {func(_ *redistest.Server, mine, _ *aside.Client) {
			must(mine.Set(context.Background(), fresh, "k", "set"))
		}, "set"},
		"a Set of another": {func(_ *redistest.Server, _, other *aside.Client) {
			must(other.Set(context.Background(), fresh, "k", "set"))
		}, "set"},
		"a Del of its process": {func(_ *redistest.Server, mine, _ *aside.Client) { must(mine.Del(context.Background(), "k")) }, nil},
		"a Del of another":     {func(_ *redistest.Server, _, other *aside.Client) { must(other.Del(context.Background(), "k")) }, nil},
		"a Set of the same": {func(server *redistest.Server, _, other *aside.Client) {
			withItsEnd(server, func() { must(other.Set(context.Background(), grace, "k", "1")) })
		}, "1"},
		"a Del, and a foreign SET of the same with the same end": {func(server *redistest.Server, _, other *aside.Client) {
			withItsEnd(server, func() {
				must(other.Del(context.Background(), "k"))
				server.Do("SET", "k", "1")
			})
		}, "1"},
		"a foreign SET":                   {func(server *redistest.Server, _, _ *aside.Client) { server.Do("SET", "k", "foreign") }, "foreign"},
		"a foreign SET of the same":       {func(server *redistest.Server, _, _ *aside.Client) { server.Do("SET", "k", "1", "PX", 10_000) }, "1"},
		"a foreign SET with the same end": {func(server *redistest.Server, _, _ *aside.Client) { server.Do("SET", "k", "foreign", "KEEPTTL") }, "foreign"},
		"a foreign DEL":                   {func(server *redistest.Server, _, _ *aside.Client) { server.Do("DEL", "k") }, nil},
		"the lock of another, who is faster": {func(server *redistest.Server, _, other *aside.Client) {
			server.Do("DEL", stamp.RefreshLock("k")) // as if it had run out while this process was stopped
			eventually2("it is refreshed by another", func() bool {
				value, err := graceful(other).Get(context.Background(), fresh, "k", newSource("other").Load)
				return err == nil && value == "other"
			})
		}, "other"},
		"the loss of its lock": {func(server *redistest.Server, _, _ *aside.Client) { server.Do("DEL", stamp.RefreshLock("k")) }, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			mine, other, ctx := newClient(t, server.Addr(), patient), newClient(t, server.Addr(), patient), testContext(t)
			db := newSource("1")
			_, err := graceful(mine).Get(ctx, fresh, "k", db.Load)
			require.NoError(t, err)
			stored(t, mine, "k")
			makeStale(t, server, "k")
			awaitStale(t, mine, "k")
			db.Set("2")
			letGo := db.HoldUp()
			_, err = graceful(mine).Get(ctx, fresh, "k", db.Load)
			require.NoError(t, err)
			eventually(t, "it is refreshed", func() bool { return db.Calls.Load() == 2 })
			row.write(server, mine, other)
			letGo()
			eventually(t, "the refresh is over", refreshed(mine))
			require.Equal(t, row.holds, server.Do("GET", "k"))
			require.EqualValues(t, 1, mine.Stats().FillsRefused)
		})
	}
}

// withItsEnd has k end just when it would have ended without write, however long that takes.
func withItsEnd(server *redistest.Server, write func()) {
	const end = "local now = redis.call('TIME') return now[1] * 1000 + math.floor(now[2] / 1000) + redis.call('PTTL', KEYS[1])"
	at := server.Do("EVAL", end, "1", "k").(int64)
	write()
	server.Do("PEXPIREAT", "k", at)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func eventually2(what string, ok func() bool) {
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			panic("never: " + what)
		}
	}
}

// Stale-if-error: a failing source costs no caller an error, and the whole fleet asks it once in a
// back-off.
func TestAFailedRefreshHoldsOffTheFleet(t *testing.T) {
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	db := newSource("1")
	get := getGracefully(ctx, t, db)
	require.Equal(t, "1", get(a))
	stored(t, a, "k")
	makeStale(t, server, "k")
	awaitStale(t, a, "k")
	db.Fail(errors.New("broken"))
	require.Equal(t, "1", get(a))
	failed := func(n int) func() bool {
		return func() bool {
			return strings.HasPrefix(fmt.Sprint(server.Do("GET", stamp.RefreshLock("k"))), fmt.Sprintf("failed:%d:", n))
		}
	}
	eventually(t, "it has failed", failed(1))
	server.Do("PEXPIRE", stamp.RefreshLock("k"), 3_600_000) // a long back-off
	for range 20 {
		require.Equal(t, "1", get(b))
		require.Equal(t, "1", get(a))
	}
	eventually(t, "nobody asks", refreshed(b))
	require.EqualValues(t, 2, db.Calls.Load(), "one load of all, beside the first")

	server.Do("PEXPIRE", stamp.RefreshLock("k"), 2_000) // it is over
	c := newClient(t, server.Addr())
	require.Equal(t, "1", get(c))
	eventually(t, "it has failed again", failed(2))
	left := server.Do("PTTL", stamp.RefreshLock("k")).(int64)
	require.Greater(t, left, int64(1000), "at least half of two seconds, and what is there to be counted")

	db.Fail(nil)
	db.Set("2")
	server.Do("DEL", stamp.RefreshLock("k"))
	require.Equal(t, "1", get(newClient(t, server.Addr())))
	eventually(t, "it is refreshed", func() bool { return server.Do("GET", "k") == "2" })
	for _, c := range []*aside.Client{a, b, c} {
		eventually(t, "all have it", func() bool { return get(c) == "2" })
	}
}

// Where the refresh lock cannot be taken, the stale value is served all the same, and nobody loads.
func TestAStaleValueIsServedWhereNoRefreshLockCanBeTaken(t *testing.T) {
	server := redistest.Start(t)
	if server.Name() == "redis" && strings.HasPrefix(server.Version(), "6.") {
		return // keys are checked within scripts since 7.0
	}
	c, ctx := newClient(t, server.Addr()), testContext(t)
	db := newSource("1")
	_, err := graceful(c).Get(ctx, fresh, "k", db.Load)
	require.NoError(t, err)
	stored(t, c, "k")
	makeStale(t, server, "k")
	awaitStale(t, c, "k")
	server.Do("ACL", "SETUSER", "default", "resetkeys", "~k", "~aside:stamps:*", "~aside:probe*")
	t.Cleanup(func() { server.Do("ACL", "SETUSER", "default", "allkeys") })
	for range 10 {
		value, err := graceful(c).Get(ctx, fresh, "k", db.Load)
		require.NoError(t, err)
		require.Equal(t, "1", value)
	}
	eventually(t, "it has asked", refreshed(c))
	require.EqualValues(t, 1, db.Calls.Load())
	require.Equal(t, aside.Healthy, c.Health().Mode)
}

// While Redis is away memory serves by the same rule, and this process refreshes for itself.
func TestGraceInAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), hasty), testContext(t)
	db := newSource("1")
	get := func() string {
		value, err := graceful(c).Get(ctx, fresh, "k", db.Load)
		require.NoError(t, err)
		return value
	}
	require.Equal(t, "1", get())
	stored(t, c, "k")
	makeStale(t, server, "k")
	awaitStale(t, c, "k")
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	db.Fail(errors.New("broken"))
	began := time.Now()
	for range 10 {
		require.Equal(t, "1", get(), "stale-if-error")
	}
	eventually(t, "it has asked", refreshed(c))
	calls := db.Calls.Load()
	require.GreaterOrEqual(t, calls, int64(2))
	require.LessOrEqual(t, calls, 2+backOffsSince(began), "once in a back-off")
	db.Fail(nil)
	db.Set("2")
	eventually(t, "it is refreshed", func() bool { return get() == "2" })
	require.Equal(t, calls+1, db.Calls.Load())
	require.Equal(t, "1", server.Do("GET", "k"))
}

// backOffsSince is how many back-offs may have ended since then: none where the machine is not slow.
func backOffsSince(began time.Time) int64 { return int64(time.Since(began) / (500 * time.Millisecond)) }

// WithSoftTimeout waits for a refresh that is quick, and not for one that is slow.
func TestWithSoftTimeoutPrefersWhatIsFresh(t *testing.T) {
	server := redistest.Start(t)
	ctx := testContext(t)
	for name, get := range map[string]func(ctx context.Context, c *aside.Client, db *source, soft time.Duration, key string) (string, error){
		"Get": func(ctx context.Context, c *aside.Client, db *source, soft time.Duration, key string) (string, error) {
			return graceful(c).Get(ctx, fresh, key, db.Load, aside.WithSoftTimeout(soft))
		},
		"GetMulti": func(ctx context.Context, c *aside.Client, db *source, soft time.Duration, key string) (string, error) {
			values, err := graceful(c).GetMulti(ctx, fresh, []string{key}, db.LoadMany, aside.WithSoftTimeout(soft))
			return values[key], err
		},
		"a client's Get": func(ctx context.Context, c *aside.Client, db *source, soft time.Duration, key string) (string, error) {
			return c.Get(ctx, fresh, key, db.Load, aside.WithGrace(grace), aside.WithSoftTimeout(soft))
		},
		"a client's GetMulti": func(ctx context.Context, c *aside.Client, db *source, soft time.Duration, key string) (string, error) {
			values, err := c.GetMulti(ctx, fresh, []string{key}, db.LoadMany, aside.WithGrace(grace), aside.WithSoftTimeout(soft))
			return values[key], err
		},
	} {
		for _, inMemory := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", in memory ", inMemory), func(t *testing.T) {
				key := strings.ReplaceAll(t.Name(), "/", " ")
				c, db := newClient(t, server.Addr()), newSource("1")
				get := func(soft time.Duration, key string) (string, error) { return get(ctx, c, db, soft, key) }
				db.Set("1")
				_, err := get(time.Second, key)
				require.NoError(t, err)
				stored(t, c, key)
				makeStale(t, server, key)
				if inMemory {
					awaitStale(t, c, key)
				} else {
					eventually(t, "memory has dropped it", func() bool { return c.Stats().MemoryEntries == 0 })
				}
				db.Set("2")
				letGo := db.HoldUp()
				value, err := get(30*time.Millisecond, key)
				require.NoError(t, err)
				require.Equal(t, "1", value, "it is too slow")
				letGo()
				eventually(t, "the refresh is over", refreshed(c))
				value, err = get(0, key)
				require.NoError(t, err)
				require.Equal(t, "2", value, "it went on")

				makeStale(t, server, key)
				awaitStale(t, c, key)
				db.Set("3")
				value, err = get(patience, key)
				require.NoError(t, err)
				require.Equal(t, "3", value)
			})
		}
	}
}

// Many stale keys are refreshed by one call of the loader.
func TestABatchIsRefreshedAtOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	db := newSource("1")
	keys := make([]string, 100)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
	}
	get := func() map[string]string {
		values, err := graceful(c).GetMulti(ctx, fresh, keys, db.LoadMany)
		require.NoError(t, err)
		require.Len(t, values, len(keys))
		return values
	}
	get()
	stored(t, c, keys...)
	makeStale(t, server, keys...)
	for _, key := range keys {
		eventually(t, "it has it in memory, stale: a batch that it has in part is found stale in two parts", func() bool {
			found, err := c.Look(ctx, key)
			return err == nil && found.Source == aside.SourceMemory && found.TTL <= grace
		})
	}
	db.Set("2")
	for range 3 {
		get()
	}
	eventually(t, "they are refreshed", func() bool { return get()["k99"] == "2" })
	eventually(t, "all are", refreshed(c))
	require.EqualValues(t, 2, db.Calls.Load())
	for _, key := range keys {
		require.Equal(t, "2", server.Do("GET", key))
	}
}

// A refresh that finds nothing, or nothing that may be stored, ends the stale value.
func TestARefreshThatFindsNothing(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.MaxValueBytes = 10 }), testContext(t)
	for name, row := range map[string]struct {
		load  aside.Loader[string]
		opts  []aside.ViewOption
		holds any
	}{
		"an absence":                {func(context.Context, string) (string, error) { return "", aside.ErrNotFound }, nil, "\x00aside:1n"},
		"one that is not cached":    {func(context.Context, string) (string, error) { return "", aside.ErrNotFound }, []aside.ViewOption{aside.WithNegativeTTL(-1)}, nil},
		"a value that is too large": {newSource("more than ten bytes").Load, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, c.Set(ctx, grace/2, name, "1"))
			view := graceful(c, row.opts...)
			value, err := view.Get(ctx, fresh, name, row.load)
			require.NoError(t, err)
			require.Equal(t, "1", value)
			eventually(t, "it is over", refreshed(c))
			require.Equal(t, row.holds, server.Do("GET", name))
			_, err = view.Get(ctx, fresh, name, row.load)
			if name == "an absence" {
				require.ErrorIs(t, err, aside.ErrNotFound)
				require.InDelta(t, (30*time.Second + grace).Milliseconds(), server.Do("PTTL", name), 20_000, "NegativeTTL and the grace")
			}
		})
	}
}

// Without a grace a value is stored and read as ever, and what a view with one has left is fresh for
// others until it is gone.
func TestValuesStayRawAndReadersWithoutGraceSeeNone(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	plain := aside.Typed(c, codec.String())
	_, err := plain.Get(ctx, fresh, "plain", newSource("v").Load)
	require.NoError(t, err)
	stored(t, c, "plain")
	require.Equal(t, "v", server.Do("GET", "plain"))
	require.InDelta(t, fresh.Milliseconds(), server.Do("PTTL", "plain"), 20_000)

	view := graceful(c)
	require.NoError(t, view.Set(ctx, fresh, "set", "v"))
	require.InDelta(t, (fresh + grace).Milliseconds(), server.Do("PTTL", "set"), 20_000)
	require.NoError(t, view.Touch(ctx, 2*fresh, "set"))
	require.InDelta(t, (2*fresh + grace).Milliseconds(), server.Do("PTTL", "set"), 20_000)
	require.ErrorContains(t, view.Set(ctx, 0, "set", "v"), "ttl is 0s")
	require.ErrorContains(t, view.Touch(ctx, 0, "set"), "ttl is 0s")
	makeStale(t, server, "set")
	for range 3 {
		value, err := plain.Get(ctx, fresh, "set", mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "v", value)
	}
	server.Do("SET", "foreign", "v")
	for range 3 {
		value, err := view.Get(ctx, fresh, "foreign", mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "v", value)
	}
	eventually(t, "nothing is refreshed", refreshed(c))
	require.Zero(t, c.Stats().Loads-1, "what does not expire is fresh")
	require.Zero(t, c.Stats().StaleHits)
}

// A hit of a view with a grace costs no allocation.
func TestAHitWithGraceAllocatesNothing(t *testing.T) {
	c, ctx := newClient(t, redistest.Start(t).Addr()), testContext(t)
	for i, opts := range [][]aside.ViewOption{
		{aside.WithJitter(0.1)}, {aside.WithRefreshAhead(0.1)}, {aside.WithMaxAge(fresh)}, {aside.WithMaxStale(0), aside.WithRefreshAhead(0.1), aside.WithMaxAge(fresh)},
	} {
		view, load, key := graceful(c, opts...), newSource("v").Load, fmt.Sprint("k", i)
		get := func() {
			_, err := view.Get(ctx, fresh, key, load)
			require.NoError(t, err)
		}
		get()
		stored(t, c, key)
		get()
		require.Zero(t, allocations(100, get), i)
		require.Zero(t, allocations(100, func() { _, _ = view.Fetch(ctx, fresh, key, load) }), i)
	}
}

// Whoever is stopped in the middle of a refresh, for longer than its lock lives, stores nothing when
// it goes on.
func TestARefresherThatWasStoppedStoresNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	server.Do("SET", "k", "1", "PX", (grace / 2).Milliseconds())
	stopped := startChild(t, "refresher", server.Addr())
	stopped.say("k")
	require.Equal(t, "got 1", stopped.line())
	require.Equal(t, "loading", stopped.line())
	require.NoError(t, stopped.cmd.Process.Signal(syscall.SIGSTOP))
	eventually(t, "its lock runs out", func() bool { return server.Do("GET", stamp.RefreshLock("k")) == nil })
	db := newSource("2")
	eventually(t, "another refreshes", func() bool {
		value, err := graceful(c).Get(ctx, fresh, "k", db.Load)
		return err == nil && value == "2"
	})
	require.NoError(t, stopped.cmd.Process.Signal(syscall.SIGCONT))
	stopped.say("go on")
	require.Equal(t, "over", stopped.line())
	require.Equal(t, "2", server.Do("GET", "k"))
}

// Promise 9: four processes with many callers each; each period has one refresh in all.
func TestOneRefreshPerPeriodAcrossProcesses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var children []*child
	for range 4 {
		children = append(children, startChild(t, "refreshers", server.Addr()))
	}
	for round := range 10 {
		key := fmt.Sprint("round ", round)
		server.Do("SET", key, "0", "PX", (grace / 2).Milliseconds()) // stale for all
		for _, c := range children {
			c.say(key)
		}
		loads := 0
		for _, c := range children {
			for line := c.line(); line != "done"; line = c.line() {
				require.Equal(t, "load", line)
				loads++
			}
		}
		require.Equal(t, 1, loads, key)
		require.Equal(t, "1", server.Do("GET", key))
	}
}

// More stale keys than may be loaded at once cost their callers nothing.
func TestWhatIsStaleIsServedBeyondMaxLoads(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.MaxLoads = 2 }), testContext(t)
	var running crowd
	release := make(chan struct{})
	load := func(context.Context, string) (string, error) {
		defer running.enter()()
		<-release
		return "2", nil
	}
	for i := range 20 {
		key := fmt.Sprint("k", i)
		server.Do("SET", key, "1", "PX", (grace / 2).Milliseconds())
		value, err := graceful(c).Get(ctx, fresh, key, load)
		require.NoError(t, err)
		require.Equal(t, "1", value)
	}
	eventually(t, "the others give up", func() bool { return c.Stats().Overloaded == 18 })
	for i := range 20 {
		value, err := graceful(c).Get(ctx, fresh, fmt.Sprint("k", i), load)
		require.NoError(t, err)
		require.Equal(t, "1", value)
	}
	close(release)
	eventually(t, "all are over", refreshed(c))
	require.EqualValues(t, 2, running.most.Load())
}

// WithoutLoad serves what is stale and has nothing refreshed, wherever the value is found.
func TestWithoutLoadRefreshesNothing(t *testing.T) {
	server := redistest.Start(t)
	ctx := testContext(t)
	for name, get := range map[string]func(c *aside.Client, db *source, key string) (string, error){
		"Get": func(c *aside.Client, db *source, key string) (string, error) {
			return graceful(c).Get(ctx, fresh, key, db.Load, aside.WithoutLoad(), aside.WithSoftTimeout(patience))
		},
		"GetMulti": func(c *aside.Client, db *source, key string) (string, error) {
			values, err := graceful(c).GetMulti(ctx, fresh, []string{key}, db.LoadMany, aside.WithoutLoad(), aside.WithSoftTimeout(patience))
			return values[key], err
		},
		"a client's Get": func(c *aside.Client, db *source, key string) (string, error) {
			return c.Get(ctx, fresh, key, db.Load, aside.WithoutLoad(), aside.WithGrace(grace))
		},
		"a client's GetMulti": func(c *aside.Client, db *source, key string) (string, error) {
			values, err := c.GetMulti(ctx, fresh, []string{key}, db.LoadMany, aside.WithoutLoad(), aside.WithGrace(grace))
			return values[key], err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, db := newClient(t, server.Addr()), newSource("2")
			server.Do("SET", name, "1", "PX", (grace / 2).Milliseconds())
			awaitStale(t, c, name)
			value, err := get(c, db, name)
			require.NoError(t, err)
			require.Equal(t, "1", value)
			eventually(t, "nothing runs", refreshed(c))
			require.Zero(t, db.Calls.Load())
			require.EqualValues(t, 1, c.Stats().StaleHits)
		})
	}
}

// What a GetMulti has waited for, and is gone, is not in its map.
func TestAGetMultiLeavesOutWhatItsRefreshHasFoundGone(t *testing.T) {
	server := redistest.Start(t)
	ctx := testContext(t)
	gone := func(context.Context, []string) (map[string]string, error) { return nil, nil }
	for name, get := range map[string]func(c *aside.Client, key string) (map[string]string, error){
		"a view's": func(c *aside.Client, key string) (map[string]string, error) {
			return graceful(c).GetMulti(ctx, fresh, []string{key}, gone, aside.WithSoftTimeout(patience))
		},
		"a client's": func(c *aside.Client, key string) (map[string]string, error) {
			return c.GetMulti(ctx, fresh, []string{key}, gone, aside.WithGrace(grace), aside.WithSoftTimeout(patience))
		},
		"a view's FetchMulti": func(c *aside.Client, key string) (map[string]string, error) {
			return valuesOf(graceful(c).FetchMulti(ctx, fresh, []string{key}, gone, aside.WithSoftTimeout(patience)))
		},
		"a client's FetchMulti": func(c *aside.Client, key string) (map[string]string, error) {
			return valuesOf(c.FetchMulti(ctx, fresh, []string{key}, gone, aside.WithGrace(grace), aside.WithSoftTimeout(patience)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, server.Addr())
			server.Do("SET", name, "1", "PX", (grace / 2).Milliseconds())
			awaitStale(t, c, name)
			values, err := get(c, name)
			require.NoError(t, err)
			require.Empty(t, values)
		})
	}
}

func valuesOf(results map[string]aside.Result[string], err error) (map[string]string, error) {
	values := make(map[string]string, len(results))
	for key, result := range results {
		values[key] = result.Value
	}
	return values, err
}

// A key that another process refreshes is free for this one when that has ended, whatever else the
// call has asked for.
func TestAKeyThatIsNotLoadedDoesNotWaitForTheOthers(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	server.Do("SET", "k", "1", "PX", (grace / 2).Milliseconds())
	server.Do("SET", "l", "1", "PX", (grace / 2).Milliseconds())
	server.Do("SET", stamp.RefreshLock("l"), "another's", "PX", 5000) // not so short that it ends before the call
	db := newSource("2")
	letGo := db.HoldUp()
	defer letGo()
	_, err := graceful(c).GetMulti(ctx, fresh, []string{"k", "l"}, db.LoadMany)
	require.NoError(t, err)
	eventually(t, "l is held off", func() bool { return c.Stats().RefreshesHeldOff == 1 })
	other := newSource("2")
	eventually(t, "l is refreshed", func() bool {
		value, err := graceful(c).Get(ctx, fresh, "l", other.Load)
		return err == nil && value == "2"
	})
	require.Equal(t, "1", server.Do("GET", "k"), "it is loaded still")
}

// A call that has waited for what was in memory has what it finds in Redis refreshed, too.
func TestACallThatHasWaitedHasTheRestRefreshed(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	server.Do("SET", "k", "1", "PX", (grace / 2).Milliseconds())
	server.Do("SET", "l", "1", "PX", (grace / 2).Milliseconds())
	awaitStale(t, c, "k")
	_, err := c.GetMulti(ctx, fresh, []string{"k", "l"}, newSource("2").LoadMany, aside.WithGrace(grace), aside.WithSoftTimeout(patience))
	require.NoError(t, err)
	eventually(t, "all are over", refreshed(c))
	require.Equal(t, "2", server.Do("GET", "k"))
	require.Equal(t, "2", server.Do("GET", "l"))
}

// Without Redis, too, a refresh whose result may not be kept is not done again at once, and what it
// has found gone is served no more.
func TestAnOutageRefreshThatCannotBeKept(t *testing.T) {
	for name, row := range map[string]struct {
		load aside.Loader[string]
		opts []aside.ViewOption
		gone bool
	}{
		"an absence that is not cached": {func(context.Context, string) (string, error) { return "", aside.ErrNotFound }, []aside.ViewOption{aside.WithNegativeTTL(-1)}, true},
		"a value that is too large":     {newSource("more than ten bytes").Load, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := newClient(t, proxy.Addr(), hasty, func(o *aside.Options) { o.MaxValueBytes = 10 }), testContext(t)
			server.Do("SET", "k", "1", "PX", (grace / 2).Milliseconds())
			awaitStale(t, c, "k")
			proxy.Refuse()
			awaitMode(t, c, aside.Degraded)
			var calls atomic.Int64
			get := func() (string, error) {
				return graceful(c, row.opts...).Get(ctx, fresh, "k", func(ctx context.Context, key string) (string, error) {
					calls.Add(1)
					return row.load(ctx, key)
				})
			}
			began := time.Now()
			for range 10 {
				value, err := get()
				if row.gone && err != nil {
					require.ErrorIs(t, err, aside.ErrNotFound)
				} else {
					require.NoError(t, err)
					require.Equal(t, "1", value)
				}
				eventually(t, "the refresh is over", refreshed(c))
			}
			if row.gone {
				_, err := get()
				require.ErrorIs(t, err, aside.ErrNotFound)
			} else {
				require.LessOrEqual(t, calls.Load(), 1+backOffsSince(began), "once in a back-off")
			}
		})
	}
}

// Where the locks of refreshes are lost each time, as on a server that evicts them, their keys rest,
// longer each time.
func TestRefusedRefreshesRest(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	server.Do("SET", "k", "1", "PX", grace.Milliseconds())
	awaitStale(t, c, "k")
	began, refused := time.Now(), func() int64 { return c.Stats().FillsRefused }
	eventually(t, "it is refused five times", func() bool {
		value, err := graceful(c).Get(ctx, fresh, "k", func(context.Context, string) (string, error) {
			server.Do("DEL", stamp.RefreshLock("k"))
			return "2", nil
		})
		require.NoError(t, err)
		require.Equal(t, "1", value)
		return refused() == 5
	})
	require.GreaterOrEqual(t, time.Since(began), (20+40+80+160)*time.Millisecond)
}

// A loader's error that wraps another Client's ErrClosed is a failure of the source like any other.
func TestARefreshThatFailsWithErrClosedBacksOff(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	server.Do("SET", "k", "1", "PX", (grace / 2).Milliseconds())
	db := newSource("2")
	db.Fail(fmt.Errorf("another client: %w", aside.ErrClosed))
	value, err := graceful(c).Get(ctx, fresh, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "1", value)
	eventually(t, "it is over", refreshed(c))
	require.Contains(t, fmt.Sprint(server.Do("GET", stamp.RefreshLock("k"))), "failed:1:")
}

// A grace without an end would have its value fresh for ever.
func TestATtlWhoseGraceHasNoEndIsRefused(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	db := newSource("1")
	view := graceful(c)
	const tooLong = aside.LongestTTL - grace + 1
	_, get := view.Get(ctx, tooLong, "k", db.Load)
	_, getMulti := view.GetMulti(ctx, tooLong, []string{"k"}, db.LoadMany)
	_, plain := c.Get(ctx, tooLong, "k", db.Load, aside.WithGrace(grace))
	server.Do("SET", "stale", "1", "PX", (grace / 2).Milliseconds())
	awaitStale(t, c, "stale")
	_, inMemory := view.Get(ctx, tooLong, "stale", db.Load)
	_, manyInMemory := view.GetMulti(ctx, tooLong, []string{"stale"}, db.LoadMany)
	for name, err := range map[string]error{
		"Get": get, "GetMulti": getMulti, "a client's Get": plain, "Get of what is stale": inMemory, "GetMulti of what is stale": manyInMemory,
		"Set": view.Set(ctx, tooLong, "k", "1"), "Touch": view.Touch(ctx, tooLong, "stale"),
	} {
		require.ErrorIs(t, err, aside.ErrInvalidArgument, name)
		require.ErrorContains(t, err, "ttl is 875999h59m0.000000001s, with WithGrace(1m0s): must be at most 876000h0m0s together: shorten one", name)
	}
	require.Zero(t, db.Calls.Load())
	_, err := view.Get(ctx, tooLong-1, "k", db.Load)
	require.NoError(t, err)
	stored(t, c, "k")
	require.Positive(t, server.Do("PTTL", "k"))
}
