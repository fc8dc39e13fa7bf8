package resp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// passOnServer is passOn that returns more.
func passOnServer(t testing.TB, addr string) (*Server, *aside.Client, string) {
	t.Helper()
	store, c := newHastyStore(t, addr, t.TempDir())
	awaitMode(t, c, aside.Healthy)
	s, served := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{addr}}})
	return s, c, served
}

// Transactions are answered as Redis does, whatever order their commands come in, one by one and in
// pipelines.
func TestTransactionsAreAnsweredAsRedisDoes(t *testing.T) {
	t.Parallel() // there is a wait for each answer
	for seed := range uint64(8) {
		protocol := []string{"2", "3"}[seed%2]
		t.Run(fmt.Sprintf("RESP%s/seed=%d", protocol, seed), func(t *testing.T) {
			t.Parallel()
			w := newPassingTwins(t, protocol)
			if strings.HasPrefix(w.behind.Version(), "6.") {
				return // what is served here is answered as Redis 7 does
			}
			random := rand.New(rand.NewPCG(seed, 15))
			for range 300 {
				commands := make([][]string, 1+random.IntN(8))
				for i := range commands {
					switch random.IntN(12) {
					case 0, 1, 2:
						commands[i] = []string{"MULTI"}
					case 3, 4, 5:
						commands[i] = []string{"EXEC"}
					case 6:
						commands[i] = []string{"DISCARD"}
					case 7:
						commands[i] = []string{"WATCH", []string{"a", "b"}[random.IntN(2)]}
					case 8:
						commands[i] = [][]string{{"UNWATCH"}, {"EXEC", "x"}, {"MULTI", "x"}, {"WATCH"}, {"DISCARD", "x"}}[random.IntN(5)]
					default:
						for {
							commands[i] = randomCommandOfAnyType(random)
							switch name := commands[i][0]; {
							case listsKeys[name], unordered[name], name == "EVAL" && len(commands[i]) > 3 && commands[i][1] == "return(redis.call('SET',ARGV[2],ARGV[1]))":
								continue
							}
							break
						}
					}
				}
				w.together(commands)
			}
			w.together([][]string{{"DISCARD"}, {"DEL", "a", "b", "c", "d"}, {"KEYS", "*"}})
		})
	}
}

func TestWhatATransactionDoesIsSeenAtOnce(t *testing.T) {
	addr := passOn(t, redistest.Start(t).Addr())
	writer, reader := dial(t, addr), dial(t, addr)
	for i := range 200 {
		require.Equal(t, "+OK", writer.do("MULTI"))
		require.Equal(t, "+QUEUED", writer.do("SET", "k", fmt.Sprint(i)))
		require.Equal(t, "+QUEUED", writer.do("EVAL", "return redis.call('SET', 'l', ARGV[1])", "0", fmt.Sprint(i)))
		if i > 0 {
			require.Equal(t, fmt.Sprint("$", i-1), reader.do("GET", "k"), "nothing is done yet")
			require.Equal(t, fmt.Sprint("$", i-1), reader.do("GET", "l"))
		}
		require.Equal(t, "*2 +OK +OK", writer.do("EXEC"))
		require.Equal(t, fmt.Sprint("$", i), reader.do("GET", "k"))
		require.Equal(t, fmt.Sprint("$", i), reader.do("GET", "l"))
	}
}

