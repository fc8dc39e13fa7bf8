package resp

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// passOnCluster serves a cluster, and returns where. It waits for it as long as a machine may need that has much else to do.
func passOnCluster(t testing.TB, cluster *redistest.Cluster) (*aside.Client, string) {
	t.Helper()
	option := rueidis.ClientOption{InitAddress: cluster.Addrs()}
	store, c := newHastyStore(t, cluster.Addrs()[0], t.TempDir(), func(o *aside.Options) {
		o.Redis, o.RedisTimeout, o.LockTTL = option, 5*time.Second, time.Minute
	})
	_, addr := serve(t, store, Options{Redis: &option})
	eventually(t, "the cluster is there", func() bool { return c.Health().Mode == aside.Healthy })
	return c, addr
}

// keysOfNodes are keys of each primary, with different slots.
func keysOfNodes(cluster *redistest.Cluster) []string {
	keys := make([]string, 3)
	for i, missing := 0, len(keys); missing > 0; i++ {
		key := fmt.Sprint("key", i)
		if n := cluster.NodeOf(key); keys[n] == "" {
			keys[n] = key
			missing--
		}
	}
	return keys
}

// TestAnOrdinaryApplicationWorksInFrontOfACluster has the same checks as in front of one server. Those
// that use several slots at once are refused as a cluster does, and a page of SCAN is of one node.
func TestAnOrdinaryApplicationWorksInFrontOfACluster(t *testing.T) { //nolint:tparallel // its parts have one proxy and one cluster
	t.Parallel()
	several := map[string]bool{"SCAN": true, "EXPIREAT, PEXPIREAT and TOUCH": true, "a list, as queues are": true, "MULTI and EXEC": true, "RENAME": true}
	_, addr := passOnCluster(t, redistest.StartCluster(t))
	for _, protocol := range []int{2, 3} {
		c := goredis.NewClient(&goredis.Options{Addr: addr, Protocol: protocol, MaxRetries: -1})
		t.Cleanup(func() { _ = c.Close() })
		for _, check := range ordinary {
			t.Run(fmt.Sprintf("RESP%d/%s", protocol, check.name), func(t *testing.T) {
				ctx := testContext(t)
				require.NoError(t, c.FlushDB(ctx).Err())
				got, err := check.do(ctx, c)
				if several[check.name] {
					require.NotEqual(t, check.want, got)
					return
				}
				require.NoError(t, err)
				require.Equal(t, check.want, got)
			})
		}
	}
}

// clusterPeer asks the node that has a command's keys, as those say who it is.
type clusterPeer struct {
	t     testing.TB
	peers map[string]*peer
	first string
}

func (c *clusterPeer) do(args ...string) string {
	c.t.Helper()
	if args[0] == "FLUSHDB" {
		reply := ""
		for _, p := range c.peers {
			reply = p.do(args...)
		}
		return reply
	}
	reply := c.peers[c.first].do(args...)
	for strings.HasPrefix(reply, "-MOVED ") {
		reply = c.peers[strings.Fields(reply)[2]].do(args...)
	}
	return reply
}

