package resp

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
	"github.com/redaside/aside/internal/redistest"
)

// setAnn makes a user at nodes of a cluster, each of which knows its own users only.
func setAnn(cluster *redistest.Cluster, nodes ...int) {
	rules := []any{"ACL", "SETUSER", "ann", "on", ">secret", "~ann:*", "+@all", "-@dangerous"}
	if strings.HasPrefix(cluster.Node(0).Version(), "6.") {
		rules = append(rules, "+client") // all of it is dangerous there
	} else {
		rules = append(rules, "&*")
	}
	for _, n := range nodes {
		cluster.Node(n).Do(rules...)
	}
}

// serveCluster serves a cluster from a store that waits for it as long as a machine may need that has much else to do.
func serveCluster(t testing.TB, cluster *redistest.Cluster, password string) (s *Server, addr string) {
	t.Helper()
	option := rueidis.ClientOption{InitAddress: cluster.Addrs()}
	store, client := newHastyStore(t, cluster.Addrs()[0], t.TempDir(), func(o *aside.Options) {
		o.Redis, o.RedisTimeout, o.LockTTL = option, 5*time.Second, time.Minute
	})
	s, addr = serve(t, store, Options{Redis: &option, Password: password})
	eventually(t, "the cluster is there", func() bool { return client.Health().Mode == aside.Healthy })
	return s, addr
}

// A relapse would let a user read or write what its rights do not permit: from memory, or as the proxy's own
// user.
func TestAUserOfAClusterHasItsOwnRights(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	setAnn(cluster, 0, 1, 2)
	keys := keysOfNodes(cluster)
	for _, password := range []string{"", "proxys"} {
		s, addr := serveCluster(t, cluster, password)
		p, other := dial(t, addr), dial(t, addr)
		if password != "" {
			require.Equal(t, "+OK", other.do("AUTH", password))
			require.Contains(t, p.do("GET", keys[0]), "-NOAUTH")
			require.Equal(t, "-"+wrongPass, p.do("AUTH", "ann", "wrong"))
			require.Equal(t, "-"+wrongPass, p.do("HELLO", "3", "AUTH", "bob", "secret"))
			require.Contains(t, p.do("GET", keys[0]), "-NOAUTH")
			require.Equal(t, "+OK", p.do("AUTH", password))
		}
		for _, key := range keys {
			require.Equal(t, "+OK", p.do("SET", key, "v"))
			require.Equal(t, "$v", p.do("GET", key))
		}
		require.Equal(t, "+OK", p.do("AUTH", "ann", "secret"))
		for _, key := range keys {
			own := "ann:{" + key + "}"
			for _, text := range []string{"GET " + key, "MGET " + key, "SET " + key + " w", "STRLEN " + key, "TTL " + key, "HGET " + key + " f", "DEL " + key, "GETEX " + key, "GETDEL " + key, "EVAL return(redis.call('GET',KEYS[1])) 1 " + key, "INCR " + key} {
				require.Regexp(t, "^-(NOPERM|ERR unknown command)", p.do(line(text)...), text)
			}
			require.Equal(t, "+OK", p.do("SET", own, "1"))
			require.Equal(t, ":2", p.do("INCR", own))
			require.Equal(t, "$2", p.do("GET", own))
			require.Equal(t, "2", cluster.Node(cluster.NodeOf(key)).Do("GET", own))
			require.Equal(t, "*2 $2 $-1", p.do("MGET", own, own+"x"))
			require.Equal(t, "$v", other.do("GET", key), "nothing was changed")
		}
		// A pipeline across nodes; what no node may do, or has, and what is about others.
		var all strings.Builder
		for _, key := range keys {
			all.WriteString(encoded("GET", "ann:{"+key+"}") + encoded("GET", key) + encoded("HSET", "ann:h{"+key+"}", "f"+password, "v"))
		}
		p.send(all.String())
		for range keys {
			require.Equal(t, "$2", p.reply())
			require.Contains(t, p.reply(), "-NOPERM")
			require.Equal(t, ":1", p.reply())
		}
		require.Contains(t, p.do("MGET", "ann:{"+keys[0]+"}", "ann:{"+keys[1]+"}"), "-CROSSSLOT")
		for _, text := range []string{"KEYS *", "SCAN 0", "RANDOMKEY", "CLIENT LIST", "CLIENT KILL ID 1", "CLIENT TRACKING ON", "GET aside:x", "nonsense", "CLUSTER SLOTS", "CLIENT"} {
			require.Contains(t, p.do(line(text)...), "-ERR", text)
		}
		require.Contains(t, p.do("FLUSHDB"), "-NOPERM")
		require.Contains(t, p.do("SCRIPT", "KILL"), "-NO") // NOPERM, or NOTBUSY where that is not dangerous
		eventually(t, "all nodes' keys are counted", func() bool {
			var all int64
			for i := range keys {
				all += cluster.Node(i).Do("DBSIZE").(int64)
			}
			return p.do("DBSIZE") == fmt.Sprint(":", all)
		})
		// The next login counts, and the proxy's own user is one.
		require.Equal(t, "-"+wrongPass, p.do("AUTH", "ann", "wrong"))
		require.Contains(t, p.do("GET", keys[0]), "-NOPERM", "it is ann still")
		require.NotContains(t, p.do("HELLO", "3", "AUTH", "ann", "secret"), "ERR")
		require.Equal(t, "_", p.do("GET", "ann:none"))
		require.Contains(t, p.do("GET", keys[0]), "-NOPERM")
		if password != "" {
			require.Equal(t, "+OK", p.do("AUTH", password))
			require.Equal(t, "$v", p.do("GET", keys[0]))
			require.Equal(t, "+OK", p.do("AUTH", "ann", "secret"))
		}
		require.Equal(t, "+RESET", p.do("RESET"))
		if password != "" {
			require.Contains(t, p.do("GET", keys[0]), "-NOAUTH")
		} else {
			require.Equal(t, "$v", p.do("GET", keys[0]))
		}
		require.Zero(t, s.pool.Owned(), "RESET ends its connections")
	}
}

