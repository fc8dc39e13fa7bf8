package resp

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// newPassingTwins are newTwins of any version, whose proxy passes on what it does not serve.
func newPassingTwins(t testing.TB, protocol string) *twins {
	t.Helper()
	direct, behind := redistest.Start(t), redistest.Start(t)
	w := &twins{t, behind, dial(t, direct.Addr()), dial(t, passOn(t, behind.Addr()))}
	require.NotContains(t, w.direct.do("HELLO", protocol), "ERR")
	require.NotContains(t, w.proxy.do("HELLO", protocol), "ERR")
	return w
}

// together sends commands to both at once, and compares what they answer.
func (w *twins) together(commands [][]string) {
	w.t.Helper()
	var all strings.Builder
	for _, args := range commands {
		all.WriteString(encoded(args...))
	}
	w.direct.send(all.String())
	w.proxy.send(all.String())
	for i, args := range commands {
		want, got := w.direct.reply(), w.proxy.reply()
		if unordered[args[0]] {
			want, got = sorted(want), sorted(got)
		}
		require.Equal(w.t, want, got, "%q of %q", args, commands[:i+1])
	}
}

// unordered are commands whose replies have no order: each server seeds its hashes.
var unordered = map[string]bool{"SMEMBERS": true, "SINTER": true, "SUNION": true, "SDIFF": true, "HKEYS": true, "HVALS": true, "HGETALL": true, "KEYS": true}

// Commands of all types, one by one and in pipelines, in both versions of the protocol: whoever asks
// the proxy is told what Redis would have said.
func TestPassedOnCommandsAreAnsweredAsRedisDoes(t *testing.T) {
	t.Parallel() // there is a wait for each answer
	for seed := range uint64(8) {
		protocol := []string{"2", "3"}[seed%2]
		t.Run(fmt.Sprintf("RESP%s/seed=%d", protocol, seed), func(t *testing.T) {
			t.Parallel()
			w := newPassingTwins(t, protocol)
			old := strings.HasPrefix(w.behind.Version(), "6.") // what is served here is answered as Redis 7 does
			random := rand.New(rand.NewPCG(seed, 14))
			for range 400 {
				var commands [][]string
				for range 1 + random.IntN(12) {
					command := randomCommandOfAnyType(random)
					if _, served := intern([]byte(command[0])); !old || !served && command[0] != "nonsense" {
						commands = append(commands, command)
					}
				}
				w.together(commands)
			}
		})
	}
}

