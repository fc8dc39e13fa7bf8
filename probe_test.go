package aside_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// Nothing is believed of a connection that was not proven on it: that pushes arrive, in order, and
// that a primary is at its end.

// servesFromMemory reports whether a key that was just read is answered from memory.
func servesFromMemory(t testing.TB, c *aside.Client, key string) bool {
	t.Helper()
	ctx := testContext(t)
	load := func(context.Context, string) (string, error) { return "v", nil }
	before := c.Stats().MemoryHits
	for range 3 { // loaded, read back on old servers, and then from memory
		_, err := c.Get(ctx, time.Minute, key, load)
		require.NoError(t, err)
		stored(t, c, key)
	}
	return c.Stats().MemoryHits > before
}

// A ClientBuilder that returns a client which the service has already: nobody tells us of changes
// on it.
func TestAClientThatTheServiceHasAlready(t *testing.T) {
	server := redistest.Start(t)
	existing, err := rueidis.NewClient(plain(server.Addr()))
	require.NoError(t, err)
	defer existing.Close()
	var lines logged
	ctx := testContext(t)
	c, err := aside.New(aside.Options{
		Redis: plain(server.Addr()), StaleLease: 20 * time.Millisecond, RequireRedis: true, ConnectTimeout: patience, RedisTimeout: 2 * time.Second, LockTTL: 10 * time.Second,
		ClientBuilder: func(rueidis.ClientOption) (rueidis.Client, error) { return existing, nil },
		Logger:        slog.New(slog.NewTextHandler(&lines, nil)),
	})
	require.NoError(t, err)
	defer c.Close()
	h := c.Health()
	require.Equal(t, aside.Healthy, h.Mode)
	require.ErrorIs(t, h.Err, aside.ErrNoInvalidations)
	require.ErrorContains(t, h.Err, "ClientBuilder")

	for i := range 20 {
		server.Do("SET", "k", i)
		value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), value)
		require.NoError(t, c.Set(ctx, time.Minute, "own", fmt.Sprint(i)))
		m, err := c.GetMulti(ctx, time.Minute, []string{"k", "own"}, newSource("v").LoadMany)
		require.NoError(t, err)
		require.Equal(t, map[string]string{"k": fmt.Sprint(i), "own": fmt.Sprint(i)}, m)
	}
	require.Zero(t, c.Stats().MemoryHits)

	// Who waits for another's load must not wait for a push either.
	other, db := newClient(t, server.Addr()), newSource("v")
	letGo := db.HoldUp()
	loading := inBackground(func() (string, error) { return other.Get(ctx, time.Minute, "slow", db.Load) })
	db.AwaitBegin(t)
	waiting := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "slow", mustNotLoad) })
	eventually(t, "it waits", func() bool { return c.Stats().LockWaits > 0 })
	letGo()
	require.Equal(t, result{Value: "v"}, await(t, loading))
	require.Equal(t, result{Value: "v"}, await(t, waiting))

	require.NoError(t, c.Close())
	require.NoError(t, existing.Do(ctx, existing.B().Ping().Build()).Error(), "it is the service's")
	require.Len(t, lines.lines("level=WARN"), 1, "said once")
}

// Pushes that are dropped, or late, from the first or after a while: within the lease memory is not
// used any more, and it is said. Once they arrive again it is used again.
func TestPushesThatDoNotArrive(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]func(*middleman){
		"dropped":                       func(b *middleman) { b.drop = true },
		"late":                          func(b *middleman) { b.late = 5 * time.Second },
		"late by about a probe":         func(b *middleman) { b.late = 200 * time.Millisecond },
		"late by a little":              func(b *middleman) { b.late = 20 * time.Millisecond },
		"late by a multiple of a probe": func(b *middleman) { b.late = time.Second },
	} {
		for _, when := range []string{"from the first", "after a while"} {
			t.Run(name+" "+when, func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				middle := newMiddleman(t, server.Addr())
				if when == "from the first" {
					middle.set(func() { broken(middle) })
				}
				c, ctx := newClient(t, middle.Addr(), patient, func(o *aside.Options) {
					o.StaleLease, o.Observer = time.Second, middle.observer()
				}), testContext(t)
				if when == "after a while" {
					eventually(t, "memory is used", func() bool { return servesFromMemory(t, c, "warm") })
					require.NoError(t, c.Health().Err)
					middle.set(func() { broken(middle) })
				}
				server.Do("SET", "k", "old")
				value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
				require.NoError(t, err)
				require.Equal(t, "old", value)
				server.Do("SET", "k", "new")
				written := time.Now()
				eventually(t, "the new value is read", func() bool {
					asked := time.Now()
					value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
					require.NoError(t, err)
					if value != "new" {
						require.Less(t, asked.Sub(written), 1100*time.Millisecond, "older than the lease")
					}
					return value == "new"
				})
				eventually(t, "it is noticed", func() bool { return errors.Is(c.Health().Err, aside.ErrNoInvalidations) })
				require.Equal(t, aside.Healthy, c.Health().Mode, "Redis answers")
				hits := c.Stats().MemoryHits
				for i := range 200 {
					server.Do("SET", "k", i)
					value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint(i), value)
				}
				require.Equal(t, hits, c.Stats().MemoryHits)

				middle.set(func() { middle.drop, middle.late = false, 0 })
				eventually(t, "memory is used again", func() bool { return servesFromMemory(t, c, "again") })
				require.NoError(t, c.Health().Err)
			})
		}
	}
}