// Clients as they are, with what needs a connection of its own.
func TestClientsOfAUserOfAClusterWork(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	setAnn(cluster, 0, 1, 2)
	_, addr := serveCluster(t, cluster, "")
	keys := keysOfNodes(cluster)
	for _, protocol := range []int{2, 3} {
		c := goredis.NewClient(&goredis.Options{Addr: addr, Protocol: protocol, Username: "ann", Password: "secret", MaxRetries: -1})
		t.Cleanup(func() { _ = c.Close() })
		ctx := testContext(t)
		for _, key := range keys {
			own := fmt.Sprintf("ann:{%s}%d", key, protocol)
			for range 10 { // as optimistic locks are used
				require.NoError(t, c.Watch(ctx, func(tx *goredis.Tx) error {
					n, err := tx.Get(ctx, own).Int()
					if err != nil && err != goredis.Nil { //nolint:errorlint // it is no other
						return err
					}
					_, err = tx.TxPipelined(ctx, func(p goredis.Pipeliner) error { return p.Set(ctx, own, n+1, 0).Err() })
					return err
				}, own))
			}
			require.Equal(t, "10", c.Get(ctx, own).Val())
			require.ErrorContains(t, c.Watch(ctx, func(*goredis.Tx) error { return nil }, key), "NOPERM")
			require.ErrorContains(t, c.BLPop(ctx, time.Minute, key).Err(), "NOPERM")
			_, err := c.TxPipelined(ctx, func(p goredis.Pipeliner) error {
				p.Set(ctx, own, "x", 0)
				return p.Set(ctx, key, "x", 0).Err()
			})
			require.Error(t, err)
			require.Equal(t, "10", c.Get(ctx, own).Val(), "nothing of it was done")
			popped := make(chan []string, 1)
			go func() { popped <- c.BLPop(ctx, 0, own+"l").Val() }() // ends with the push
			require.NoError(t, c.RPush(ctx, own+"l", "v").Err())
			require.Equal(t, []string{own + "l", "v"}, <-popped)
		}
		subscriber := c.Subscribe(ctx, "news")
		_, err := subscriber.Receive(ctx)
		require.NoError(t, err)
		require.NoError(t, c.Publish(ctx, "news", "hello").Err())
		message, err := subscriber.ReceiveMessage(ctx)
		require.NoError(t, err)
		require.Equal(t, "hello", message.Payload)
		require.NoError(t, subscriber.Close())
	}
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true, DisableCache: true, Username: "ann", Password: "secret"})
	require.NoError(t, err)
	defer c.Close()
	for _, key := range keys {
		require.NoError(t, c.Do(testContext(t), c.B().Set().Key("ann:{"+key+"}").Value("r").Build()).Error())
		require.ErrorContains(t, c.Do(testContext(t), c.B().Get().Key(key).Build()).Error(), "NOPERM")
	}
}

