package contract

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/harness"
)

// What a Get costs, who loads, and who waits.

func aMissCostsTwoRoundTripsAndTheNextReadNone(t *testing.T, start Start) {
	server := start(t)
	proxy := harness.Counted(t, server.Addr())
	c, db, ctx := harness.NewClient(t, proxy.Addr()), harness.NewSource("v"), harness.Context(t)
	_, err := c.Get(ctx, time.Minute, "warm", db.Load) // the server has the scripts now
	require.NoError(t, err)
	harness.Stored(t, c, "warm")
	proxy.ResetCounts()

	value, err := c.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	harness.AwaitNobody(t, c)
	require.Equal(t, 2, proxy.RoundTrips())
	require.Equal(t, "v", server.Do("GET", "k"), "values are raw")

	value, err = c.Get(ctx, time.Minute, "k", harness.MustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	if server.Cannot(QuietFills) == "" {
		require.Equal(t, 2, proxy.RoundTrips(), "what was filled is in memory without being read back")
	}
}

func theFirstReadOfAPresentValueCostsOneRoundTripAndTheNextNone(t *testing.T, start Start) {
	server := start(t)
	proxy := harness.Counted(t, server.Addr())
	c, ctx := harness.NewClient(t, proxy.Addr()), harness.Context(t)
	server.Do("SET", "warm", "v")
	_, err := c.Get(ctx, time.Minute, "warm", harness.MustNotLoad)
	require.NoError(t, err)
	server.Do("SET", "k", "theirs", "PX", 60_000)
	proxy.ResetCounts()
	for range 3 {
		value, err := c.Get(ctx, time.Minute, "k", harness.MustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "theirs", value)
		require.Equal(t, 1, proxy.RoundTrips())
	}
}

func manyCallersOfManyClientsShareOneLoad(t *testing.T, start Start) {
	server := start(t)
	db, ctx := harness.NewSource("v"), harness.Context(t)
	letGo := db.HoldUp()
	var clients []*aside.Client
	for range 4 {
		clients = append(clients, harness.NewClient(t, server.Addr()))
	}
	var results []<-chan harness.Result
	for _, c := range clients {
		for range 100 {
			results = append(results, harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) }))
		}
	}
	db.AwaitBegin(t)
	for _, c := range clients {
		harness.AwaitShared(t, c, 99)
	}
	letGo()
	for _, r := range results {
		require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, r))
	}
	require.EqualValues(t, 1, db.Calls.Load())
	for _, c := range clients {
		harness.AwaitNobody(t, c) // no entry remains; a Get does not wait until what it has loaded is stored
	}
}

func aWaiterIsWokenByThePushNotByTheEndOfTheLock(t *testing.T, start Start) {
	server := start(t)
	long := func(o *aside.Options) { o.LockTTL = time.Hour } // nobody would live to see it end
	holder, waiter := harness.NewClient(t, server.Addr(), long), harness.NewClient(t, server.Addr(), long)
	db, ctx := harness.NewSource("v"), harness.Context(t)
	letGo := db.HoldUp()
	first := harness.InBackground(func() (string, error) { return holder.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	second := harness.InBackground(func() (string, error) { return waiter.Get(ctx, time.Minute, "k", harness.MustNotLoad) })
	harness.Eventually(t, "the second waits", func() bool { return waiter.Stats().LockWaits == 1 })
	letGo()
	require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, first))
	require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, second))
}

func aSlowLoaderKeepsItsLock(t *testing.T, start Start) {
	server := start(t)
	// The lock is renewed within half of its life. A loaded machine must not be later than that.
	const ttl = 2 * time.Second
	short := func(o *aside.Options) { o.LockTTL, o.RedisTimeout = ttl, ttl/2 }
	holder, waiter := harness.NewClient(t, server.Addr(), short), harness.NewClient(t, server.Addr(), short)
	db, ctx := harness.NewSource("v"), harness.Context(t)
	letGo := db.HoldUp()
	first := harness.InBackground(func() (string, error) { return holder.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	second := harness.InBackground(func() (string, error) { return waiter.Get(ctx, time.Minute, "k", harness.MustNotLoad) })
	marker := server.Do("GET", "k")
	for began := time.Now(); time.Since(began) < ttl*9/4; time.Sleep(20 * time.Millisecond) {
		require.Equal(t, marker, server.Do("GET", "k"), "the lock was lost after %v", time.Since(began))
	}
	letGo()
	require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, first))
	require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, second))
}

func aLockWhoseHolderDiedIsTakenOver(t *testing.T, start Start) {
	server := start(t)
	c, db, ctx := harness.NewClient(t, server.Addr()), harness.NewSource("v"), harness.Context(t)
	server.Do("SET", "k", "\x00aside:lock:0190-dead:1:0000000000000000", "PX", 300)
	value, err := c.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	harness.Stored(t, c, "k")
	require.Equal(t, "v", server.Do("GET", "k"))
}

