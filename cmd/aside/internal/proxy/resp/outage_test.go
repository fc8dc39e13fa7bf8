package resp

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// Redis away and back.

func awaitMode(t testing.TB, c *aside.Client, mode aside.Mode) {
	t.Helper()
	eventually(t, "it is "+mode.String(), func() bool { return c.Health().Mode == mode })
}

func TestAWriteSurvivesRedisAndTheProxy(t *testing.T) {
	server, dir := redistest.Start(t), filepath.Join(t.TempDir(), "fallback")
	store, c := newStore(t, server.Addr(), dir)
	first, addr := serve(t, store, Options{})
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("MSET", "hot", "1", "deleted", "2", "cold", "3"))
	require.Equal(t, "$1", p.do("GET", "hot"))
	require.Equal(t, "$2", p.do("GET", "deleted"))
	require.Equal(t, ":1", p.do("DEL", "cold", "cold"))

	server.Kill()
	awaitMode(t, c, aside.Degraded)
	require.Equal(t, "$1", p.do("GET", "hot"), "from memory")
	require.Equal(t, ":1", p.do("EXISTS", "hot"))
	require.Equal(t, "+string", p.do("TYPE", "hot"))
	require.Equal(t, ":-1", p.do("TTL", "hot"))
	require.Equal(t, ":1", p.do("STRLEN", "hot"))
	require.Equal(t, "+OK", p.do("SET", "new", "v"))
	require.Equal(t, "+OK", p.do("SET", "short", "v", "EX", "1000"))
	require.Equal(t, "+OK", p.do("SETEX", "short2", "1000", "v"))
	require.Equal(t, "+OK", p.do("MSET", "m1", "v", "m2", "w"))
	requireTTL(t, 1000, p.do("TTL", "short"))
	require.Equal(t, "$v", p.do("GET", "new"))
	require.Equal(t, "*2 $v $w", p.do("MGET", "m1", "m2"))
	require.Equal(t, ":1", p.do("DEL", "deleted", "unheard-of"), "it counts those of which it is known")
	require.Equal(t, "$-1", p.do("GET", "deleted"))
	require.Equal(t, "$-1", p.do("GET", "unheard-of"), "deleted here")
	require.Equal(t, ":0", p.do("EXISTS", "deleted"))
	require.Equal(t, "+none", p.do("TYPE", "deleted"))
	for _, text := range []string{
		"GET never-seen", "MGET hot never-seen", "EXISTS hot never-seen", "TTL never-seen", "PTTL never-seen", "STRLEN never-seen",
		"TYPE never-seen", "GETEX never-seen",
		"INCR hot", "DECRBY hot 2", "APPEND hot x", "SETNX hot x", "SET hot x NX", "SET hot x GET", "SET hot x KEEPTTL", "GETDEL hot",
		"GETEX hot EX 10", "EXPIRE hot 10",
		"PERSIST hot", "SCAN 0", "KEYS *", "DBSIZE",
	} {
		require.Contains(t, p.do(line(text)...), "-ASIDEDEGRADED Redis is away", text)
	}
	require.Equal(t, "$1", p.do("GET", "hot"), "nothing has changed it")
	require.Contains(t, p.do("INFO", "aside"), "aside_mode:degraded")

	// The proxy ends; the next one starts without Redis.
	require.NoError(t, first.Close())
	require.NoError(t, c.Close())
	store, c = newStore(t, server.Addr(), dir)
	_, addr = serve(t, store, Options{})
	p = dial(t, addr)
	require.Equal(t, "*4 $v $v $v $w", p.do("MGET", "new", "short", "m1", "m2"))
	require.Equal(t, "$-1", p.do("GET", "deleted"))
	require.Contains(t, p.do("GET", "hot"), "-ASIDEDEGRADED")

	server.RestartKeepingData()
	awaitMode(t, c, aside.Healthy)
	require.Equal(t, "v", server.Do("GET", "new"))
	require.Equal(t, "w", server.Do("GET", "m2"))
	require.Nil(t, server.Do("GET", "deleted"))
	require.Equal(t, "$1", p.do("GET", "hot"))
	require.Equal(t, ":2", p.do("INCR", "hot"))
	require.Equal(t, ":-1", p.do("TTL", "new"))
	ttl, ok := server.Do("TTL", "short").(int64)
	require.True(t, ok)
	require.InDelta(t, 1000, ttl, 30)
}

