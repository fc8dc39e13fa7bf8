package resp

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/slot"
)

// clusterHearer is a proxy that remembers what is read, before a cluster whose nodes can be taken away one by one.
type clusterHearer struct {
	*hearer
	cluster *redistest.Cluster
	ways    ways
	other   *clusterPeer // a client of the cluster's, who knows nothing of the proxy
	keys    []string     // one of each primary of the beginning
}

// ways lead to the nodes of a cluster. Nobody but who dials by them uses them.
type ways []*faultproxy.Proxy

func newWays(t testing.TB, cluster *redistest.Cluster) (all ways) {
	for _, addr := range cluster.Addrs() {
		all = append(all, faultproxy.New(t, addr))
	}
	return all
}

// option connects to a cluster by ways.
func (w ways) option(cluster *redistest.Cluster) rueidis.ClientOption {
	return rueidis.ClientOption{InitAddress: cluster.Addrs(), DialCtxFn: func(ctx context.Context, dst string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
		if i := slices.Index(cluster.Addrs(), dst); i >= 0 {
			dst = w[i].Addr()
		}
		return d.DialContext(ctx, "tcp", dst)
	}}
}

func newClusterHearer(t testing.TB, protocol string, options ...redistest.Option) *clusterHearer {
	t.Helper()
	cluster := redistest.StartCluster(t, options...)
	w := newWays(t, cluster)
	option := w.option(cluster)
	store, c := newHastyStore(t, cluster.Addrs()[0], t.TempDir(), func(o *aside.Options) {
		o.Redis, o.RedisTimeout, o.LockTTL, o.DegradedTTL = option, 5*time.Second, time.Minute, -1
	})
	s, addr := serve(t, store, Options{Redis: &option, Collections: true})
	p := dial(t, addr)
	require.NotContains(t, p.do("HELLO", protocol), "ERR")
	h := &clusterHearer{hearer: &hearer{Server: s, peer: p, client: c}, cluster: cluster, ways: w, other: newClusterPeer(t, cluster, protocol), keys: keysOfNodes(cluster)}
	awaitMode(t, c, aside.Healthy)
	return h
}

func newClusterPeer(t testing.TB, cluster *redistest.Cluster, protocol string) *clusterPeer {
	c := &clusterPeer{t, make(map[string]*peer), cluster.Addrs()[0]}
	for _, node := range cluster.Addrs() {
		c.peers[node] = dial(t, node)
		require.NotContains(t, c.peers[node].do("HELLO", protocol), "ERR")
	}
	return c
}

// change is a command of the other client's, which it sends to a node that is not the key's at first, if it can.
func (h *clusterHearer) change(args ...string) {
	h.peer.t.Helper()
	for _, p := range h.other.peers {
		require.NoError(h.peer.t, p.SetDeadline(time.Now().Add(patience)))
	}
	h.other.first = h.cluster.Addrs()[(h.cluster.NodeOf(args[1])+1)%3]
	require.NotContains(h.peer.t, h.other.do(args...), "-", "%q", args)
}

// lose takes nodes away.
func (h *clusterHearer) lose(nodes ...int) {
	h.peer.t.Helper()
	for _, i := range nodes {
		h.ways[i].Refuse()
	}
	for _, i := range nodes {
		h.awaitNode(i, aside.Degraded)
	}
}

func (h *clusterHearer) heal(nodes ...int) {
	h.peer.t.Helper()
	for _, i := range nodes {
		h.ways[i].Heal()
	}
	for _, i := range nodes {
		h.awaitNode(i, aside.Healthy)
	}
}

func (h *clusterHearer) awaitNode(i int, mode aside.Mode) {
	h.peer.t.Helper()
	eventually(h.peer.t, fmt.Sprint("node ", i, " is ", mode), func() bool {
		return slices.ContainsFunc(h.client.Health().Shards, func(shard aside.ShardHealth) bool {
			return shard.Addr == h.cluster.Addrs()[i] && shard.Mode == mode
		})
	})
}

