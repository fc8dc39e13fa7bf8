package resp

import (
	"fmt"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// A relapse would answer from memory, which is of another database, or write to that.
func TestAnotherDatabaseIsAnotherDatabase(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr()))
	require.Equal(t, "+OK", p.do("SET", "k", "zero"))
	require.Equal(t, "$zero", p.do("GET", "k"))
	p.send(encoded("SELECT", "5") + encoded("GET", "k") + encoded("SET", "k", "five") + encoded("GET", "k") + encoded("SCAN", "0") + encoded("SELECT", "0") + encoded("GET", "k"))
	for _, want := range []string{"+OK", "$-1", "+OK", "$five", "*2 $0 *1 $k", "+OK", "$zero"} {
		require.Equal(t, want, p.reply())
	}
	require.Equal(t, "+OK", p.do("SELECT", "5"))
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("APPEND", "k", "!"))
	require.Equal(t, "*1 :5", p.do("EXEC"))
	require.Equal(t, "+OK", p.do("SELECT", "6"))
	require.Equal(t, "$-1", p.do("GET", "k"))
	require.Equal(t, "+RESET", p.do("RESET"))
	require.Equal(t, "$zero", p.do("GET", "k"))
	require.Contains(t, p.do("SELECT", "1000"), "-ERR DB index is out of range")
	require.Equal(t, "-"+wrongDB, p.do("GET", "k"), "the client means another database")
	require.Equal(t, "+OK", p.do("SELECT", "0"))
	require.Equal(t, "$zero", p.do("GET", "k"))

	denied := dial(t, passOn(t, server.Addr(), "select"))
	require.Equal(t, "-"+notPassedOn("select"), denied.do("SELECT", "5"))
	require.Equal(t, "-"+wrongDB, denied.do("GET", "k"))
	require.Equal(t, "+OK", denied.do("SELECT", "0"))

	for _, protocol := range []int{2, 3} {
		c := goredis.NewClient(&goredis.Options{Addr: p.RemoteAddr().String(), Protocol: protocol, DB: 5, MaxRetries: -1})
		t.Cleanup(func() { _ = c.Close() })
		got, err := c.Get(testContext(t), "k").Result()
		require.NoError(t, err)
		require.Equal(t, "five!", got)
	}
}

// A relapse would let a user read what its rights do not permit.
func TestAUserOfRedisHasItsOwnRights(t *testing.T) {
	server := redistest.Start(t)
	server.Do("ACL", "SETUSER", "ann", "on", ">secret", "~ann:*", "+@all", "-@dangerous")
	for _, password := range []string{"", "proxys"} {
		store, _ := newStore(t, server.Addr(), t.TempDir())
		_, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Password: password})
		p := dial(t, addr)
		if password != "" {
			require.Contains(t, p.do("GET", "bob:k"), "-NOAUTH")
			require.Equal(t, "-"+wrongPass, p.do("AUTH", "ann", "wrong"))
			require.Contains(t, p.do("GET", "bob:k"), "-NOAUTH")
			require.Equal(t, "+OK", p.do("AUTH", password))
		}
		require.Equal(t, "+OK", p.do("SET", "bob:k", "v"))
		require.Equal(t, "$v", p.do("GET", "bob:k"))
		p.send(encoded("AUTH", "ann", "secret") + encoded("GET", "bob:k") + encoded("SET", "ann:k", "v"))
		require.Equal(t, "+OK", p.reply())
		require.Contains(t, p.reply(), "-NOPERM")
		require.Equal(t, "+OK", p.reply())
		require.Equal(t, "+RESET", p.do("RESET"))
		if password != "" {
			require.Contains(t, p.do("GET", "bob:k"), "-NOAUTH")
		} else {
			require.Equal(t, "$v", p.do("GET", "bob:k"))
		}
		for _, protocol := range []int{2, 3} {
			c := goredis.NewClient(&goredis.Options{Addr: addr, Protocol: protocol, Username: "ann", Password: "secret", MaxRetries: -1})
			t.Cleanup(func() { _ = c.Close() })
			require.NoError(t, c.HSet(testContext(t), fmt.Sprint("ann:", protocol), "f", "v").Err())
			require.Equal(t, map[string]string{"f": "v"}, c.HGetAll(testContext(t), fmt.Sprint("ann:", protocol)).Val())
			require.ErrorContains(t, c.Get(testContext(t), "bob:k").Err(), "NOPERM")
		}
	}
}