// Without a fallback directory a write is not durable, and that is no success.
func TestAWriteThatIsInMemoryOnlySaysSo(t *testing.T) {
	store, _ := newStore(t, unreachable, "")
	_, addr := serve(t, store, Options{})
	p := dial(t, addr)
	for _, text := range []string{"SET a 1", "SETEX a 10 1", "DEL a", "SET a 1"} {
		require.Contains(t, p.do(line(text)...), "-ASIDEDEGRADED Redis is away and there is no fallback directory: kept in memory only", text)
	}
	require.Regexp(t, `^-ASIDEDEGRADED .* \(2 of 2 keys\)$`, p.do("MSET", "b", "1", "c", "2"))
	require.Equal(t, "$1", p.do("GET", "a"), "it is in memory")
}

func TestAFullFallbackDirectorySaysSo(t *testing.T) {
	store, _ := newHastyStore(t, unreachable, t.TempDir(), func(o *aside.Options) { o.Fallback = fallback.Options{MaxBytes: 2 << 20} })
	_, addr := serve(t, store, Options{})
	p := dial(t, addr)
	require.Contains(t, p.do("SET", "a", strings.Repeat("x", 3<<20)), "-ASIDEFULL")
	require.Equal(t, "+OK", p.do("SET", "a", "x"))
}

// Redis hangs in the middle of it: what may have been done is not called undone.
func TestACommandThatRedisDoesNotAnswerIsOfUnknownOutcome(t *testing.T) {
	server := redistest.Start(t)
	store, c := newHastyStore(t, server.Addr(), t.TempDir(), func(o *aside.Options) { o.RedisTimeout, o.LockTTL = time.Second, 10*time.Second })
	_, addr := serve(t, store, Options{})
	p := dial(t, addr)
	require.Equal(t, ":1", p.do("INCR", "n"))
	server.Freeze()
	require.Contains(t, p.do("INCR", "n"), "-ASIDEUNKNOWN")
	awaitMode(t, c, aside.Degraded)
	require.Contains(t, p.do("INCR", "n"), "-ASIDEDEGRADED")
	server.Thaw()
	awaitMode(t, c, aside.Healthy)
	require.Contains(t, []string{":2", ":3"}, p.do("INCR", "n"))
}

// Redis hangs, and Options.RequestTimeout is over before the library has given it up.
func TestTheTimeForOneCommandIsBounded(t *testing.T) {
	server := redistest.Start(t)
	_, c := newStore(t, server.Addr(), "") // which waits for 5 seconds
	sequential := proxy.NewStore(c, 1)
	_, patient := serve(t, sequential, Options{})
	_, impatient := serve(t, sequential, Options{RequestTimeout: 200 * time.Millisecond})
	free := proxy.NewStore(c, 0)
	_, calm := serve(t, free, Options{})
	_, beside := serve(t, free, Options{RequestTimeout: 200 * time.Millisecond})
	first, second, third := dial(t, patient), dial(t, impatient), dial(t, beside)
	require.Equal(t, ":1", first.do("INCR", "a"))
	require.Equal(t, ":1", dial(t, calm).do("INCR", "c")) // the connection for it stands
	server.Freeze()
	first.send(encoded("INCR", "a"))
	eventually(t, "it is not the second's turn", func() bool { return strings.HasPrefix(second.do("GET", "none"), "-ASIDEBUSY") })
	require.Contains(t, third.do("GET", "none"), "-ASIDETIMEOUT")
	require.Contains(t, third.do("INCR", "b"), "-ASIDEUNKNOWN")
	server.Thaw()
	require.Equal(t, ":2", first.reply())
}

// A value that HTTP has put has a content type. What changes it here goes on as if it had none, and
// keeps it.
func TestAContentTypeSurvivesAppendAndIncr(t *testing.T) {
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), "")
	_, addr := serve(t, store, Options{})
	p, ctx := dial(t, addr), testContext(t)
	typed := func(key, want string) {
		t.Helper()
		v, err := store.Get(ctx, key)
		require.NoError(t, err)
		require.Equal(t, want, v.Data)
		require.Equal(t, "text/plain", v.ContentType)
	}
	for key, value := range map[string]string{"n": "41", "s": "short", "l": strings.Repeat("long", 100), "x": "9223372036854775807"} {
		require.NoError(t, store.Set(ctx, key, proxy.Value{Data: value, ContentType: "text/plain", TTL: time.Hour}))
	}
	require.Equal(t, ":42", p.do("INCR", "n"))
	require.Equal(t, ":32", p.do("DECRBY", "n", "10"))
	typed("n", "32")
	require.Equal(t, "$32", p.do("GET", "n"))
	require.Equal(t, ":2", p.do("STRLEN", "n"))
	requireTTL(t, 3600, p.do("TTL", "n"))
	require.Equal(t, ":6", p.do("APPEND", "s", "!"))
	typed("s", "short!")
	require.Equal(t, ":402", p.do("APPEND", "l", "!!"))
	typed("l", strings.Repeat("long", 100)+"!!")
	require.Equal(t, "-ERR increment or decrement would overflow", p.do("INCR", "x"))
	require.Equal(t, "-"+notInteger, p.do("INCR", "s"))
	require.Equal(t, "$short!", p.do("SET", "s", "plain", "GET"))
	v, err := store.Get(ctx, "s")
	require.NoError(t, err)
	require.Empty(t, v.ContentType, "what is set here has none")
}