// forgotten waits until nothing is remembered of a key.
func (h *clusterHearer) forgotten(key string) {
	h.peer.t.Helper()
	eventually(h.peer.t, key+" is not remembered any more", func() bool { return h.heard(key) == nil })
}

// Each shard's outage is answered from what was read of it, and costs the others nothing.
func TestCollectionsOfAClusterAreAnsweredInTheOutageOfTheirShard(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"2", "3"} {
		t.Run("RESP"+protocol, func(t *testing.T) {
			t.Parallel()
			h := newClusterHearer(t, protocol)
			of := func(kind string, node int) string { return kind + "{" + h.keys[node] + "}" }
			var reads [][]string
			for i := range 3 {
				h.change("HSET", of("h", i), "a", "1", "b", "2")
				h.change("HSET", of("p", i), "a", "1", "b", "2")
				h.change("HSET", of("unread", i), "a", "1")
				h.change("SADD", of("s", i), "x", "y")
				h.change("RPUSH", of("l", i), "1", "2")
				h.change("EXPIRE", of("l", i), "1000")
				reads = append(reads, []string{"HGETALL", of("h", i)}, []string{"HGET", of("p", i), "a"}, []string{"SMEMBERS", of("s", i)}, []string{"LRANGE", of("l", i), "0", "-1"})
			}
			eventually(t, "a pipeline is remembered that is for several nodes", func() bool {
				pipelined(h.peer, reads)
				return !slices.ContainsFunc(reads, func(args []string) bool { return h.heard(args[1]) == nil })
			})
			asked := func(node int) (all [][]string) {
				return [][]string{
					{"HGETALL", of("h", node)}, {"HLEN", of("h", node)}, {"HGET", of("h", node), "none"}, {"HGET", of("p", node), "a"}, {"SMEMBERS", of("s", node)}, {"SCARD", of("s", node)},
					{"LRANGE", of("l", node), "0", "-1"}, {"LINDEX", of("l", node), "-1"}, {"TYPE", of("s", node)}, {"TYPE", of("p", node)}, {"EXISTS", of("h", node)}, {"TTL", of("h", node)},
				}
			}
			same := func(node int, want []string) {
				t.Helper()
				for i, reply := range pipelined(h.peer, asked(node)) {
					require.Equal(t, sorted(want[i]), sorted(reply), "%q", asked(node)[i])
				}
			}
			var want [][]string
			for i := range 3 {
				want = append(want, pipelined(h.peer, asked(i)))
			}
			h.lose(1)
			same(1, want[1])
			requireTTL(t, 1000, h.do("TTL", of("l", 1)))
			for _, args := range [][]string{{"HGETALL", of("unread", 1)}, {"HGET", of("p", 1), "b"}, {"HGETALL", of("p", 1)}, {"HSET", of("h", 1), "a", "2"}, {"SADD", of("s", 1), "z"}} {
				require.True(t, refusal(h.do(args...)), "%q", args)
			}
			for _, i := range []int{0, 2} { // Redis answers
				same(i, want[i])
				require.Equal(t, "$1", h.do("HGET", of("unread", i), "a"))
				h.change("HSET", of("h", i), "a", "3")
				require.Equal(t, "$3", h.do("HGET", of("h", i), "a"))
			}
			replies := pipelined(h.peer, [][]string{{"HGET", of("h", 0), "a"}, {"HGET", of("h", 1), "a"}, {"HGET", of("unread", 1), "a"}, {"HGET", of("h", 2), "a"}})
			require.Equal(t, []string{"$3", "$1", "$3"}, []string{replies[0], replies[1], replies[3]})
			require.True(t, refusal(replies[2]))
			require.Equal(t, "+OK", h.do("SET", "waits{"+h.keys[1]+"}", "x"))
			for _, i := range []int{0, 2} { // and is listened to
				for _, read := range reads[4*i : 4*i+4] { // the library does not know of which node a connection was lost
					h.remember(read...)
				}
				h.change("HSET", of("h", i), "a", "4")
				h.forgotten(of("h", i))
				h.remember("HGETALL", of("h", i))
				want[i] = pipelined(h.peer, asked(i))
				for _, read := range reads[4*i : 4*i+4] {
					require.NotNil(t, h.heard(read[1]), "it is there still")
				}
			}
			h.lose(0)
			same(0, want[0])
			for _, read := range reads[8:] {
				h.remember(read...)
			}
			h.lose(2)
			for i := range 3 {
				same(i, want[i])
			}
			h.change("HSET", of("h", 1), "a", "5") // nobody can tell the proxy
			h.change("HSET", of("unread", 1), "a", "5")
			same(1, want[1])
			h.heal(1)
			eventually(t, "Redis answers", func() bool { return h.do("HGET", of("h", 1), "a") == "$5" })
			same(0, want[0])
			h.remember("HGETALL", of("h", 1))
			h.lose(1)
			require.Equal(t, "$5", h.do("HGET", of("h", 1), "a"))
			require.True(t, refusal(h.do("HGET", of("unread", 1), "a")))
			same(2, want[2])
		})
	}
}

