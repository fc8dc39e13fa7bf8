package resp

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/redistest"
)

// Sequences of commands, of which each depends on those before it. A Redis that was never away says
// what is right, in both versions of the protocol.
func TestSequencesInAnOutageAreAnsweredAsByRedis(t *testing.T) {
	t.Parallel() // there is a wait for each answer
	for _, protocol := range []string{"2", "3"} {
		t.Run("RESP"+protocol, func(t *testing.T) {
			t.Parallel()
			_, between, c, addr := cutOff(t, Options{})
			bare := redistest.Start(t)
			p, right := dial(t, addr), dial(t, bare.Addr())
			p.do("HELLO", protocol)
			right.do("HELLO", protocol)
			between.Refuse()
			awaitMode(t, c, aside.Degraded)
			keys := []string{"k", "l", "m"}
			for _, sequence := range []string{
				"SET k v; RENAME k k; GET k; RENAMENX k k; COPY k k; COPY k k REPLACE; RENAME l l; RENAMENX l l; COPY l l",
				"MSETNX k 1 k 2; GET k; MSETNX k 3 l 4; EXISTS l; MSETNX l 1 m; EXISTS k k l",
				"SETRANGE k 0 ''; EXISTS k; SETRANGE k 3 x; GET k; GETRANGE k -100 -1; GETRANGE k 4 2; GETRANGE k -1 -3; GETRANGE k 0 -9223372036854775808; GETRANGE k -9223372036854775808 9223372036854775807; SETRANGE k -1 x; SUBSTR k 1 1",
				"INCRBY k 9223372036854775807; INCR k; GET k; DECRBY k -9223372036854775808; DECRBY k -1; INCRBY k 01; INCRBY k +1; INCRBY k ' 1'; DECR k",
				"SET k 007; INCR k; SET k ' 1'; INCR k; SET k ''; INCR k; APPEND k 4; INCR k; APPEND k x; INCR k; GET k",
				"INCRBYFLOAT k 0.1; INCRBYFLOAT k 0.2; INCRBYFLOAT k -0.3; INCRBYFLOAT k 3.0; INCR k; INCRBYFLOAT k 1.50",
				"SET k v EX 100; TTL k; PERSIST k; PERSIST k; TTL k; EXPIRE k 50 GT; EXPIRE k 50 LT; TTL k; EXPIRE k 10 NX; EXPIRE k 60 XX; EXPIRE k 9223372036854775807; EXPIRE k 1 NX GT; EXPIRE k 1 GT LT; EXPIRE k 1 FOO; EXPIRE k x",
				"SET k v; PEXPIREAT k 1; EXISTS k; TTL k; EXPIRE k 10; PERSIST k; SET k w; EXPIRE k 0; GET k; SET k w; EXPIREAT k -5; GET k",
				"SET k v; HSET k f v; HGET k f; SADD k a; LPUSH k a; LRANGE k 0 -1; HGETALL k; SMEMBERS k; HINCRBY k f 1; HDEL k f; SISMEMBER k a; LLEN k; HMSET k f v; HLEN k; GET k",
				"HSET k f v; GET k; INCR k; APPEND k x; STRLEN k; GETRANGE k 0 1; SADD k a; RPUSH k a; TYPE k; MGET k l; EXISTS k; HSET k f; HSET k f 1 g; HMSET k f 1 g; HGETALL k",
				"SADD k a a b; SADD k a c c; SREM k a a z; SCARD k; SMISMEMBER k a b z; SREM k b c; EXISTS k; TYPE k; SCARD k; SMEMBERS k; SADD k ''; SISMEMBER k ''",
				"LPUSH k a b c; RPUSH k d e; LRANGE k 0 -1; LRANGE k -2 -1; LRANGE k -100 1; LRANGE k 3 1; LRANGE k 5 9; LRANGE k -1 -5; LINDEX k -1; LINDEX k -5; LINDEX k -6; LINDEX k 5; LINDEX k -9223372036854775808; LINDEX k x; LLEN k; LRANGE k 0 -9223372036854775808",
				"HSET k a 1 a 2 b 3; HDEL k a a z; HLEN k; HDEL k b; EXISTS k; HGETALL k; HKEYS k; HVALS k; HLEN k; HSETNX k a 1; HSETNX k a 2; HINCRBY k a 9223372036854775807; HINCRBY k a 9; HINCRBYFLOAT k f 1.5; HINCRBY k f 1; HSTRLEN k f; HMGET k a z; HEXISTS k a",
				"HSET k f v; EXPIRE k 100; TTL k; HDEL k f; HSET k f v; TTL k; PERSIST k; EXPIRE k -1; EXISTS k; HGETALL k",
				"SET k '\x00\r\n\xff'; APPEND k '\x00'; GET k; HSET l '\x00' '\xff\r\n'; HGETALL l; SADD m '\r\n' '\x00aside:1n'; SMEMBERS m; SISMEMBER m '\x00aside:1n'; STRLEN k",
				"SET k '\x00aside:1n'; GET k; STRLEN k; APPEND k x; GETRANGE k 0 1; RENAME k l; GET l",
				"MULTI; SET k x; INCR k; APPEND k y; GET k; HSET k f v; EXEC; GET k; MULTI; DEL k; HSET k f x; HINCRBY k f 1; HGETALL k; EXEC; HGETALL k",
				"MULTI; HSET k a 1; EXPIRE k 100; HSET k b; PERSIST k; TTL k; EXEC; HGETALL k; MULTI; SET k x; HGETALL k; EXEC; MULTI; GET; EXEC; GET k",
				"MULTI; INCR k; INCR k; DECRBY k 3; EXEC; MULTI; SETNX k 5; SET k 6 NX; GETSET k 7; SET k 8 GET KEEPTTL; GETDEL k; SET k 9 XX; EXEC; EXISTS k",
				"SET k 1; COPY k l; COPY k l; COPY k m REPLACE; INCR l; MGET k l m; RENAMENX k l; RENAME k l; EXISTS k; GET l; GETEX l EX 100; TTL l; GETEX l PERSIST; TTL l; GETEX l EX 0; GETEX m EXAT 1; EXISTS m",
			} {
				for _, q := range []*peer{p, right} {
					q.do(append([]string{"DEL"}, keys...)...)
				}
				var past []string
				for text := range strings.SplitSeq(sequence, "; ") {
					args := quoted(text)
					if lacks(bare.Version(), args) {
						continue
					}
					want, got := right.do(args...), p.do(args...)
					past = append(past, text)
					if isOfNoOrder(args[0]) {
						want, got = sorted(want), sorted(got)
					}
					if refusal(got) { // it may, if it changes nothing; then neither may the other
						t.Logf("%q is refused after %q", text, past)
						break
					}
					require.True(t, want == got || saysOtherwise(bare.Version(), want, got), "%q: %q, not %q", past, got, want)
				}
				p.do("DISCARD")
				right.do("DISCARD")
			}
			back(t, between, c)
		})
	}
}

