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

// Away and back: what was acknowledged survives, what was deleted stays deleted.

// What another process wrote while we were cut off is newer than what we kept; what it wrote before
// is older.
func TestReplayKeepsWhatIsNewer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	cut, other, ctx := newClient(t, proxy.Addr(), hasty, option), newClient(t, server.Addr(), hasty), testContext(t)
	for _, key := range []string{"set over set", "del over set", "set over del", "older set", "filled"} {
		require.NoError(t, other.Set(ctx, time.Hour, key, "first"))
	}
	proxy.Refuse()
	eventually(t, "it is noticed", func() bool { return cut.Health().Mode == aside.Degraded })
	beyondTheMargin(t)
	require.NoError(t, cut.Set(ctx, time.Hour, "set over set", "ours"))
	require.NoError(t, cut.Set(ctx, time.Hour, "del over set", "ours"))
	require.NoError(t, cut.Del(ctx, "set over del"))
	require.NoError(t, cut.Set(ctx, time.Hour, "older set", "ours"))
	require.NoError(t, cut.Del(ctx, "filled"))
	beyondTheMargin(t)
	require.NoError(t, other.Set(ctx, time.Hour, "contested", "theirs"))
	require.NoError(t, cut.Set(ctx, time.Hour, "contested", "ours"))
	require.NoError(t, other.Set(ctx, time.Hour, "set over set", "theirs"))
	require.NoError(t, other.Del(ctx, "del over set"))
	require.NoError(t, other.Set(ctx, time.Hour, "set over del", "theirs"))
	proxy.Heal()
	awaitMode(t, cut, aside.Healthy)
	require.Equal(t, "theirs", server.Do("GET", "set over set"))
	require.Nil(t, server.Do("GET", "del over set"))
	require.Equal(t, "theirs", server.Do("GET", "set over del"))
	require.Equal(t, "ours", server.Do("GET", "older set"))
	require.Nil(t, server.Do("GET", "filled"))
	require.Nil(t, server.Do("GET", "contested"), "which of the two is newer no clock can tell")
	report := cut.Health().Replay.Report
	require.Equal(t, 3, report.Superseded)
	require.Equal(t, 2, report.Applied)
	require.Equal(t, 1, report.Deleted)
}

// beyondTheMargin waits for as long as clocks are taken to err, and longer: what comes after is
// later for everybody.
func beyondTheMargin(t testing.TB) {
	t.Helper()
	later := time.Now().Add(400 * time.Millisecond) // of a first answer on a busy machine, too
	eventually(t, "it is later", func() bool { return time.Now().After(later) })
}

// A load that has read the source before our Del, and fills after it, is voided by the replay.
func TestReplayVoidsALoadThatBeganBefore(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	cut, other, ctx := newClient(t, proxy.Addr(), hasty, option), newClient(t, server.Addr(), hasty), testContext(t)
	db := newSource("old")
	letGo := db.HoldUp()
	loading := inBackground(func() (string, error) { return other.Get(ctx, time.Hour, "k", db.Load) })
	db.AwaitBegin(t)
	proxy.Refuse()
	eventually(t, "it is noticed", func() bool { return cut.Health().Mode == aside.Degraded })
	require.NoError(t, cut.Del(ctx, "k"))
	proxy.Heal()
	awaitMode(t, cut, aside.Healthy)
	letGo()
	require.Equal(t, result{Value: "old"}, await(t, loading), "who asked before may have it")
	require.Nil(t, server.Do("GET", "k"), "but nobody else")
}

