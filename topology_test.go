package aside_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// TLS, credentials, Sentinel and Cluster: by rueidis's own options.

func TestTheMainJobOnACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	clusterOf := func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }
	a, b, ctx := newClient(t, "", clusterOf, patient), newClient(t, "", clusterOf, patient), testContext(t)
	db := newSource("v")
	var keys []string
	for i := range 300 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	keys = append(keys, "{}", "{}a", "}{", "}", "{tag}1", "{tag}2", "", "\x00")
	for _, key := range keys[:100] {
		value, err := a.Get(ctx, time.Minute, key, db.Load)
		require.NoError(t, err)
		require.Equal(t, "v", value)
	}
	got, err := a.GetMulti(ctx, time.Minute, keys, db.LoadMany)
	require.NoError(t, err)
	require.Len(t, got, len(keys))
	require.EqualValues(t, 101, db.Calls.Load(), "the batch is one load")
	stored(t, a, keys...)
	loads, hits := db.Calls.Load(), a.Stats().MemoryHits
	for _, c := range []*aside.Client{a, b} {
		got, err = c.GetMulti(ctx, time.Minute, keys, db.LoadMany)
		require.NoError(t, err)
		require.Len(t, got, len(keys))
	}
	require.Equal(t, loads, db.Calls.Load())
	if !oldRedis(cluster.Node(0)) {
		require.EqualValues(t, len(keys), a.Stats().MemoryHits-hits, "what was filled is in memory")
	}

	require.NoError(t, a.Touch(ctx, time.Hour, keys...))
	db.Set("new")
	require.NoError(t, a.Del(ctx, keys...))
	got, err = a.GetMulti(ctx, time.Minute, keys, db.LoadMany)
	require.NoError(t, err)
	for _, key := range keys {
		require.Equal(t, "new", got[key])
	}
	for _, key := range keys {
		eventually(t, "the other client has been told", func() bool {
			value, err := b.Get(ctx, time.Minute, key, mustNotLoad)
			require.NoError(t, err)
			return value == "new"
		})
	}
}

func TestOneFrozenNodeCostsItsOwnKeysOnly(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	c, ctx := newClient(t, "", hasty, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), testContext(t)
	load := func(context.Context, string) (string, error) { return "v", nil }
	var theirs, others []string
	for i := 0; len(theirs) < 50 || len(others) < 50; i++ {
		key := fmt.Sprint("k", i)
		if cluster.NodeOf(key) == 1 {
			theirs = append(theirs, key)
		} else {
			others = append(others, key)
		}
	}
	_, err := c.GetMulti(ctx, time.Minute, append(theirs, others...), newSource("v").LoadMany)
	require.NoError(t, err)
	cluster.Node(1).Freeze()
	eventually(t, "it is noticed", func() bool {
		_, err := c.Get(ctx, time.Minute, theirs[0], load)
		require.NoError(t, err)
		return !c.Stats().RedisConnected
	})
	for _, key := range others {
		fresh := key + "-fresh"
		if cluster.NodeOf(fresh) == 1 {
			continue
		}
		_, err := c.Get(ctx, time.Minute, fresh, load)
		require.NoError(t, err)
		value, ok, err := c.Peek(ctx, fresh)
		require.NoError(t, err)
		require.True(t, ok, "%s is stored", fresh)
		require.Equal(t, "v", value)
		require.NoError(t, c.Set(ctx, time.Minute, fresh, "w"))
	}
	for _, key := range theirs {
		value, err := c.Get(ctx, time.Minute, key, load)
		require.NoError(t, err)
		require.Equal(t, "v", value)
		require.ErrorIs(t, c.Set(ctx, time.Minute, key, "w"), aside.ErrRedisAway)
	}
	m, err := c.GetMulti(ctx, time.Minute, append(theirs, others...), newSource("v").LoadMany)
	require.NoError(t, err)
	require.Len(t, m, len(theirs)+len(others))
	cluster.Node(1).Thaw()
	eventually(t, "it is back", func() bool { return c.Stats().RedisConnected })
	require.NoError(t, c.Set(ctx, time.Minute, theirs[0], "w"))
	awaitMode(t, c, aside.Healthy) // what was kept is replayed before Close
}