// Whoever asks the proxy is told what the cluster's nodes would have said, those that have the keys:
// CROSSSLOT, too, but never MOVED.
func TestPassedOnCommandsAreAnsweredAsAClusterDoes(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"2", "3"} {
		t.Run("RESP"+protocol, func(t *testing.T) {
			t.Parallel()
			direct, behind := redistest.StartCluster(t), redistest.StartCluster(t)
			_, addr := passOnCluster(t, behind)
			p := dial(t, addr)
			p.do("HELLO", protocol)
			d := &clusterPeer{t, make(map[string]*peer), direct.Addrs()[0]}
			for _, node := range direct.Addrs() {
				d.peers[node] = dial(t, node)
				d.peers[node].do("HELLO", protocol)
			}
			names := map[string]string{"a": "a", "b": "b", "c": "{t}c", "d": "{t}d"}
			random := rand.New(rand.NewPCG(uint64(protocol[0]), 21))
			old := strings.HasPrefix(behind.Node(0).Version(), "6.") // what is served here is answered as Redis 7 does
			for range 500 {
				var commands [][]string
				for range 1 + random.IntN(10) {
					command := randomCommandOfAnyType(random)
					slots := make(map[int]bool)
					for i, word := range command[1:] {
						if name, ok := names[word]; ok {
							command[i+1] = name
							slots[redistest.Slot(name)] = true
						}
					}
					_, served := intern([]byte(command[0]))
					unlike := served && (len(slots) > 1 || old) || listsKeys[command[0]] || command[0] == "OBJECT" // APPEND is served by SET
					unlike = unlike || command[0] == "EVAL" && command[len(command)-3] == "0" || old && command[0] == "nonsense"
					if !unlike {
						commands = append(commands, command)
					}
				}
				var all strings.Builder
				for _, args := range commands {
					all.WriteString(encoded(args...))
				}
				p.send(all.String())
				for i, args := range commands {
					want, got := d.do(args...), p.reply()
					if unordered[args[0]] {
						want, got = sorted(want), sorted(got)
					}
					require.Equal(t, want, got, "%q of %q", args, commands[:i+1])
				}
			}
		})
	}
}

func TestWhatConcernsAllNodesGoesToAllNodes(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := passOnCluster(t, cluster)
	p, reader := dial(t, addr), dial(t, addr)
	keys := keysOfNodes(cluster)
	const script = "return redis.call('SET', KEYS[1], ARGV[1])"
	sha := strings.TrimPrefix(p.do("SCRIPT", "LOAD", script), "$")
	for i, key := range keys {
		require.Equal(t, "+OK", p.do("EVALSHA", sha, "1", key, fmt.Sprint(i)))
		require.Equal(t, fmt.Sprint("$", i), reader.do("GET", key))
	}
	require.Equal(t, "*2 :1 :0", p.do("SCRIPT", "EXISTS", sha, strings.Repeat("0", 40)))
	cluster.Node(1).Do("SCRIPT", "FLUSH")
	require.Equal(t, "*2 :0 :0", p.do("SCRIPT", "EXISTS", sha, strings.Repeat("0", 40)))
	for _, key := range keys {
		require.Equal(t, ":1", p.do("HSET", "h{"+key+"}", "f", "v"))
	}
	require.Equal(t, "+OK", p.do("FLUSHDB"))
	for _, key := range keys {
		require.Equal(t, "$-1", reader.do("GET", key), "memory has forgotten it")
		require.Equal(t, ":0", p.do("HLEN", "h{"+key+"}"))
	}
}

// A relapse would answer from memory what a script has overwritten without naming it.
func TestWhatAScriptHasChangedAtANodeIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := passOnCluster(t, cluster)
	p, reader := dial(t, addr), dial(t, addr)
	for round := range 30 {
		for _, key := range keysOfNodes(cluster) {
			other := "other{" + key + "}"
			require.Equal(t, "+OK", p.do("EVAL", "return redis.call('SET', ARGV[1], ARGV[2])", "1", key, other, fmt.Sprint(round)))
			for range 2 {
				require.Equal(t, fmt.Sprint("$", round), reader.do("GET", other))
			}
		}
	}
}

func TestTransactionsAreAtTheNodeOfTheirFirstKey(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := passOnCluster(t, cluster)
	p, reader := dial(t, addr), dial(t, addr)
	keys := keysOfNodes(cluster)
	for i, key := range keys {
		require.Equal(t, "+OK", p.do("MULTI"))
		require.Equal(t, "+QUEUED", p.do("SET", key, fmt.Sprint(i)))
		require.Equal(t, "+QUEUED", p.do("PUBLISH", "c", "m"))
		require.Equal(t, "*2 +OK :0", p.do("EXEC"))
		require.Equal(t, fmt.Sprint("$", i), reader.do("GET", key))

		require.Equal(t, "+OK", p.do("WATCH", key))
		require.Equal(t, "+OK", reader.do("SET", key, "other"))
		require.Equal(t, "+OK", p.do("MULTI"))
		require.Equal(t, "+QUEUED", p.do("SET", key, "mine"))
		require.Equal(t, "*-1", p.do("EXEC"))
		require.Equal(t, "+OK", p.do("WATCH", key))
		require.Equal(t, "+OK", p.do("UNWATCH"))

		// Also where what comes first has no key.
		p.send(encoded("MULTI") + encoded("PUBLISH", "c", "m") + encoded("SET", key, "piped") + encoded("EXEC"))
		require.Equal(t, []string{"+OK", "+QUEUED", "+QUEUED", "*2 :0 +OK"}, []string{p.reply(), p.reply(), p.reply(), p.reply()})
		require.Equal(t, "$piped", reader.do("GET", key))
	}
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "*0", p.do("EXEC"))
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+OK", p.do("DISCARD"))

	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("SET", keys[0], "x"))
	require.Equal(t, "-"+crossSlot, p.do("SET", keys[1], "x"))
	require.Contains(t, p.do("EXEC"), "-EXECABORT")
	require.Equal(t, "$piped", reader.do("GET", keys[0]))
	require.Equal(t, "-"+crossSlot, p.do("WATCH", keys[0], keys[1]))
	require.Equal(t, "+OK", p.do("UNWATCH"))
}