func isOfNoOrder(name string) bool {
	switch name {
	case "HGETALL", "HKEYS", "HVALS", "SMEMBERS", "EXEC":
		return true
	}
	return false
}

// quoted is line with words in single quotes.
func quoted(text string) (args []string) {
	for i, part := range strings.Split(text, "'") {
		if i%2 == 1 {
			args = append(args, part)
			continue
		}
		args = append(args, strings.Fields(part)...)
	}
	return args
}

// Of a list of which only the ends are known, too.
func TestTheFarthestIndexIsRefusedOrAnswered(t *testing.T) {
	_, between, c, addr := cutOff(t, Options{LocalAnswers: true})
	p := dial(t, addr)
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.Equal(t, ":2", p.do("RPUSH", "l", "a", "b"))
	require.Equal(t, "$b", p.do("LINDEX", "l", "-1"))
	require.Equal(t, "$a", p.do("LINDEX", "l", "-2"))
	for _, index := range []string{"-3", "-9223372036854775808", "9223372036854775807"} {
		require.Contains(t, p.do("LINDEX", "l", index), "-ASIDEDEGRADED", index)
	}
}

// A command that has not arrived as a whole is missing, as one that was refused is.
func TestATransactionThatLacksACommandIsNotDone(t *testing.T) {
	_, between, c, addr := cutOff(t, Options{MaxValueBytes: 100})
	p := dial(t, addr)
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("SET", "k", "1"))
	require.Contains(t, p.do("APPEND", "k", strings.Repeat("x", 101)), "-ERR a string of 101 bytes is too large")
	require.Equal(t, "-"+execAbort, p.do("EXEC"))
	require.Contains(t, p.do("GET", "k"), "-ASIDEDEGRADED")
	require.Zero(t, c.Stats().Pending)
}

func TestDelCountsCollectionsThatAreKept(t *testing.T) {
	_, between, c, addr := cutOff(t, Options{})
	p := dial(t, addr)
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.Equal(t, "+OK", p.do("HMSET", "h", "f", "v"))
	require.Equal(t, ":1", p.do("EXISTS", "h"))
	require.Equal(t, ":1", p.do("DEL", "h", "h", "none"))
	require.Equal(t, ":0", p.do("DEL", "h"))
	require.Equal(t, ":1", p.do("SADD", "h", "m"))
	require.Equal(t, ":1", p.do("UNLINK", "h"))
	require.Equal(t, "+OK", p.do("HMSET", "g", "f", "v"))
	for _, text := range []string{"MULTI", "DEL g g", "UNLINK g", "HSET g a 1", "DEL g"} {
		p.do(line(text)...)
	}
	require.Equal(t, "*4 :1 :0 :1 :1", p.do("EXEC"))
}

