package aside_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/stamp"
)

// The first slot of a shard is on the move, as every reshard begins and an interrupted one stays.
// The keys of other slots do not notice, the shard comes back from an outage, a process that is
// started meanwhile is well, and the slot's own keys are read and written.
func TestAReshardThatStopsHalfWayCostsNothingElse(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, option := durable(t)
	ofCluster := func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }
	c, ctx := newClient(t, "", hasty, option, ofCluster), testContext(t)
	slot, tag := firstSlot(cluster, 1)
	var others []string
	for i := 0; len(others) < 31; i++ {
		if key := fmt.Sprint("k", i); cluster.NodeOf(key) == 1 {
			others = append(others, key)
		}
	}
	others, fresh := others[:30], others[30]
	db := newSource("v")
	for _, key := range []string{"here", "here too", "moved", "moved too", "deleted", "counted"} {
		require.NoError(t, c.Set(ctx, time.Hour, tag+key, "1"))
	}
	cluster.BeginMigration(slot, 1, 2)
	migrate(t, cluster, 1, 2, tag+"moved", tag+"moved too")

	// Other keys of the shard: from memory.
	_, err := c.GetMulti(ctx, time.Hour, others, db.LoadMany)
	require.NoError(t, err)
	stored(t, c, others...)
	hits, loads := c.Stats().MemoryHits, db.Calls.Load()
	if !oldRedis(cluster.Node(1)) {
		for range 10 {
			for _, key := range others {
				_, err := c.Get(ctx, time.Hour, key, db.Load)
				require.NoError(t, err)
			}
		}
		require.EqualValues(t, 300, c.Stats().MemoryHits-hits)
		require.Equal(t, loads, db.Calls.Load())
	}

	// The slot's own.
	read := func(key, want string) {
		t.Helper()
		value, err := c.Get(ctx, time.Hour, tag+key, mustNotLoad)
		require.NoError(t, err, key)
		require.Equal(t, want, value, key)
	}
	read("here", "1")
	read("moved", "1")
	loads = db.Calls.Load()
	for range 3 {
		value, err := c.Get(ctx, time.Hour, tag+"new", db.Load)
		require.NoError(t, err)
		require.Equal(t, "v", value)
	}
	stored(t, c, tag+"new")
	require.Equal(t, loads+1, db.Calls.Load(), "it is loaded once")
	all := []string{tag + "here", tag + "moved", tag + "new", tag + "batch 1", tag + "batch 2"}
	for range 3 {
		values, err := c.GetMulti(ctx, time.Hour, all, db.LoadMany)
		require.NoError(t, err)
		require.Equal(t, map[string]string{all[0]: "1", all[1]: "1", all[2]: "v", all[3]: "v", all[4]: "v"}, values)
		stored(t, c, all...)
	}
	require.Equal(t, loads+2, db.Calls.Load(), "the batch is loaded once")
	for _, key := range []string{"here", "moved", "new", "brand new"} {
		require.NoError(t, c.Set(ctx, time.Hour, tag+key, "2"), key)
		read(key, "2")
	}
	require.NoError(t, c.Touch(ctx, time.Hour, tag+"here", tag+"moved", tag+"nowhere"))
	require.NoError(t, c.Del(ctx, tag+"deleted", tag+"moved too", tag+"nowhere"))
	for _, key := range []string{"deleted", "moved too"} {
		_, ok, err := c.Peek(ctx, tag+key)
		require.NoError(t, err)
		require.False(t, ok, key)
	}
	for _, key := range []string{"counted", "counted anew"} {
		require.NoError(t, c.Update(ctx, []string{tag + key}, func(ctx context.Context, redis rueidis.Client) error {
			return redis.Do(ctx, redis.B().Incr().Key(tag+key).Build()).Error()
		}))
	}
	read("counted", "2")
	read("counted anew", "1")
	require.Zero(t, c.Stats().Pending)
	require.Equal(t, aside.Healthy, c.Health().Mode)
	require.NoError(t, c.Health().Err)

	// A process that is started meanwhile.
	late := newClient(t, "", hasty, ofCluster)
	require.Equal(t, aside.Healthy, late.Health().Mode)
	require.NoError(t, late.Health().Err)
	value, err := late.Get(ctx, time.Hour, tag+"here", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "2", value)

	// An outage of the shard.
	cluster.Node(1).Freeze()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, time.Hour, tag+"here", "3"))
	require.NoError(t, c.Del(ctx, tag+"here too"))
	require.NoError(t, c.Set(ctx, time.Hour, fresh, "3"))
	cluster.Node(1).Thaw()
	awaitMode(t, c, aside.Healthy)
	eventually(t, "what is still there is replayed", func() bool { return c.Stats().Pending == 0 })
	read("here", "3")
	require.Equal(t, "3", cluster.Node(1).Do("GET", fresh))
	require.NoError(t, c.Health().Err)

	cluster.FinishMigration(slot, 1, 2)
	eventually(t, "all is read from the new home", func() bool {
		value, err := c.Get(ctx, time.Hour, tag+"here", mustNotLoad)
		return err == nil && value == "3"
	})
	read("moved", "2")
}

