package aside_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// keepOn keeps operations on key, one call after the other, until so many were kept: c notices by the first
// ones that Redis is away. It returns how many are done, as they were answered or kept, and how many may be.
func keepOn(ctx context.Context, t *testing.T, c *aside.Client, key string, n int) (done, unknown int64) {
	t.Helper()
	for kept := 0; kept < n; {
		switch _, err := c.Apply(ctx, key, []aside.Operation{op("INCR")}, nil); {
		case errors.Is(err, aside.ErrKept):
			kept++
			done++
		case errors.Is(err, aside.ErrUnknownOutcome):
			unknown++
		default:
			require.NoError(t, err)
			done++
		}
	}
	return done, unknown
}

// requireSum waits until all is replayed, and looks what key holds: no less than least, but where lost says
// that a primary was lost with what it had acknowledged.
func requireSum(ctx context.Context, t *testing.T, c *aside.Client, key string, least, unknown int64, lost func() bool) {
	t.Helper()
	var n int64
	eventually(t, "all is replayed, and Redis answers", func() bool {
		sum, err := c.Incr(ctx, key, 0)
		n = sum
		return err == nil && c.Stats().Pending == 0
	})
	if !lost() {
		require.GreaterOrEqual(t, n, least)
	}
	require.LessOrEqual(t, n, least+unknown)
	require.Zero(t, c.Stats().Rejected)
}

// A primary dies, operations are kept, and its replica takes over: each is done once, there.
func TestKeptOperationsGoToTheReplicaThatTakesOver(t *testing.T) {
	t.Parallel()
	replicated := func(replica *redistest.Server) {
		t.Helper()
		eventually(t, "the replica has all", func() bool { return replica.Do("GET", "n") == "100" })
	}
	t.Run("Sentinel", func(t *testing.T) {
		t.Parallel()
		sentinel := redistest.StartSentinel(t)
		_, option := durable(t)
		c, ctx := newClient(t, "", hasty, option, func(o *aside.Options) {
			o.Redis.InitAddress = sentinel.Addrs()
			o.Redis.Sentinel.MasterSet = sentinel.MasterSet()
		}), testContext(t)
		old := sentinel.Primary()
		old.Do("SET", "n", "100")
		for _, replica := range sentinel.Replicas() {
			replicated(replica)
		}
		old.Kill()
		done, unknown := keepOn(ctx, t, c, "n", 20)
		sentinel.AwaitFailover(old)
		requireSum(ctx, t, c, "n", 100+done, unknown, func() bool { return sentinel.Promotions() > 1 })
	})
	t.Run("Cluster", func(t *testing.T) {
		t.Parallel()
		cluster := redistest.StartCluster(t, redistest.WithReplicas(1))
		_, option := durable(t)
		c, ctx := newClient(t, "", hasty, option, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), testContext(t)
		first, err := c.Incr(ctx, "n", 100)
		require.NoError(t, err)
		require.EqualValues(t, 100, first)
		primary := cluster.Node(cluster.NodeOf("n"))
		eventually(t, "the replica has all", func() bool {
			role, _ := primary.Do("ROLE").([]any)
			replicas, _ := role[2].([]any)
			return len(replicas) == 1 && replicas[0].([]any)[2] == fmt.Sprint(role[1])
		})
		primary.Kill()
		done, unknown := keepOn(ctx, t, c, "n", 20)
		requireSum(ctx, t, c, "n", 100+done, unknown, func() bool { return false })
	})
}

// The slot of a key moves when half of its operations are done: the ledger moves with it, and the rest is
// done where they are, once.
func TestKeptOperationsFollowTheirSlot(t *testing.T) {
	t.Parallel()
	for name, halfWay := range map[string]bool{"moved": false, "tried half-way": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := redistest.StartCluster(t)
			_, option := durable(t)
			c, ctx := newClient(t, "", hasty, option, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), testContext(t)
			const key = "n"
			from, slot := cluster.NodeOf(key), redistest.Slot(key)
			to := (from + 1) % 3
			node := cluster.Node(from)
			node.Do("ACL", "SETUSER", "default", "-append")
			node.Freeze()
			eventually(t, "it is kept", func() bool {
				_, err := c.Apply(ctx, key, []aside.Operation{op("INCR"), op("APPEND", "0")}, nil)
				return errors.Is(err, aside.ErrKept)
			})
			node.Thaw()
			eventually(t, "the first is done", func() bool { return node.Do("GET", key) == "1" && c.Health().Replay.Report.Refused > 0 })
			cluster.BeginMigration(slot, from, to)
			if halfWay {
				_, err := c.Apply(ctx, key, []aside.Operation{op("APPEND", "5")}, nil) // has the list tried before
				require.ErrorIs(t, err, aside.ErrKept)
			}
			cluster.FinishMigration(slot, from, to)
			_, err := c.Apply(ctx, key, []aside.Operation{op("APPEND", "7")}, nil)
			if !errors.Is(err, aside.ErrKept) {
				require.NoError(t, err)
			}
			eventually(t, "all is replayed", func() bool { return c.Stats().Pending == 0 })
			want := map[bool]string{false: "107", true: "1057"}[halfWay]
			require.Equal(t, want, cluster.Node(to).Do("GET", key))
			require.Zero(t, c.Stats().Rejected)
		})
	}
}