// What another has changed before the outage is not answered in it, at whichever node that was and however it got there. What was read at other nodes stays known,
// but for FLUSHALL, of which the library does not know where it was.
func TestCollectionsOfAClusterThatOthersHaveChangedAreNotAnswered(t *testing.T) { //nolint:tparallel // its parts have one proxy and one cluster
	t.Parallel()
	h := newClusterHearer(t, "2")
	for node, key := range h.keys {
		for _, change := range []string{"HSET k a 2", "DEL k", "EXPIRE k 100", "EVAL return(redis.call('HDEL',KEYS[1],'b')) 1 k", "FLUSHALL"} {
			for _, read := range [][]string{{"HGETALL", key}, {"HGET", key, "a"}} {
				t.Run(fmt.Sprint(read[0], " at ", node, " and ", strings.Fields(change)[0]), func(t *testing.T) {
					neighbour := "n{" + h.keys[(node+1)%3] + "}"
					h.change("HSET", neighbour, "a", "1")
					h.forgotten(neighbour) // of the run before: else that is taken for what is read now, and forgotten later
					h.remember("HGETALL", neighbour)
					target := h.targetAt(h.cluster.Addrs()[(node+1)%3])
					h.change("HSET", key, "a", "1", "b", "1")
					h.remember(read...)
					args := strings.Fields(change)
					for i := range args {
						if args[i] == "k" {
							args[i] = key
						}
					}
					h.cluster.Node(node).Do(anys(args)...)
					h.forgotten(key)
					if args[0] != "FLUSHALL" {
						eventually(t, "its neighbour is remembered", func() bool { return h.heard(neighbour) != nil || !target.Listens() })
					}
					h.cluster.Node(node).Do("DEL", key)
				})
			}
		}
	}
	for _, key := range h.keys {
		h.change("HSET", key, "a", "1")
		h.remember("HGETALL", key)
	}
	for _, key := range h.keys {
		h.change("HSET", key, "a", "2")
		h.forgotten(key)
	}
	h.remember("HGETALL", h.keys[2])
	h.lose(2)
	h.lose(0, 1)
	require.True(t, refusal(h.do("HGETALL", h.keys[0])))
	require.True(t, refusal(h.do("HGET", h.keys[1], "a")))
	require.Equal(t, "$2", h.do("HGET", h.keys[2], "a"))
}

// Where the connection to one node has ended, what was read by it counts no more, though those to the others live.
func TestWhatAnEndedConnectionToANodeHasReadIsNotAnswered(t *testing.T) {
	t.Parallel()
	for _, protocol := range []int{2, 3} {
		t.Run(fmt.Sprint("RESP", protocol), func(t *testing.T) {
			t.Parallel()
			h := newClusterHearer(t, fmt.Sprint(protocol))
			for _, key := range h.keys {
				h.change("HSET", key, "a", "1")
				h.remember("HGETALL", key)
			}
			for node, key := range h.keys {
				address := h.cluster.Addrs()[node]
				before := h.pool.Hearing(address, protocol)
				require.Same(t, before, h.pool.Numbered(before.Number))
				require.Equal(t, address, before.Target.(*aside.RedirectTarget).Addr)
				h.cluster.Node(node).Do("CLIENT", "KILL", "ID", before.ID)
				h.change("HSET", key, "a", "2")
				eventually(t, "another connection listens", func() bool { return h.pool.Hearing(address, protocol) != before })
				require.Nil(t, h.heard(key))
				require.Nil(t, h.pool.Numbered(before.Number))
				for i, other := range h.keys {
					if i > node {
						eventually(t, "others are remembered", func() bool { return h.heard(other) != nil })
					}
				}
				h.remember("HGETALL", key)
			}
			for node, key := range h.keys {
				h.remember("HGETALL", key)
				h.lose(node)
				require.Equal(t, "$2", h.do("HGET", key, "a"))
			}
		})
	}
}