func randomCommandOfAnyType(r *rand.Rand) []string {
	of := func(all ...string) string { return all[r.IntN(len(all))] }
	key := func() string { return of("a", "b", "c", "d") }
	field := func() string { return of("f", "g", "h") }
	value := func() string {
		return of("1", "-7", "text", "", "2.5", "\r\n", strings.Repeat("long", 5000), "9007199254740993")
	}
	number := func() string { return of("0", "1", "-1", "3", "x", "1.5") }
	templates := []string{
		"HSET K F V", "HSET K F V F V", "HGET K F", "HMGET K F F", "HGETALL K", "HDEL K F", "HINCRBY K F N", "HINCRBYFLOAT K F N", "HLEN K", "HEXISTS K F",
		"HSETNX K F V", "HKEYS K", "HVALS K", "HSTRLEN K F", "HMSET K F V",
		"LPUSH K V V", "RPUSH K V", "LPOP K", "RPOP K", "LRANGE K 0 -1", "LLEN K", "LINDEX K N", "LSET K N V", "LREM K N V", "LTRIM K 0 N", "LINSERT K BEFORE V V",
		"RPOPLPUSH K K", "LPUSHX K V",
		"SADD K V V", "SREM K V", "SMEMBERS K", "SISMEMBER K V", "SCARD K", "SINTER K K", "SUNION K K", "SDIFF K K", "SMOVE K K V", "SUNIONSTORE K K K",
		"SINTERSTORE K K K",
		"ZADD K N F", "ZADD K N F N F", "ZSCORE K F", "ZINCRBY K N F", "ZRANGE K 0 -1 WITHSCORES", "ZREM K F", "ZCARD K", "ZRANK K F", "ZCOUNT K -inf +inf",
		"ZRANGEBYSCORE K -inf N", "ZPOPMIN K", "ZUNIONSTORE K 2 K K", "ZUNIONSTORE K N K", "ZREVRANGE K 0 N",
		"SET K V", "GET K", "MSET K V K V", "MGET K K", "GETSET K V", "SETRANGE K N V", "GETRANGE K 0 N", "INCRBYFLOAT K N", "INCR K", "APPEND K V", "MSETNX K V K V",
		"SETBIT K 3 N", "GETBIT K N", "BITCOUNT K", "BITOP AND K K K", "STRLEN K", "SETEX K 1000 V", "GETDEL K",
		"RENAME K K", "RENAMENX K K", "EXISTS K K", "TYPE K", "DEL K", "DEL K K", "UNLINK K", "PERSIST K", "EXPIREAT K 3000000000", "PEXPIREAT K 3000000000000",
		"TOUCH K K", "KEYS *", "FLUSHDB", "SORT K ALPHA", "SORT K BY nosort STORE K", "SORT K N",
		"EVAL return{KEYS[1],ARGV[1]} 1 K V", "EVAL return(redis.call('GET',KEYS[1])) 1 K", "EVAL return(redis.call('SET',KEYS[1],ARGV[1])) 1 K V",
		"EVAL return(redis.call('SET',ARGV[2],ARGV[1])) 0 V K", "EVALSHA 0123456789012345678901234567890123456789 1 K", "EVAL syntax( 0", "EVAL return(1) N K",
		"PUBLISH K V", "XADD K 1-1 F V", "XLEN K", "XRANGE K - +", "XDEL K 1-1", "XREAD COUNT 2 STREAMS K K 0 0", "PFADD K V", "PFCOUNT K", "GEOADD K 13.361389 38.115556 F",
		"GEOPOS K F", "OBJECT ENCODING K", "HSET K", "HGET", "LPUSH K", "SADD", "ZADD K N", "XADD K", "nonsense K", "OBJECT nonsense K", "XREAD STREAMS K",
	}
	words := strings.Fields(templates[r.IntN(len(templates))])
	for i, word := range words {
		switch word {
		case "K":
			words[i] = key()
		case "F":
			words[i] = field()
		case "V":
			words[i] = value()
		case "N":
			words[i] = number()
		}
	}
	return words
}

// A write that was answered is seen by whoever asks the proxy next, on whichever connection, also
// where memory had another value.
func TestWhoeverAsksAfterAPassedOnWriteSeesIt(t *testing.T) {
	addr := passOn(t, redistest.Start(t).Addr())
	writer, reader := dial(t, addr), dial(t, addr)
	writes := [][]string{
		{"GETSET", "k", "1"}, {"SETRANGE", "k", "0", "22"}, {"INCRBYFLOAT", "k", "1.5"}, {"EVAL", "return redis.call('SET', KEYS[1], 'named')", "1", "k"},
		{"EVAL", "return redis.call('SET', 'k', 'unnamed')", "0"}, {"MSETNX", "k", "1", "l", "2"}, {"FLUSHDB"}, {"SADD", "s", "9"}, {"SORT", "s", "STORE", "k"},
		{"DEL", "k"}, {"SET", "x", "renamed"}, {"RENAME", "x", "k"}, {"EXPIREAT", "k", "1"}, {"SET", "k", "again"}, {"SUNIONSTORE", "k", "none"},
	}
	want := []string{"$1", "$22", "$23.5", "$named", "$unnamed", "$unnamed", "$-1", "$-1", "", "$-1", "$-1", "$renamed", "$-1", "$again", "$-1"}
	for round := range 20 {
		for i, args := range writes {
			require.NotContains(t, writer.do(args...), "-ERR", "%q", args)
			got := reader.do("GET", "k")
			if want[i] == "" {
				require.Contains(t, got, "WRONGTYPE")
			} else {
				require.Equal(t, want[i], got, "%q in round %d", args, round)
			}
			require.Equal(t, got, reader.do("GET", "k"), "from memory")
		}
		require.NotContains(t, writer.do("FLUSHDB"), "ERR")
		require.Equal(t, "+OK", writer.do("SET", "k", "0"))
	}
}