// A relapse would leave memory, or the transaction, what it was of another user.
func TestAUserOfAClusterSeesNothingOfOthers(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	setAnn(cluster, 0, 1, 2)
	_, addr := serveCluster(t, cluster, "")
	p, reader := dial(t, addr), dial(t, addr)
	for i, key := range keysOfNodes(cluster) {
		own := "ann:{" + key + "}"
		require.Equal(t, "+OK", reader.do("SET", own, "old"))
		require.Equal(t, "$old", reader.do("GET", own))
		require.Equal(t, "+OK", p.do("AUTH", "ann", "secret"))
		for round := range 20 {
			value := fmt.Sprint(i, round)
			require.Equal(t, "+OK", p.do("SET", own, value))
			require.Equal(t, "$"+value, reader.do("GET", own), "memory has heard of it")
			require.Equal(t, "+OK", p.do("EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", own, value+"s"))
			require.Equal(t, "$"+value+"s", reader.do("GET", own))
		}
		require.Equal(t, "+OK", p.do("WATCH", own))
		require.Contains(t, p.do("AUTH", "ann", "secret"), "-ERR")
		require.Contains(t, p.do("HELLO", "3", "AUTH", "default", ""), "-ERR")
		require.Equal(t, "+OK", reader.do("SET", own, "other"))
		require.Equal(t, "+OK", p.do("MULTI"))
		require.Contains(t, p.do("SET", key, "x"), "-NOPERM")
		require.Contains(t, p.do("EXEC"), "-EXECABORT")
		require.Equal(t, "+OK", p.do("WATCH", own))
		require.Equal(t, "+OK", reader.do("SET", own, "another"))
		require.Equal(t, "+OK", p.do("MULTI"))
		require.Equal(t, "+QUEUED", p.do("SET", own, "mine"))
		require.Equal(t, "*-1", p.do("EXEC"))
		require.Equal(t, "+RESET", p.do("RESET"))
	}
}

// Nothing is lost or done twice, and no client sees MOVED or ASK.
func TestAUserOfAClusterDoesNotSeeASlotMove(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	setAnn(cluster, 0, 1, 2)
	_, addr := serveCluster(t, cluster, "")
	keys := keysOfNodes(cluster)
	n := redistest.Slot(keys[0])
	var stop atomic.Bool
	var all sync.WaitGroup
	var done [3]atomic.Int64
	for i := range done {
		all.Go(func() {
			p := dial(t, addr)
			if got := p.do("AUTH", "ann", "secret"); got != "+OK" {
				t.Error(got)
				return
			}
			own, other := fmt.Sprintf("ann:%d{%s}", i, keys[0]), fmt.Sprintf("ann:%d{%s}", i, keys[1])
			for !stop.Load() {
				p.send(encoded("HINCRBY", own, "f", "1") + encoded("HINCRBY", other, "f", "1") + encoded("HGET", own, "f"))
				first, second, third := p.reply(), p.reply(), p.reply()
				n := done[i].Add(1)
				if want := fmt.Sprint(":", n); first != want || second != want || third != fmt.Sprint("$", n) {
					t.Errorf("%s, %s and %s instead of %s", first, second, third, want)
					return
				}
			}
		})
	}
	goOn := func() {
		var before [len(done)]int64
		for i := range done {
			before[i] = done[i].Load()
		}
		eventually(t, "all go on", func() bool {
			for i := range done {
				if done[i].Load() < before[i]+5 && !t.Failed() {
					return false
				}
			}
			return true
		})
	}
	for _, move := range [][2]int{{0, 1}, {1, 2}, {2, 0}} {
		cluster.BeginMigration(n, move[0], move[1])
		goOn()
		cluster.FinishMigration(n, move[0], move[1])
		goOn()
	}
	stop.Store(true)
	all.Wait()
}