// While the replay is under way whoever asks for a key has its record replayed first.
func TestAKeyThatIsPendingIsReplayedBeforeItIsRead(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, option := durable(t)
	c, ctx := newClient(t, server.Addr(), option, func(o *aside.Options) {
		o.ReplayRate, o.RedisTimeout, o.LockTTL = 1, 2*time.Second, 5*time.Second // a second outage, by a late answer, would have writes kept
	}), testContext(t)
	var keys []string
	for i := range 300 {
		keys = append(keys, fmt.Sprint("k", i))
		require.NoError(t, c.Set(ctx, time.Hour, keys[i], "before"))
	}
	server.Freeze()
	awaitMode(t, c, aside.Degraded)
	for i, key := range keys {
		if i%2 == 0 {
			require.NoError(t, c.Set(ctx, time.Hour, key, "after"))
		} else {
			require.NoError(t, c.Del(ctx, key))
		}
	}
	server.Thaw()
	eventually(t, "it is being replayed", func() bool { return c.Health().Mode == aside.Recovering })
	require.Positive(t, c.Stats().Pending)
	for i := 200; i < 202; i++ {
		_, err := c.Get(ctx, time.Hour, keys[i], newSource("loaded").Load)
		require.NoError(t, err)
		want := any("after")
		if i%2 == 1 {
			want = "loaded" // and filled
		}
		stored(t, c, keys[i])
		require.Equal(t, want, server.Do("GET", keys[i]))
	}
	m, err := c.GetMulti(ctx, time.Hour, keys[210:230], newSource("loaded").LoadMany)
	require.NoError(t, err)
	for i := 210; i < 230; i++ {
		require.Equal(t, [...]string{"after", "loaded"}[i%2], m[keys[i]])
	}
	value, ok, err := c.Peek(ctx, keys[240])
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "after", value)
	_, ok, err = c.Peek(ctx, keys[241])
	require.NoError(t, err)
	require.False(t, ok)
	// And before it is written: or the replay might undo the write.
	require.NoError(t, c.Set(ctx, time.Hour, keys[251], "newest"))
	require.Equal(t, "newest", server.Do("GET", keys[251]))
	require.NoError(t, c.Del(ctx, keys[252]))
	require.Nil(t, server.Do("GET", keys[252]))
}

func TestWithoutADirectoryWritesAreKeptButNotAcknowledged(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), hasty), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "b", "v"))
	server.Kill()
	awaitMode(t, c, aside.Degraded)
	require.False(t, c.Health().Durable)
	require.ErrorIs(t, c.Set(ctx, time.Hour, "a", "v"), aside.ErrNotDurable)
	require.ErrorIs(t, c.Del(ctx, "b", "c"), aside.ErrNotDurable)
	value, err := c.Get(ctx, time.Hour, "a", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	server.Restart()
	awaitMode(t, c, aside.Healthy)
	require.Equal(t, "v", server.Do("GET", "a"))
}

// An operation that Redis did without our hearing of it is kept with the stamp that it had, so that
// its replay finds that out; also while Redis is well otherwise.
func TestAnUnansweredWriteIsSettledByReplay(t *testing.T) {
	for _, lose := range []string{"request", "reply"} {
		t.Run(lose, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			_, option := durable(t)
			c, ctx := newClient(t, proxy.Addr(), hasty, option, func(o *aside.Options) { o.RedisTimeout = 250 * time.Millisecond }), testContext(t)
			require.NoError(t, c.Set(ctx, time.Hour, "k", "before"))
			if lose == "request" {
				proxy.CutRequests()
			} else {
				proxy.CutReplies()
			}
			require.NoError(t, c.Set(ctx, time.Hour, "k", "after"), "it is on disk")
			require.Equal(t, 1, c.Stats().Pending)
			proxy.HealDropping()
			eventually(t, "it is settled", func() bool { return c.Stats().Pending == 0 })
			require.Equal(t, "after", server.Do("GET", "k"))
			value, err := c.Get(ctx, time.Hour, "k", mustNotLoad)
			require.NoError(t, err)
			require.Equal(t, "after", value)
		})
	}
}

