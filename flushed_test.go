package aside_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// Who is cut off while the database is flushed must not bring back what was flushed: neither a Set
// of before nor what it has loaded. What it has set after the flush is as good as ever.
func TestWhatWasFlushedDoesNotComeBack(t *testing.T) {
	t.Parallel() // it waits more than it works
	for _, flush := range []string{"FLUSHALL", "FLUSHDB", "evicted"} {
		for _, others := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, others %v", flush, others), func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				proxy := faultproxy.New(t, server.Addr())
				_, option := durable(t)
				c, ctx := newClient(t, proxy.Addr(), hasty, option), testContext(t)
				if others {
					newClient(t, server.Addr(), hasty)
				}
				require.NoError(t, c.Set(ctx, time.Hour, "old", "0"))
				proxy.Refuse()
				awaitMode(t, c, aside.Degraded)
				require.NoError(t, c.Set(ctx, time.Hour, "old", "1"))
				require.NoError(t, c.Set(ctx, time.Hour, "only here", "1"))
				_, err := c.Get(ctx, time.Hour, "loaded", newSource("1").Load)
				require.NoError(t, err)
				apart(t)
				switch flush {
				case "evicted":
					server.Do("DEL", "aside:probe:made")
					server.Do("CLIENT", "KILL", "TYPE", "normal") // so that the others look
				default:
					server.Do(flush)
				}
				if others {
					eventually(t, "the others have noticed", func() bool { return server.Do("EXISTS", "aside:probe:made") == int64(1) })
				}
				apart(t)
				require.NoError(t, c.Set(ctx, time.Hour, "new", "2"))
				proxy.Heal()
				awaitMode(t, c, aside.Healthy)
				for _, key := range []string{"old", "only here", "loaded"} {
					require.Nil(t, server.Do("GET", key), key)
				}
				if others {
					require.Equal(t, "2", server.Do("GET", "new"), "set after the flush, as the others know")
				} else {
					require.Nil(t, server.Do("GET", "new"), "nobody knows when the flush was")
				}
				require.False(t, c.Health().Replay.Restarted)
				require.NoError(t, c.Set(ctx, time.Hour, "old", "3"))
				require.Equal(t, "3", server.Do("GET", "old"))

				// The next outage knows nothing of it any more.
				proxy.Refuse()
				awaitMode(t, c, aside.Degraded)
				require.NoError(t, c.Set(ctx, time.Hour, "later", "4"))
				proxy.Heal()
				awaitMode(t, c, aside.Healthy)
				require.Equal(t, "4", server.Do("GET", "later"))
			})
		}
	}
}

// A restart without data is none: what is replayed makes good what was lost. Nor is a short look
// away.
func TestARestartIsNoFlush(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), hasty, option), testContext(t)
	for _, how := range []string{"nothing", "restart", "restart"} {
		proxy.Refuse()
		awaitMode(t, c, aside.Degraded)
		require.NoError(t, c.Set(ctx, time.Hour, "k", how))
		if how == "restart" {
			server.Restart()
		}
		proxy.Heal()
		awaitMode(t, c, aside.Healthy)
		require.Equal(t, how, server.Do("GET", "k"))
	}
}

// A flush while the process is connected: what Redis had refused before, and is replayed later,
// does not come back either.
func TestWhatWaitsWhileItIsConnectedDoesNotComeBackAfterAFlush(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), hasty, option), testContext(t)
	server.Do("ACL", "SETUSER", "default", "resetkeys", "~aside:*", "~other")
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "1"))
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
	require.Equal(t, 1, c.Stats().Pending, "it is refused, and waits")
	apart(t)
	server.Do("FLUSHALL")
	eventually(t, "it is noticed", func() bool { return server.Do("EXISTS", "aside:probe:made") == int64(1) })
	server.Do("ACL", "SETUSER", "default", "allkeys")
	eventually(t, "it is replayed", func() bool { return c.Stats().Pending == 0 })
	require.Nil(t, server.Do("GET", "k"))
}

// What is set behind the flush that was noticed is of after it, though the clocks could not tell: it is acknowledged,
// and comes back.
func TestWhatIsSetRightBehindAFlushComesBack(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	log := new(logged)
	c, ctx := newClient(t, proxy.Addr(), hasty, option, log.option), testContext(t)
	server.Do("ACL", "SETUSER", "default", "resetkeys", "~aside:*")
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, time.Hour, "before", "1"))
	require.NoError(t, c.Set(ctx, time.Hour, "changed", "1"))
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
	require.Equal(t, 2, c.Stats().Pending, "they are refused, and wait")

	server.Do("FLUSHALL")
	log.await(t, 1, "Redis was flushed")
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, time.Hour, "behind", "2")) // within the error that is assumed of clocks
	_, err := c.Apply(ctx, "changed", []aside.Operation{op("APPEND", "3"), op("APPEND", "4")}, nil)
	require.ErrorIs(t, err, aside.ErrKept)
	server.Do("ACL", "SETUSER", "default", "allkeys")
	proxy.Heal()
	eventually(t, "all is replayed", func() bool { return c.Stats().Pending == 0 })
	require.Nil(t, server.Do("GET", "before"))
	require.Equal(t, "2", server.Do("GET", "behind"))
	require.Equal(t, "34", server.Do("GET", "changed"), "what was done to what was flushed")
}

// In a cluster each shard has a key of its own, and each flush is the affair of its shard.
func TestAFlushOfOneShardIsItsOwn(t *testing.T) {
	t.Parallel() // it waits more than it works
	cluster := redistest.StartCluster(t)
	addrs := make([]string, 3)
	proxies := make(map[string]*faultproxy.Proxy)
	for i := range addrs {
		addrs[i] = cluster.Node(i).Addr()
		proxies[addrs[i]] = faultproxy.New(t, addrs[i])
	}
	_, option := durable(t)
	c, ctx := newClient(t, "", hasty, option, func(o *aside.Options) {
		o.Redis.InitAddress = addrs
		o.Redis.DialFn = through(proxies)
	}), testContext(t)
	keys := make([]string, 3)
	for i, n := 0, 0; n < 3; i++ {
		if key := fmt.Sprint("k", i); keys[cluster.NodeOf(key)] == "" {
			keys[cluster.NodeOf(key)] = key
			n++
		}
	}
	for _, proxy := range proxies {
		proxy.Refuse()
	}
	eventually(t, "all are away", func() bool {
		for _, sh := range c.Health().Shards {
			if sh.Mode != aside.Degraded {
				return false
			}
		}
		return true
	})
	for _, key := range keys {
		require.NoError(t, c.Set(ctx, time.Hour, key, "1"))
	}
	apart(t)
	cluster.Node(1).Do("FLUSHALL")
	for _, proxy := range proxies {
		proxy.Heal()
	}
	eventually(t, "all is replayed", func() bool { return c.Stats().Pending == 0 })
	for i, key := range keys {
		if i == 1 {
			require.Nil(t, cluster.Node(i).Do("GET", key))
		} else {
			require.Equal(t, "1", cluster.Node(i).Do("GET", key))
		}
	}
}

// through dials each address by its proxy.
func through(proxies map[string]*faultproxy.Proxy) func(string, *net.Dialer, *tls.Config) (net.Conn, error) {
	return func(addr string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
		return d.Dial("tcp", proxies[addr].Addr())
	}
}