// What the library keeps in a key while nobody knows its value, or that there is none, is nothing
// to others.
func TestMarkersOfTheLibraryAreNoValues(t *testing.T) {
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), "")
	_, addr := serve(t, store, Options{})
	p := dial(t, addr)
	for _, marker := range []string{"\x00aside:1n", "\x00aside:lock:01890000-0000-7000-8000-000000000000:1:0000000000000001", "\x00aside:9z"} {
		for text, want := range map[string]string{
			"GET k": "$-1", "EXISTS k": ":0", "TYPE k": "+none", "TTL k": ":-2", "STRLEN k": ":0", "DEL k": ":0", "MGET k k": "*2 $-1 $-1",
			"GETDEL k": "$-1", "GETEX k EX 10": "$-1",
			"SETNX k v": ":1", "SET k v NX": "+OK", "SET k v XX": "$-1", "SET k v GET": "$-1", "INCR k": ":1", "APPEND k v": ":1",
			"EXPIRE k 10": ":0", "PERSIST k": ":0",
		} {
			server.Do("SET", "k", marker, "PX", "100000")
			require.Equal(t, want, p.do(line(text)...), "%s of %q", text, marker)
			server.Do("DEL", "k")
		}
	}
}

// What has no end is stored with one far away; no command may tell.
func TestAKeyWithoutEndHasNone(t *testing.T) {
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), "")
	_, addr := serve(t, store, Options{})
	p := dial(t, addr)
	for text, want := range map[string]string{
		"TTL k": ":-1", "PERSIST k": ":0", "EXPIRE k 100 NX": ":1", "EXPIRE k 100 XX": ":0", "EXPIRE k 100 GT": ":0", "EXPIRE k 100 LT": ":1",
	} {
		require.Equal(t, "+OK", p.do("SET", "k", "v"))
		require.Equal(t, want, p.do(line(text)...), text)
	}
}

func TestTheLibrarysOwnKeysAreNotListed(t *testing.T) {
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), "")
	_, addr := serve(t, store, Options{})
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("SET", "k", "v"))
	require.EqualValues(t, 4, server.Do("DBSIZE"), "the key, its stamp, that of the probes, and that which a flush takes along")
	require.Equal(t, ":1", p.do("DBSIZE"))
	require.Equal(t, "*1 $k", p.do("KEYS", "*"))
	require.Equal(t, "*0", p.do("KEYS", "aside:*"))
	require.Equal(t, "*2 $0 *0", p.do("SCAN", "0", "COUNT", "1000", "MATCH", "aside:*"))
}

func TestAClusterIsNotListed(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	store, c := newStore(t, cluster.Addrs()[0], "")
	_, addr := serve(t, store, Options{})
	awaitMode(t, c, aside.Healthy)
	p := dial(t, addr)
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		require.Equal(t, "+OK", p.do("SET", key, "1"))
		require.Equal(t, ":2", p.do("INCR", key))
		require.Equal(t, ":2", p.do("APPEND", key, "0"))
		require.Equal(t, ":1", p.do("EXPIRE", key, "1000"))
	}
	require.Equal(t, "*6 $20 $20 $20 $20 $20 $20", p.do("MGET", "a", "b", "c", "d", "e", "f"))
	require.Equal(t, ":6", p.do("DEL", "a", "b", "c", "d", "e", "f", "g"))
	for _, text := range []string{"SCAN 0", "KEYS *", "DBSIZE"} {
		require.Contains(t, p.do(line(text)...), "is not served for a Redis Cluster", text) // as nothing is passed on here
	}
}

