package resp

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// Two of everything: Redis by itself, and Redis behind the proxy. Each is sent the same.
type twins struct {
	t             testing.TB
	behind        *redistest.Server // the one behind the proxy
	direct, proxy *peer
}

func newTwins(t testing.TB, protocol string) *twins {
	t.Helper()
	direct := redistest.Start(t)
	if program := os.Getenv("ASIDE_BEHIND"); program != "" { // another version than the one that it is compared with
		t.Setenv("REDIS_SERVER", program)
	}
	behind := redistest.Start(t)
	if direct.Name() != "redis" || !strings.HasPrefix(direct.Version(), "7.") {
		t.Skipf("replies are compared with those of Redis 7, not of %s %s", direct.Name(), direct.Version())
	}
	store, _ := newStore(t, behind.Addr(), "")
	_, addr := serve(t, store, Options{})
	w := &twins{t, behind, dial(t, direct.Addr()), dial(t, addr)}
	require.NotContains(t, w.direct.do("HELLO", protocol), "ERR")
	require.NotContains(t, w.proxy.do("HELLO", protocol), "ERR")
	return w
}

// same sends a command to both and compares what they answer.
func (w *twins) same(args ...string) {
	w.t.Helper()
	want, got := w.direct.do(args...), w.proxy.do(args...)
	switch strings.ToUpper(args[0]) {
	case "PTTL", "TTL": // they were not asked at the same moment
		a, errA := strconv.Atoi(strings.TrimPrefix(want, ":"))
		b, errB := strconv.Atoi(strings.TrimPrefix(got, ":"))
		if errA == nil && errB == nil && a > 0 && b > 0 && max(a-b, b-a) < 5000 {
			return
		}
	case "KEYS":
		want, got = sorted(want), sorted(got)
	case "SCAN":
		want, got = sorted(want), sorted(got) // all fit in one page, or the cursors say that they do not
	}
	require.Equal(w.t, want, got, "%q", args)
}

func sorted(reply string) string {
	words := strings.Fields(reply)
	slices.Sort(words)
	return strings.Join(words, " ")
}

func line(s string) []string { return strings.Split(s, " ") }