// Many clients that add to a counter by WATCH, GET, MULTI, SET: none of their additions is lost. A
// GET from memory that is older than the WATCH would lose some.
func TestOptimisticLocksHold(t *testing.T) {
	server := redistest.Start(t)
	addr := passOn(t, server.Addr())
	const clients, each = 6, 40
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			c := goredis.NewClient(&goredis.Options{Addr: addr, MaxRetries: -1})
			defer c.Close()
			ctx := testContext(t)
			for done := 0; done < each; {
				err := c.Watch(ctx, func(tx *goredis.Tx) error {
					n, err := tx.Get(ctx, "n").Int()
					if err != nil && !errors.Is(err, goredis.Nil) {
						return err
					}
					_, err = tx.TxPipelined(ctx, func(p goredis.Pipeliner) error {
						p.Set(ctx, "n", n+1, 0)
						return nil
					})
					return err
				}, "n")
				switch {
				case err == nil:
					done++
				case !errors.Is(err, goredis.TxFailedErr):
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	require.Equal(t, fmt.Sprint(clients*each), server.Do("GET", "n"))
}

// A relapse would give out what memory has, as what Redis pushes is late, and then do the transaction
// over the newer value.
func TestAReadAfterWATCHIsNotOlderThanIt(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	between := faultproxy.New(t, server.Addr())
	store, c := newStore(t, between.Addr(), t.TempDir())
	s, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{}})
	s.pool.Close()
	s.pool = upstream.New(upstream.Options{Address: server.Addr, DialTimeout: patience, WriteTimeout: patience, MostOwn: 2, Open: store.Connections()})
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("SET", "k", "1"))
	require.Equal(t, "$1", p.do("GET", "k"))
	hits := c.Stats().MemoryHits
	require.Equal(t, "$1", p.do("GET", "k"))
	require.Equal(t, hits+1, c.Stats().MemoryHits)
	require.Equal(t, ":1", p.do("INCR", "n"), "the library's second client is connected")
	between.Delay(200 * time.Millisecond)
	server.Do("SET", "k", "2")
	require.Equal(t, "+OK", p.do("WATCH", "k"))
	require.Equal(t, "$2", p.do("GET", "k"))
	require.Equal(t, "+OK", p.do("UNWATCH"))
}

func TestWhatIsRefusedWithinATransactionAbortsIt(t *testing.T) {
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), t.TempDir())
	_, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Deny: []string{"flushall"}, MaxValueBytes: 1000})
	p := dial(t, addr)
	for _, text := range []string{
		"FLUSHALL", "GET aside:x", "SET aside:x 1", "KEYS *", "SCAN 0", "RANDOMKEY", "SELECT 1", "AUTH a b", "HELLO 3", "CLIENT REPLY OFF", "SUBSCRIBE a", "nonsense",
		"SET k " + strings.Repeat("x", 1001), "SORT s GET *", "MONITOR", "HELLO 2",
	} {
		require.Equal(t, "+OK", p.do("MULTI"), text)
		require.Equal(t, "+QUEUED", p.do("SET", "done", "yes"))
		require.Regexp(t, "^-(ERR|NOPERM)", p.do(line(text)...), text)
		p.do("SET", "done", "yes")
		require.Equal(t, "-"+execAbort, p.do("EXEC"), text)
		require.Equal(t, "$-1", p.do("GET", "done"))
	}
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("SELECT", "0"))
	require.Equal(t, "*1 +OK", p.do("EXEC"))
}

// Whatever becomes of Redis, a transaction is done as a whole or not at all, and its client learns
// which, or that nobody knows.
func TestTransactionsInAnOutage(t *testing.T) {
	server := redistest.Start(t)
	_, c, addr := passOnServer(t, server.Addr())
	begun, watching, later := dial(t, addr), dial(t, addr), dial(t, addr)
	require.Equal(t, "+OK", begun.do("MULTI"))
	require.Equal(t, "+QUEUED", begun.do("SET", "k", "1"))
	require.Equal(t, "+OK", watching.do("WATCH", "k"))
	server.Kill()
	awaitMode(t, c, aside.Degraded)
	require.Equal(t, "+OK", later.do("MULTI"))
	require.Equal(t, "+QUEUED", later.do("SET", "k", "1"))
	require.Equal(t, "+QUEUED", later.do("INCR", "l"))
	require.Contains(t, later.do("EXEC"), "-ASIDEDEGRADED", "what one of two keys holds is not known")
	require.Equal(t, "+OK", later.do("MULTI"))
	require.Equal(t, "+QUEUED", later.do("SET", "k", "1"))
	require.Contains(t, later.do("ZADD", "k", "1", "a"), "-ASIDEDEGRADED")
	require.Equal(t, "+QUEUED", later.do("GET", "k"))
	require.Equal(t, "-"+execAbort, later.do("EXEC"))
	require.Contains(t, later.do("WATCH", "k"), "-ASIDEDEGRADED")
	require.Equal(t, "+OK", later.do("SET", "other", "kept"), "it is over")
	require.Contains(t, begun.do("EXEC"), "-ASIDEDEGRADED")
	server.Restart()
	awaitMode(t, c, aside.Healthy)
	require.Equal(t, "$-1", begun.do("GET", "k"))
	require.Regexp(t, "^-ASIDE", watching.do("MULTI"), "it does not watch any more")
	require.Contains(t, watching.do("SET", "k", "1"), "was not done")
	require.Equal(t, "-"+execAbort, watching.do("EXEC"))
	for _, p := range []*peer{begun, watching, later} {
		require.Equal(t, "+OK", p.do("MULTI"))
		require.Equal(t, "+QUEUED", p.do("SET", "k", "1"))
		require.Equal(t, "*1 +OK", p.do("EXEC"))
	}
	require.Equal(t, "$kept", later.do("GET", "other"))
}