// What has changed nothing leaves no stamp, or what another proxy has acknowledged while it was cut
// off would look older than it.
func TestWhatChangesNothingLeavesNoStamp(t *testing.T) {
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), t.TempDir())
	_, addr := serve(t, store, Options{})
	p := dial(t, addr)
	server.Do("SET", "k", "v", "EX", "100")
	for _, text := range []string{
		"SETNX k x", "SET k x NX", "SET k x NX GET", "SET absent x XX", "SET absent x XX GET", "EXPIRE absent 10", "EXPIRE k 10 NX", "PERSIST absent",
		"GETDEL absent", "GETEX absent PX 1000", "TYPE k",
	} {
		p.do(line(text)...)
		require.Empty(t, server.Do("KEYS", "aside:stamps:*"), text)
	}
	for i, text := range []string{"SETNX a x", "SET b x NX GET", "SET c x GET", "INCR d", "APPEND e x", "EXPIRE k 10"} {
		p.do(line(text)...)
		require.Len(t, server.Do("KEYS", "aside:stamps:*"), i+1, text)
	}
}

// While writes wait to be replayed nobody can list the keys.
func TestKeysAreNotListedBeforeTheReplayIsOver(t *testing.T) {
	server := redistest.Start(t)
	through := faultproxy.New(t, server.Addr())
	store, c := newHastyStore(t, through.Addr(), t.TempDir(), func(o *aside.Options) { o.ReplayRate = 1 })
	_, addr := serve(t, store, Options{})
	p := dial(t, addr)
	through.Refuse()
	awaitMode(t, c, aside.Degraded)
	for i := range 5 {
		require.Equal(t, "+OK", p.do("SET", fmt.Sprint("k", i), "v"))
	}
	through.Heal()
	awaitMode(t, c, aside.Recovering)
	for _, text := range []string{"DBSIZE", "KEYS *", "SCAN 0"} {
		require.Contains(t, p.do(line(text)...), "-ASIDEDEGRADED", text)
	}
	for i := range 5 { // a read of a key replays it
		require.Equal(t, "$v", p.do("GET", fmt.Sprint("k", i)))
	}
	require.Equal(t, ":5", p.do("DBSIZE"))
}

// Not only what was read: a cache that has just written a value has it, until nobody can tell any
// more whether it is still right.
func TestWhatWasWrittenWhileRedisWasWellIsServedWhenItDies(t *testing.T) {
	server := redistest.Start(t)
	const degradedTTL = 3 * time.Second
	store, client := newHastyStore(t, server.Addr(), t.TempDir(), func(o *aside.Options) {
		o.RedisTimeout, o.LockTTL, o.ReadBack, o.DegradedTTL = time.Second, time.Minute, true, degradedTTL
	})
	_, addr := serve(t, store, Options{})
	p := dial(t, addr)
	for _, text := range []string{
		"SET set 1", "SET ex 2 EX 100", "SETEX setex 100 3", "PSETEX psetex 100000 4", "MSET m1 5 m2 6", "SETNX nx 7", "SET setnx 8 NX", "SET got 9 GET", "INCR incr", "INCRBY incrby 11",
		"APPEND append 12", "SET kept 13 EX 100", "SET kept 14 KEEPTTL", "SET lives 15", "EXPIRE lives 1000", "SET stays 16 EX 100", "PERSIST stays",
		"SET twice 0", "SET twice 17", "DEL gone", "SET gone 0", "GETDEL gone",
	} {
		require.False(t, strings.HasPrefix(p.do(line(text)...), "-"), text)
	}
	server.Kill()
	eventually(t, "it is noticed", func() bool { return client.Health().Mode == aside.Degraded })
	noticed := time.Now()
	for key, value := range map[string]string{
		"set": "1", "ex": "2", "setex": "3", "psetex": "4", "m1": "5", "m2": "6", "nx": "7", "setnx": "8", "got": "9", "incr": "1", "incrby": "11", "append": "12", "kept": "14", "lives": "15",
		"stays": "16", "twice": "17",
	} {
		if answer := p.do("GET", key); time.Since(noticed) < degradedTTL/2 {
			require.Equal(t, "$"+value, answer, key)
		}
	}
	require.Contains(t, p.do("GET", "gone"), "-ASIDEDEGRADED", "somebody may have set it since")
	require.Equal(t, "+OK", p.do("SET", "ex", "new", "EX", "100"))
	eventually(t, "others may have changed it", func() bool { return strings.HasPrefix(p.do("GET", "set"), "-ASIDEDEGRADED") })
	require.Equal(t, "$new", p.do("GET", "ex"), "what was written meanwhile is served on")
}