// The database survives the absence of the cache.
func TestAtMostMaxLoadersRunAtOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), hasty, func(o *aside.Options) { o.MaxLoaders = 4 }), testContext(t)
	server.Kill()
	awaitMode(t, c, aside.Degraded)
	var running crowd
	release := make(chan struct{})
	load := func(_ context.Context, key string) (string, error) {
		defer running.enter()()
		if key != "quick" {
			<-release
		}
		return "v", nil
	}
	var callers sync.WaitGroup
	var overloaded atomic.Int64
	for i := range 40 {
		callers.Go(func() {
			_, err := c.Get(ctx, time.Minute, fmt.Sprint("k", i), load)
			switch {
			case errors.Is(err, aside.ErrOverloaded):
				overloaded.Add(1)
			case err != nil:
				t.Error(err)
			}
		})
	}
	eventually(t, "the others have given up", func() bool { return overloaded.Load() == 36 })
	_, err := c.Get(ctx, time.Minute, "quick", load)
	require.ErrorIs(t, err, aside.ErrOverloaded)
	close(release)
	callers.Wait()
	_, err = c.Get(ctx, time.Minute, "again", load)
	require.NoError(t, err)
	require.LessOrEqual(t, running.most.Load(), int64(4))
	require.EqualValues(t, 37, c.Stats().Overloaded)
}

// What was loaded while Redis was away is put into Redis when the same server is back, and into no
// other.
func TestFillsAreReplayedIntoTheSameServerOnly(t *testing.T) {
	t.Parallel()
	for _, same := range []bool{true, false} {
		t.Run(fmt.Sprint("same ", same), func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			_, option := durable(t)
			c, ctx := newClient(t, proxy.Addr(), hasty, option), testContext(t)
			server.Do("SET", "there", "theirs")
			require.NoError(t, c.Del(ctx, "deleted"))
			proxy.Refuse()
			awaitMode(t, c, aside.Degraded)
			for _, key := range []string{"k", "there", "deleted", "absent"} {
				_, err := c.Get(ctx, time.Hour, key, func(_ context.Context, key string) (string, error) {
					if key == "absent" {
						return "", aside.ErrNotFound
					}
					return "loaded", nil
				})
				require.Equal(t, key == "absent", errors.Is(err, aside.ErrNotFound))
			}
			if !same {
				server.Restart()
				server.Do("SET", "there", "theirs")
			}
			proxy.Heal()
			awaitMode(t, c, aside.Healthy)
			require.Equal(t, "theirs", server.Do("GET", "there"), "a value is kept")
			require.Nil(t, server.Do("GET", "deleted"), "somebody has deleted it: perhaps after our load")
			require.Equal(t, !same, c.Health().Replay.Restarted)
			if !same {
				require.Nil(t, server.Do("GET", "k"))
				return
			}
			require.Equal(t, "loaded", server.Do("GET", "k"))
			_, err := c.Get(ctx, time.Hour, "absent", mustNotLoad)
			require.ErrorIs(t, err, aside.ErrNotFound)
			ms, _ := server.Do("PTTL", "absent").(int64)
			require.LessOrEqual(t, ms, int64(30_000), "an absence keeps its own ttl")
		})
	}
}

// A Set that has expired meanwhile still removes what it has replaced.
func TestAnExpiredSetIsReplayedAsADelete(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), hasty, option), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "before"))
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, time.Millisecond, "k", "short"))
	eventually(t, "it has expired", func() bool {
		_, err := c.Get(ctx, time.Hour, "k", func(context.Context, string) (string, error) { return "", errors.New("none") })
		return err != nil
	})
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
	require.Nil(t, server.Do("GET", "k"))
	require.Equal(t, 1, c.Health().Replay.Report.Deleted)
}

// Without stamps nobody knows what is newer: a Set is replayed as a delete.
func TestWithoutStampsSetsAreReplayedAsDeletes(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), hasty, option, func(o *aside.Options) { o.DisableStamps = true }), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "before"))
	require.Empty(t, server.Do("KEYS", "aside:stamps:*"))
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "after"))
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
	require.Nil(t, server.Do("GET", "k"))
	require.Empty(t, server.Do("KEYS", "aside:stamps:*"))
}