// Connections of clients' own go back, or end.
func TestConnectionsOfClientsOwnAreNotLeaked(t *testing.T) {
	server := redistest.Start(t)
	s, _, addr := passOnServer(t, server.Addr())
	for range 30 {
		p := dial(t, addr)
		for _, text := range []string{"MULTI", "EXEC", "WATCH a", "UNWATCH", "MULTI", "DISCARD", "WATCH a", "MULTI", "EXEC", "RPUSH l v", "BLPOP l 0", "WATCH a", "PING"} {
			require.NotContains(t, p.do(line(text)...), "-ERR", text)
		}
		switch {
		case p.do("RESET") != "+RESET":
			t.Fatal("RESET")
		case p.do("MULTI") != "+OK":
			t.Fatal("MULTI")
		}
		p.Close() // within a transaction
	}
	eventually(t, "they are given back", func() bool { return s.Stats().Connected == 0 })
	require.LessOrEqual(t, s.pool.Owned(), int64(1), "one is kept")
}

func TestBlockingCommandsWaitForOthers(t *testing.T) {
	server := redistest.Start(t)
	s, _, addr := passOnServer(t, server.Addr())
	blocked := func() int {
		var n int
		for text := range strings.FieldsSeq(server.Do("INFO", "clients").(string)) {
			_, _ = fmt.Sscanf(text, "blocked_clients:%d", &n)
		}
		return n
	}
	for _, protocol := range []string{"2", "3"} {
		waiter, pusher := dial(t, addr), dial(t, addr)
		require.NotContains(t, waiter.do("HELLO", protocol), "ERR")
		waiter.send(encoded("SET", "before", "1") + encoded("BLPOP", "l", "0") + encoded("GET", "before"))
		require.Equal(t, "+OK", waiter.reply(), "nothing waits for what blocks")
		eventually(t, "it waits", func() bool { return blocked() == 1 })
		eventually(t, "INFO says so", func() bool { return strings.Contains(pusher.do("INFO", "clients"), "blocked_clients:1") })
		require.Equal(t, ":1", pusher.do("RPUSH", "l", "v"))
		require.Equal(t, "*2 $l $v", waiter.reply())
		require.Contains(t, pusher.do("INFO", "clients"), "blocked_clients:0")
		require.Equal(t, "$1", waiter.reply())
		require.Regexp(t, `^(\*-1|_)$`, waiter.do("BLPOP", "l", "0.01"))
		require.Contains(t, waiter.do("BLPOP", "aside:x", "0"), "-ERR keys that begin with aside:")
		require.Contains(t, waiter.do("BLPOP", "l"), "-ERR wrong number")

		// A client that leaves must not take what comes later.
		waiter.send(encoded("BLPOP", "l", "0"))
		eventually(t, "it waits", func() bool { return blocked() == 1 })
		waiter.Close()
		eventually(t, "it does not wait any more", func() bool { return blocked() == 0 })
		require.Equal(t, ":1", pusher.do("RPUSH", "l", "w"))
		require.Equal(t, "*2 $l $w", pusher.do("BRPOP", "l", "0"))
	}
	last := dial(t, addr)
	last.send(encoded("BLPOP", "l", "0"))
	eventually(t, "it waits", func() bool { return blocked() == 1 })
	require.NoError(t, s.Shutdown(testContext(t)), "a client that waits for others does not hold it up")
}