// Where the library's connection to one node is lost, which tells nobody of which, all is read again, by the same connections.
func TestAnEarAtANodeThatIsGoneIsReplaced(t *testing.T) {
	t.Parallel()
	h := newClusterHearer(t, "3")
	for _, key := range h.keys {
		h.change("SADD", key, "a")
		h.remember("SMEMBERS", key)
	}
	address := h.cluster.Addrs()[1]
	before, target := h.pool.Hearing(address, 3), h.targetAt(address)
	h.cluster.Node(1).Do("CLIENT", "KILL", "ID", target.ID)
	h.change("SADD", h.keys[1], "b")
	eventually(t, "another target listens", func() bool { return h.targetAt(address) != target && h.pool.Hears(address, 3, h.targetAt(address)) })
	require.Equal(t, before.ID, h.pool.Hearing(address, 3).ID, "it is the same connection")
	for _, key := range h.keys {
		require.Nil(t, h.heard(key))
		h.remember("SMEMBERS", key)
	}
	h.lose(1)
	require.Equal(t, ":2", h.do("SCARD", h.keys[1]))
}

// A node that has restarted at its address is another server: what was read before counts no more.
func TestANodeThatRestartsIsListenedToAnew(t *testing.T) {
	t.Parallel()
	h := newClusterHearer(t, "2")
	key, address := h.keys[1], h.cluster.Addrs()[1]
	h.change("HSET", key, "a", "1")
	h.remember("HGETALL", key)
	server := h.targetAt(address).Server
	h.cluster.Node(1).Kill()
	h.awaitNode(1, aside.Degraded)
	require.Equal(t, "$1", h.do("HGET", key, "a"))
	h.cluster.Node(1).Restart()
	h.cluster.AwaitOK()
	h.cluster.Node(1).Do("HSET", key, "a", "2")
	h.awaitNode(1, aside.Healthy)
	eventually(t, "Redis answers", func() bool { return h.do("HGET", key, "b") == "$-1" })
	require.Equal(t, "$2", h.do("HGET", key, "a"))
	h.remember("HGETALL", key)
	require.NotEqual(t, server, h.targetAt(address).Server)
	h.cluster.Node(1).Kill()
	h.awaitNode(1, aside.Degraded)
	require.Equal(t, "$2", h.do("HGET", key, "a"))
}

// Where a replica has taken over, what was read at the primary before counts no more, and what is read at the new one does.
func TestAReplicaThatTakesOverIsListenedTo(t *testing.T) {
	t.Parallel()
	for name, takeOver := range map[string]func(h *clusterHearer){
		"as its primary died": func(h *clusterHearer) { h.cluster.Node(1).Kill() },
		"as it was told to":   func(h *clusterHearer) { h.cluster.Node(4).Do("CLUSTER", "FAILOVER") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newClusterHearer(t, "3", redistest.WithReplicas(1))
			key, before, after := h.keys[1], h.cluster.Addrs()[1], h.cluster.Addrs()[4]
			for _, key := range h.keys {
				h.change("HSET", key, "a", "1")
				h.remember("HGETALL", key)
			}
			require.NotNil(t, h.targetAt(before))
			require.Nil(t, h.targetAt(after))
			takeOver(h)
			h.awaitOwner(key, 4)
			h.cluster.Node(4).Do("HSET", key, "a", "2")
			h.awaitNode(4, aside.Healthy)
			require.Nil(t, h.heard(key), "it was read at another server")
			eventually(t, "the new primary answers", func() bool { return h.do("HGET", key, "a") == "$2" })
			h.remember("HGETALL", key)
			require.NotNil(t, h.targetAt(after))
			eventually(t, "the old one is left", func() bool { return h.targetAt(before) == nil })
			h.remember("HGETALL", h.keys[0])
			h.cluster.Node(4).Do("HSET", key, "a", "3")
			h.forgotten(key)
			h.remember("HGETALL", key)
			h.lose(4)
			require.Equal(t, "$3", h.do("HGET", key, "a"))
		})
	}
}