// While a script runs for too long, Redis is away to the library. A relapse would leave nobody who
// could end it.
func TestAScriptThatDoesNotEndCanBeKilled(t *testing.T) {
	server := redistest.Start(t, redistest.WithArgs("--lua-time-limit", "50"))
	_, c, addr := passOnServer(t, server.Addr())
	endless, p := dial(t, addr), dial(t, addr)
	require.Equal(t, ":1", p.do("HSET", "h", "f", "v"))
	require.Contains(t, p.do("SCRIPT", "KILL"), "-NOTBUSY")
	endless.send(encoded("EVAL", "while true do end", "0"))
	awaitMode(t, c, aside.Degraded)
	require.Equal(t, "-"+busy, p.do("HGET", "h", "f"))
	require.Equal(t, "+OK", p.do("SCRIPT", "KILL"))
	require.Equal(t, "$v", p.do("HGET", "h", "f"))
	require.Regexp(t, "^-(ERR .*killed by user|ASIDEUNKNOWN)", endless.reply())
}

func TestClientsEndAndUnblockEachOther(t *testing.T) {
	server := redistest.Start(t)
	addr := passOn(t, server.Addr())
	p, other := dial(t, addr), dial(t, addr)
	id := strings.TrimPrefix(other.do("CLIENT", "ID"), ":")
	require.Equal(t, ":0", p.do("CLIENT", "UNBLOCK", id))
	for how, want := range map[string]string{"": "*-1", "TIMEOUT": "*-1", "ERROR": "-UNBLOCKED client unblocked via CLIENT UNBLOCK"} {
		other.send(encoded("BLPOP", "l", "0"))
		args := append([]string{"CLIENT", "UNBLOCK", id}, strings.Fields(how)...)
		eventually(t, "it waits", func() bool { return p.do(args...) == ":1" })
		require.Equal(t, want, other.reply())
	}
	require.Equal(t, ":0", p.do("CLIENT", "KILL", "ID", "999999"))
	require.Equal(t, "-ERR No such client", p.do("CLIENT", "KILL", "1.2.3.4:5"))
	require.Equal(t, "-"+syntaxError, p.do("CLIENT", "KILL", "ID", id, "SKIPME"))
	require.Equal(t, ":1", p.do("CLIENT", "KILL", "ID", id))
	require.Empty(t, other.closed())
	another := dial(t, addr)
	require.Equal(t, "+PONG", another.do("PING"))
	require.Equal(t, "+OK", p.do("CLIENT", "KILL", another.LocalAddr().String()))
	require.Empty(t, another.closed())
	another = dial(t, addr)
	require.Equal(t, "+PONG", another.do("PING"))
	eventually(t, "those that were ended are gone", func() bool { return strings.Count(p.do("CLIENT", "LIST"), " name=") == 2 })
	require.Equal(t, ":2", p.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"))
	require.Empty(t, p.closed())
	require.Empty(t, another.closed())
}

// A relapse would leave in memory, and among what waits for Redis, what is of the other database.
func TestTheProxysDatabaseIsNotSwapped(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr()))
	for _, args := range [][]string{{"SWAPDB", "0", "1"}, {"SWAPDB", "1", "0"}} {
		require.Contains(t, p.do(args...), "-ERR SWAPDB of the proxy's own database")
	}
	require.Equal(t, "+OK", p.do("SWAPDB", "1", "2"))
}

// A relapse would have a replay take the transaction's write for a loaded value, and undo it.
func TestATransactionWhoseReplyIsTooLargeLeavesItsStamps(t *testing.T) {
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), t.TempDir())
	store.LimitReceiving(64 << 10)
	_, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}})
	server.Do("SET", "large", strings.Repeat("x", 1<<20))
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("SET", "k", "v"))
	require.Equal(t, "+QUEUED", p.do("GET", "large"))
	require.Contains(t, p.do("EXEC"), "-ASIDEBUSY Redis has done this")
	require.Equal(t, "v", server.Do("GET", "k"))
	require.Len(t, server.Do("KEYS", "aside:stamps:*"), 1)
}

// A relapse would cut off after a second what was to have service.drain_timeout.
func TestACommandOfAClientThatIsConnectedThroughMayTakeItsTime(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), t.TempDir()) // a Redis that answers nothing for so long would be away to a hasty one
	s, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}})
	p := connected(t, addr)
	server.Do("CLIENT", "PAUSE", "1500")
	read := s.Stats().Commands + 1
	p.send(encoded("ECHO", "slow"))
	eventually(t, "it is read", func() bool { return s.Stats().Commands >= read })
	require.NoError(t, s.Shutdown(testContext(t)))
	require.Equal(t, "$4\r\nslow\r\n", p.closed())
}