// What a session's store does at the end of each request.
func TestTheEndOfWhatWasSetInAnOutageMoves(t *testing.T) {
	t.Parallel()
	server, between, c, addr := cutOff(t, Options{})
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("SET", "before", "v", "EX", "1000"))
	require.Equal(t, "$v", p.do("GET", "before"))
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.Equal(t, "+OK", p.do("SET", "k", "v", "EX", "1000"))
	require.Equal(t, ":1", p.do("EXPIRE", "k", "5000"))
	requireTTL(t, 5000, p.do("TTL", "k"))
	require.Contains(t, p.do("EXPIRE", "before", "5000"), "-ASIDEDEGRADED")
	back(t, between, c)
	require.InDelta(t, 5000, server.Do("TTL", "k"), 60)
	require.InDelta(t, 1000, server.Do("TTL", "before"), 60)
}

// With service.kept_answers: local what was read before moves, too.
func TestTheEndOfWhatWasReadMovesWithLocalAnswers(t *testing.T) {
	server, between, c, addr := cutOff(t, Options{LocalAnswers: true})
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("SET", "before", "v", "EX", "1000"))
	require.Equal(t, "$v", p.do("GET", "before"))
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.Equal(t, ":1", p.do("EXPIRE", "before", "5000"))
	require.Equal(t, "$v", p.do("GET", "before"))
	require.Equal(t, ":1", p.do("EXPIRE", "gone", "5000"))
	back(t, between, c)
	require.InDelta(t, 5000, server.Do("TTL", "before"), 60)
	require.EqualValues(t, -2, server.Do("TTL", "gone"))
}

// A denied command is denied in an outage, too, also within a transaction.
func TestWhatIsDeniedIsDeniedInAnOutage(t *testing.T) {
	_, between, c, addr := cutOff(t, Options{Deny: []string{"HSET", "SET"}, LocalAnswers: true})
	p := dial(t, addr)
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.Contains(t, p.do("HSET", "h", "f", "v"), "-NOPERM")
	require.Contains(t, p.do("hset", "h", "f", "v"), "-NOPERM")
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Contains(t, p.do("HSET", "h", "f", "v"), "-NOPERM")
	require.Equal(t, "-"+execAbort, p.do("EXEC"))
	require.Zero(t, c.Stats().Pending)
	for _, text := range []string{"HMSET aside:x f v", "INCR aside:x", "SADD aside:x a", "HGET aside:x f", "RENAME k aside:x", "COPY aside:x k", "EXPIRE aside:x 1", "LINDEX aside:x 0"} {
		require.Contains(t, p.do(line(text)...), "-ERR", text)
	}
	require.Zero(t, c.Stats().Pending)
}

// A number that HTTP has put has a content type, also where it is added to in an outage.
func TestAContentTypeSurvivesOperations(t *testing.T) {
	_, between, c, addr := cutOff(t, Options{LocalAnswers: true})
	p := dial(t, addr)
	store := proxy.NewStore(c, 0)
	for key, value := range map[string]string{"n": "41", "s": "short"} {
		require.NoError(t, store.Set(testContext(t), key, proxy.Value{Data: value, ContentType: "text/plain", TTL: time.Hour}))
	}
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	for _, text := range []string{"INCR n", "DECRBY n 3", "INCRBYFLOAT n 1"} { // Redis would find no number
		require.Contains(t, p.do(line(text)...), "-ASIDEDEGRADED", text)
	}
	require.Equal(t, ":6", p.do("APPEND", "s", "!"))
	require.Equal(t, ":1", p.do("EXPIRE", "n", "1000"))
	require.Equal(t, "$41", p.do("GET", "n"))
	require.Equal(t, "$short!", p.do("GET", "s"))
	back(t, between, c)
	require.Equal(t, "$41", p.do("GET", "n"))
	require.Equal(t, "$short!", p.do("GET", "s"))
	require.Zero(t, c.Stats().Rejected)
	v, err := store.Get(testContext(t), "s")
	require.NoError(t, err)
	require.Equal(t, "text/plain", v.ContentType)
}

// An end that is read from what is kept and one that a client names were not reckoned in the same
// millisecond: which of two is later nobody can tell if they are about the same.
func TestEndsThatAreAboutTheSameAreNotCompared(t *testing.T) {
	now := time.UnixMilli(1_795_763_738_500)
	for _, c := range []struct {
		left    time.Duration
		option  string
		refused bool
		want    answer
	}{
		{3000*time.Second + time.Millisecond, "LT", true, nil},
		{3000*time.Second - time.Millisecond, "GT", true, nil},
		{3000 * time.Second, "GT", true, nil},
		{3002 * time.Second, "LT", false, int64(1)},
		{3002 * time.Second, "GT", false, int64(0)},
		{2998 * time.Second, "GT", false, int64(1)},
		{3000 * time.Second, "XX", false, int64(1)},
	} {
		s := newStage(1 << 20)
		s.now = now
		s.known["k"] = knownAs(proxy.Value{Data: "v", TTL: c.left}, true)
		got := s.do(steps["PEXPIREAT"], []string{"k", whole(now.UnixMilli() + 3_000_000), c.option})
		require.Equal(t, c.refused, s.missing, c)
		require.Equal(t, c.want, got, c)
	}
}
