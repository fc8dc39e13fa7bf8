package aside_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// What a review found, each with the relapse it would be.

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
		_, err := a.GetMulti(ctx, time.Minute, []string{good, frozen}, newSource("loaded").loadMany)
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
	letGo := db.holdUp()
	first := inBackground(func() (string, error) { return a.Get(ctx, time.Minute, "k", db.load) })
	db.awaitBegin(t)
	proxy.Heal()
	eventually(t, "it is back", func() bool { return a.Stats().RedisConnected })
	require.NoError(t, b.Del(ctx, "k"))
	value, err := a.Get(ctx, time.Minute, "k", newSource("new").load)
	require.NoError(t, err)
	require.Equal(t, "new", value)
	letGo()
	require.Equal(t, result{value: "old"}, await(t, first), "who asked before may have it")
	stored(t, a, "k")
	require.Equal(t, "new", server.Do("GET", "k"))
}

// A marker that does not expire is nobody's lock: somebody wrote a value that looks like one, or made ours persistent.
func TestALockThatDoesNotEndIsTakenOver(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr(), func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 100*time.Millisecond, 200*time.Millisecond })
	ctx := testContext(t)
	server.Do("SET", "k", "\x00aside:lock:someone")
	value, err := c.Get(ctx, time.Minute, "k", newSource("v").load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	server.Do("SET", "m", "\x00aside:lock:someone")
	values, err := c.GetMulti(ctx, time.Minute, []string{"m", "n"}, newSource("v").loadMany)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"m": "v", "n": "v"}, values)
}

// A batch that waits for a dead holder does not keep others from a key of it that is there.
func TestABatchThatWaitsHoldsNobodyElse(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	for i := range 5 {
		server.Do("SET", fmt.Sprint("dead", i), "\x00aside:lock:dead", "PX", 3_600_000)
	}
	server.Do("SET", "live", "\x00aside:lock:alive", "PX", 3_600_000)
	waiting, cancel := context.WithCancel(ctx)
	batch := make(chan map[string]string, 1)
	go func() {
		values, _ := c.GetMulti(waiting, time.Minute, []string{"dead0", "dead1", "live", "dead2", "dead3", "dead4"}, newSource("v").loadMany)
		batch <- values
	}()
	eventually(t, "it waits", func() bool { return c.Stats().LockWaits == 6 })
	server.Do("SET", "live", "v") // its holder fills it
	value, err := c.Get(ctx, time.Minute, "live", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	cancel()
	require.Equal(t, map[string]string{"live": "v"}, await(t, batch))
	require.Zero(t, c.Stats().Waiting)
}

// A polling batch looks at all its keys in one go.
func TestAPollingBatchLooksAtAllItsKeysAtOnce(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	a, b, ctx := newClient(t, server.Addr(), untracked), newClient(t, proxy.Addr(), untracked), testContext(t)
	keys := make([]string, 300)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
	}
	db := newSource("v")
	letGo := db.holdUp()
	first := make(chan error, 1)
	go func() { _, err := a.GetMulti(ctx, time.Minute, keys, db.loadMany); first <- err }()
	db.awaitBegin(t)
	second := make(chan error, 1)
	go func() { _, err := b.GetMulti(ctx, time.Minute, keys, db.loadMany); second <- err }()
	eventually(t, "it polls", func() bool { return b.Stats().LockWaits >= 1500 })
	require.Less(t, proxy.RoundTrips(), 150, "of the 1,500 that it takes one by one")
	letGo()
	require.NoError(t, await(t, first))
	require.NoError(t, await(t, second))
	require.EqualValues(t, 1, db.calls.Load())
}

func TestAPanicWithErrNotFoundIsAPanic(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	_, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { panic(fmt.Errorf("must: %w", aside.ErrNotFound)) })
	_, ok := errors.AsType[*aside.PanicError](err)
	require.True(t, ok, "%v", err)
	require.Nil(t, server.Do("GET", "k"), "not an absence")
}

// New with RequireRedis goes on trying until ConnectTimeout, not until the first refusal.
func TestRequireRedisWaitsForAServerThatIsStarting(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	made := make(chan error, 1)
	go func() {
		c, err := aside.New(aside.Options{Redis: plain(server.Addr()), RequireRedis: true, ConnectTimeout: patience, Logger: quiet})
		if err == nil {
			err = c.Close()
		}
		made <- err
	}()
	server.Restart()
	require.NoError(t, await(t, made))
}

// A node that rueidis has given up, and that comes back, is asked through rueidis's new connection, and nothing outlives Close.
func TestANodeThatComesBackAfterALongTimeIsUsedAgain(t *testing.T) {
	t.Parallel() // it waits more than it works
	cluster := redistest.StartCluster(t)
	c, ctx := newClient(t, "", hasty, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs()[:1] }), testContext(t)
	key := ""
	for i := 0; key == ""; i++ {
		if k := fmt.Sprint("k", i); cluster.NodeOf(k) == 1 {
			key = k
		}
	}
	require.NoError(t, c.Set(ctx, time.Minute, key, "v"))
	cluster.Node(1).Kill()
	eventually(t, "it is noticed", func() bool { return !c.Stats().RedisConnected })
	redis, _ := c.Redis()
	gone := func() bool { return redis.Nodes()[cluster.Node(1).Addr()] == nil }
	end := time.Now().Add(9 * time.Second) // only servers that tell which nodes are offline make rueidis drop it
	eventually(t, "rueidis has given it up, or will not", func() bool { return gone() || time.Now().After(end) })
	cluster.Node(1).RestartKeepingData()
	eventually(t, "it is used again", func() bool { return c.Set(ctx, time.Minute, key, "again") == nil })
	require.NoError(t, c.Close())
	eventually(t, "no connection is left", func() bool {
		connections := cluster.Node(1).Do("CLIENT", "LIST").(string)
		return !containsLibrary(connections)
	})
}