// What memory held when pushes were found to be missing may be as old as that: it is not served in
// an outage that follows.
func TestWhatNobodyToldUsOfIsNotServedInAnOutage(t *testing.T) {
	server := redistest.Start(t)
	middle := newMiddleman(t, server.Addr())
	c, ctx := newClient(t, middle.Addr(), hasty), testContext(t)
	server.Do("SET", "k", "old")
	_, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
	require.NoError(t, err)
	middle.set(func() { middle.drop = true })
	server.Do("SET", "k", "new")
	eventually(t, "it is noticed", func() bool { return c.Health().Err != nil })
	server.Kill()
	eventually(t, "it is away", func() bool { return c.Health().Mode == aside.Degraded })
	value, err := c.Get(ctx, time.Minute, "k", newSource("loaded").Load)
	require.NoError(t, err)
	require.Equal(t, "loaded", value)
}

// PING and TIME are answered in front, and nothing is behind. That is an outage: writes are kept,
// and nothing is served beyond the lease.
func TestAProxyThatAnswersForADeadRedis(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*aside.Options){"with memory": func(*aside.Options) {}, "DisableCache": untracked, "without memory": func(o *aside.Options) { o.MemoryBytes = -1 }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			middle := newMiddleman(t, server.Addr())
			_, durably := durable(t)
			c, ctx := newClient(t, middle.Addr(), hasty, durably, change), testContext(t)
			require.NoError(t, c.Set(ctx, time.Minute, "k", "old"))
			middle.set(func() { middle.answer = front })
			eventually(t, "it is noticed", func() bool { return c.Health().Mode == aside.Degraded })
			require.ErrorContains(t, c.Health().Err, "upstream failure")
			require.NoError(t, c.Set(ctx, time.Minute, "k", name), "kept on disk")
			middle.set(func() { middle.answer = nil })
			eventually(t, "it is replayed", func() bool { return c.Stats().RedisConnected && c.Stats().Pending == 0 })
			require.Equal(t, name, server.Do("GET", "k"))
		})
	}
}

// startReplica starts a server that follows primary and is in step.
func startReplica(t testing.TB, primary *redistest.Server) *redistest.Server {
	t.Helper()
	replica := redistest.Start(t, redistest.WithReplication())
	host, port, err := net.SplitHostPort(primary.Addr())
	require.NoError(t, err)
	replica.Do("REPLICAOF", host, port)
	eventually(t, "the replica is in step", func() bool {
		return strings.Contains(fmt.Sprint(replica.Do("INFO", "replication")), "master_link_status:up") &&
			strings.Contains(fmt.Sprint(primary.Do("INFO", "replication")), "state=online")
	})
	return replica
}

