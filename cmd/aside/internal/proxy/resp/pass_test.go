package resp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// passOn serves a proxy that passes on what it does not serve.
func passOn(t testing.TB, addr string, deny ...string) string {
	t.Helper()
	store, c := newStore(t, addr, t.TempDir())
	awaitMode(t, c, aside.Healthy)
	_, served := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{addr}}, Deny: deny})
	return served
}

func TestOtherTypesPass(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr()))
	require.Equal(t, ":1", p.do("HSET", "h", "f", "v"))
	require.Contains(t, p.do("INFO", "commandstats"), "cmdstat_hset:calls=1,")
	require.NotContains(t, p.do("INFO", "server"), server.Version(), "it is about the proxy")
	require.Equal(t, "*2 $f $v", p.do("HGETALL", "h"))
	require.Equal(t, "$v", p.do("HGET", "h", "f"))
	require.Contains(t, p.do("GET", "h"), "WRONGTYPE")
	p.do("HELLO", "3")
	require.Equal(t, "%1 $f $v", p.do("HGETALL", "h"))
}

// A relapse would write keys of the proxy's own, and leave in memory what was overwritten.
func TestEachSTOREOfACommandNamesAKey(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr()))
	require.Equal(t, ":1", p.do("GEOADD", "src", "1", "1", "m"))
	within := []string{"GEORADIUS", "src", "1", "1", "100", "km"}
	for _, text := range []string{"STORE a STORE aside:x", "STORE STOREDIST STOREDIST aside:x", "store a storedist b store aside:x"} {
		require.Contains(t, p.do(append(within[:6:6], line(text)...)...), "-ERR keys that begin with aside:", text)
		require.Equal(t, "none", server.Do("TYPE", "aside:x"))
	}
	for i := range 100 { // what Redis pushes is too late for some
		key := fmt.Sprint("k", i)
		require.Equal(t, "+OK", p.do("SET", key, "v"))
		require.Equal(t, "$v", p.do("GET", key))
		require.Equal(t, ":1", p.do(append(within[:6:6], "STORE", "a", "STORE", key)...))
		require.Contains(t, p.do("GET", key), "-WRONGTYPE")
	}
}

// A relapse would have all wait for one.
func TestAGroupMayHaveTheNameOfAnOption(t *testing.T) {
	server := redistest.Start(t)
	addr := passOn(t, server.Addr())
	waits, other := dial(t, addr), dial(t, addr)
	require.Equal(t, "+OK", waits.do("XGROUP", "CREATE", "s", "streams", "$", "MKSTREAM"))
	require.Equal(t, ":1", other.do("HSET", "h", "f", "v"))
	waits.send(encoded("XREADGROUP", "GROUP", "streams", "c", "BLOCK", "0", "STREAMS", "s", ">"))
	eventually(t, "it waits", func() bool { return strings.Contains(server.Do("INFO", "clients").(string), "blocked_clients:1") })
	require.Equal(t, "$v", other.do("HGET", "h", "f"))
	require.Contains(t, other.do("XADD", "s", "1-1", "f", "v"), "$1-1")
	require.Contains(t, waits.reply(), "$1-1")
}

func TestABITFIELDThatOnlyReadsLeavesNoStamp(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr()))
	server.Do("SET", "k", "abc")
	require.Equal(t, "*1 :97", p.do("BITFIELD", "k", "GET", "u8", "0"))
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("BITFIELD", "k", "GET", "u8", "0"))
	require.Equal(t, "*1 *1 :97", p.do("EXEC"))
	require.Empty(t, server.Do("KEYS", "aside:stamps:*"))
	require.Equal(t, "*1 :97", p.do("BITFIELD", "k", "set", "u8", "0", "98"))
	require.Len(t, server.Do("KEYS", "aside:stamps:*"), 1)
}

// A connection to what was the primary stays, if what stands between moves new ones only.
func TestPassedOnCommandsFollowThePrimary(t *testing.T) {
	before, after := redistest.Start(t), redistest.Start(t)
	between := faultproxy.New(t, before.Addr())
	p := dial(t, passOn(t, between.Addr()))
	require.Equal(t, ":1", p.do("HSET", "h", "f", "v"))
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "*0", p.do("EXEC"))
	between.SetUpstream(after.Addr())
	host, port, _ := strings.Cut(after.Addr(), ":")
	before.Do("REPLICAOF", host, port)
	eventually(t, "they reach the new one", func() bool { p.do("HSET", "h", "g", "v"); return after.Do("HGET", "h", "g") == "v" })
	eventually(t, "transactions, too", func() bool {
		p.do("MULTI")
		p.do("HSET", "h", "t", "v")
		p.do("EXEC")
		return after.Do("HGET", "h", "t") == "v"
	})
}

// A relapse would end the connection that clients share.
func TestALineThatIsTooLongCostsItsOwnCommandOnly(t *testing.T) {
	p := dial(t, passOn(t, redistest.Start(t).Addr()))
	long := "return redis.status_reply(string.rep('x', 2000000))"
	p.send(encoded("HSET", "h", "f", "v") + encoded("EVAL", long, "0") + encoded("HGET", "h", "f"))
	require.Equal(t, ":1", p.reply())
	require.Contains(t, p.reply(), "-ASIDEBUSY Redis has done this")
	require.Equal(t, "$v", p.reply())
}

func TestCategoriesAreDeniedOfWhatGetsAConnectionOfItsOwn(t *testing.T) {
	server := redistest.Start(t)
	for deny, texts := range map[string][]string{
		"@transaction": {"MULTI", "WATCH k"}, "@pubsub": {"SUBSCRIBE a", "PSUBSCRIBE a"}, "client|tracking": {"CLIENT TRACKING ON"}, "unwatch": {"UNWATCH"}, "@connection": {"CLIENT TRACKING ON"},
	} {
		addr := passOn(t, server.Addr(), deny)
		for _, text := range texts {
			p := dial(t, addr)
			require.Contains(t, p.do(line(text)...), "-NOPERM", text)
			require.Equal(t, text == "MULTI", strings.Contains(p.do("SET", "k", "v"), "was not done"), text)
			p.Close()
		}
	}
}

func TestADeniedEXECDoesNothing(t *testing.T) {
	p := dial(t, passOn(t, redistest.Start(t).Addr(), "exec"))
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("SET", "k", "v"))
	require.Contains(t, p.do("EXEC"), "-NOPERM")
	require.Equal(t, "+OK", p.do("DISCARD"))
	require.Equal(t, "$-1", p.do("GET", "k"))
}

func TestCOPYStaysInTheDatabase(t *testing.T) {
	server := redistest.Start(t)
	p := dial(t, passOn(t, server.Addr()))
	if server.Do("SET", "a", "v"); strings.HasPrefix(server.Version(), "6.0") {
		return // there is no COPY
	}
	require.Equal(t, "-ERR DB index is out of range", p.do("COPY", "a", "b", "DB", "1"))
	require.Equal(t, "-ERR DB index is out of range", p.do("COPY", "a", "b", "REPLACE", "db", "1"))
	require.Equal(t, ":1", p.do("COPY", "a", "b", "DB", "0"))
	require.Equal(t, "$v", p.do("GET", "b"))
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "-ERR DB index is out of range", p.do("COPY", "a", "c", "DB", "1"))
	require.Equal(t, "-"+execAbort, p.do("EXEC"))
}