// A slot moves while its keys are read and written. Nobody gets an error or a value older than the
// last write.
func TestASlotMovesUnderLoad(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	clusterOf := func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }
	a, b, ctx := newClient(t, "", clusterOf, patient), newClient(t, "", clusterOf, patient), testContext(t)
	const key, other = "{moving}k", "{moving}other"
	from := cluster.NodeOf(key)
	to := (from + 1) % 3
	slot := redistest.Slot(key)
	version := 0
	step := func() {
		version++
		want := fmt.Sprint(version)
		require.NoError(t, a.Set(ctx, time.Minute, key, want))
		value, err := a.Get(ctx, time.Minute, key, mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, want, value)
		eventually(t, "the other client reads "+want, func() bool {
			value, err := b.Get(ctx, time.Minute, key, mustNotLoad)
			require.NoError(t, err)
			return value == want
		})
		m, err := b.GetMulti(ctx, time.Minute, []string{key, other + want}, newSource("v").LoadMany)
		require.NoError(t, err)
		require.Len(t, m, 2)
		require.NoError(t, b.Del(ctx, other+want))
	}
	step()
	cluster.BeginMigration(slot, from, to)
	for range 5 {
		step()
	}
	cluster.FinishMigration(slot, from, to)
	for range 20 {
		step()
	}
	for range 3 { // back and forth
		cluster.MigrateSlot(slot, to, from)
		step()
		cluster.MigrateSlot(slot, from, to)
		step()
	}
}

func TestAReplicaTakesOverInACluster(t *testing.T) {
	t.Parallel() // it waits more than it works
	cluster := redistest.StartCluster(t, redistest.WithReplicas(1))
	c, ctx := newClient(t, "", hasty, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), testContext(t)
	key := "k"
	require.NoError(t, c.Set(ctx, time.Minute, key, "v"))
	cluster.Node(cluster.NodeOf(key)).Kill()
	eventually(t, "writes work again, on the replica", func() bool {
		value, err := c.Get(ctx, time.Minute, key, func(context.Context, string) (string, error) { return "loaded", nil })
		require.NoError(t, err, "reads never fail")
		require.Contains(t, []string{"v", "loaded", "w"}, value)
		return c.Set(ctx, time.Minute, key, "w") == nil
	})
	value, err := c.Get(ctx, time.Minute, key, mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "w", value)
}

func TestSentinelFailsOver(t *testing.T) {
	t.Parallel() // it waits more than it works
	sentinel := redistest.StartSentinel(t)
	c, ctx := newClient(t, "", hasty, func(o *aside.Options) {
		o.Redis.InitAddress = sentinel.Addrs()
		o.Redis.Sentinel.MasterSet = sentinel.MasterSet()
	}), testContext(t)
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	for _, how := range []string{"asked for", "killed"} {
		old := sentinel.Primary()
		if how == "killed" {
			old.Kill()
			sentinel.AwaitFailover(old)
		} else {
			sentinel.Failover()
		}
		eventually(t, "writes work on the new primary", func() bool {
			_, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "loaded", nil })
			require.NoError(t, err, "reads never fail")
			err = c.Set(ctx, time.Minute, "k", how)
			if err != nil && !errors.Is(err, aside.ErrRedisAway) && !errors.Is(err, aside.ErrUnknownOutcome) {
				require.NoError(t, err)
			}
			return err == nil && sentinel.Primary().Do("GET", "k") == how
		})
		value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, how, value)
	}
}

// The slot of a key may lose its home while the key is being loaded.
func TestALoadWhoseSlotNobodyHasAnyMore(t *testing.T) {
	t.Parallel() // it waits more than it works
	cluster := redistest.StartCluster(t)
	c, db, ctx := newClient(t, "", func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), newSource("v"), testContext(t)
	letGo := db.HoldUp()
	loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	for i := range 3 {
		cluster.Node(i).Do("CLUSTER", "DELSLOTS", redistest.Slot("k"))
	}
	eventually(t, "it is known", func() bool { return c.Health().Mode == aside.Degraded })
	letGo()
	require.Equal(t, result{Value: "v"}, await(t, loading))
}
