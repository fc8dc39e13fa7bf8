package aside_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// The client that Redis returns, and that Update hands over, has connections of its own.

func arbitrary(redis rueidis.CoreClient, words ...string) rueidis.Completed {
	switch words[0] { // Arbitrary panics
	case "SUBSCRIBE":
		return redis.B().Subscribe().Channel(words[1]).Build()
	case "PSUBSCRIBE":
		return redis.B().Psubscribe().Pattern(words[1]).Build()
	case "UNSUBSCRIBE":
		return redis.B().Unsubscribe().Channel(words[1]).Build()
	}
	return redis.B().Arbitrary(words...).Build()
}

// What would change a connection for everybody is refused, by whichever way it comes, and does not
// reach Redis.
func TestWhatChangesASharedConnectionIsRefused(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	redis, ok := c.Redis()
	require.True(t, ok)
	for _, line := range []string{
		"SELECT 1", "select 1", "MULTI", "EXEC", "DISCARD", "WATCH k", "UNWATCH", "MONITOR", "RESET", "HELLO 2", "AUTH x", "QUIT", "SYNC",
		"CLIENT TRACKING OFF", "client tracking off", "CLIENT REPLY OFF", "CLIENT CACHING yes", "CLIENT NO-TOUCH on", "SUBSCRIBE c", "PSUBSCRIBE c", "UNSUBSCRIBE c",
	} {
		words := strings.Fields(line)
		send := func(redis rueidis.Client) []error {
			stream, streams := redis.DoStream(ctx, arbitrary(redis, words...)), redis.DoMultiStream(ctx, arbitrary(redis, words...))
			return []error{
				redis.Do(ctx, arbitrary(redis, words...)).Error(),
				redis.DoMulti(ctx, arbitrary(redis, "PING"), arbitrary(redis, words...))[0].Error(),
				stream.Error(), streams.Error(),
			}
		}
		errs := send(redis)
		for _, node := range redis.Nodes() {
			errs = append(errs, send(node)...)
		}
		require.NoError(t, c.Update(ctx, []string{"k"}, func(_ context.Context, redis rueidis.Client) error {
			errs = append(errs, send(redis)...)
			return nil
		}))
		for _, err := range errs {
			require.ErrorIs(t, err, aside.ErrShared, line)
		}
		require.NoError(t, redis.Do(ctx, arbitrary(redis, "SET", "own", line)).Error())
		require.Equal(t, line, server.Do("GET", "own"), "still in its database")
	}
	require.True(t, c.Stats().RedisConnected)
	require.Zero(t, c.Stats().RedisErrors, "what was not sent is no error of Redis's")
	require.True(t, servesFromMemory(t, c, "m"))

	results := redis.DoMulti(ctx, arbitrary(redis, "MULTI"), arbitrary(redis, "INCR", "n"), arbitrary(redis, "EXEC"))
	require.NoError(t, results[2].Error(), "a whole transaction changes nothing for others")
	require.Equal(t, "1", server.Do("GET", "n"))
}

// On a connection of its own the service may do what it wants. Ours does not notice.
func TestADedicatedConnectionIsTheServices(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	redis, _ := c.Redis()
	require.NoError(t, redis.Dedicated(func(d rueidis.DedicatedClient) error {
		for _, line := range []string{"CLIENT TRACKING OFF", "SELECT 1", "MULTI", "SET k there", "EXEC"} {
			require.NoError(t, d.Do(ctx, arbitrary(d, strings.Fields(line)...)).Error(), line)
		}
		require.ErrorIs(t, d.Do(ctx, arbitrary(d, "MONITOR")).Error(), aside.ErrShared)
		return nil
	}))
	d, release := redis.Dedicate()
	require.NoError(t, d.Do(ctx, arbitrary(d, "PING")).Error())
	release()
	redis.Close()
	require.NoError(t, redis.Do(ctx, arbitrary(redis, "PING")).Error(), "Close is the Client's")

	require.Nil(t, server.Do("GET", "k"))
	require.True(t, servesFromMemory(t, c, "k"))
	server.Do("SET", "k", "new")
	eventually(t, "it is told", func() bool {
		value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
		require.NoError(t, err)
		return value == "new"
	})
	require.True(t, c.Stats().RedisConnected)
	require.Zero(t, c.Stats().Outages)
}

