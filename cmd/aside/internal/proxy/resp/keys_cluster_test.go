package resp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// once returns keys in order, each once: SCAN may return some twice.
func once(keys []string) []string {
	slices.Sort(keys)
	return slices.Compact(keys)
}

// filled sets n keys of several types, spread over the nodes, and returns them in order.
func filled(t testing.TB, cluster *redistest.Cluster, n int) (keys []string) {
	t.Helper()
	for i := range n {
		key := fmt.Sprintf("k%04d", i)
		node := cluster.Node(cluster.NodeOf(key))
		switch i % 3 {
		case 0:
			node.Do("SET", key, "v")
		case 1:
			node.Do("HSET", key, "f", "v")
		case 2:
			node.Do("RPUSH", key, "v")
		}
		keys = append(keys, key)
	}
	return keys
}

// listCluster serves a cluster as passOnCluster does, and waits for it as long as a machine may need that has much else to do.
func listCluster(t testing.TB, cluster *redistest.Cluster, o Options) (*aside.Client, string) {
	t.Helper()
	o.Redis = &rueidis.ClientOption{InitAddress: cluster.Addrs()}
	store, c := newHastyStore(t, cluster.Addrs()[0], t.TempDir(), func(a *aside.Options) {
		a.Redis, a.RedisTimeout, a.LockTTL, a.DegradedTTL = *o.Redis, 5*time.Second, time.Minute, -1
	})
	_, addr := serve(t, store, o)
	awaitMode(t, c, aside.Healthy)
	eventually(t, "it has connections to all nodes", func() bool { return dial(t, addr).do("DBSIZE") == ":0" })
	return c, addr
}

func TestAllKeysOfAClusterAreListed(t *testing.T) { //nolint:tparallel // its parts have one proxy and one cluster
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := listCluster(t, cluster, Options{})
	require.Equal(t, "*0", dial(t, addr).do("KEYS", "*"))
	require.Equal(t, ":0", dial(t, addr).do("DBSIZE"))
	require.Equal(t, "$-1", dial(t, addr).do("RANDOMKEY"))
	all := filled(t, cluster, 300)
	own := int64(0)
	for i := range cluster.Addrs() {
		own += cluster.Node(i).Do("DBSIZE").(int64)
	}
	require.Greater(t, own, int64(300), "there are keys of the library's own")
	var hashes []string
	for i := 1; i < 300; i += 3 {
		hashes = append(hashes, all[i])
	}
	for _, protocol := range []string{"2", "3"} {
		t.Run("RESP"+protocol, func(t *testing.T) {
			p := dial(t, addr)
			p.do("HELLO", protocol)
			for _, options := range [][]string{nil, {"COUNT", "1"}, {"COUNT", "7"}, {"MATCH", "*", "COUNT", "1000"}} {
				require.Equal(t, all, once(scanned(p, options...)), options)
			}
			require.Equal(t, all[10:20], once(scanned(p, "MATCH", "k001?")))
			require.Equal(t, hashes, once(scanned(p, "TYPE", "hash", "COUNT", "20")))
			require.Equal(t, hashes[:10], once(scanned(p, "COUNT", "5", "type", "hash", "match", "k00[0-2]?")))
			require.Empty(t, scanned(p, "MATCH", "aside:*"))
			require.Equal(t, all, once(listed(p.do("KEYS", "*"))))
			require.Equal(t, all[:100], once(listed(p.do("KEYS", "k00*"))))
			require.Equal(t, "*0", p.do("KEYS", "aside:*"))
			require.Equal(t, ":300", p.do("DBSIZE"))
			nodes := make(map[int]bool)
			eventually(t, "each node's keys are drawn", func() bool {
				key := strings.TrimPrefix(p.do("RANDOMKEY"), "$")
				require.Contains(t, all, key)
				nodes[cluster.NodeOf(key)] = true
				return len(nodes) == 3
			})
			for text, want := range map[string]string{
				"SCAN x": "-ERR invalid cursor", "SCAN -1": "-ERR invalid cursor", "SCAN 99999999999999999999": "-ERR invalid cursor", "SCAN 0 COUNT": "-ERR syntax error", "SCAN 0 COUNT 0": "-ERR syntax error",
				"SCAN 0 COUNT x": "-ERR value is not an integer or out of range", "SCAN 0 FOO 1": "-ERR syntax error", "SCAN": "-" + wrongNumber("scan"), "DBSIZE x": "-" + wrongNumber("dbsize"),
			} {
				require.Equal(t, want, p.do(line(text)...), text)
			}
		})
	}
	t.Run("go-redis", func(t *testing.T) {
		ctx := testContext(t)
		c := goredis.NewClient(&goredis.Options{Addr: addr, MaxRetries: -1})
		t.Cleanup(func() { _ = c.Close() })
		var found []string
		all := all
		for iter := c.Scan(ctx, 0, "k*", 10).Iterator(); ; {
			if !iter.Next(ctx) {
				require.NoError(t, iter.Err())
				break
			}
			found = append(found, iter.Val())
		}
		require.Equal(t, all, once(found))
	})
	t.Run("redis-cli", func(t *testing.T) {
		cli := tool(t, "redis-cli", addr)
		require.Equal(t, all, once(strings.Fields(cli("", "--scan"))))
		require.Equal(t, all[:100], once(strings.Fields(cli("", "--scan", "--pattern", "k00*"))))
		require.Equal(t, "300", cli("", "DBSIZE"))
	})
	t.Run("as JavaScript reads numbers", func(t *testing.T) { // as node-redis 4 does; ioredis has strings
		p := dial(t, addr)
		var found []string
		for cursor := 0.0; ; {
			page := listed(p.do("SCAN", strconv.FormatFloat(cursor, 'f', -1, 64), "COUNT", "3"))
			text, _, _ := strings.Cut(page[0], " ")
			var err error
			cursor, err = strconv.ParseFloat(text, 64)
			require.NoError(t, err)
			require.Equal(t, text, strconv.FormatFloat(cursor, 'f', -1, 64))
			if found = append(found, page[1:]...); cursor == 0 {
				break
			}
		}
		require.Equal(t, all, once(found))
	})
}

