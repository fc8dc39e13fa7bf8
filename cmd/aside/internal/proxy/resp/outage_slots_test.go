package resp

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// nowhere is a Redis that is not there.
var nowhere = &rueidis.ClientOption{InitAddress: []string{unreachable}}

// What Redis would never do must not be kept, nor be answered as if it had been.
func TestKeysOfSeveralSlotsAreRefusedInAnOutageAsInRedis(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	store, c := newHastyStore(t, cluster.Addrs()[0], t.TempDir(), func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 5*time.Second, time.Minute })
	s, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: cluster.Addrs()}})
	p := dial(t, addr)
	eventually(t, "it is known to be a cluster", func() bool { return s.inCluster() })
	for i := range cluster.Addrs() {
		cluster.Node(i).Kill()
	}
	awaitMode(t, c, aside.Degraded)
	for _, text := range []string{"SET a 1", "SET b 2", "SET {a}b 3"} {
		require.Equal(t, "+OK", p.do(line(text)...), text)
	}
	for _, text := range []string{"RENAME a b", "RENAMENX a b", "COPY a b", "COPY a b REPLACE", "MSETNX a 1 b 1", "TOUCH a b", "RENAME unheard-of a", "COPY a b FOO"} {
		require.Equal(t, "-"+crossSlot, p.do(line(text)...), text)
	}
	require.Equal(t, "*2 $1 $2", p.do("MGET", "a", "b"), "the proxy divides it")
	require.Equal(t, ":2", p.do("EXISTS", "a", "b"))
	require.Equal(t, "+OK", p.do("RENAME", "a", "{a}b"))
	require.Equal(t, "$1", p.do("GET", "{a}b"))

	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("GET", "a"))
	require.Equal(t, "+QUEUED", p.do("GET", "{a}b"))
	require.Equal(t, "-"+crossSlot, p.do("GET", "b"))
	require.Contains(t, p.do("EXEC"), "-EXECABORT")
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "-"+crossSlot, p.do("MGET", "a", "b"))
	require.Equal(t, "+OK", p.do("DISCARD"))
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("GET", "{a}b"))
	require.Equal(t, "+QUEUED", p.do("MGET", "a", "{a}b"))
	require.Equal(t, "*2 $1 *2 $-1 $1", p.do("EXEC"))
}

// Clients that queue and never say EXEC hold no more than all requests may.
func TestHeldTransactionsCountAsWhatIsReceived(t *testing.T) {
	store, _ := newStore(t, unreachable, t.TempDir())
	store.LimitReceiving(1 << 20)
	_, addr := serve(t, store, Options{Redis: nowhere, MaxValueBytes: 400 << 10})
	value := strings.Repeat("v", 300<<10)
	first, second := dial(t, addr), dial(t, addr)
	for _, p := range []*peer{first, second} {
		require.Equal(t, "+OK", p.do("MULTI"))
	}
	require.Equal(t, "+QUEUED", first.do("SET", "k", value))
	require.Equal(t, "+QUEUED", second.do("SET", "k", value))
	require.Equal(t, "-"+tooMuchAtOnce, first.do("SET", "k", value), "a third has no room beside itself as it is received")
	require.Equal(t, "+QUEUED", first.do("SET", "k", "small"), "but what is small")
	require.Contains(t, first.do("EXEC"), "-EXECABORT")
	require.Equal(t, "*1 +OK", second.do("EXEC"))
	for _, end := range []string{"DISCARD", "RESET", "EXEC x", "QUIT"} {
		require.Equal(t, "+OK", first.do("MULTI"))
		require.Equal(t, "+QUEUED", first.do("SET", "k", value))
		first.do(line(end)...)
	}
	require.Equal(t, "+OK", second.do("MULTI"))
	require.Equal(t, "+QUEUED", second.do("SET", "k", value))
	require.NoError(t, second.Close())
	eventually(t, "all is given back", func() bool { return store.Receiving().Used() == 0 })
}

// What is no number is none whatever the key holds.
func TestWhatIsNoNumberIsSaidInAnOutageAsInRedis(t *testing.T) {
	bare := redistest.Start(t)
	store, _ := newStore(t, unreachable, t.TempDir())
	_, addr := serve(t, store, Options{Redis: nowhere})
	p, q := dial(t, addr), dial(t, bare.Addr())
	for _, known := range []string{"SET s 1", "DEL none"} {
		p.do(line(known)...)
		q.do(line(known)...)
	}
	for _, number := range []string{"x", "1x", "1 ", " 1", "1e", "--1", ".", "+", "1.5.", "0x", "0xg", "nan", "in", "1,5", "1\n", "1e5e"} {
		for _, args := range [][]string{{"HINCRBYFLOAT", "unheard-of", "f", number}, {"INCRBYFLOAT", "s", number}, {"INCRBYFLOAT", "none", number}} {
			require.Equal(t, "-"+noFloat, p.do(args...), "%q", args)
			require.Equal(t, "-"+noFloat, q.do(args...), "%q", args)
		}
		require.Contains(t, p.do("INCRBYFLOAT", "unheard-of", number), "-ASIDEDEGRADED", "it may hold a list")
	}
	for _, number := range []string{"0x10", "inf", "1e3", "+1", ".5", "1.", "", "1\x00"} {
		require.False(t, notFloat(number), "%q: so Redis must be asked", number)
	}
}