// A node that ends costs its own slots; the client stays, as the user that it is, and so it is after a failover.
func TestAUserOfAClusterOutlivesAFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.WithReplicas(1))
	setAnn(cluster, 0, 1, 2, 3, 4, 5)
	_, addr := serveCluster(t, cluster, "")
	keys := keysOfNodes(cluster)
	p := dial(t, addr)
	require.NoError(t, p.SetDeadline(time.Now().Add(3*patience)))
	require.Equal(t, "+OK", p.do("AUTH", "ann", "secret"))
	for _, key := range keys {
		require.Equal(t, ":1", p.do("HSET", "ann:{"+key+"}", "f", "v"))
	}
	cluster.Node(0).Kill()
	require.Contains(t, p.do("HGET", "ann:{"+keys[0]+"}", "f"), "-ASIDE")
	require.Equal(t, "$v", p.do("HGET", "ann:{"+keys[1]+"}", "f"))
	own := "ann:{" + keys[0] + "}"
	eventually(t, "the replica takes over", func() bool { return p.do("HSET", own, "g", "v") == ":1" || p.do("HGET", own, "g") == "$v" })
	require.Contains(t, p.do("HGET", keys[0], "f"), "-NOPERM")
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("HSET", own, "h", "v"))
	require.Equal(t, "*1 :1", p.do("EXEC"))
}

// A node that does not know the user says so; nothing is done there as anybody else.
func TestANodeThatDoesNotKnowTheUserRefusesIt(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := serveCluster(t, cluster, "")
	keys := keysOfNodes(cluster)
	p := dial(t, addr)
	first := 0
	for ; ; first++ { // where a client is asked for its password, its number says
		require.Less(t, first, len(keys))
		setAnn(cluster, first)
		if p.do("AUTH", "ann", "secret") == "+OK" {
			break
		}
		cluster.Node(first).Do("ACL", "DELUSER", "ann")
	}
	for i, key := range keys {
		if own := "ann:{" + key + "}"; i == first {
			require.Equal(t, "+OK", p.do("SET", own, "v"))
		} else {
			require.Contains(t, p.do("SET", own, "v"), "-WRONGPASS")
			require.Contains(t, p.do("GET", own), "-WRONGPASS")
			require.Contains(t, p.do("BLPOP", own, "1"), "-WRONGPASS")
			require.EqualValues(t, 0, cluster.Node(i).Do("EXISTS", own))
		}
	}
	// Nor where a command is sent on to it.
	to := (first + 1) % len(keys)
	list := "ann:l{" + keys[first] + "}"
	require.Equal(t, ":1", p.do("RPUSH", list, "v"))
	cluster.MigrateSlot(redistest.Slot(list), first, to)
	require.Contains(t, p.do("BLPOP", list, "1"), "-WRONGPASS")
	require.Contains(t, p.do("LPOP", list), "-WRONGPASS")
	require.EqualValues(t, 1, cluster.Node(to).Do("LLEN", list))
}

// There are as many connections of clients' own as may be, and not one more.
func TestConnectionsOfAUserOfAClusterAreBounded(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	setAnn(cluster, 0, 1, 2)
	s, addr := serveCluster(t, cluster, "")
	s.pool.Close()
	s.pool = upstream.New(upstream.Options{
		Nodes: cluster.Addrs, Address: func() string { return "" }, DialTimeout: patience, WriteTimeout: patience, MostOwn: 2, Open: s.store.Connections(),
	})
	keys := keysOfNodes(cluster)
	p, other := dial(t, addr), dial(t, addr)
	require.Equal(t, "+OK", p.do("AUTH", "ann", "secret"))
	replies := make(map[string]int)
	for range 2 {
		for _, key := range keys {
			reply, _, _ := strings.Cut(p.do("SET", "ann:{"+key+"}", "v"), " too many")
			replies[reply]++
		}
	}
	require.Equal(t, map[string]int{"+OK": 4, "-ASIDEBUSY": 2}, replies)
	require.EqualValues(t, 2, s.pool.Owned())
	require.Contains(t, other.do("AUTH", "ann", "secret"), "-ASIDEBUSY too many")
	require.Equal(t, "+RESET", p.do("RESET"))
	require.Equal(t, "+OK", other.do("AUTH", "ann", "secret"))
	other.Close()
	eventually(t, "they are given back", func() bool { return s.pool.Owned() == 0 })
}