// awaitOwner waits until a node has the slot of a key, as all say that live.
func (h *clusterHearer) awaitOwner(key string, node int) {
	h.peer.t.Helper()
	eventually(h.peer.t, "it has taken over", func() bool {
		reply, _ := h.cluster.Node(node).TryDo("ROLE")
		role, _ := reply.([]any)
		return len(role) > 0 && role[0] == "master" && h.cluster.NodeOf(key) == node
	})
}

// While a slot moves, what is read by ASK is not remembered, nor that there was nothing; what its node has is, until it goes. Behind MOVED the new node
// is listened to.
func TestWhatIsReadOfASlotThatMoves(t *testing.T) {
	t.Parallel()
	h := newClusterHearer(t, "2")
	key := h.keys[0]
	stays, goes, none := key, "goes{"+key+"}", "none{"+key+"}"
	for _, key := range []string{stays, goes} {
		h.change("HSET", key, "a", "1", "b", "1")
		h.remember("HGETALL", key)
	}
	n := redistest.Slot(key)
	h.cluster.BeginMigration(n, 0, 2)
	eventually(t, "it is remembered", func() bool { return h.heard(goes) != nil })
	host, port, _ := strings.Cut(h.cluster.Addrs()[2], ":")
	h.cluster.Node(0).Do("MIGRATE", host, port, goes, 0, 5000)
	h.forgotten(goes)
	eventually(t, "what stays is remembered", func() bool { return h.heard(stays) != nil })
	for i := range 20 {
		require.Equal(t, "$1", h.do("HGET", goes, "a"))
		require.Equal(t, sorted("*4 $a $1 $b $1"), sorted(h.do("HGETALL", goes)))
		require.Equal(t, "*0", h.do("HGETALL", none))
		require.Equal(t, "$-1", h.do("HGET", none, "a"))
		replies := pipelined(h.peer, [][]string{{"HGETALL", goes}, {"HGETALL", stays}, {"HGETALL", h.keys[2]}})
		require.Equal(t, replies[0], replies[1])
		require.Nil(t, h.heard(goes), "time %d", i)
		require.Nil(t, h.heard(none))
	}
	asking := func(args ...string) { // as whoever is told ASK does
		p := h.other.peers[h.cluster.Addrs()[2]]
		require.Equal(t, "+OK", p.do("ASKING"))
		require.NotContains(t, p.do(args...), "-")
	}
	asking("HSET", none, "a", "1")
	asking("HSET", goes, "a", "2")
	h.remember("HGETALL", stays)
	h.lose(0)
	require.Equal(t, "$1", h.do("HGET", stays, "a"))
	for _, key := range []string{goes, none} {
		require.True(t, refusal(h.do("HGET", key, "a")), key)
	}
	h.heal(0)
	h.remember("HGETALL", stays)
	h.cluster.FinishMigration(n, 0, 2)
	h.forgotten(stays)
	for _, key := range []string{stays, goes, none} {
		h.remember("HGETALL", key)
	}
	h.change("HSET", stays, "a", "3")
	h.forgotten(stays)
	h.remember("HGETALL", stays)
	h.lose(2)
	require.Equal(t, []string{"$3", "$2", "$1"}, pipelined(h.peer, [][]string{{"HGET", stays, "a"}, {"HGET", goes, "a"}, {"HGET", none, "a"}}))
}

