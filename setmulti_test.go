package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

func manyValues(n int, prefix string) map[string]string {
	values := make(map[string]string, n)
	for i := range n {
		values[fmt.Sprint("k", i)] = fmt.Sprint(prefix, i)
	}
	return values
}

// Many Sets cost a script call for each 64 keys, and each keeps its promise: memory, other
// processes, running loads and stamps.
func TestSetMultiIsSetForEachKey(t *testing.T) {
	for name, stamps := range map[string]bool{"stamps": true, "without stamps": false} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			change := func(o *aside.Options) { o.DisableStamps = !stamps }
			c, other, ctx := newClient(t, server.Addr(), change), newClient(t, server.Addr(), change), testContext(t)
			db := newSource("loaded")
			letGo := db.HoldUp()
			loading := inBackground(func() (string, error) { return other.Get(ctx, time.Minute, "k5", db.Load) })
			db.AwaitBegin(t)
			values := manyValues(200, "v")
			require.NoError(t, c.SetMulti(ctx, time.Minute, values)) // the scripts are known
			server.Do("CONFIG", "RESETSTAT")
			require.NoError(t, c.SetMulti(ctx, time.Hour, values))
			byName, _ := commandsSeen(server)
			require.Equal(t, 4, byName["evalsha"], "of 64 keys each")
			letGo()
			require.Equal(t, result{Value: "loaded"}, await(t, loading), "who asked before may have it")
			for key, want := range values {
				require.Equal(t, want, server.Do("GET", key), "no load that began before overwrites it")
				require.InDelta(t, time.Hour.Milliseconds(), server.Do("PTTL", key), 20_000)
				for _, client := range []*aside.Client{c, other} {
					value, err := client.Get(ctx, time.Minute, key, mustNotLoad)
					require.NoError(t, err)
					require.Equal(t, want, value)
				}
			}
			require.NoError(t, c.SetMulti(ctx, time.Hour, manyValues(200, "w")))
			value, err := c.Get(ctx, time.Minute, "k7", mustNotLoad)
			require.NoError(t, err)
			require.Equal(t, "w7", value, "a process reads its own writes")
			eventually(t, "another hears of it", func() bool {
				value, err := other.Get(ctx, time.Minute, "k7", mustNotLoad)
				return err == nil && value == "w7"
			})
			require.NoError(t, c.SetMulti(ctx, time.Hour, map[string]string{"one": "v"}))
			require.Equal(t, "v", server.Do("GET", "one"))
		})
	}
}

// What is wrong with a key is the error of that key, and the others are stored.
func TestSetMultiFailsKeyByKey(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.MaxValueBytes = 100 }), testContext(t)
	server.Do("ACL", "SETUSER", "default", "resetkeys", "~ok*", "~aside:*", "~large", "~"+strings.Repeat("k", 2000))
	err := c.SetMulti(ctx, time.Minute, map[string]string{
		"ok1": "v", "ok2": "", "no1": "v", "no2": "v", "large": strings.Repeat("x", 101), strings.Repeat("k", 2000): "v",
	})
	var failed *aside.BatchError
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Failed, 4)
	require.ErrorContains(t, failed.Failed["no1"], `cannot set "no1": `)
	require.ErrorContains(t, failed.Failed["no2"], "refused by Redis")
	require.ErrorIs(t, failed.Failed["large"], aside.ErrTooLarge)
	require.ErrorIs(t, failed.Failed[strings.Repeat("k", 2000)], aside.ErrTooLarge)
	require.Equal(t, "v", server.Do("GET", "ok1"))
	require.Empty(t, server.Do("GET", "ok2"))
	require.Zero(t, c.Stats().Pending)

	require.ErrorIs(t, c.SetMulti(ctx, 0, map[string]string{"ok1": "w"}), aside.ErrInvalidArgument)
	require.NoError(t, c.SetMulti(ctx, time.Minute, nil))
	over, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, c.SetMulti(over, time.Minute, map[string]string{"ok1": "w"}), context.Canceled)
	require.Equal(t, "v", server.Do("GET", "ok1"))

	type tree struct{ Next *tree }
	round := &tree{}
	round.Next = round
	view := aside.Typed(c, codec.JSON[*tree](), aside.WithGrace(grace))
	err = view.SetMulti(ctx, fresh, map[string]*tree{"ok1": nil, "ok2": {}, "ok3": round})
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Failed, 2)
	require.ErrorIs(t, failed.Failed["ok1"], aside.ErrInvalidArgument)
	require.ErrorContains(t, failed.Failed["ok3"], "cannot be encoded")
	require.JSONEq(t, `{"Next":null}`, server.Do("GET", "ok2").(string))
	require.InDelta(t, (fresh + grace).Milliseconds(), server.Do("PTTL", "ok2"), 20_000)
	require.ErrorContains(t, view.SetMulti(ctx, aside.LongestTTL, map[string]*tree{"ok2": {}}), "WithGrace")
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.SetMulti(ctx, time.Minute, map[string]string{"ok1": "w"}), aside.ErrClosed)
}