// A relapse would count a replica that has not all of what the client has written: what is at another node, what a
// transaction or a connection that has ended has written.
func TestAUserOfAClusterWaitsForReplicas(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.WithReplicas(1))
	if !cluster.Node(0).CanSignal() {
		return
	}
	setAnn(cluster, 0, 1, 2)
	_, addr := serveCluster(t, cluster, "")
	keys := keysOfNodes(cluster)
	p, other, third := dial(t, addr), dial(t, addr), dial(t, addr)
	require.Equal(t, "-"+noWait, p.do("WAIT", "0", "0"), "what the proxy's own user has written went with what others have")
	for _, c := range []*peer{p, other, third} {
		require.NoError(t, c.SetDeadline(time.Now().Add(3*patience)))
		require.Equal(t, "+OK", c.do("AUTH", "ann", "secret"))
	}
	for _, key := range keys {
		require.Equal(t, "+OK", p.do("SET", "ann:{"+key+"}", "v"))
		require.Equal(t, ":1", p.do("WAIT", "1", "0"))
	}
	require.Equal(t, ":1", p.do("WAIT", "2", "10"), "there is one of each")
	require.Equal(t, "-ERR wrong number of arguments for 'wait' command", p.do("WAIT", "1"))
	require.Equal(t, ":1", other.do("LPUSH", "ann:l{"+keys[1]+"}", "v"))
	replica := cluster.Node(3)
	for _, write := range slices.Repeat([]string{ // by several clients: what has no key goes to another node for each
		"SET ann:{K} w", "MULTI|SET ann:{K} w|EXEC", "EVAL return(redis.call('SET',KEYS[1],'w')) 1 ann:{K}", "BLPOP ann:b{K} 0", "WATCH ann:{K}|SET ann:{K} w|UNWATCH",
	}, 5) {
		p := dial(t, addr)
		require.Equal(t, "+OK", p.do("AUTH", "ann", "secret"))
		require.Contains(t, third.do("RPUSH", "ann:b{"+keys[0]+"}", "v"), ":")
		replica.Freeze()
		for text := range strings.SplitSeq(strings.ReplaceAll(write, "{K}", "{"+keys[0]+"}"), "|") {
			require.NotContains(t, p.do(line(text)...), "-", text)
		}
		require.Equal(t, ":0", p.do("WAIT", "1", "10"), write)
		require.Equal(t, ":1", other.do("WAIT", "1", "0"), "it has written elsewhere")
		p.send(encoded("WAIT", "1", "0") + encoded("ECHO", "x"))
		replica.Thaw()
		require.Equal(t, ":1", p.reply(), write)
		require.Equal(t, "$x", p.reply())
	}
	require.Equal(t, "+OK", third.do("WATCH", "ann:x"))
	require.Contains(t, third.do("WAIT", "1", "0"), "-ERR WAIT is not served while")
	require.Equal(t, "+OK", third.do("UNWATCH"))
	cluster.Node(0).Do("CLIENT", "KILL", "USER", "ann")
	require.Contains(t, p.do("WAIT", "0", "0"), "-ASIDEUNKNOWN")
	require.Equal(t, ":1", p.do("WAIT", "1", "0"))
	require.Equal(t, "+OK", p.do("SET", "ann:{"+keys[0]+"}", "x"))
	require.Equal(t, ":1", p.do("WAIT", "1", "0"))
	cluster.Node(0).Do("CLIENT", "KILL", "USER", "ann")
	p.do("GET", "ann:{"+keys[0]+"}") // finds out that it has ended, and may make another
	require.Contains(t, p.do("WAIT", "0", "0"), "-ASIDEUNKNOWN")
	require.Equal(t, ":1", p.do("WAIT", "1", "0"))

	p.send(encoded("ECHO", "x") + encoded("WAIT", "5", "0"))
	require.Equal(t, "$x", p.reply(), "nothing waits for what blocks")
	p.Close()
	looks := dial(t, addr)
	eventually(t, "a client that leaves waits no more", func() bool { return !strings.Contains(looks.do("CLIENT", "LIST"), p.LocalAddr().String()) })
}