func TestABlockedClientLearnsThatRedisIsAway(t *testing.T) {
	server := redistest.Start(t)
	_, c, addr := passOnServer(t, server.Addr())
	p := dial(t, addr)
	p.send(encoded("BLPOP", "l", "0"))
	eventually(t, "it waits", func() bool { return strings.Contains(server.Do("INFO", "clients").(string), "blocked_clients:1") })
	server.Kill()
	require.Contains(t, p.reply(), "-ASIDEUNKNOWN")
	awaitMode(t, c, aside.Degraded)
	require.Contains(t, p.do("BLPOP", "l", "0"), "-ASIDEDEGRADED")
}

func TestSubscribersGetMessages(t *testing.T) {
	server := redistest.Start(t)
	s, c, addr := passOnServer(t, server.Addr())
	for _, protocol := range []string{"2", "3"} {
		push := map[string]string{"2": "*", "3": ">"}[protocol]
		p, other := dial(t, addr), dial(t, addr)
		require.NotContains(t, p.do("HELLO", protocol), "ERR")
		require.Equal(t, "+OK", p.do("SET", "k", "v"))
		require.Equal(t, push+"3 $subscribe $news :1", p.do("SUBSCRIBE", "news"))
		require.Equal(t, push+"3 $psubscribe $n* :2", p.do("PSUBSCRIBE", "n*"))
		require.Equal(t, ":2", other.do("PUBLISH", "news", "hello"))
		require.Equal(t, push+"3 $message $news $hello", p.reply())
		require.Equal(t, push+"4 $pmessage $n* $news $hello", p.reply())
		if protocol == "2" {
			require.Contains(t, p.do("GET", "k"), "-ERR Can't execute 'get'")
			require.Equal(t, "*2 $pong $x", p.do("PING", "x"))
		} else {
			require.Equal(t, "$v", p.do("GET", "k"))
			require.Equal(t, ":1", p.do("HSET", "h"+protocol, "f", "v"))
			require.Equal(t, "+OK", p.do("SELECT", "0"))
		}
		for _, text := range []string{"GET aside:x", "KEYS *", "CLIENT LIST", "SELECT 7", "AUTH a b", "HELLO 2", "SYNC", "SCRIPT DEBUG YES"} {
			require.Contains(t, p.do(line(text)...), "-ERR", text)
		}
		// A subscriber that is slow to read, and a lot of messages.
		for i := range 2000 {
			other.send(encoded("PUBLISH", "news", fmt.Sprint(i)))
		}
		for i := range 2000 {
			require.Equal(t, ":2", other.reply())
			require.Equal(t, fmt.Sprint(push, "3 $message $news $", i), p.reply())
			p.reply()
		}
		p.send(encoded("UNSUBSCRIBE", "news") + encoded("RESET") + encoded("GET", "k"))
		require.Equal(t, push+"3 $unsubscribe $news :1", p.reply())
		require.Equal(t, "+RESET", p.reply())
		require.Equal(t, "$v", p.reply(), "it is as it was")
		require.Equal(t, "*3 $subscribe $news :1", p.do("SUBSCRIBE", "news"))
		require.Equal(t, "+OK", p.do("QUIT"))
		require.Empty(t, p.closed())
	}
	p := dial(t, addr)
	require.Equal(t, "*3 $subscribe $news :1", p.do("SUBSCRIBE", "news"))
	server.Kill()
	require.Empty(t, p.closed(), "it must learn that it misses messages")
	awaitMode(t, c, aside.Degraded)
	p = dial(t, addr)
	p.send(encoded("SUBSCRIBE", "news"))
	require.Equal(t, "+PONG", dial(t, addr).do("PING"))
	server.Restart()
	require.Equal(t, "*3 $subscribe $news :1", p.reply(), "it has waited for Redis")
	p.Close()
	eventually(t, "none is left", func() bool { return s.pool.Owned() == 0 })
}