func TestKeysOfTheProxysOwnCannotBeNamed(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr()))
	server.Do("SET", "aside:mine", "secret")
	server.Do("SADD", "s", "mine")
	const own = "-ERR keys that begin with aside: are the proxy's own: choose another"
	for _, text := range []string{
		"HGETALL aside:mine", "RENAME aside:mine x", "RENAME s aside:mine", "RENAMENX aside:mine x", "OBJECT ENCODING aside:mine", "GETRANGE aside:mine 0 -1",
		"EVAL return(1) 1 aside:mine", "SORT s STORE aside:x", "SUNIONSTORE aside:x s", "ZUNIONSTORE x 1 aside:mine", "XREAD STREAMS aside:mine 0", "DUMP aside:mine",
		"LPUSH aside:mine x", "BITOP AND x aside:mine aside:mine", "MEMORY USAGE aside:mine", "TOUCH s aside:mine", "MSETNX a 1 aside:mine 2",
	} {
		require.Equal(t, own, p.do(line(text)...), text)
	}
	for _, text := range []string{"SORT s BY nosort GET aside:*", "SORT s BY a* GET #", "SORT s by nosort get *", "SORT s GET aside:mine"} {
		require.Contains(t, p.do(line(text)...), "-ERR the pattern", text)
	}
	require.Equal(t, "*1 $mine", p.do("SORT", "s", "BY", "weight_*", "GET", "#"))
	require.Equal(t, "secret", server.Do("GET", "aside:mine"))
	for range 300 {
		require.Equal(t, "$s", p.do("RANDOMKEY"))
	}
	server.Do("DEL", "s")
	require.Equal(t, "$-1", p.do("RANDOMKEY"), "there is none but the proxy's own")
}

func TestDeniedCommandsAreNotPassedOn(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr(), "flushall", "config|set", "@hash"))
	server.Do("SET", "k", "v")
	for _, text := range []string{"FLUSHALL", "flushall async", "CONFIG SET save x", "config set save x", "HSET h f v", "HGETALL h"} {
		require.Contains(t, p.do(line(text)...), "-NOPERM this proxy does not pass on '", text)
	}
	require.Equal(t, "v", server.Do("GET", "k"))
	require.Equal(t, ":1", p.do("SADD", "s", "v"))
	require.Equal(t, "+OK", p.do("CONFIG", "RESETSTAT"))
	require.Equal(t, "*2 $appendonly $no", p.do("CONFIG", "GET", "appendonly"))
	all := dial(t, passOn(t, server.Addr(), "*"))
	require.Contains(t, all.do("HGET", "h", "f"), "-ERR unknown command")
}

// Whatever is not answered is not kept, and says whether it may have been done.
func TestPassedOnCommandsInAnOutage(t *testing.T) {
	server := redistest.Start(t)
	store, c := newHastyStore(t, server.Addr(), t.TempDir())
	_, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}})
	p := dial(t, addr)
	require.Equal(t, ":1", p.do("HSET", "h", "f", "v"))
	require.Equal(t, "+OK", p.do("SET", "k", "v"))
	server.Kill()
	require.Regexp(t, "^-ASIDE(UNKNOWN|DEGRADED) ", p.do("HSET", "h", "f", "w"))
	eventually(t, "it is noticed", func() bool { return c.Health().Mode.String() == "degraded" })
	for _, text := range []string{"HSET h f w", "HGET h f", "LPUSH l v", "EVAL return(1) 0", "GETSET k w", "PUBLISH a b", "FLUSHDB", "CONFIG RESETSTAT"} {
		require.Contains(t, p.do(line(text)...), "-ASIDEDEGRADED Redis is away", text)
	}
	require.Equal(t, "+OK", p.do("SET", "k", "kept"), "what is served here goes on")
	require.Equal(t, 1, c.Stats().Pending)
	server.Restart()
	eventually(t, "it is over", func() bool { return c.Health().Mode.String() == "healthy" })
	require.Equal(t, ":0", p.do("HLEN", "h"), "nothing was kept")
	require.Equal(t, "$kept", p.do("GETSET", "k", "v"))
}