// The replica takes over, and what stands between leads new connections to it. Nobody closes the
// old ones.
func TestAConnectionToAReplicaIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*aside.Options){"with memory": func(*aside.Options) {}, "DisableCache": untracked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary := redistest.Start(t, redistest.WithReplication())
			replica := startReplica(t, primary)
			proxy := faultproxy.New(t, primary.Addr())
			c, ctx := newClient(t, proxy.Addr(), hasty, change), testContext(t)
			require.NoError(t, c.Set(ctx, time.Minute, "k", "before"))
			proxy.SetUpstream(replica.Addr())
			replica.Do("REPLICAOF", "NO", "ONE")
			host, port, err := net.SplitHostPort(replica.Addr())
			require.NoError(t, err)
			primary.Do("REPLICAOF", host, port) // as FAILOVER does, which Redis 6.0 has not
			eventually(t, "it is noticed", func() bool { return !c.Stats().RedisConnected })
			require.ErrorContains(t, c.Health().Err, "READONLY")
			eventually(t, "the new primary is written to", func() bool { return c.Set(ctx, time.Minute, "k", "after") == nil })
			require.Equal(t, "after", replica.Do("GET", "k"))
			eventually(t, "memory is used again", func() bool { return name == "DisableCache" || servesFromMemory(t, c, "m") })
		})
	}
}

// A balancer leads to a primary and a replica in turn: whoever begins at the replica goes on to the
// primary.
func TestAStartBehindABalancer(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, redistest.WithReplication())
	replica := startReplica(t, primary)
	for first := range 2 {
		var mu sync.Mutex
		turn := first
		c, ctx := newClient(t, primary.Addr(), hasty, func(o *aside.Options) {
			o.Redis.DialFn = func(_ string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
				mu.Lock()
				turn++
				to := []*redistest.Server{primary, replica}[turn%2]
				mu.Unlock()
				return d.Dial("tcp", to.Addr())
			}
		}), testContext(t)
		require.NoError(t, c.Set(ctx, time.Minute, "k", fmt.Sprint(first)))
		require.Equal(t, fmt.Sprint(first), primary.Do("GET", "k"))
	}
}

// A replica that takes writes is none that may be believed.
func TestAReplicaThatTakesWritesIsNotUsed(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, redistest.WithReplication())
	replica := startReplica(t, primary)
	replica.Do("CONFIG", "SET", "replica-read-only", "no")
	c, err := aside.New(aside.Options{Redis: plain(replica.Addr()), Logger: quiet})
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, aside.Degraded, c.Health().Mode)
	require.ErrorContains(t, c.Health().Err, "replica")
	replica.Do("REPLICAOF", "NO", "ONE")
	eventually(t, "it has become a primary", func() bool { return c.Health().Mode == aside.Healthy })
}

// An old primary that is cut off from its replicas goes on. With min-replicas-to-write it says so
// to who writes, and probes write.
func TestALonelyPrimaryIsNotBelieved(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, redistest.WithReplication())
	replica := startReplica(t, primary)
	c, ctx := newClient(t, primary.Addr(), hasty, forgetful), testContext(t)
	primary.Do("SET", "k", "v")
	_, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
	require.NoError(t, err)
	primary.Do("CONFIG", "SET", "min-replicas-max-lag", 1)
	primary.Do("CONFIG", "SET", "min-replicas-to-write", 1)
	replica.Do("REPLICAOF", "NO", "ONE")
	eventually(t, "it is noticed", func() bool { return c.Health().Err != nil })
	require.ErrorContains(t, c.Health().Err, "NOREPLICAS")
	eventually(t, "the lease is over", func() bool {
		value, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "loaded", nil })
		require.NoError(t, err)
		return value == "loaded"
	})
	primary.Do("CONFIG", "SET", "min-replicas-to-write", 0)
	eventually(t, "it is back", func() bool { return c.Stats().RedisConnected })
	eventually(t, "memory is used again", func() bool { return servesFromMemory(t, c, "m") })
}

// Where the proof itself is refused memory is not used, everything else works, and it is tried
// again.
func TestAProofThatIsRefused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Do("ACL", "SETUSER", "app", "on", ">pw", "+@all", "~k*", "~aside:stamps:*")
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Redis.Username, o.Redis.Password = "app", "pw" }), testContext(t)
	require.Equal(t, aside.Healthy, c.Health().Mode)
	require.ErrorIs(t, c.Health().Err, aside.ErrNoInvalidations)
	require.ErrorContains(t, c.Health().Err, "NOPERM")
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	require.False(t, servesFromMemory(t, c, "k"))
	server.Do("ACL", "SETUSER", "app", "~aside:probe*")
	eventually(t, "memory is used", func() bool { return servesFromMemory(t, c, "k") })
	require.NoError(t, c.Health().Err)
}