// Clients that subscribe anew by themselves take an error for the end, and the end of the connection
// for what it is.
func TestWhoSubscribesInAnOutageIsDisconnected(t *testing.T) {
	t.Parallel() // there is a wait for each answer
	server := redistest.Start(t)
	store, c := newHastyStore(t, server.Addr(), t.TempDir())
	s, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}, RequestTimeout: time.Second})
	require.Equal(t, "$-1", dial(t, addr).do("GET", "k"))
	server.Kill()
	awaitMode(t, c, aside.Degraded)
	for _, command := range []string{"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"} {
		p := dial(t, addr)
		p.send(encoded("PING") + encoded(command, "news") + encoded("PING"))
		require.Equal(t, "+PONG\r\n", p.closed(), command)
	}
	require.Len(t, s.Refusals(), 3)
	p := dial(t, addr)
	p.send(encoded("SUBSCRIBE", "news"))
	p.Close()
	eventually(t, "it has ended", func() bool { return s.Stats().Connected == 1 })
}

// A client may end, and the proxy may end, while messages come.
func TestSubscribersMayLeaveAtAnyTime(t *testing.T) {
	server := redistest.Start(t)
	s, _, addr := passOnServer(t, server.Addr())
	publisher := dial(t, server.Addr())
	for i := range 40 {
		p := dial(t, addr)
		require.Equal(t, "*3 $subscribe $news :1", p.do("SUBSCRIBE", "news"))
		for range 20 {
			publisher.do("PUBLISH", "news", strings.Repeat("x", 1000))
		}
		if i%2 == 0 {
			p.Close()
		}
	}
	require.NoError(t, s.Shutdown(testContext(t)))
	require.Zero(t, s.pool.Owned())
}

// rueidis with its cache: it is Redis that tells it what has changed.
func TestTrackingReachesClients(t *testing.T) {
	server := redistest.Start(t)
	_, _, addr := passOnServer(t, server.Addr())
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true})
	require.NoError(t, err)
	defer c.Close()
	ctx := testContext(t)
	require.NoError(t, c.Do(ctx, c.B().Set().Key("k").Value("1").Build()).Error())
	get := func() string {
		v, err := c.DoCache(ctx, c.B().Get().Key("k").Cache(), time.Minute).ToString()
		require.NoError(t, err)
		return v
	}
	require.Equal(t, "1", get())
	server.Do("SET", "k", "2")
	eventually(t, "it is told", func() bool { return get() == "2" })
}

func TestMonitorIsRelayed(t *testing.T) {
	server := redistest.Start(t)
	_, _, addr := passOnServer(t, server.Addr())
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("MONITOR"))
	server.Do("SET", "heard", "1")
	eventually(t, "it comes", func() bool { return strings.Contains(p.reply(), `"heard"`) })
}

// There are as many connections of clients' own as may be, and not one more.
func TestTooManyConnectionsOfClientsOwnAreRefused(t *testing.T) {
	server := redistest.Start(t)
	s, _, addr := passOnServer(t, server.Addr())
	s.pool.Close()
	s.pool = upstream.New(upstream.Options{
		Redis: rueidis.ClientOption{}, Address: server.Addr, DialTimeout: time.Second, WriteTimeout: time.Second, MostOwn: 2, Open: s.store.Connections(),
	})
	a, b, c := dial(t, addr), dial(t, addr), dial(t, addr)
	require.Equal(t, "+OK", a.do("MULTI"))
	require.Contains(t, b.do("SUBSCRIBE", "x"), "subscribe")
	require.Contains(t, c.do("BLPOP", "l", "0"), "-ASIDEBUSY too many")
	require.Contains(t, c.do("MULTI"), "-ASIDEBUSY too many")
	require.Equal(t, "-"+execAbort, c.do("EXEC"))
	require.Equal(t, "*0", a.do("EXEC"))
	require.Equal(t, "+OK", c.do("MULTI"))
}

