package aside_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// A flight that is held up, here by another shard that hangs, must not give a value from before a
// push to a caller from after it.
func TestAHungShardDoesNotMakeAnotherShardsFlightsStale(t *testing.T) {
	t.Parallel()
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
