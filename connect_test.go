package aside_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

func TestRequireRedisMakesNewFail(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Kill()
	_, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}, RequireRedis: true, Logger: quiet})
	require.ErrorIs(t, err, aside.ErrRedisAway)
	require.ErrorContains(t, err, server.Addr())
	server.Restart()
	server.Freeze()
	_, err = aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}, RequireRedis: true, ConnectTimeout: 100 * time.Millisecond, Logger: quiet})
	require.ErrorIs(t, err, aside.ErrRedisAway)
	require.ErrorContains(t, err, "ConnectTimeout (100ms)")
	server.Thaw()
}

func TestABuilderThatPanicsOrReturnsNothingIsAnError(t *testing.T) {
	t.Parallel()
	for name, builder := range map[string]func(rueidis.ClientOption) (rueidis.Client, error){
		"panicked": func(rueidis.ClientOption) (rueidis.Client, error) { panic("boom") },
		"neither":  func(rueidis.ClientOption) (rueidis.Client, error) { return nil, nil },
	} {
		_, err := aside.New(aside.Options{ClientBuilder: builder, RequireRedis: true, Logger: quiet})
		require.ErrorContains(t, err, name)
	}
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

// A node that rueidis has given up, and that comes back, is asked through rueidis's new connection,
// and nothing outlives Close.
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

// A builder that gives its client more connections takes away the order of pushes and answers.
func TestAClientOfSeveralConnections(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) {
		o.StaleLease = 100 * time.Millisecond
		o.ClientBuilder = func(option rueidis.ClientOption) (rueidis.Client, error) {
			option.PipelineMultiplex = 2
			return rueidis.NewClient(option)
		}
	}), testContext(t)
	eventually(t, "it is noticed", func() bool {
		_, err := c.Get(ctx, time.Minute, "k", newSource("v").Load)
		require.NoError(t, err)
		require.NoError(t, c.Del(ctx, "k"))
		return c.Health().Err != nil
	})
	require.ErrorIs(t, c.Health().Err, aside.ErrNoInvalidations)
	require.ErrorContains(t, c.Health().Err, "PipelineMultiplex")
	require.Equal(t, aside.Healthy, c.Health().Mode)
	hits := c.Stats().MemoryHits
	for i := range 50 {
		server.Do("SET", "k", i)
		value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), value)
	}
	require.Equal(t, hits, c.Stats().MemoryHits)
}

// A dialer that hands out a connection twice would have two readers share its answers.
func TestADialerThatReturnsAConnectionTwice(t *testing.T) {
	server := redistest.Start(t)
	var shared net.Conn
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) {
		o.Redis.DialFn = func(addr string, d *net.Dialer, _ *tls.Config) (_ net.Conn, err error) {
			if shared == nil {
				shared, err = d.Dial("tcp", addr)
			}
			return shared, err
		}
	}), testContext(t)
	redis, _ := c.Redis()
	require.ErrorContains(t, redis.Do(ctx, arbitrary(redis, "PING")).Error(), "returned before")
	require.True(t, servesFromMemory(t, c, "k"))
}

func TestADialerThatReturnsNothing(t *testing.T) {
	option := plain("127.0.0.1:1")
	option.DialFn = func(string, *net.Dialer, *tls.Config) (net.Conn, error) { return nil, nil }
	c, err := aside.New(aside.Options{Redis: option, Logger: quiet})
	require.NoError(t, err)
	defer c.Close()
	require.ErrorContains(t, c.Health().Err, "neither a connection nor an error")
}

func TestTheUsersOwnRueidisOptionsAreKept(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var heard sync.Map
	var built int
	c := newClient(t, server.Addr(), func(o *aside.Options) {
		o.Redis.SelectDB = 3
		o.Redis.ClientName = "the-users-name"
		o.Redis.OnInvalidations = func(keys []rueidis.RedisMessage) {
			for _, k := range keys {
				name, _ := k.ToString()
				heard.Store(name, true)
			}
		}
		o.ClientBuilder = func(option rueidis.ClientOption) (rueidis.Client, error) {
			built++
			return rueidis.NewClient(option)
		}
	})
	ctx := testContext(t)
	require.Equal(t, 1, built)
	_, err := c.Get(ctx, time.Minute, "k", newSource("v").Load)
	require.NoError(t, err)
	require.Nil(t, server.Do("GET", "k"), "it is in another database")
	require.Contains(t, fmt.Sprint(server.Do("CLIENT", "LIST")), "the-users-name")
	server.Do("FLUSHALL")
	other := newClient(t, server.Addr(), func(o *aside.Options) { o.Redis.SelectDB = 3 })
	_, err = c.Get(ctx, time.Minute, "told", newSource("v").Load)
	require.NoError(t, err)
	stored(t, c, "told")
	require.NoError(t, other.Del(ctx, "told"))
	eventually(t, "the user's callback hears of it", func() bool { _, ok := heard.Load("told"); return ok })
}

func TestTLSAndCredentialsPassThrough(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithTLS(), redistest.WithPassword("secret"))
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) {
		o.Redis.TLSConfig = server.TLSConfig()
		o.Redis.Password = "secret"
	}), testContext(t)
	for range 2 {
		value, err := c.Get(ctx, time.Minute, "k", newSource("v").Load)
		require.NoError(t, err)
		require.Equal(t, "v", value)
	}
	require.EqualValues(t, 1, c.Stats().Loads)

	_, err := aside.New(aside.Options{RequireRedis: true, Logger: quiet, Redis: plain(server.Addr())})
	require.ErrorIs(t, err, aside.ErrRedisAway, "without TLS")
}

func TestAWrongPasswordIsSaid(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithPassword("secret"))
	option := plain(server.Addr())
	option.Password = "wrong"
	_, err := aside.New(aside.Options{RequireRedis: true, Logger: quiet, Redis: option})
	require.ErrorIs(t, err, aside.ErrRedisAway)
	require.ErrorContains(t, err, "WRONGPASS")
}

// What docs/OPERATIONS.md recommends works: a wrapped client, and a dialer of one's own. Memory is
// used, and Close closes what is ours.
func TestTheRecipesForClients(t *testing.T) {
	server := redistest.Start(t)
	var built rueidis.Client
	for name, change := range map[string]func(*aside.Options){
		"wrapped": func(o *aside.Options) {
			o.ClientBuilder = func(option rueidis.ClientOption) (rueidis.Client, error) {
				redis, err := rueidis.NewClient(option)
				built = redis
				return timed{redis}, err
			}
		},
		"dialed": func(o *aside.Options) {
			o.Redis.InitAddress = []string{"no.such.host:6379"} // as it is with a socket or a tunnel
			o.Redis.DialCtxFn = func(ctx context.Context, _ string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
				return dialer.DialContext(ctx, "tcp", server.Addr())
			}
		},
		"empty tracking options": func(o *aside.Options) { o.Redis.ClientTrackingOptions = []string{} },
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, server.Addr(), change)
			require.True(t, servesFromMemory(t, c, name))
			require.NoError(t, c.Health().Err)
			require.NoError(t, c.Close())
			if name == "wrapped" {
				require.ErrorIs(t, built.Do(testContext(t), built.B().Ping().Build()).Error(), rueidis.ErrClosing, "it is ours to close")
			}
		})
	}
}
