package resp

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

const forgetsAll = ">2 $invalidate _"

// tracker is a client that tracks what it reads.
type tracker struct {
	*peer
	told []string // what was pushed before the latest reply
}

// tracks returns a client that tracks, as ann if she has a password.
func tracks(t testing.TB, addr string, options ...string) *tracker {
	t.Helper()
	p := dial(t, addr)
	require.NoError(t, p.SetDeadline(time.Now().Add(3*patience)))
	require.NotContains(t, p.do("HELLO", "3"), "ERR")
	require.Equal(t, "+OK", p.do(append([]string{"CLIENT", "TRACKING", "ON"}, options...)...))
	return &tracker{peer: p}
}

// do returns a command's reply; what is pushed before it is in told.
func (p *tracker) do(args ...string) string {
	p.t.Helper()
	p.send(encoded(args...))
	for p.told = nil; ; {
		reply := p.reply()
		if !strings.HasPrefix(reply, ">") {
			return reply
		}
		p.told = append(p.told, reply)
	}
}

// hears waits until it is told of a change of key, or to forget all.
func (p *tracker) hears(key string) {
	p.t.Helper()
	for reply := ""; reply != forgetsAll && reply != ">2 $invalidate *1 $"+key; {
		reply = p.reply()
	}
}

// forgets waits until it is told to forget all.
func (p *tracker) forgets() {
	p.t.Helper()
	for reply := ""; reply != forgetsAll; {
		reply = p.reply()
	}
}

// A relapse would leave a client with what has changed.
func TestTrackingBeforeAClusterReachesClients(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	setAnn(cluster, 0, 1, 2)
	s, addr := serveCluster(t, cluster, "")
	keys := keysOfNodes(cluster)
	for _, as := range []string{"", "ann"} {
		for _, options := range [][]string{nil, {"OPTIN"}, {"NOLOOP", "OPTOUT"}} {
			p := tracks(t, addr, options...)
			if as != "" {
				require.Contains(t, p.do("AUTH", "ann", "secret"), "-ERR AUTH as another user")
				require.Equal(t, "+OK", p.do("CLIENT", "TRACKING", "OFF"))
				require.Equal(t, "+OK", p.do("AUTH", "ann", "secret"))
				require.Equal(t, "+OK", p.do(append([]string{"CLIENT", "TRACKING", "ON"}, options...)...))
				require.Contains(t, p.do("GET", keys[0]), "-NOPERM")
			}
			for i, name := range keys {
				key := "ann:{" + name + "}"
				cluster.Node(i).Do("SET", key, "v")
				for _, read := range []string{"GET @", "MGET @", "STRLEN @", "EVAL return(redis.call('GET',KEYS[1])) 1 @", "MULTI|GET @|EXEC", "WATCH @|GET @|UNWATCH"} {
					for text := range strings.SplitSeq(read, "|") {
						require.NotRegexp(t, "^-", p.do(strings.Split(strings.ReplaceAll(text, "@", key), " ")...), text)
					}
					cluster.Node(i).Do("SET", key, "w")
					require.Equal(t, ">2 $invalidate *1 $"+key, p.reply(), read)
				}
				// While it waits for others it is told, too.
				require.Equal(t, "$w", p.do("GET", key))
				p.send(encoded("BLPOP", "ann:l{"+name+"}", "0"))
				cluster.Node(i).Do("SET", key, "x")
				require.Equal(t, ">2 $invalidate *1 $"+key, p.reply())
				cluster.Node(i).Do("RPUSH", "ann:l{"+name+"}", "v")
				require.Equal(t, "*2 $ann:l{"+name+"} $v", p.reply())
			}
			require.Contains(t, p.do("CLIENT", "TRACKINGINFO"), " $on ")
			require.Equal(t, ":0", p.do("CLIENT", "GETREDIR"))
			for _, text := range []string{"SUBSCRIBE a", "HELLO 2", "WAIT 0 0", "CLIENT TRACKING ON BCAST", "CLIENT TRACKING ON REDIRECT 1", "CLIENT TRACKING", "CLIENT TRACKING MAYBE", "CLIENT CACHING MAYBE"} {
				require.Contains(t, p.do(line(text)...), "-ERR", text)
			}
			require.Equal(t, "+PONG", p.do("PING"))
			require.Equal(t, "+OK", p.do("CLIENT", "TRACKING", "ON"))
			require.Equal(t, forgetsAll, p.reply(), "other connections have read what it has")
			require.Equal(t, "+RESET", p.do("RESET"))
			eventually(t, "its connections end", func() bool { return s.pool.Owned() == 0 })
			require.Equal(t, "$x", p.do("GET", "ann:{"+keys[0]+"}"))
			require.Contains(t, p.do("CLIENT", "TRACKING", "ON"), "-ERR CLIENT TRACKING before a Redis Cluster needs RESP3")
		}
	}
}