// What the service writes itself is pushed to us like anybody's write.
func TestOwnWritesThroughRedisAreHeardOf(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	redis, _ := c.Redis()
	require.True(t, servesFromMemory(t, c, "k"))
	for i := range 100 {
		require.NoError(t, redis.Do(ctx, arbitrary(redis, "SET", "k", fmt.Sprint(i))).Error())
		eventually(t, "it is told", func() bool {
			value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
			require.NoError(t, err)
			return value == fmt.Sprint(i)
		})
	}
}

// What the service reads itself takes no place in the server's tracking table, which evicts what we
// want to hear of when it is full.
func TestOwnReadsAreNotTracked(t *testing.T) {
	server := redistest.Start(t, redistest.WithArgs("--tracking-table-max-keys", "500"))
	c, ctx := newClient(t, server.Addr()), testContext(t)
	redis, _ := c.Redis()
	var hot []string
	for i := range 100 {
		hot = append(hot, fmt.Sprint("hot", i))
		server.Do("SET", hot[i], "v")
	}
	read := func() (fromMemory int64) {
		before := c.Stats().MemoryHits
		values, err := c.GetMulti(ctx, time.Minute, hot, newSource("v").LoadMany)
		require.NoError(t, err)
		require.Len(t, values, len(hot))
		return c.Stats().MemoryHits - before
	}
	read()
	require.EqualValues(t, len(hot), read())
	for i := range 50 {
		var gets []rueidis.Completed
		for j := range 100 {
			gets = append(gets, arbitrary(redis, "GET", fmt.Sprint("other", 100*i+j)))
		}
		redis.DoMulti(ctx, gets...)
		require.NoError(t, c.Update(ctx, nil, func(ctx context.Context, redis rueidis.Client) error {
			return redis.Do(ctx, arbitrary(redis, "EXISTS", fmt.Sprint("another", i))).Error()
		}))
	}
	require.EqualValues(t, len(hot), read(), "they are still in memory")
}

// It is made when it is needed, by the service's own way, and is closed with the Client.
func TestTheServicesConnectionIsMadeWhenItIsNeeded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	built := 0
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) {
		o.Redis.ClientName = "ours"
		o.ClientBuilder = func(o rueidis.ClientOption) (rueidis.Client, error) { built++; return rueidis.NewClient(o) }
	}), testContext(t)
	connections := func() int { return strings.Count(fmt.Sprint(server.Do("CLIENT", "LIST")), "name=ours") }
	redis, _ := c.Redis()
	require.Equal(t, rueidis.ClientModeStandalone, redis.Mode())
	require.Equal(t, 1, connections())
	require.NoError(t, redis.Do(ctx, arbitrary(redis, "PING")).Error())
	require.Equal(t, 2, connections())
	require.Equal(t, 2, built)

	server.Kill()
	require.Error(t, redis.Do(ctx, arbitrary(redis, "PING")).Error())
	server.Restart()
	eventually(t, "it is back", func() bool { return redis.Do(ctx, arbitrary(redis, "PING")).Error() == nil })
	require.NoError(t, c.Close())
	eventually(t, "none is left", func() bool { return connections() == 0 })
	require.Error(t, redis.Do(ctx, arbitrary(redis, "PING")).Error())
}

func TestTheServicesClientOfACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	c, ctx := newClient(t, "", patient, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), testContext(t)
	redis, _ := c.Redis()
	require.Equal(t, rueidis.ClientModeCluster, redis.Mode())
	for i := range 50 {
		require.NoError(t, redis.Do(ctx, redis.B().Set().Key(fmt.Sprint("k", i)).Value("v").Build()).Error())
		require.NoError(t, c.Update(ctx, []string{fmt.Sprint("n", i)}, func(ctx context.Context, redis rueidis.Client) error {
			return redis.Do(ctx, redis.B().Incr().Key(fmt.Sprint("n", i)).Build()).Error()
		}))
	}
	require.Len(t, redis.Nodes(), 3)
}

func TestRedisGivesTheClientUnderneath(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	redis, ok := c.Redis()
	require.True(t, ok)
	require.NoError(t, redis.Do(ctx, redis.B().Set().Key("k").Value("v").Build()).Error())
	value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "v", value)
}