func anAbsenceIsRemembered(t *testing.T, start Start) {
	server := start(t)
	c, other, db, ctx := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr()), harness.NewSource(""), harness.Context(t)
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
	value, err := c.Get(ctx, time.Minute, "k", harness.MustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "born", value)
}

func anAbsenceLivesNoLongerThanAValueWould(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	absent := func(context.Context, string) (string, error) { return "", aside.ErrNotFound }
	_, err := c.Get(ctx, time.Second, "short", absent)
	require.ErrorIs(t, err, aside.ErrNotFound)
	harness.Stored(t, c, "short")
	require.LessOrEqual(t, server.Do("PTTL", "short"), int64(1000))
	_, err = c.Get(ctx, time.Hour, "own", absent, aside.WithNegativeTTL(3*time.Second))
	require.ErrorIs(t, err, aside.ErrNotFound)
	harness.Stored(t, c, "own")
	require.LessOrEqual(t, server.Do("PTTL", "own"), int64(3000))
	_, err = c.Get(ctx, time.Hour, "never", absent, aside.WithNegativeTTL(-1))
	require.ErrorIs(t, err, aside.ErrNotFound)
	harness.Stored(t, c, "never")
	require.Nil(t, server.Do("GET", "never"), "the lock is given back, nothing is stored")
}

func getMultiAnswersFromEverywhereAtOnce(t *testing.T, start Start) {
	server := start(t)
	proxy := harness.Counted(t, server.Addr())
	c, ctx := harness.NewClient(t, proxy.Addr()), harness.Context(t)
	server.Do("SET", "redis", "r")
	server.Do("SET", "absent", "\x00aside:1n")
	require.NoError(t, c.Set(ctx, time.Minute, "memory", "m"))
	_, err := c.Get(ctx, time.Minute, "memory", harness.MustNotLoad)
	require.NoError(t, err)
	_, err = c.GetMulti(ctx, time.Minute, []string{"warm", "up"}, harness.NewSource("w").LoadMany)
	require.NoError(t, err)
	harness.Stored(t, c, "warm", "up")
	proxy.ResetCounts()
	got, err := c.GetMulti(ctx, time.Minute, []string{"memory", "redis", "loaded", "missing", "absent", "loaded", "memory"},
		func(_ context.Context, keys []string) (map[string]string, error) {
			require.ElementsMatch(t, []string{"loaded", "missing"}, keys)
			keys[0], keys[1] = "spoiled", "spoiled"
			return map[string]string{"loaded": "l", "not asked for": "x"}, nil
		})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"memory": "m", "redis": "r", "loaded": "l"}, got)
	harness.AwaitNobody(t, c)
	require.Equal(t, 2, proxy.RoundTrips())
	require.Nil(t, server.Do("GET", "not asked for"))
	// The key that the loader left out is a remembered absence, not a loop.
	_, err = c.Get(ctx, time.Minute, "missing", harness.MustNotLoad)
	require.ErrorIs(t, err, aside.ErrNotFound)
	if server.Cannot(QuietFills) == "" {
		// Up to Redis 7.0 the keys that were locked beside one that was read are pushed back, right
		// behind the answer. If that comes as late as the loader's return, what is filled is not
		// kept, and read once more.
		require.LessOrEqual(t, proxy.RoundTrips(), 3)
	}
}

func getMultiOfAHundredColdKeysCostsThreeRoundTrips(t *testing.T, start Start) {
	server := start(t)
	proxy := harness.Counted(t, server.Addr())
	c, db, ctx := harness.NewClient(t, proxy.Addr()), harness.NewSource("v"), harness.Context(t)
	_, err := c.GetMulti(ctx, time.Minute, []string{"warm", "up"}, db.LoadMany)
	require.NoError(t, err)
	harness.Stored(t, c, "warm", "up")
	var keys []string
	for i := range 100 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	for _, trips := range []int{3, 1} { // what was pushed back as late as the loader's return, see above, is read once more
		proxy.ResetCounts()
		got, err := c.GetMulti(ctx, time.Minute, keys, db.LoadMany)
		require.NoError(t, err)
		require.Len(t, got, 100)
		harness.AwaitNobody(t, c)
		require.LessOrEqual(t, proxy.RoundTrips(), trips)
	}
	require.EqualValues(t, 2, db.Calls.Load(), "one batch, beside the warm-up")
}

func peekNeverLoadsAndNeverLocks(t *testing.T, start Start) {
	server := start(t)
	proxy := harness.Counted(t, server.Addr())
	c, db, ctx := harness.NewClient(t, proxy.Addr()), harness.NewSource("v"), harness.Context(t)
	_, ok, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	require.False(t, ok)
	require.Nil(t, server.Do("GET", "k"))
	letGo := db.HoldUp()
	loading := harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	_, ok, err = c.Peek(ctx, "k")
	require.NoError(t, err)
	require.False(t, ok, "a lock is not a value")
	letGo()
	harness.Await(t, loading)
	harness.Stored(t, c, "k")
	proxy.ResetCounts()
	value, ok, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "v", value)
	if server.Cannot(QuietFills) == "" {
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
	harness.Eventually(t, "a key of another type is an error", func() bool { _, _, err := c.Peek(ctx, "list"); return err != nil })
}