// A Del in a slot on the move has left its stamp at one node, and the key's own refuses. It is kept
// and acknowledged: then its replay must not take that stamp for a sign that it has been done.
func TestADelOfWhichOnlyTheStampWasLeftIsReplayed(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	if oldRedis(cluster.Node(1)) {
		return // it lets scripts write without replicas
	}
	_, option := durable(t)
	c, ctx := newClient(t, "", hasty, option, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), testContext(t)
	slot, tag := firstSlot(cluster, 1)
	key := tag + "k"
	require.NoError(t, c.Set(ctx, time.Hour, key, "old"))
	cluster.BeginMigration(slot, 1, 2)
	migrate(t, cluster, 1, 2, stamp.Bucket(key))
	cluster.Node(1).Do("CONFIG", "SET", "min-replicas-to-write", "1")
	require.NoError(t, c.Del(ctx, key))
	require.Equal(t, "old", cluster.Node(1).Do("GET", key), "its node has refused")
	require.Equal(t, 1, c.Stats().Pending)
	cluster.Node(1).Do("CONFIG", "SET", "min-replicas-to-write", "0")
	awaitMode(t, c, aside.Healthy)
	migrate(t, cluster, 1, 2, key)
	cluster.FinishMigration(slot, 1, 2)
	eventually(t, "it is replayed", func() bool { return c.Stats().Pending == 0 })
	value, ok, err := c.Peek(ctx, key)
	require.NoError(t, err)
	require.False(t, ok, "deleted, acknowledged, and there: %q", value)
}

// The same where nobody heard whether the stamp was left: its node was frozen, and the caller has
// gone.
func TestADelOfWhichTheStampMayHaveBeenLeftIsReplayed(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, option := durable(t)
	c := newClient(t, "", option, func(o *aside.Options) {
		o.Redis.InitAddress, o.RedisTimeout = cluster.Addrs(), 5*time.Second
	})
	ctx, cancel := context.WithCancel(testContext(t))
	slot, tag := firstSlot(cluster, 1)
	key := tag + "k"
	require.NoError(t, c.Set(ctx, time.Hour, key, "old"))
	cluster.BeginMigration(slot, 1, 2)
	migrate(t, cluster, 1, 2, stamp.Bucket(key))
	cluster.Node(2).Freeze()
	cluster.Node(1).Do("CONFIG", "RESETSTAT")
	deleted := inBackground(func() (string, error) { return "", c.Del(ctx, key) })
	eventually(t, "its first node says TRYAGAIN", func() bool {
		byName, _ := commandsSeen(cluster.Node(1))
		return byName["client"]+byName["client|caching"] > 0 // which is ahead of the write
	})
	cancel()
	require.Error(t, await(t, deleted).Err)
	require.Equal(t, 1, c.Stats().Pending, "it is kept")
	cluster.Node(2).Thaw()
	awaitMode(t, c, aside.Healthy)
	migrate(t, cluster, 1, 2, key)
	cluster.FinishMigration(slot, 1, 2)
	eventually(t, "it is replayed", func() bool { return c.Stats().Pending == 0 })
	value, ok, err := c.Peek(testContext(t), key)
	require.NoError(t, err)
	require.False(t, ok, "deleted, kept, and there: %q", value)
}

// A refresh has two keys and their buckets, of which Redis cannot have all at hand while the slot is
// on the move. The stale value is served meanwhile, and refreshed afterwards.
func TestAStaleValueInAMovingSlotIsServed(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	c, ctx := newClient(t, "", func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), testContext(t)
	slot, tag := firstSlot(cluster, 1)
	key := tag + "k"
	cluster.Node(1).Do("SET", key, "1", "PX", (grace / 2).Milliseconds())
	cluster.BeginMigration(slot, 1, 2)
	db := newSource("2")
	value, err := graceful(c).Get(ctx, fresh, key, db.Load)
	require.NoError(t, err)
	require.Equal(t, "1", value)
	eventually(t, "the refresh is over", refreshed(c))
	require.Zero(t, db.Calls.Load())
	migrate(t, cluster, 1, 2, key)
	cluster.FinishMigration(slot, 1, 2)
	eventually(t, "it is refreshed", func() bool {
		value, err := graceful(c).Get(ctx, fresh, key, db.Load)
		return err == nil && value == "2"
	})
}

// firstSlot returns the first slot of a node, and a tag of keys that are in it.
func firstSlot(cluster *redistest.Cluster, node int) (slot int, tag string) {
	for _, row := range cluster.Node(node).Do("CLUSTER", "SLOTS").([]any) {
		if row := row.([]any); fmt.Sprint("127.0.0.1:", row[2].([]any)[1]) == cluster.Node(node).Addr() {
			slot = int(row[0].(int64))
		}
	}
	for i := 0; ; i++ {
		if redistest.Slot(fmt.Sprint(i)) == slot {
			return slot, fmt.Sprintf("{%d}", i)
		}
	}
}

// migrate moves keys as a reshard does.
func migrate(t *testing.T, cluster *redistest.Cluster, from, to int, keys ...string) {
	t.Helper()
	host, port, err := net.SplitHostPort(cluster.Node(to).Addr())
	require.NoError(t, err)
	args := []any{"MIGRATE", host, port, "", 0, 5000, "KEYS"}
	for _, key := range keys {
		args = append(args, key)
	}
	require.Equal(t, "OK", cluster.Node(from).Do(args...))
}