// After a failover commands go to the new primary. A relapse would write to the old one, as long as
// that has not heard of it.
func TestPassedOnCommandsFollowASentinelsFailover(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t)
	option := rueidis.ClientOption{InitAddress: sentinel.Addrs(), Sentinel: rueidis.SentinelOption{MasterSet: sentinel.MasterSet()}}
	store, c := newHastyStore(t, "", t.TempDir(), func(o *aside.Options) { o.Redis = option })
	s, addr := serve(t, store, Options{Redis: &option})
	awaitMode(t, c, aside.Healthy)
	p := dial(t, addr)
	require.Equal(t, ":1", p.do("HSET", "h", "0", "v"))
	for round, fail := range []func(){sentinel.Failover, func() {
		old := sentinel.Primary()
		old.Kill()
		sentinel.AwaitFailover(old)
	}} {
		// What the new primary has, it must have got. Sentinels on a busy machine make two servers the
		// primary, one after the other, and what the first has acknowledged is lost: it is written again.
		// They wait 8 s, and up to 10 s for an INFO, before they make a replica of an old primary.
		have := func() bool {
			for field := range round + 1 {
				p.do("HSET", "h", fmt.Sprint(field), "v")
			}
			for _, server := range append(sentinel.Replicas(), sentinel.Primary()) {
				if n, _ := server.TryDo("HLEN", "h"); n != int64(round+1) {
					return false
				}
			}
			return true
		}
		require.Eventually(t, have, 3*patience, 5*time.Millisecond, "all have it; promotions: %d", sentinel.Promotions())
		fail()
		eventually(t, "the proxy knows the new primary", func() bool { return s.primary() == sentinel.Primary().Addr() })
		field := fmt.Sprint(round + 1)
		eventually(t, "the new primary is written to", func() bool {
			return p.do("HSET", "h", field, "v") == ":1" || p.do("HGET", "h", field) == "$v"
		})
		require.EqualValues(t, 1, sentinel.Primary().Do("HEXISTS", "h", field))
		require.Equal(t, "+OK", p.do("MULTI"))
		require.Equal(t, "+QUEUED", p.do("HLEN", "h"))
		require.Equal(t, fmt.Sprint("*1 :", round+2), p.do("EXEC"))
		p.send(encoded("BLPOP", "l", "0"))
		other := dial(t, addr)
		require.Equal(t, ":1", other.do("RPUSH", "l", "v"))
		require.Equal(t, "*2 $l $v", p.reply())
	}
}

// A relapse would let in whoever gives no name, as the default user of a Redis without a password,
// though the proxy has one.
func TestNobodyIsNoUserOfRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), t.TempDir())
	_, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Password: "proxys"})
	p := dial(t, addr)
	for _, args := range [][]string{{"AUTH", "", ""}, {"AUTH", "", "wrong"}, {"HELLO", "3", "AUTH", "", ""}} {
		require.Equal(t, "-"+wrongPass, p.do(args...))
		require.Equal(t, "-"+noAuth, p.do("GET", "k"))
	}
}

// A relapse would let a user guess the passwords of others as fast as Redis answers, and become the
// default user without the proxy's password.
func TestAUserOfRedisDoesNotBecomeAnother(t *testing.T) {
	server := redistest.Start(t)
	server.Do("ACL", "SETUSER", "ann", "on", ">secret", "~ann:*", "+@all")
	store, _ := newStore(t, server.Addr(), t.TempDir())
	_, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Password: "proxys"})
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("AUTH", "ann", "secret"))
	for _, args := range [][]string{{"AUTH", "any"}, {"auth", "default", "any"}, {"HELLO", "3", "AUTH", "default", "any"}, {"hello", "2", "auth", "default", "any"}} {
		require.Contains(t, p.do(args...), noSuchCommand)
		require.Contains(t, p.do("GET", "bob:k"), "-NOPERM")
	}
	require.NotContains(t, p.do("HELLO", "3"), "ERR")
	require.Equal(t, "_", p.do("GET", "ann:k"))
	require.Equal(t, "+RESET", p.do("RESET"))
	require.Equal(t, "+OK", p.do("AUTH", "ann", "secret"))
}

// A relapse would do at once, and in the proxy's database, what was to be done at EXEC.
func TestATransactionOfAnotherDatabaseMaySelect(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr()))
	require.Equal(t, "+OK", p.do("SELECT", "5"))
	p.send(encoded("MULTI") + encoded("SET", "k", "five") + encoded("SELECT", "0") + encoded("SET", "k", "zero") + encoded("DISCARD"))
	for _, want := range []string{"+OK", "+QUEUED", "+QUEUED", "+QUEUED", "+OK"} {
		require.Equal(t, want, p.reply())
	}
	require.EqualValues(t, 0, server.Do("EXISTS", "k"))
	require.Equal(t, "+OK", p.do("SELECT", "5"))
	require.Equal(t, "+OK", p.do("WATCH", "k"))
	require.Equal(t, "+OK", p.do("SELECT", "6"))
	other := dial(t, p.RemoteAddr().String())
	require.Equal(t, "+OK", other.do("SELECT", "5"))
	require.Equal(t, "+OK", other.do("SET", "k", "others"))
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("SET", "k", "six"))
	require.Equal(t, "*-1", p.do("EXEC"))
	require.Equal(t, "+OK", p.do("SELECT", "0"))
	require.Equal(t, "$-1", p.do("GET", "k"))
}

