package aside_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// replicaOf makes a replica of server that has all of it.
func replicaOf(t *testing.T, server *redistest.Server) *redistest.Server {
	t.Helper()
	replica := redistest.Start(t, redistest.WithReplication())
	host, port, err := net.SplitHostPort(server.Addr())
	require.NoError(t, err)
	replica.Do("REPLICAOF", host, port)
	eventually(t, "it is in sync", func() bool {
		role, _ := replica.Do("ROLE").([]any)
		return len(role) > 3 && role[3] == "connected"
	})
	return replica
}

// The address leads to another server, which lacks what the first has acknowledged last. No outage
// comes between: it is said all the same, and what was acknowledged and is lost is not answered
// with what was before it.
func TestAServerThatTakesOverIsNoticedAndAnswersNothingOlder(t *testing.T) {
	first := redistest.Start(t, redistest.WithReplication())
	proxy := faultproxy.New(t, first.Addr())
	var log logged
	var events atomic.Int64
	c, ctx := newClient(t, proxy.Addr(), hasty, log.option, func(o *aside.Options) {
		o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			if e.Kind == aside.EventFailover {
				events.Add(1)
			}
		})
	}), testContext(t)
	for _, key := range []string{"set", "deleted", "updated", "kept", "newer"} {
		require.NoError(t, c.Set(ctx, time.Hour, key, "1"))
	}
	second := replicaOf(t, first)
	require.NoError(t, c.Set(ctx, time.Hour, "kept", "2"))
	eventually(t, "it is replicated", func() bool { return second.Do("GET", "kept") == "2" })
	second.Do("REPLICAOF", "NO", "ONE")
	require.NoError(t, c.Set(ctx, time.Hour, "set", "2"))
	require.NoError(t, c.Set(ctx, time.Hour, "only", "2"))
	require.NoError(t, c.Del(ctx, "deleted"))
	require.NoError(t, command(c, ctx, "updated", "INCR"))
	require.NoError(t, c.Set(ctx, time.Hour, "newer", "2"))
	other := newClient(t, second.Addr())
	apart(t)
	require.NoError(t, other.Set(ctx, time.Hour, "newer", "3"))
	require.Zero(t, c.Stats().Failovers)

	proxy.SetUpstream(second.Addr())
	proxy.Reset()
	eventually(t, "it is noticed", func() bool { return c.Stats().Failovers == 1 && events.Load() == 1 })
	eventually(t, "nothing older is answered", func() bool {
		for _, key := range []string{"set", "deleted", "updated"} {
			if second.Do("GET", key) != nil {
				return false
			}
		}
		return true
	})
	require.Nil(t, second.Do("GET", "only"))
	require.Equal(t, "2", second.Do("GET", "kept"), "what has come over stays")
	require.Equal(t, "3", second.Do("GET", "newer"), "and what is newer")
	log.await(t, 1, "level=WARN", "another server answers")
	log.await(t, 1, "lacked what was acknowledged", "keys=")
	value, err := c.Get(ctx, time.Hour, "set", newSource("2").Load)
	require.NoError(t, err)
	require.Equal(t, "2", value)

	proxy.Reset() // the same server again
	for range 20 {
		_, err := c.Get(ctx, time.Hour, "kept", newSource("2").Load)
		require.NoError(t, err)
	}
	require.NoError(t, c.Set(ctx, time.Hour, "kept", "4"))
	require.EqualValues(t, 1, c.Stats().Failovers)
}

// restarted is said of what is known: not of a process that has just been started and knows nothing
// of before.
func TestAReplayIntoAServerThatNobodyKnewIsNoRestart(t *testing.T) {
	server := redistest.Start(t)
	dir, option := durable(t)
	_ = dir
	c, err := aside.New(aside.Options{Redis: plain("127.0.0.1:1"), Logger: quiet, ConnectTimeout: time.Millisecond, FallbackDir: optionsOf(option).FallbackDir})
	require.NoError(t, err)
	require.NoError(t, c.Set(testContext(t), time.Hour, "k", "v"))
	closeClient(t, c, optionsOf(option).FallbackDir)
	next := newClient(t, server.Addr(), hasty, option)
	eventually(t, "it is replayed", func() bool { return next.Stats().Pending == 0 })
	require.Equal(t, "v", server.Do("GET", "k"))
	require.False(t, next.Health().Replay.Restarted)
	require.Zero(t, next.Stats().Failovers)
}

func optionsOf(change func(*aside.Options)) (o aside.Options) {
	change(&o)
	return o
}

func TestAFailoverBySentinelIsSaid(t *testing.T) {
	t.Parallel() // it waits more than it works
	sentinel := redistest.StartSentinel(t)
	var log logged
	c, ctx := newClient(t, "", hasty, log.option, func(o *aside.Options) {
		o.Redis.InitAddress = sentinel.Addrs()
		o.Redis.Sentinel.MasterSet = sentinel.MasterSet()
	}), testContext(t)
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	sentinel.Failover()
	// More than once where busy Sentinels make two servers the primary, one after the other.
	eventually(t, "it is said", func() bool {
		return c.Stats().Failovers >= 1 && len(log.lines("another server answers", "runBefore=")) >= 1
	})
}

func TestAFailoverInAClusterIsSaid(t *testing.T) {
	t.Parallel() // it waits more than it works
	cluster := redistest.StartCluster(t, redistest.WithReplicas(1))
	var log logged
	c, ctx := newClient(t, "", hasty, log.option, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), testContext(t)
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	old := cluster.NodeOf("k")
	for i := 3; i < 6; i++ { // the replica of that one takes over, and no connection breaks
		if role, _ := cluster.Node(i).Do("ROLE").([]any); fmt.Sprint("127.0.0.1:", role[2]) == cluster.Node(old).Addr() {
			cluster.Node(i).Do("CLUSTER", "FAILOVER")
		}
	}
	eventually(t, "it is said", func() bool { return c.Stats().Failovers == 1 })
	log.await(t, 1, "another server answers", "nodeBefore="+cluster.Node(old).Addr())
	value, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "loaded", nil })
	require.NoError(t, err)
	require.Contains(t, []string{"v", "loaded"}, value)
}