func TestClientsOfAClusterBlockAndSubscribe(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := passOnCluster(t, cluster)
	p, other := dial(t, addr), dial(t, addr)
	for _, key := range keysOfNodes(cluster) {
		p.send(encoded("BLPOP", key, "0"))
		require.Equal(t, ":1", other.do("RPUSH", key, "v"))
		require.Equal(t, "*2 $"+key+" $v", p.reply())

		subscriber := dial(t, addr)
		require.Equal(t, "*3 $subscribe $"+key+" :1", subscriber.do("SUBSCRIBE", key))
		other.do("PUBLISH", key, "hello")
		require.Equal(t, "*3 $message $"+key+" $hello", subscriber.reply())
		if strings.HasPrefix(cluster.Node(0).Version(), "6.") {
			continue // there are no sharded channels
		}
		sharded := dial(t, addr)
		require.Equal(t, "*3 $ssubscribe $"+key+" :1", sharded.do("SSUBSCRIBE", key))
		require.Equal(t, ":1", other.do("SPUBLISH", key, "hello"))
		require.Equal(t, "*3 $smessage $"+key+" $hello", sharded.reply())
	}
}

// Nothing is lost or done twice, and no client sees MOVED or ASK.
func TestClientsDoNotSeeASlotMove(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := passOnCluster(t, cluster)
	keys := keysOfNodes(cluster)
	n := redistest.Slot(keys[0])
	stop := make(chan struct{})
	var all sync.WaitGroup
	done := make([]atomic.Int64, 4)
	for i := range done {
		all.Go(func() {
			p := dial(t, addr)
			key := fmt.Sprintf("{%s}%d", keys[0], i)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if i%2 == 0 {
					p.send(encoded("HINCRBY", key, "f", "1") + encoded("HINCRBY", keys[1]+fmt.Sprint(i), "f", "1") + encoded("HGET", key, "f"))
					first, _, third := p.reply(), p.reply(), p.reply()
					n := done[i].Add(1)
					if want := fmt.Sprint(":", n); first != want || third != fmt.Sprint("$", n) {
						t.Errorf("%s and %s instead of %s", first, third, want)
						return
					}
					continue
				}
				p.send(encoded("MULTI") + encoded("INCR", key) + encoded("EXEC"))
				switch first, second, third := p.reply(), p.reply(), p.reply(); {
				case first == "+OK" && second == "+QUEUED" && third == fmt.Sprint("*1 :", done[i].Load()+1):
					done[i].Add(1)
				case !strings.HasPrefix(second, "-TRYAGAIN") && !strings.HasPrefix(third, "-TRYAGAIN"):
					t.Errorf("%s, %s, %s", first, second, third)
					return
				}
			}
		})
	}
	for _, move := range [][2]int{{0, 1}, {1, 0}, {0, 2}, {2, 0}, {0, 1}} {
		var before [4]int64
		for i := range done {
			before[i] = done[i].Load()
		}
		cluster.BeginMigration(n, move[0], move[1])
		eventually(t, "all go on", func() bool {
			for i := 0; i < len(done); i += 2 { // transactions are refused while the slot moves
				if done[i].Load() < before[i]+5 && !t.Failed() {
					return false
				}
			}
			return true
		})
		cluster.FinishMigration(n, move[0], move[1])
		eventually(t, "all go on", func() bool {
			for i := range done {
				if done[i].Load() < before[i]+10 && !t.Failed() {
					return false
				}
			}
			return true
		})
	}
	close(stop)
	all.Wait()
	p := dial(t, addr)
	for i := range done {
		want := done[i].Load()
		key := fmt.Sprintf("{%s}%d", keys[0], i)
		if i%2 == 0 {
			require.Equal(t, fmt.Sprint("$", want), p.do("HGET", key, "f"))
		} else {
			require.Equal(t, fmt.Sprint("$", want), p.do("GET", key))
		}
	}
}