// A hung Redis does not hold up clients for longer than it takes to notice.
func TestPassedOnCommandsDoNotWaitForAHungRedis(t *testing.T) {
	server := redistest.Start(t)
	if !server.CanSignal() {
		return
	}
	store, c := newHastyStore(t, server.Addr(), t.TempDir())
	_, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}})
	p := dial(t, addr)
	require.Equal(t, ":1", p.do("HSET", "h", "f", "v"))
	server.Freeze()
	require.Regexp(t, "^-ASIDE(UNKNOWN|DEGRADED) ", p.do("HSET", "h", "f", "w"))
	require.Contains(t, p.do("HGET", "h", "f"), "-ASIDEDEGRADED")
	server.Thaw()
	eventually(t, "it is over", func() bool { return c.Health().Mode.String() == "healthy" })
	require.Contains(t, []string{"$v", "$w"}, p.do("HGET", "h", "f"))
}

// A large pipeline, also of one client that reads nothing before it has sent everything.
func TestAPipelineOfPassedOnCommandsIsAnsweredInOrder(t *testing.T) {
	t.Parallel() // there is a wait for each answer
	p := dial(t, passOn(t, redistest.Start(t).Addr()))
	var all strings.Builder
	const n = 20_000
	for i := range n {
		switch i % 4 {
		case 0:
			all.WriteString(encoded("HSET", "h", fmt.Sprint(i), "v"))
		case 1:
			all.WriteString(encoded("SET", "k", fmt.Sprint(i)))
		case 2:
			all.WriteString(encoded("GET", "k"))
		default:
			all.WriteString(encoded("EVAL", "return ARGV[1]", "0", fmt.Sprint(i)))
		}
	}
	p.send(all.String())
	want := []string{":1", "+OK"}
	for i := range n {
		got := p.reply()
		if i%4 < 2 {
			require.Equal(t, want[i%4], got)
		} else {
			require.Equal(t, fmt.Sprint("$", i-(3-i%4)%2), got)
		}
	}
}

// The proxy's own connections log in and select as the library's do.
func TestPassedOnCommandsGoToTheConfiguredDatabase(t *testing.T) {
	server := redistest.Start(t, redistest.WithPassword("s3cret"))
	option := rueidis.ClientOption{InitAddress: []string{server.Addr()}, Password: server.Password(), SelectDB: 3}
	store, _ := newHastyStore(t, server.Addr(), t.TempDir(), func(o *aside.Options) {
		o.Redis, o.RedisTimeout, o.LockTTL = option, 5*time.Second, time.Minute
	})
	_, addr := serve(t, store, Options{Redis: &option, DB: 3})
	p := dial(t, addr)
	require.Equal(t, ":1", p.do("HSET", "h", "f", "v"))
	require.EqualValues(t, 0, server.Do("EXISTS", "h"))
	require.Equal(t, "$v", p.do("HGET", "h", "f"))
	require.Equal(t, "+OK", p.do("SELECT", "0"))
	require.Equal(t, "$-1", p.do("HGET", "h", "f"))
}

// CLIENT REPLY holds for commands that are passed on as for others.
func TestRepliesOfPassedOnCommandsAreTurnedOff(t *testing.T) {
	w := newPassingTwins(t, "2")
	for _, text := range []string{
		"CLIENT REPLY OFF|HSET h f v|HGET h f|SET a 1|CLIENT REPLY ON|HGET h f", "CLIENT REPLY SKIP|HGET h f|HLEN h|HLEN h",
		"HLEN h|CLIENT REPLY SKIP|HGET h f|HLEN h|CLIENT REPLY OFF|HLEN h|CLIENT REPLY ON|HLEN h", "HLEN h|CLIENT REPLY SKIP|nonsense|HLEN h|*x",
	} {
		answers := make([]string, 0, 2)
		for _, addr := range []string{w.direct.RemoteAddr().String(), w.proxy.RemoteAddr().String()} {
			p := dial(t, addr)
			p.send(strings.ReplaceAll(text, "|", "\r\n") + "\r\n")
			require.NoError(t, p.Conn.(*net.TCPConn).CloseWrite())
			answers = append(answers, p.closed())
		}
		require.Equal(t, answers[0], answers[1], text)
	}
	require.True(t, slices.Contains([]string{":1"}, w.proxy.do("HLEN", "h")))
}