// A client that is told of a change before it gets the reply that is older would keep that for ever.
func TestNobodyIsToldOfAChangeBeforeTheReplyThatIsOlder(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := serveCluster(t, cluster, "")
	key := keysOfNodes(cluster)[0]
	p, writer := tracks(t, addr), dial(t, cluster.Addrs()[0])
	require.NoError(t, writer.SetDeadline(time.Now().Add(3*patience)))
	var stop atomic.Bool
	var writing sync.WaitGroup
	writing.Go(func() {
		for !stop.Load() {
			writer.do("INCR", key)
		}
	})
	own := "{" + key + "}" // here the change is pushed before the last reply has come
	for i := range 20 {
		p.do("SET", own, fmt.Sprint(i))
		p.send(encoded("GET", own) + encoded("SET", own, "x") + encoded("HGET", "h"+own, "f"))
		require.Equal(t, []string{fmt.Sprint("$", i), "+OK", "_", ">2 $invalidate *1 $" + own}, []string{p.reply(), p.reply(), p.reply(), p.reply()})
	}
	cached := ""
	take := func(reply string) (pushed bool) {
		if pushed = strings.HasPrefix(reply, ">"); pushed {
			cached = ""
		} else {
			cached = reply
		}
		return pushed
	}
	for i := range 500 {
		read := encoded("GET", key)
		if i%3 == 0 {
			read = encoded("MULTI") + read + encoded("EXEC")
		}
		p.send(read + encoded("GET", key))
		for left := 2 + 2*((3-i%3)/3); left > 0; {
			if !take(p.reply()) {
				left--
			}
		}
	}
	stop.Store(true)
	writing.Wait()
	for final := "$" + fmt.Sprint(cluster.Node(0).Do("GET", key)); cached != "" && cached != final; {
		take(p.reply())
	}
}

// A relapse would leave a client with what no node watches any more.
func TestAClientForgetsWhatNobodyWatches(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.WithReplicas(1))
	_, addr := serveCluster(t, cluster, "")
	keys := keysOfNodes(cluster)
	p := tracks(t, addr)
	for _, key := range keys {
		require.Equal(t, "_", p.do("GET", key))
	}
	cluster.Node(1).Do("CLIENT", "KILL", "TYPE", "normal")
	p.forgets() // its connection has ended
	eventually(t, "the node is there again", func() bool { return p.do("GET", keys[1]) == "_" })
	cluster.Node(1).Do("SET", keys[1], "v")
	p.hears(keys[1])

	// Of a key that is not there the node that had its slot tells nothing any more, and nobody asks for it.
	cluster.MigrateSlot(redistest.Slot(keys[0]), 0, 2)
	p.forgets()
	for p.told = []string{""}; len(p.told) > 0; { // others may hear of it later
		require.Equal(t, "_", p.do("GET", keys[0]))
	}
	cluster.Node(2).Do("SET", keys[0], "v")
	p.hears(keys[0])

	cluster.Node(2).Kill()
	p.forgets()
	eventually(t, "the replica takes over", func() bool { return p.do("SET", keys[0], "w") == "+OK" && p.do("GET", keys[0]) == "$w" })
	cluster.Node(5).Do("SET", keys[0], "x")
	p.hears(keys[0])
}

// A node that hangs sends nothing, so nothing else tells a client that it misses what that node has to tell.
func TestAClientForgetsWhatAHungNodeWatched(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	if !cluster.Node(0).CanSignal() {
		return
	}
	_, addr := passOnCluster(t, cluster)
	p := tracks(t, addr)
	for _, key := range keysOfNodes(cluster) {
		eventually(t, "it is there", func() bool { return p.do("GET", key) == "_" })
	}
	cluster.Node(1).Freeze()
	p.forgets()
	cluster.Node(1).Thaw()
}

// rueidis with its cache, which opts in, and reads within transactions.
func TestTrackingBeforeAClusterWorksForRueidis(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	_, addr := serveCluster(t, cluster, "")
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true})
	require.NoError(t, err)
	defer c.Close()
	ctx := testContext(t)
	for i, key := range keysOfNodes(cluster) {
		get := func() string {
			v, err := c.DoCache(ctx, c.B().Get().Key(key).Cache(), time.Hour).ToString()
			require.NoError(t, err)
			return v
		}
		require.NoError(t, c.Do(ctx, c.B().Set().Key(key).Value("1").Build()).Error())
		require.Equal(t, "1", get())
		require.Equal(t, "1", get())
		cluster.Node(i).Do("SET", key, "2")
		eventually(t, "it is told", func() bool { return get() == "2" })
	}
}