// While a slot moves, a key that has moved already, or is not there, is found by ASK.
func TestAKeyThatHasMovedAlreadyIsFound(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := passOnCluster(t, cluster)
	key := keysOfNodes(cluster)[0]
	p := dial(t, addr)
	require.Equal(t, ":1", p.do("HSET", key, "f", "v"))
	cluster.BeginMigration(redistest.Slot(key), 0, 1)
	require.Equal(t, "$v", p.do("HGET", key, "f"))
	require.Equal(t, ":1", p.do("HSET", "{"+key+"}new", "f", "v"), "the new owner has it")
	require.Equal(t, "$v", p.do("HGET", "{"+key+"}new", "f"))
	require.Contains(t, p.do("SUNION", key, "{"+key+"}new"), "-TRYAGAIN", "one is here, the other there: as Redis says it")
	p.send(encoded("BLPOP", "{"+key+"}list", "0"))
	require.Equal(t, ":1", dial(t, addr).do("RPUSH", "{"+key+"}list", "v"))
	require.Equal(t, "*2 ${"+key+"}list $v", p.reply())
	cluster.FinishMigration(redistest.Slot(key), 0, 1)
	require.Equal(t, "$v", p.do("HGET", key, "f"))
}

// Of a pipeline across nodes only what a node had that is away is refused.
func TestANodeThatIsAwayCostsItsOwnSlotsOnly(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	c, addr := passOnCluster(t, cluster)
	keys := keysOfNodes(cluster)
	p := dial(t, addr)
	for _, key := range keys {
		require.Equal(t, ":1", p.do("HSET", key, "f", "v"))
	}
	cluster.Node(0).Kill()
	ask := func() (replies []string) {
		for _, key := range keys {
			p.send(encoded("HGET", key, "f"))
		}
		for range keys {
			replies = append(replies, p.reply())
		}
		return replies
	}
	for range 20 {
		replies := ask()
		require.Contains(t, replies[0], "-ASIDEDEGRADED")
		require.Equal(t, []string{"$v", "$v"}, replies[1:])
	}
	eventually(t, "it is noticed", func() bool { return c.Health().Mode == aside.Degraded })
	replies := ask()
	require.Contains(t, replies[0], "-ASIDEDEGRADED")
	require.Equal(t, []string{"$v", "$v"}, replies[1:])
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("HGET", keys[1], "f"))
	require.Equal(t, "*1 $v", p.do("EXEC"))
	cluster.Node(0).Restart()
	cluster.AwaitOK()
	eventually(t, "it is back", func() bool { return p.do("HSET", keys[0], "f", "v") == ":1" })
}