// What is sent in this order to both, and answered alike. "_" stands for the empty string.
var scripted = []string{
	"PING", "PING hello", "PING a b", "ping", "ECHO hi", "ECHO", "ECHO a b", "SELECT 0", "SELECT x", "SELECT", "SELECT 01", "SELECT -1", "SELECT 0",
	"foo", "foo a", "FOO a b c", "foo _", "config", "client", "CLIENT nonsense", "COMMAND nonsense", "CLIENT GETNAME", "CLIENT SETNAME",
	"CLIENT SETNAME a", "CLIENT GETNAME", "CLIENT GETNAME x", "CLIENT SETNAME a b", "CLIENT SETNAME _", "CLIENT GETNAME", "CLIENT ID x",
	"CLIENT NO-EVICT ON", "CLIENT NO-EVICT maybe", "AUTH x", "AUTH default x", "AUTH other x", "AUTH", "AUTH a b c", "HELLO 4", "HELLO x",
	"HELLO 3 FOO", "HELLO 3 AUTH", "HELLO 3 AUTH a", "HELLO 3 AUTH a b", "HELLO 3 SETNAME", "COMMAND COUNT x", "CONFIG GET save",
	"CONFIG GET appendonly", "CONFIG GET", "CONFIG GET nothing",

	"GET", "GET a b", "GET a", "SET a 1", "GET a", "SET a", "SET", "SET a 1 FOO", "SET a 1 EX", "SET a 1 EX 0", "SET a 1 EX -1",
	"SET a 1 EX x", "SET a 1 EX 1.5", "SET a 1 EX 9223372036854775807", "SET a 1 EX 9223372036854775", "SET a 1 PX 9223372036854775807",
	"SET a 1 EX 10 PX 10", "SET a 1 EX 10 EX 20", "TTL a", "SET a 1 EX 10 KEEPTTL", "SET a 1 KEEPTTL EX 10", "SET a 1 NX XX",
	"SET a 1 XX NX", "SET a 1 EXAT 0", "SET a 1 EXAT 1", "GET a", "TTL a", "SET a 1 PXAT 1", "EXISTS a", "SET a 1 EXAT 9223372036854775807",
	"SET a 1 PX 0", "SET a 1 PX", "SET a 1 PXAT x", "SET a 1 px 100000", "PTTL a", "TTL a", "SET a 2 KEEPTTL", "TTL a", "SET a 3", "TTL a",
	"SET b 1 XX", "GET b", "SET b 1 NX", "SET b 2 NX", "GET b", "SET b 3 XX", "GET b", "SET b 4 GET", "SET new 4 GET", "GET new",
	"SET b 5 NX GET", "SET n2 5 NX GET", "GET n2", "GET b", "SET b 6 XX GET", "SET none 6 XX GET", "SET b 6 XX GET EX 100", "TTL b",
	"SET b _", "GET b", "STRLEN b", "EXISTS b", "SET a 1 EX 12345678901234567890", "SET a 1 EX +5", "SET a 1 EX 05", "SET b 1 GET NX XX",

	"SETEX a 100 v", "TTL a", "SETEX a 0 v", "SETEX a -5 v", "SETEX a x v", "SETEX a 100", "PSETEX a 100000 w", "GET a", "PTTL a",
	"PSETEX a 0 v", "PSETEX a x v", "SETNX a x", "SETNX fresh x", "SETNX fresh y", "GET fresh", "SETNX a", "GETDEL fresh", "GETDEL fresh",
	"GETDEL", "EXISTS fresh", "GETEX a", "GETEX a EX 200", "TTL a", "GETEX a PX 100000", "GETEX a PERSIST", "TTL a", "GETEX a EX",
	"GETEX a EX 0", "GETEX a FOO", "GETEX a EX x", "GETEX a EX 1 PERSIST", "GETEX none EX 10", "GETEX a EXAT 1", "GET a", "GETEX none",

	"MSET", "MSET a", "MSET a 1 b", "MSET a 1 b 2 c 3", "MGET a b c d", "MGET", "MSET a 1 a 2", "GET a", "MGET a a", "DEL", "DEL a",
	"DEL a", "DEL a b c c", "UNLINK x", "MSET a 1 b 2", "UNLINK a b b x", "EXISTS a b", "EXISTS", "MSET a 1 b 2", "EXISTS a a b x",
	"TYPE a", "TYPE none", "TYPE", "TTL none", "PTTL none", "TTL a", "PTTL a", "TTL", "STRLEN a", "STRLEN none", "STRLEN",

	"EXPIRE a 100", "TTL a", "EXPIRE none 100", "EXPIRE a x", "EXPIRE a", "EXPIRE a 9223372036854775807", "EXPIRE a 200 NX", "TTL a",
	"EXPIRE a 300 XX", "TTL a", "EXPIRE a 200 GT", "TTL a", "EXPIRE a 200 LT", "TTL a", "EXPIRE a 10 NX XX", "EXPIRE a 10 GT LT",
	"EXPIRE a 10 FOO", "PEXPIRE a 100000", "PTTL a", "PERSIST a", "PERSIST a", "PERSIST none", "TTL a", "EXPIRE a 100 XX",
	"EXPIRE a 100 GT", "EXPIRE a 100 NX", "TTL a", "PERSIST a", "EXPIRE a 100 LT", "EXPIRE a -1", "EXISTS a", "PEXPIRE b 0", "GET b",
	"PERSIST", "PEXPIRE",

	"INCR n", "INCR n", "GET n", "INCRBY n 10", "DECR n", "DECRBY n 5", "INCRBY n x", "INCRBY n", "INCRBY n 1.5",
	"INCRBY n 9223372036854775807", "SET n abc", "INCR n", "DECRBY n 1", "SET n 9223372036854775806", "INCR n", "INCR n", "GET n",
	"SET n -9223372036854775808", "DECR n", "DECRBY n -9223372036854775808", "INCRBY n -9223372036854775808", "SET n 9007199254740992",
	"INCR n", "INCR n", "SET n 1 EX 100", "INCR n", "TTL n", "SET n 01", "INCR n", "SET n _", "INCR n", "INCR", "DECR a b",
	"INCRBY n 12345678901234567890",

	"DEL s", "APPEND s abc", "APPEND s def", "GET s", "STRLEN s", "APPEND s 0123456789", "APPEND s 0123456789", "GET s", "STRLEN s",
	"APPEND s", "APPEND s2 _", "EXISTS s2", "APPEND s2 x", "GET s2", "SET s abc EX 100", "APPEND s d", "TTL s",

	"DEL a b c d n s s2 n2 new", "MSET k:1 a k:2 b other c", "KEYS *", "KEYS k:*", "KEYS nothing", "KEYS", "KEYS k:?", "KEYS [a-z]:1",
	"SCAN 0 COUNT 1000", "SCAN 0 COUNT 1000 MATCH k:*", "SCAN 0 COUNT 0", "SCAN x", "SCAN", "SCAN 0 COUNT", "SCAN 0 FOO 1",
	"SCAN 0 COUNT x", "SCAN 0 TYPE string COUNT 1000", "SCAN 0 COUNT 1000 TYPE list", "DBSIZE", "DBSIZE x",

	"SET _ v", "GET _", "EXISTS _", "APPEND _ w", "DEL _", "foo a\\x", "foo\tb \x00 a\x00b", "foo\r\nbar a\nb", "foo \xff\xfe",
	"foo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb cccccccccccccc d",
	"RESET", "GET k:1", "CLIENT GETNAME", "RESET x", "GET k:1", "QUIT",
}