// A server that is full proves pushes all the same.
func TestMemoryOfAFullServer(t *testing.T) {
	server := redistest.Start(t, redistest.WithArgs("--maxmemory-policy", "noeviction"))
	server.Do("SET", "k", "v")
	server.Do("CONFIG", "SET", "maxmemory", "1")
	t.Cleanup(func() { server.Do("CONFIG", "SET", "maxmemory", "0") })
	c, ctx := newClient(t, server.Addr()), testContext(t)
	require.NoError(t, c.Health().Err)
	for range 3 {
		_, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
		require.NoError(t, err)
	}
	require.EqualValues(t, 2, c.Stats().MemoryHits)
}

// Where there is no memory nothing is written, after the first proof that pushes arrive.
func TestWithoutMemoryProbesWriteNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	newClient(t, server.Addr(), untracked, func(o *aside.Options) { o.StaleLease = 20 * time.Millisecond })
	newClient(t, server.Addr(), func(o *aside.Options) { o.MemoryBytes, o.StaleLease = -1, 20*time.Millisecond })
	asked := func() int { return probesSeen(fmt.Sprint(server.Do("INFO", "commandstats"))) }
	was := asked()
	written := server.Do("INFO", "persistence")
	eventually(t, "they ask", func() bool { return asked() > was+50 })
	changes := func(info any) string {
		for line := range strings.Lines(fmt.Sprint(info)) {
			if strings.HasPrefix(line, "rdb_changes_since_last_save:") {
				return line
			}
		}
		return ""
	}
	require.Equal(t, changes(written), changes(server.Do("INFO", "persistence")))
	require.LessOrEqual(t, server.Do("DBSIZE"), int64(2), "the key of the first proof, and that which says that nothing was flushed")
}

func probesSeen(stats string) (n int) {
	for line := range strings.Lines(stats) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_pexpire:calls="); ok {
			_, _ = fmt.Sscanf(rest, "%d", &n)
		}
	}
	return n
}

// Tracking that is permitted later is used then.
func TestTrackingThatIsPermittedLater(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	server.Do("ACL", "SETUSER", "app", "on", ">pw", "+@all", "-client", "~*") // before Redis 7 a subcommand cannot be forbidden alone
	c := newClient(t, server.Addr(), func(o *aside.Options) { o.Redis.Username, o.Redis.Password = "app", "pw" })
	require.False(t, servesFromMemory(t, c, "k"))
	server.Do("ACL", "SETUSER", "app", "+client")
	eventually(t, "memory is used", func() bool { // Redis is not asked while the connection is made anew
		before := c.Stats().MemoryHits
		_, err := c.Get(testContext(t), time.Minute, "k", func(context.Context, string) (string, error) { return "v", nil })
		require.NoError(t, err)
		return c.Stats().MemoryHits > before && c.Health().Mode == aside.Healthy
	})
	eventually(t, "there is one connection", func() bool {
		return strings.Count(fmt.Sprint(server.Do("CLIENT", "LIST")), "user=app") == 1
	})
}

// The first slot of a shard is being moved, as each reshard begins, and nobody goes on: the others
// keep their memory.
func TestASlotThatIsMovingCostsNoOtherKey(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	cluster.BeginMigration(0, 0, 1)
	c := newClient(t, "", patient, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() })
	require.NoError(t, c.Health().Err)
	for i := range 30 {
		if key := fmt.Sprint("k", i); redistest.Slot(key) != 0 {
			require.True(t, servesFromMemory(t, c, key), key)
		}
	}
}

// Probe keys are nobody's data: they are not in the statistics, and the user's callback does not
// see them.
func TestProbesAreNotSeen(t *testing.T) {
	server := redistest.Start(t)
	var mu sync.Mutex
	var heard []string
	c := newClient(t, server.Addr(), func(o *aside.Options) {
		o.StaleLease = 20 * time.Millisecond
		o.Redis.OnInvalidations = func(keys []rueidis.RedisMessage) {
			mu.Lock()
			defer mu.Unlock()
			for _, key := range keys {
				name, _ := key.ToString()
				heard = append(heard, name)
			}
		}
	})
	eventually(t, "some probes", func() bool { return probesSeen(fmt.Sprint(server.Do("INFO", "commandstats"))) > 20 })
	require.Zero(t, c.Stats().Invalidations)
	mu.Lock()
	defer mu.Unlock()
	require.Empty(t, heard)
}