// Without pushes there is no memory, and who waits for a lock looks again and again.
func withoutTrackingEverythingWorksByAsking(t *testing.T, start Start) {
	for name, mode := range map[string]func(*aside.Options){
		"DisableCache": harness.Untracked,
		"RESP2":        func(o *aside.Options) { o.Redis.AlwaysRESP2, o.Redis.DisableCache = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			server := start(t)
			a, b, db, ctx := harness.NewClient(t, server.Addr(), mode), harness.NewClient(t, server.Addr(), mode), harness.NewSource("v"), harness.Context(t)
			letGo := db.HoldUp()
			first := harness.InBackground(func() (string, error) { return a.Get(ctx, time.Minute, "k", db.Load) })
			db.AwaitBegin(t)
			second := harness.InBackground(func() (string, error) { return b.Get(ctx, time.Minute, "k", harness.MustNotLoad) })
			batch := harness.InBackground(func() (string, error) {
				m, err := b.GetMulti(ctx, time.Minute, []string{"k", "l"}, harness.NewSource("v").LoadMany)
				return m["k"], err
			})
			harness.Eventually(t, "they poll", func() bool { return b.Stats().LockWaits >= 3 })
			letGo()
			for _, r := range []<-chan harness.Result{first, second, batch} {
				require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, r))
			}
			require.NoError(t, a.Set(ctx, time.Minute, "k", "w"))
			value, err := b.Get(ctx, time.Minute, "k", harness.MustNotLoad)
			require.NoError(t, err)
			require.Equal(t, "w", value, "nothing is served from memory")
			require.Zero(t, b.Stats().MemoryHits)
		})
	}
}

func withoutMemoryEveryReadAsksRedis(t *testing.T, start Start) {
	server := start(t)
	proxy := harness.Counted(t, server.Addr())
	c, ctx := harness.NewClient(t, proxy.Addr(), func(o *aside.Options) { o.MemoryBytes = -1 }), harness.Context(t)
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	proxy.ResetCounts()
	for range 3 {
		_, err := c.Get(ctx, time.Minute, "k", harness.MustNotLoad)
		require.NoError(t, err)
	}
	require.GreaterOrEqual(t, proxy.RoundTrips(), 3)
}

func fetchTellsWhereAValueIsFrom(t *testing.T, start Start) {
	server := start(t)
	a, b, db, ctx := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr()), harness.NewSource("v"), harness.Context(t)
	from := func(c *aside.Client) aside.Result[string] {
		got, err := c.Fetch(ctx, time.Minute, "k", db.Load)
		require.NoError(t, err)
		require.Equal(t, "v", got.Value)
		require.False(t, got.Stale || got.Degraded || got.Waited)
		require.Greater(t, got.TTL, time.Duration(0))
		require.LessOrEqual(t, got.TTL, time.Minute)
		return got
	}
	got := from(a)
	require.Equal(t, aside.SourceLoader, got.Source)
	require.GreaterOrEqual(t, got.Age, time.Duration(0))
	harness.Stored(t, a, "k")
	got = from(b)
	require.Equal(t, aside.SourceRedis, got.Source)
	require.Negative(t, got.Age, "a raw value does not say it")
	require.Equal(t, aside.SourceMemory, from(b).Source)
	require.EqualValues(t, 1, db.Calls.Load())
}

func aStrictCallWaitsAndTheOthersDoNot(t *testing.T, start Start) {
	const grace = time.Minute
	server := start(t)
	a, b, db, ctx := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr()), harness.NewSource("new"), harness.Context(t)
	server.Do("SET", "k", "old", "PX", (grace / 2).Milliseconds()) // so that it is stale
	letGo := db.HoldUp()
	strict := harness.InBackground(func() (string, error) {
		return a.Get(ctx, time.Hour, "k", db.Load, aside.WithGrace(grace), aside.WithMaxStale(0))
	})
	db.AwaitBegin(t)
	for _, c := range []*aside.Client{a, b} {
		got, err := c.Fetch(ctx, time.Hour, "k", db.Load, aside.WithGrace(grace))
		require.NoError(t, err)
		require.Equal(t, "old", got.Value)
		require.True(t, got.Stale)
	}
	letGo()
	require.Equal(t, harness.Result{Value: "new"}, harness.Await(t, strict))
	require.EqualValues(t, 1, db.Calls.Load())
	got, err := b.Fetch(ctx, time.Hour, "k", db.Load, aside.WithGrace(grace), aside.WithFresh())
	require.NoError(t, err)
	require.NotEqual(t, aside.SourceMemory, got.Source)
}