func TestRepliesAreThoseOfRedis(t *testing.T) {
	for _, protocol := range []string{"2", "3"} {
		t.Run("RESP"+protocol, func(t *testing.T) {
			w := newTwins(t, protocol)
			big := strings.Repeat("0123456789", 100_000)
			for _, args := range [][]string{
				{"SET", "big", big}, {"GET", "big"}, {"MGET", "big", "big"}, {"APPEND", "big", big}, {"STRLEN", "big"}, {"GETDEL", "big"},
				{"ECHO", big}, {big}, {"GET", "big", big}, {"foo", big},
			} {
				w.same(args...)
			}
			for _, text := range scripted {
				args := line(text)
				for i, arg := range args {
					if arg == "_" {
						args[i] = ""
					}
				}
				w.same(args...)
			}
			require.Empty(t, w.direct.closed(), "QUIT closes")
			require.Empty(t, w.proxy.closed(), "QUIT closes")
		})
	}
}

// Keys of other types are Redis's business; ours is to let its answers through.
func TestKeysOfOtherTypesAreAnsweredAsRedisDoes(t *testing.T) {
	w := newTwins(t, "3")
	for _, args := range [][]any{{"RPUSH", "list", "a", "b"}, {"HSET", "hash", "f", "v"}, {"EXPIRE", "hash", "1000"}, {"SET", "text", "v"}} {
		w.behind.Do(args...)
	}
	w.direct.do("RPUSH", "list", "a", "b")
	w.direct.do("HSET", "hash", "f", "v")
	w.direct.do("EXPIRE", "hash", "1000")
	w.direct.do("SET", "text", "v")
	for _, text := range []string{
		"GET list", "STRLEN list", "TYPE list", "TYPE hash", "EXISTS list hash text none list", "MGET list text hash none", "TTL hash",
		"PTTL hash", "TTL list",
		"GETDEL list", "GETEX list", "GETEX list EX 10", "SET list v GET", "SET list v XX GET", "INCR list", "APPEND list x",
		"SETNX list x", "EXPIRE list 100", "TTL list", "PERSIST list", "TTL list",
		"SCAN 0 COUNT 1000 TYPE list", "SET list v NX", "TYPE list", "SET list v", "GET list", "DEL hash text none", "EXISTS hash", "TYPE hash",
	} {
		w.same(line(text)...)
	}
}

