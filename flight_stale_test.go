package aside_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// A flight that is held up, here by another shard that hangs, must not give a value from before a push to a caller from after it.
func TestAHungShardDoesNotMakeAnotherShardsFlightsStale(t *testing.T) {
	cluster := redistest.StartCluster(t)
	clusterOf := func(o *aside.Options) {
		o.Redis.InitAddress = cluster.Addrs()
		o.RedisTimeout, o.LockTTL, o.StaleLease = 3*time.Second, 6*time.Second, time.Minute
	}
	a, b, ctx := newClient(t, "", clusterOf), newClient(t, "", clusterOf), testContext(t)
	good, frozen := "", ""
	for i := 0; good == "" || frozen == ""; i++ {
		if key := fmt.Sprint("k", i); cluster.NodeOf(key) == 1 {
			frozen = key
		} else {
			good = key
		}
	}
	require.NoError(t, b.Set(ctx, time.Minute, good, "old"))
	cluster.Node(1).Freeze()
	defer cluster.Node(1).Thaw()
	batch := make(chan error, 1)
	go func() {
		_, err := a.GetMulti(ctx, time.Minute, []string{good, frozen}, newSource("loaded").LoadMany)
		batch <- err
	}()
	eventually(t, "the good shard has answered", func() bool { return a.Stats().RedisHits == 1 })
	invalidations := a.Stats().Invalidations
	require.NoError(t, b.Set(ctx, time.Minute, good, "new"))
	eventually(t, "the push has come", func() bool { return a.Stats().Invalidations > invalidations })
	value, err := a.Get(ctx, time.Minute, good, mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "new", value)
	require.Empty(t, batch, "and it did not wait for the other shard")
	require.NoError(t, await(t, batch))
}

// A load that began while Redis was away answers nobody who asks once it is back: another process may have deleted.
func TestALoadWithoutRedisAnswersNobodyOnceRedisIsBack(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	a, b, ctx := newClient(t, proxy.Addr(), hasty), newClient(t, server.Addr()), testContext(t)
	proxy.Refuse()
	eventually(t, "it is noticed", func() bool { return !a.Stats().RedisConnected })
	db := newSource("old")
	letGo := db.HoldUp()
	first := inBackground(func() (string, error) { return a.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	proxy.Heal()
	eventually(t, "it is back", func() bool { return a.Stats().RedisConnected })
	require.NoError(t, b.Del(ctx, "k"))
	value, err := a.Get(ctx, time.Minute, "k", newSource("new").Load)
	require.NoError(t, err)
	require.Equal(t, "new", value)
	letGo()
	require.Equal(t, result{Value: "old"}, await(t, first), "who asked before may have it")
	stored(t, a, "k")
	require.Equal(t, "new", server.Do("GET", "k"))
}