// A relapse would show the proxy's own keys.
func TestASubscriberOfAnotherDatabaseComesBack(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr()))
	require.Equal(t, "+OK", p.do("SET", "k", "zero"))
	require.NotEmpty(t, server.Do("KEYS", "aside:*"))
	require.NotContains(t, p.do("HELLO", "3"), "ERR")
	require.Equal(t, "+OK", p.do("SELECT", "5"))
	require.Equal(t, "*0", p.do("KEYS", "*"))
	require.Contains(t, p.do("SUBSCRIBE", "channel"), ">3 $subscribe")
	require.Equal(t, "+OK", p.do("SELECT", "0"))
	require.Equal(t, "$zero", p.do("GET", "k"))
	require.Contains(t, p.do("KEYS", "*"), noSuchCommand)
	require.Equal(t, "+OK", p.do("SELECT", "5"))
	require.Equal(t, "_", p.do("GET", "k"))
}

// A relapse would answer a client from memory what it had overwritten itself.
func TestWhatWasWrittenFromAnotherDatabaseIsSeenOnTheWayBack(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr()))
	for i := range 100 { // what Redis pushes is too late for some
		value := fmt.Sprint(i)
		require.Equal(t, "+OK", p.do("SET", "k", "old"))
		require.Equal(t, "$old", p.do("GET", "k"))
		p.send(encoded("SELECT", "5") + encoded("EVAL", "redis.call('SELECT', 0) return redis.call('SET', KEYS[1], ARGV[1])", "1", "k", value) + encoded("SELECT", "0") + encoded("GET", "k"))
		for _, want := range []string{"+OK", "+OK", "+OK", "$" + value} {
			require.Equal(t, want, p.reply())
		}
	}
}

// A relapse would give the next client a connection on which a transaction is open.
func TestATransactionThatCannotBeEndedIsNobodyElses(t *testing.T) {
	server := redistest.Start(t)
	addr := passOn(t, server.Addr())
	server.Do("ACL", "SETUSER", "default", "-discard", "-unwatch")
	p, other := dial(t, addr), dial(t, addr)
	for _, begun := range [][]string{{"MULTI"}, {"WATCH", "k"}} {
		require.Equal(t, "+OK", p.do(begun...))
		end := map[string]string{"MULTI": "DISCARD", "WATCH": "UNWATCH"}[begun[0]]
		require.Contains(t, p.do(end), "-NOPERM")
		require.Equal(t, "+OK", p.do("SET", "k", "v"))
		require.Equal(t, "+OK", other.do("MULTI"))
		require.Equal(t, "+QUEUED", other.do("HSET", "h", "f", "v"))
		require.Contains(t, other.do("EXEC"), "*1 :")
	}
}

// A relapse would pass on what is denied, to a Redis that does not name subcommands (before 7).
func TestADeniedSubcommandIsNotPassedOn(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr(), "object|encoding"))
	require.Equal(t, ":1", p.do("HSET", "h", "f", "v"))
	for _, name := range []string{"ENCODING", "encoding"} {
		require.Contains(t, p.do("OBJECT", name, "h"), "-NOPERM this proxy")
	}
	require.Equal(t, ":1", p.do("OBJECT", "REFCOUNT", "h"))
}

// A relapse would write to the proxy's database what was meant for another.
func TestASubscriberWhoseSELECTIsRefusedIsNowhere(t *testing.T) {
	server := redistest.Start(t)
	p := connected(t, passOn(t, server.Addr()))
	require.Contains(t, p.do("SUBSCRIBE", "channel"), ">3 $subscribe")
	require.Contains(t, p.do("SELECT", "5"), noSuchCommand)
	for _, args := range [][]string{{"SET", "k", "five"}, {"EVAL", "return redis.call('SET', 'k', 'five')", "0"}, {"FLUSHDB"}} {
		require.Contains(t, p.do(args...), noSuchCommand)
	}
	require.EqualValues(t, 0, server.Do("EXISTS", "k"))
	require.Contains(t, p.do("UNSUBSCRIBE", "channel"), ">3 $unsubscribe")
	require.Equal(t, "+OK", p.do("SELECT", "0"))
	require.Equal(t, "+OK", p.do("SET", "k", "zero"))
}