// Whatever is done to a few keys, in whatever order, is answered as Redis answers it.
func TestRandomCommandsAreAnsweredAsRedisDoes(t *testing.T) {
	t.Parallel() // there is a wait for each answer
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			w := newTwins(t, []string{"2", "3"}[seed%2])
			random := rand.New(rand.NewPCG(seed, 4))
			for range 1500 {
				w.same(randomCommand(random)...)
			}
		})
	}
}

func randomCommand(r *rand.Rand) []string {
	of := func(all ...string) string { return all[r.IntN(len(all))] }
	key := func() string { return of("a", "b", "c", "\x00aside:x", "\x01aside-http:") }
	value := func() string {
		return of("1", "-7", "text", "", "\x00aside:1n", "\x00aside:lock:x", "\x00aside", "\x01aside-http:t\nv",
			"\x01aside-http:", "1e", "\r\n", strings.Repeat("long", 1000), ":1n", "9007199254740993")
	}
	// None is over while the test runs: one of the two may see that sooner than the other.
	span := func() string { return of("100000", "200000", "5000000", "0", "-1", "x", "90000") }
	switch r.IntN(24) {
	case 0, 1:
		return []string{"GET", key()}
	case 2:
		return []string{"MGET", key(), key(), key()}
	case 3, 4, 5:
		args := []string{"SET", key(), value()}
		for range r.IntN(3) {
			switch option := of("NX", "XX", "GET", "KEEPTTL", "EX", "PX", "EXAT"); option {
			case "EX", "PX":
				args = append(args, option, span())
			case "EXAT":
				args = append(args, option, of("1", "3000000000", "x"))
			default:
				args = append(args, option)
			}
		}
		return args
	case 6:
		return []string{of("SETEX", "PSETEX"), key(), of("100000", "0", "x", "90000"), value()}
	case 7:
		return []string{"SETNX", key(), value()}
	case 8:
		return []string{"GETDEL", key()}
	case 9:
		return append([]string{"GETEX", key()}, [][]string{nil, {"PERSIST"}, {"EX", "100"}, {"EX", "x"}, {"PX", "90000"}}[r.IntN(5)]...)
	case 10:
		return []string{"MSET", key(), value(), key(), value()}
	case 11, 12:
		return []string{of("DEL", "UNLINK"), key(), key()}
	case 13:
		return []string{"EXISTS", key(), key()}
	case 14:
		return []string{"TYPE", key()}
	case 15:
		return []string{of("TTL", "PTTL"), key()}
	case 16:
		args := []string{of("EXPIRE", "PEXPIRE"), key(), of("100000", "90000", "-1", "x")}
		option := of("", "NX", "XX", "GT", "LT", "FOO")
		if _, err := strconv.ParseUint(args[2], 10, 64); err == nil && (option == "GT" || option == "LT") {
			// A span of its own: two of the same end together if they are set in the same millisecond, and only one of the two may see that.
			args[2] = fmt.Sprint(300_250 + 1000*r.IntN(1_000_000))
		}
		if option != "" {
			args = append(args, option)
		}
		return args
	case 17:
		return []string{"PERSIST", key()}
	case 18:
		return []string{of("INCR", "DECR"), key()}
	case 19:
		return []string{of("INCRBY", "DECRBY"), key(), of("1", "-5", "x", "9223372036854775807")}
	case 20, 21:
		return []string{"APPEND", key(), value()}
	case 22:
		return []string{"STRLEN", key()}
	default:
		return [][]string{{"KEYS", "*"}, {"nonsense"}, {"PING", value()}}[r.IntN(3)] // not DBSIZE, which in Redis counts what has expired
	}
}