// A server that refuses a record must not keep the others waiting, nor the record be lost.
func TestAFullServerDoesNotEndTheReplay(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), hasty, option), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "deleted", "v"))
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "v"))
	require.NoError(t, c.Del(ctx, "deleted"))
	server.Do("CONFIG", "SET", "maxmemory", "1")
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
	require.Nil(t, server.Do("GET", "deleted"), "there is room for a delete")
	require.Equal(t, 1, c.Stats().Pending)
	require.Equal(t, 1, c.Health().Replay.Report.Refused)
	value, err := c.Get(ctx, time.Hour, "k", func(context.Context, string) (string, error) { return "fresher", nil })
	require.NoError(t, err)
	require.Equal(t, "fresher", value, "Redis is there: somebody else may have written after the record")
	_, _, err = c.Peek(ctx, "k")
	require.ErrorIs(t, err, aside.ErrRedisAway, "nobody knows")
	server.Do("CONFIG", "SET", "maxmemory", "0")
	_, err = c.Get(ctx, time.Hour, "k", mustNotLoad) // whoever asks has it replayed
	require.NoError(t, err)
	require.Equal(t, "v", server.Do("GET", "k"))
	require.Zero(t, c.Stats().Pending)
}

// In a cluster a dead node costs its own slots only.
func TestADeadNodeCostsItsOwnSlotsOnly(t *testing.T) {
	t.Parallel() // it waits more than it works
	cluster := redistest.StartCluster(t)
	if !cluster.Node(1).CanSignal() {
		t.Skip("the nodes cannot be frozen")
	}
	_, option := durable(t)
	var changes sync.Map
	c, ctx := newClient(t, "", option, func(o *aside.Options) {
		o.Redis.InitAddress = cluster.Addrs()
		o.RedisTimeout = time.Second // a busy machine must not make the other nodes look dead, too
	}), testContext(t)
	defer c.OnModeChange(func(m aside.ModeChange) { changes.Store(m.Shard, true) })()
	var keys []string
	for i := range 60 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	require.NoError(t, c.Del(ctx, keys...))
	cluster.Node(1).Freeze()
	for _, key := range keys {
		require.NoError(t, c.Set(ctx, time.Hour, key, "v"))
	}
	ours := 0
	for _, key := range keys {
		if cluster.NodeOf(key) == 1 {
			ours++
		} else {
			require.Equal(t, "v", cluster.Node(cluster.NodeOf(key)).Do("GET", key))
		}
	}
	require.Positive(t, ours)
	require.Equal(t, ours, c.Stats().Pending)
	h := c.Health()
	require.Equal(t, aside.Degraded, h.Mode)
	for _, sh := range h.Shards {
		want := aside.Healthy
		if sh.Addr == cluster.Node(1).Addr() {
			want = aside.Degraded
		}
		require.Equal(t, want, sh.Mode, sh.Addr)
	}
	cluster.Node(1).Thaw()
	awaitMode(t, c, aside.Healthy)
	for _, key := range keys {
		require.Equal(t, "v", cluster.Node(cluster.NodeOf(key)).Do("GET", key))
	}
	n := 0
	changes.Range(func(shard, _ any) bool { n++; require.Equal(t, cluster.Node(1).Addr(), shard); return true })
	require.Equal(t, 1, n)
}

// Starting without Redis is starting degraded.
func TestStartingWithoutRedisIsStartingDegraded(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	dir, _ := durable(t)
	c, ctx := newDurable(t, server.Addr(), dir), testContext(t)
	h := c.Health()
	require.Equal(t, aside.Degraded, h.Mode)
	require.Error(t, h.Err)
	require.True(t, h.Durable)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "v"))
	value, err := c.Get(ctx, time.Hour, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	loads := newSource("loaded")
	for range 3 {
		value, err = c.Get(ctx, time.Hour, "other", loads.Load)
		require.NoError(t, err)
		require.Equal(t, "loaded", value)
	}
	require.EqualValues(t, 1, loads.Calls.Load(), "memory has it")
	server.Restart()
	awaitMode(t, c, aside.Healthy)
	require.Equal(t, "v", server.Do("GET", "k"))
	_, err = aside.New(aside.Options{Redis: plain("127.0.0.1:1"), FallbackDir: "/proc/nowhere", Logger: quiet})
	require.ErrorContains(t, err, "/proc/nowhere")
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