// A node goes away when a pipeline was gathered and not sent yet: the commands that other nodes have to do are done.
func TestANodeThatGoesAwayMeanwhileCostsItsOwnSlotsOnly(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	option := rueidis.ClientOption{InitAddress: cluster.Addrs()}
	store, client := newHastyStore(t, cluster.Addrs()[0], t.TempDir(), func(o *aside.Options) { o.Redis = option })
	eventually(t, "the cluster is there", func() bool { return client.Health().Mode == aside.Healthy })
	s := New(store, Options{Redis: &option, Logger: quiet})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	ours, theirs := tcpPair(t)
	c, p := newConn(s, ours, 1), &peer{t, theirs, bufio.NewReader(theirs)}
	keys := keysOfNodes(cluster)
	for _, key := range keys {
		require.Equal(t, gathered, c.pass([]string{"HSET", key, "f", "v"}))
	}
	c.settle()
	for _, key := range keys {
		require.Equal(t, gathered, c.pass([]string{"HGET", key, "f"}))
	}
	cluster.Node(0).Kill()
	eventually(t, "it is noticed", func() bool { return client.Health().Mode == aside.Degraded })
	c.finish()
	for range keys {
		require.Equal(t, ":1", p.reply())
	}
	require.Contains(t, p.reply(), "-ASIDEDEGRADED")
	require.Equal(t, "$v", p.reply())
	require.Equal(t, "$v", p.reply())
	require.EqualValues(t, 6, s.Stats().Commands, "each is counted once")
	cluster.Node(0).Restart()
	cluster.AwaitOK()
}

// After a failover commands go to the new primary.
func TestPassedOnCommandsFollowAClustersFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.WithReplicas(1))
	_, addr := passOnCluster(t, cluster)
	key := keysOfNodes(cluster)[0]
	p := dial(t, addr)
	require.Equal(t, ":1", p.do("HSET", key, "f", "v"))
	cluster.Node(0).Kill()
	eventually(t, "the replica takes over", func() bool { return p.do("HSET", key, "g", "v") == ":1" || p.do("HGET", key, "g") == "$v" })
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("HSET", key, "h", "v"))
	require.Equal(t, "*1 :1", p.do("EXEC"))
}

// A relapse would send FLUSHDB to those that were primaries when the proxy last asked.
func TestWhatConcernsAllNodesGoesToThoseThatThereAre(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.WithReplicas(1))
	c, addr := passOnCluster(t, cluster)
	key := keysOfNodes(cluster)[0]
	p := dial(t, addr)
	require.Equal(t, ":1", p.do("HSET", key, "f", "v"))
	replica := cluster.Node(3)
	eventually(t, "the replica has it", func() bool { return replica.Do("DBSIZE") != int64(0) })
	replica.Do("CLUSTER", "FAILOVER")
	eventually(t, "it takes over", func() bool {
		is, was := replica.Do("ROLE").([]any), cluster.Node(0).Do("ROLE").([]any)
		return is[0] == "master" && was[0] == "slave"
	})
	cluster.AwaitOK()
	eventually(t, "the library knows", func() bool { return c.Health().Mode == aside.Healthy })
	// What the proxy was told less than 100 ms ago it does not ask again. A server may take over sooner, and says READONLY.
	eventually(t, "it is asked again", func() bool {
		reply := p.do("FLUSHDB")
		require.Regexp(t, `^(\+OK|-READONLY .*)$`, reply)
		return reply == "+OK"
	})
	require.EqualValues(t, 0, replica.Do("EXISTS", key))
}

// A relapse would tell the client MOVED, each time that it comes.
func TestASubscriberDoesNotSeeASlotMove(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	if strings.HasPrefix(cluster.Node(0).Version(), "6.") {
		return // there are no sharded channels
	}
	_, addr := passOnCluster(t, cluster)
	key := keysOfNodes(cluster)[0]
	require.Equal(t, ":1", dial(t, addr).do("HSET", key, "f", "v"))
	cluster.MigrateSlot(redistest.Slot(key), 0, 1)
	eventually(t, "it subscribes", func() bool {
		reply := dial(t, addr).do("SSUBSCRIBE", key)
		require.NotContains(t, reply, "MOVED")
		return reply == "*3 $ssubscribe $"+key+" :1"
	})
}

// A relapse would have a client that once failed to watch a key of a node that is away watch no
// others either.
func TestWhoCouldNotWatchOneKeyWatchesAnother(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := passOnCluster(t, cluster)
	keys := keysOfNodes(cluster)
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("WATCH", keys[0]))
	require.Equal(t, "+OK", p.do("UNWATCH"))
	cluster.Node(0).Kill()
	require.Contains(t, p.do("WATCH", keys[0]), "-ASIDE")
	require.Equal(t, "+OK", p.do("WATCH", keys[1]))
	require.Equal(t, "+OK", p.do("UNWATCH"))
}