// Keys that come and go do not make a scan of a cluster miss those that stay, and another proxy goes on with it.
func TestAScanOfAClusterReturnsWhatStays(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := listCluster(t, cluster, Options{})
	_, second := listCluster(t, cluster, Options{})
	p, other := dial(t, addr), dial(t, second)
	all := filled(t, cluster, 100)
	var found []string
	for cursor, round := "0", 0; ; round++ {
		page := listed([]*peer{p, other}[round%2].do("SCAN", cursor, "COUNT", "5"))
		for _, key := range page[1:] {
			if !strings.HasPrefix(key, "comes") {
				found = append(found, key)
			}
		}
		if cursor, _, _ = strings.Cut(page[0], " "); cursor == "0" {
			break
		}
		p.do([]string{"SET", "DEL"}[round%2], fmt.Sprint("comes", round/2%10), "1")
	}
	require.Equal(t, all, once(found))
}

// scanOn goes on with a scan until its end, or an error, which it returns.
func scanOn(t testing.TB, addr, cursor string) (failed string) {
	t.Helper()
	p := dial(t, addr)
	for {
		reply := p.do("SCAN", cursor, "COUNT", "10")
		if strings.HasPrefix(reply, "-") {
			return reply
		}
		if cursor, _, _ = strings.Cut(listed(reply)[0], " "); cursor == "0" {
			return ""
		}
	}
}

// begun is the cursor behind the first page of a scan.
func begun(t testing.TB, addr string) string {
	t.Helper()
	cursor, _, _ := strings.Cut(listed(dial(t, addr).do("SCAN", "0", "COUNT", "1"))[0], " ")
	require.NotEqual(t, "0", cursor)
	return cursor
}

// A relapse would miss the keys of the slot, where it has moved from a node that was yet to be asked to one that was asked.
func TestAScanEndsWithAnErrorAfterASlotHasMoved(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := listCluster(t, cluster, Options{})
	all := filled(t, cluster, 100)
	n := redistest.Slot(keysOfNodes(cluster)[0])
	for _, move := range [][2]int{{0, 1}, {1, 2}, {2, 0}} {
		cursor := begun(t, addr)
		cluster.MigrateSlot(n, move[0], move[1])
		require.Equal(t, "-"+slotsMoved, scanOn(t, addr, cursor), move)
		require.Equal(t, "-"+slotsMoved, scanOn(t, addr, cursor), "also once it is known")
		eventually(t, "it begins anew", func() bool { return scanOn(t, addr, "0") == "" })
		require.Equal(t, all, once(scanned(dial(t, addr))))
	}
	for _, cursor := range []string{"1", "12345", "18446744073709551615"} {
		require.Equal(t, "-"+slotsMoved, dial(t, addr).do("SCAN", cursor), "nobody has got that")
	}
}

// A relapse would miss a key that has gone, before its slot, from a node that was yet to be asked to one that was asked.
func TestAScanWhileASlotMovesMissesNoKey(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := listCluster(t, cluster, Options{})
	keys := keysOfNodes(cluster)
	for i, key := range keys {
		cluster.Node(i).Do("SET", key, "v")
	}
	all := once(slices.Clone(keys))
	id := func(i int) string { return cluster.Node(i).Do("CLUSTER", "MYID").(string) }
	for _, move := range [][2]int{{0, 1}, {1, 0}, {1, 2}, {2, 1}} {
		from, to := move[0], move[1]
		n := redistest.Slot(keys[from])
		cluster.BeginMigration(n, from, to)
		if id(to) < id(from) {
			require.Equal(t, "-"+slotsMoved, scanOn(t, addr, "0"), move)
			require.Equal(t, "-"+slotsMoved, dial(t, addr).do("KEYS", "*"))
		} else {
			host, port, _ := strings.Cut(cluster.Node(to).Addr(), ":")
			cluster.Node(from).Do("MIGRATE", host, port, keys[from], "0", "5000")
			require.Equal(t, all, once(scanned(dial(t, addr))), "who has it now is asked later")
		}
		cluster.FinishMigration(n, from, to)
		cluster.MigrateSlot(n, to, from)
		eventually(t, "it is over", func() bool { return scanOn(t, addr, "0") == "" })
		require.Equal(t, all, once(scanned(dial(t, addr))))
	}
}