// What writes as SET does leaves a stamp, if it has changed something, and nothing else does. A
// relapse would have a replay overwrite it, or take what was acknowledged elsewhere for older.
func TestStampsAreLeftByWhatWritesAsSETDoes(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr()))
	stamps := func() string {
		var all []string // in an order of our own: that of KEYS changes as Redis's table grows
		keys, _ := server.Do("KEYS", "aside:*").([]any)
		for _, key := range keys {
			if server.Do("TYPE", key) == "hash" {
				fields, _ := server.Do("HGETALL", key).([]any)
				slices.SortFunc(fields, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
				all = append(all, fmt.Sprintf("%q", fields))
			}
		}
		slices.Sort(all)
		return strings.Join(all, "\n")
	}
	server.Do("SET", "old", "1")
	server.Do("SADD", "set", "1")
	for _, test := range []struct {
		commands string
		left     bool
	}{
		{"GETSET a v", true},
		{"GETSET set v", false},
		{"SETRANGE b 0 v", true},
		{"INCRBYFLOAT c 1.5", true},
		{"INCRBYFLOAT a 1.5", false},
		{"MSETNX d 1 e 2", true},
		{"MSETNX d 1 f 2", false},
		{"EXPIREAT old 4000000000", true},
		{"EXPIREAT none 4000000000", false},
		{"RENAME d g", true}, // d has one
		{"SADD h v", false},
		{"EVAL return(redis.call('SET',KEYS[1],'v')) 1 i", false},
		{"MULTI|SET j 1|SADD k 1|SET l 1 NX|GET m|EXEC", true},
		{"MULTI|SET n 1|DISCARD", false},
		{"MULTI|SET o 1|nonsense|EXEC", false},
		{"WATCH p|SET p 1|MULTI|SET q 1|EXEC", true}, // p's own
		{"MULTI|INCR r|EXEC|MULTI|DEL s|EXEC", true},
	} {
		before := stamps()
		for text := range strings.SplitSeq(test.commands, "|") {
			p.do(line(text)...)
		}
		require.Equal(t, test.left, stamps() != before, test.commands)
	}
}

// What a transaction reads may have been written while Redis was away.
func TestATransactionReadsWhatWaitsToBeReplayed(t *testing.T) {
	server := redistest.Start(t)
	between := faultproxy.New(t, server.Addr())
	store, c := newHastyStore(t, between.Addr(), t.TempDir(), func(o *aside.Options) { o.ReplayRate = 1 })
	_, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{between.Addr()}}})
	p := dial(t, addr)
	const keys = 50
	for i := range keys {
		require.Equal(t, "+OK", p.do("SET", fmt.Sprint("k", i), "old"))
	}
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	for i := range keys {
		require.Equal(t, "+OK", p.do("SET", fmt.Sprint("k", i), "new"))
	}
	between.Heal()
	awaitMode(t, c, aside.Recovering)
	for i := keys - 1; i > keys-5; i-- {
		require.Equal(t, "+OK", p.do("MULTI"))
		require.Equal(t, "+QUEUED", p.do("GET", fmt.Sprint("k", i)))
		require.Equal(t, "*1 $new", p.do("EXEC"))
	}
}

// The connection is lost just before EXEC, with commands that go ahead of it as they are large.
func TestATransactionIsOverWithItsEXECWhateverBecomesOfIt(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	addr := passOn(t, server.Addr())
	p, other := dial(t, addr), dial(t, addr)
	require.Equal(t, "+OK", p.do("MULTI"))
	server.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	eventually(t, "Redis is there again", func() bool { return other.do("SET", "z", "1") == "+OK" })
	p.send(encoded("SET", "k", strings.Repeat("x", mostGatheredBytes)) + encoded("EXEC"))
	require.Regexp(t, "^-ASIDE", p.reply())
	require.Regexp(t, "^-", p.reply())
	require.Equal(t, "$x", p.do("ECHO", "x"))
	require.Equal(t, "+OK", p.do("SET", "z", "1"))
	require.Equal(t, "$-1", p.do("GET", "k"))
}