// A key that was not there comes to be at another node as its slot moves, which nobody tells of.
func TestThatThereIsNothingIsNotRememberedBeforeACluster(t *testing.T) {
	t.Parallel()
	h := newClusterHearer(t, "3")
	h.change("HSET", "h{"+h.keys[0]+"}", "a", "1")
	h.remember("HGETALL", "h{"+h.keys[0]+"}")
	for range 5 {
		require.Equal(t, "%0", h.do("HGETALL", h.keys[0]))
		require.Equal(t, "_", h.do("HGET", h.keys[0], "a"))
		require.Nil(t, h.heard(h.keys[0]))
	}
}

// Between Reserve and the read the key's slot goes to another node, whose changes nobody tells here as of what was reserved.
func TestATopologyThatChangesBetweenReserveAndTheRead(t *testing.T) {
	t.Parallel()
	h := newClusterHearer(t, "2")
	key := h.keys[0]
	h.change("HSET", key, "a", "1")
	h.remember("HGETALL", key)
	at := slot.Of(key)
	read := func(target *aside.RedirectTarget, meanwhile func()) bool {
		p := &passing{}
		call := passed{name: "HGETALL", placed: true, place: upstream.Place{Slot: at}}
		p.addBeside(call, "CLIENT", "CACHING", "YES")
		p.heard = append(p.heard, hearing{target.Reserve(key), target, wanted{letter: 'h'}, 1})
		p.addBeside(call, "HGETALL", key)
		p.addBeside(call, "PTTL", key)
		meanwhile()
		require.NoError(t, h.pool.Do(t.Context(), 2, &p.batch, func() bool { return true }))
		require.Equal(t, "*2\r\n$1\r\na\r\n$1\r\n1\r\n", string(p.batch.Reply(1)))
		before, _, _ := h.client.Redirected(key)
		(&conn{server: h.Server}).keepHeard(p, nil)
		after, _, ok := h.client.Redirected(key)
		return ok && before != after
	}
	h.client.Forget(key)
	require.False(t, read(h.targetAt(h.cluster.Addrs()[1]), func() {}), "that is the target of another node")
	require.True(t, read(h.targetAt(h.cluster.Addrs()[0]), func() {}))
	h.client.Forget(key)
	require.False(t, read(h.targetAt(h.cluster.Addrs()[0]), func() { h.cluster.MigrateSlot(redistest.Slot(key), 0, 2) }), "it is read behind MOVED")
	eventually(t, "the proxy knows who has the slot", func() bool {
		h.do("HLEN", key) // which is answered MOVED
		return h.pool.AddressOf(at) == h.cluster.Addrs()[2]
	})
	require.False(t, read(h.targetAt(h.cluster.Addrs()[0]), func() {}), "it is read at another node than it was reserved for")
	h.remember("HGETALL", key)
	h.change("HSET", key, "a", "2")
	h.forgotten(key)
}

// A shard that goes away while its keys are read costs an answer at most, and ends nothing.
func TestAShardThatGoesAwayWhileItsKeysAreRead(t *testing.T) {
	t.Parallel()
	h := newClusterHearer(t, "2")
	for i, key := range h.keys {
		h.change("HSET", key, "a", fmt.Sprint(i))
	}
	h.remember("HGETALL", h.keys[1])
	reads := [][]string{{"HGETALL", h.keys[0]}, {"HGETALL", "unread{" + h.keys[1] + "}"}, {"HGETALL", h.keys[1]}, {"HGETALL", h.keys[2]}}
	for range 3 {
		h.ways[1].Refuse()
		eventually(t, "it is away", func() bool {
			replies := pipelined(h.peer, reads)
			require.Equal(t, []string{"*2 $a $0", "*2 $a $2"}, []string{replies[0], replies[3]})
			return refusal(replies[1]) && replies[2] == "*2 $a $1"
		})
		h.awaitNode(1, aside.Degraded)
		h.heal(1)
		eventually(t, "it is back", func() bool { return pipelined(h.peer, reads)[1] == "*0" })
		h.remember("HGETALL", h.keys[1])
	}
}