// A relapse would ask what is a replica now, or go on at another node with a cursor that means nothing there.
func TestAScanEndsWithAnErrorAfterAFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.WithReplicas(1))
	_, addr := listCluster(t, cluster, Options{})
	all := filled(t, cluster, 100)
	cursor := begun(t, addr)
	replica := cluster.Node(3)
	replica.Do("CLUSTER", "FAILOVER")
	eventually(t, "it takes over", func() bool {
		is, was := replica.Do("ROLE").([]any), cluster.Node(0).Do("ROLE").([]any)
		return is[0] == "master" && was[0] == "slave"
	})
	require.Equal(t, "-"+slotsMoved, scanOn(t, addr, cursor))
	cluster.AwaitOK()
	eventually(t, "it begins anew", func() bool { return scanOn(t, addr, "0") == "" })
	require.Equal(t, all, once(scanned(dial(t, addr))))
	require.Equal(t, ":100", dial(t, addr).do("DBSIZE"))
}

// A relapse would list the keys of the others as if they were all.
func TestAClusterIsNotListedWithoutOneOfItsNodes(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	c, addr := listCluster(t, cluster, Options{})
	all := filled(t, cluster, 100)
	cursor := begun(t, addr)
	cluster.Node(0).Kill()
	lists := func() {
		p := dial(t, addr)
		for _, text := range []string{"KEYS *", "DBSIZE", "RANDOMKEY"} {
			require.Contains(t, p.do(line(text)...), "-ASIDEDEGRADED", text)
		}
		require.Contains(t, scanOn(t, addr, "0"), "-ASIDEDEGRADED")
		require.Contains(t, scanOn(t, addr, cursor), "-ASIDEDEGRADED")
	}
	lists()
	awaitMode(t, c, aside.Degraded)
	lists()
	cluster.Node(0).RestartKeepingData()
	cluster.AwaitOK()
	awaitMode(t, c, aside.Healthy)
	eventually(t, "it is back", func() bool { return scanOn(t, addr, "0") == "" })
	found := scanned(dial(t, addr))
	for _, key := range all { // of what the node that died had, nobody knows whether it was saved
		if cluster.NodeOf(key) != 0 {
			require.Contains(t, found, key)
		}
	}
}

func TestAClusterIsNotListedWithoutSomeOfItsSlots(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := listCluster(t, cluster, Options{})
	filled(t, cluster, 10)
	for i := range cluster.Addrs() {
		cluster.Node(i).Do("CLUSTER", "DELSLOTS", "7")
	}
	eventually(t, "it is noticed", func() bool { return dial(t, addr).do("SCAN", "0") == "-"+slotsUncovered })
	for _, text := range []string{"KEYS *", "DBSIZE", "RANDOMKEY"} {
		require.Equal(t, "-"+slotsUncovered, dial(t, addr).do(line(text)...), text)
	}
}

// In an outage a cluster is as one server: what is known is listed, if that was asked for, and a scan goes on there alone.
func TestKeysOfAClusterThatAreKnownAreListedInAnOutage(t *testing.T) {
	t.Parallel()
	for _, dead := range [][]int{{2}, {0, 1, 2}} {
		cluster := redistest.StartCluster(t)
		c, addr := listCluster(t, cluster, Options{KnownKeys: true})
		p := dial(t, addr)
		keys := keysOfNodes(cluster)
		require.Equal(t, filled(t, cluster, 30), once(scanned(p)))
		cursor := begun(t, addr)
		for _, i := range dead {
			cluster.Node(i).Kill()
		}
		eventually(t, "it is noticed", func() bool {
			away := 0
			for _, shard := range c.Health().Shards {
				if shard.Mode == aside.Degraded {
					away++
				}
			}
			return away >= len(dead)
		})
		p = dial(t, addr)
		written := keys[2] + "b{" + keys[2] + "}"
		require.Equal(t, "+OK", p.do("SET", written, "1"))
		require.Contains(t, listed(p.do("KEYS", "*")), written)
		require.Contains(t, scanned(p, "COUNT", "2"), written)
		require.Equal(t, "*1 $"+written, p.do("KEYS", written[:2]+"*b{*"))
		require.NotContains(t, p.do("DBSIZE"), "-")
		require.Contains(t, p.do("RANDOMKEY"), "$")
		require.Contains(t, p.do("SCAN", cursor), "*2 $", "it begins anew")
	}
}