// While Redis is away all are kept, served here, and replayed, each with its own value.
func TestSetMultiIsKeptAndReplayed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	dir, option := durable(t)
	c, other, ctx := newClient(t, proxy.Addr(), hasty, option), newClient(t, server.Addr()), testContext(t)
	require.NoError(t, other.Set(ctx, time.Hour, "k1", "before"))
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	beyondTheMargin(t)
	values := manyValues(100, "away")
	require.NoError(t, c.SetMulti(ctx, time.Hour, values))
	require.Equal(t, 100, c.Stats().Pending)
	got, err := c.GetMulti(ctx, time.Hour, []string{"k1", "k99"}, newSource("loaded").LoadMany)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"k1": "away1", "k99": "away99"}, got)
	closeClient(t, c, dir)

	again := newDurable(t, server.Addr(), dir)
	awaitMode(t, again, aside.Healthy)
	for key, want := range values {
		require.Equal(t, want, server.Do("GET", key))
	}
	require.Zero(t, again.Stats().Pending)
}

// Without a directory each key is kept in memory, and its error says so. What is not answered may
// have been done; the replay finds out.
func TestSetMultiSaysOfEachKeyWhatBecameOfIt(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), hasty), testContext(t)
	require.NoError(t, c.SetMulti(ctx, time.Hour, manyValues(10, "v")))
	server.Freeze()
	err := c.SetMulti(ctx, time.Hour, manyValues(10, "w"))
	var failed *aside.BatchError
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Failed, 10)
	for key, err := range failed.Failed {
		require.ErrorIs(t, err, aside.ErrNotDurable, key)
		require.True(t, errors.Is(err, aside.ErrUnknownOutcome) || errors.Is(err, aside.ErrRedisAway), key)
		require.ErrorContains(t, err, fmt.Sprintf("cannot set %q", key))
	}
	server.Thaw()
	awaitMode(t, c, aside.Healthy)
	eventually(t, "they are replayed", func() bool { return c.Stats().Pending == 0 })
	for key, want := range manyValues(10, "w") {
		require.Equal(t, want, server.Do("GET", key))
	}
}

// In a cluster each slot has a call of its own, also one that is on the move.
func TestSetMultiOnAClusterWithASlotThatMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	c, ctx := newClient(t, "", patient, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), testContext(t)
	slot, tag := firstSlot(cluster, 1)
	values := manyValues(100, "v")
	values[tag+"there"], values[tag+"gone"] = "1", "2"
	require.NoError(t, c.SetMulti(ctx, time.Hour, values))
	cluster.BeginMigration(slot, 1, 2)
	migrate(t, cluster, 1, 2, tag+"gone")
	values[tag+"there"], values[tag+"gone"] = "3", "4"
	require.NoError(t, c.SetMulti(ctx, time.Hour, values))
	for key, want := range values {
		value, err := c.Get(ctx, time.Hour, key, mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, want, value)
	}
}

// What its groups are is asked once, also where nothing is pushed and each look is a round trip.
func TestSetMultiAsksForItsGroupsOnce(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*aside.Options){
		"pushed":       func(*aside.Options) {},
		"DisableCache": untracked,
		"no memory":    func(o *aside.Options) { o.MemoryBytes = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			c, ctx := newClient(t, server.Addr(), change), testContext(t)
			before := scriptCalls(server)
			require.NoError(t, c.SetMulti(ctx, fresh, manyValues(640, "v"), aside.WithTags("t")))
			require.Less(t, scriptCalls(server)-before, 64, "10 store them, and one asks for the tag; each is sent twice where the server does not know it yet")
			found, err := c.Look(ctx, "k7")
			require.NoError(t, err)
			require.Equal(t, "v7", found.Value)
			require.NoError(t, c.DelTags(ctx, "t"))
			eventually(t, "all of them have the tag", func() bool {
				found, err := c.LookMulti(ctx, keysNamed(640))
				return err == nil && len(found) == 0
			})
		})
	}
}
