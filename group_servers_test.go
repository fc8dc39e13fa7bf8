package aside_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/wire"
)

// What becomes of groups where servers lose their keys, are away in part, or are full.

// getTagged gets key with tags.
func getTagged(t testing.TB, c *aside.Client, key string, load aside.Loader[string], tags ...string) string {
	t.Helper()
	v, err := tagged(c, tags...).Get(testContext(t), time.Hour, key, load)
	require.NoError(t, err)
	return v
}

// While the shard of a tag's key is away, a value of another shard follows the rule for unverified
// memory: what was loaded less than DegradedTTL ago is served, unless this process has cleared the tag.
func TestATagWhoseShardIsAway(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	on := func(node int, name func(i int) string) string {
		for i := 0; ; i++ {
			if n := name(i); cluster.NodeOf(n) == node {
				return n
			}
		}
	}
	key := on(0, func(i int) string { return fmt.Sprint("k", i) })
	tag := strings.TrimSuffix(strings.TrimPrefix(on(1, func(i int) string { return wire.TagGroup(fmt.Sprint("t", i)) }), wire.GroupPrefix+"{"), "}:tag")
	clusterOf := func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }
	_, option := durable(t)
	a, b, ctx := newClient(t, "", hasty, clusterOf, option), newClient(t, "", hasty, clusterOf), testContext(t)
	unsure := newClient(t, "", hasty, clusterOf, forgetful)
	all := []*aside.Client{a, b, unsure}
	var db numbered
	get := func(c *aside.Client) string {
		t.Helper()
		v := getTagged(t, c, key, db.load, tag)
		awaitNobody(t, c) // who looks is told nothing where the tag's shard is away
		return v
	}
	for _, c := range all {
		require.Equal(t, "1", get(c))
		stored(t, c, key) // and in memory, also where Redis 6.0 has pushed what this has stored
	}
	cluster.Node(1).Freeze()
	for _, c := range all {
		awaitMode(t, c, aside.Degraded)
	}
	require.Equal(t, "1", get(a))
	require.Equal(t, "1", get(b))
	eventually(t, "nothing unverified is served here, once the lease is over", func() bool { return get(unsure) == "2" })
	eventually(t, "the others hear of it by the key's own shard", func() bool { return get(a) == "2" && get(b) == "2" })

	require.NoError(t, a.DelTags(ctx, tag), "it is kept")
	cleared := func() string {
		t.Helper()
		v := get(a)
		require.NotContains(t, []string{"1", "2"}, v, "it was cleared")
		return v
	}
	// What is read back from Redis counts by the time in its header, which may be too early by the error of the clock: what was
	// loaded so soon after the clearing is then loaded again. Redis 6.0 always has it read back, others where the lease has lapsed
	// on a machine that is busy.
	eventually(t, "what was loaded since it was cleared is kept", func() bool {
		first, second := cleared(), cleared()
		return first == second && second == cleared()
	})
	cluster.Node(1).Thaw()
	for _, c := range all {
		awaitMode(t, c, aside.Healthy)
	}
	eventually(t, "all agree", func() bool { v := get(a); return v == get(b) && v == get(unsure) })
	last := get(a)
	require.NotContains(t, []string{"1", "2"}, last, "it stays cleared")
	require.NoError(t, b.DelTags(ctx, tag))
	eventually(t, "all hear of a clearing", func() bool { return get(a) != last && get(b) != last && get(unsure) != last })
}

// A server that takes over and lacks the key of a group clears the group: it revives nothing.
func TestAServerThatTakesOverWithoutAGroupsKeyClears(t *testing.T) {
	t.Parallel()
	first := redistest.Start(t, redistest.WithReplication())
	proxy := faultproxy.New(t, first.Addr())
	a := newClient(t, proxy.Addr(), hasty)
	var db numbered
	require.Equal(t, "1", getTagged(t, a, "k", db.load, "x"))
	stored(t, a, "k")
	second := replicaOf(t, first)
	second.Do("REPLICAOF", "NO", "ONE")
	second.Do("DEL", wire.TagGroup("x"))
	require.Contains(t, second.Do("GET", "k"), wire.HeaderPrefix)
	b := newClient(t, second.Addr(), hasty)
	require.Equal(t, "2", getTagged(t, b, "k", db.load, "x"), "what the replica has of it is older than its group")
	stored(t, b, "k")
	require.Equal(t, "1", getTagged(t, a, "k", db.load, "x"), "it is not told of another server")
	proxy.SetUpstream(second.Addr())
	proxy.Reset()
	eventually(t, "it is noticed", func() bool { return a.Stats().Failovers == 1 })
	for _, c := range []*aside.Client{a, b} {
		require.Equal(t, "2", getTagged(t, c, "k", db.load, "x"))
	}
}

// A clearing that a failover has lost is done again by who has made it, once that has noticed.
func TestAClearingThatAFailoverHasLost(t *testing.T) {
	t.Parallel()
	for name, clearIt := range map[string]func(c *aside.Client, ctx context.Context) error{
		"DelTags":    func(c *aside.Client, ctx context.Context) error { return c.DelTags(ctx, "x") },
		"ExpireTags": func(c *aside.Client, ctx context.Context) error { return c.ExpireTags(ctx, "x") },
		"Clear":      func(c *aside.Client, ctx context.Context) error { return users(c, aside.Clearable()).Clear(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := redistest.Start(t, redistest.WithReplication())
			proxy := faultproxy.New(t, first.Addr())
			c, ctx := newClient(t, proxy.Addr(), hasty), testContext(t)
			var db numbered
			get := func(c *aside.Client) string {
				t.Helper()
				v, err := users(c, aside.Clearable(), aside.WithTags("x")).Get(ctx, time.Hour, "k", db.load)
				require.NoError(t, err)
				return v
			}
			require.Equal(t, "1", get(c))
			stored(t, c, "user:k")
			second := replicaOf(t, first)
			second.Do("REPLICAOF", "NO", "ONE")
			require.NoError(t, clearIt(c, ctx))
			require.Equal(t, "2", get(c))
			proxy.SetUpstream(second.Addr())
			proxy.Reset()
			// Until the failover is noticed, what is there may be served.
			eventually(t, "it is not served", func() bool { return get(c) != "1" && c.Stats().Failovers == 1 && get(c) != "1" })
			for range 100 {
				require.NotEqual(t, "1", get(c))
			}
			stored(t, c, "user:k")
			require.NotEqual(t, "1", get(newClient(t, second.Addr())), "others neither, by now")
		})
	}
}

// On a full server the state of a group may be missing, and none can be made: what belongs to the group
// is not served, nothing else suffers, and clearing works.
func TestAGroupOnAFullServer(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*aside.Options){"with memory": func(*aside.Options) {}, "untracked": untracked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			c, ctx := newClient(t, server.Addr(), change), testContext(t)
			var db numbered
			get := func(key string, tags ...string) string {
				t.Helper()
				v := getTagged(t, c, key, db.load, tags...)
				stored(t, c, key)
				return v
			}
			require.Equal(t, "1", get("k", "x"))
			require.Equal(t, "2", get("other", "y"))
			server.Do("CONFIG", "SET", "maxmemory", "1")
			t.Cleanup(func() { server.Do("CONFIG", "SET", "maxmemory", "0") })
			server.Do("DEL", wire.TagGroup("x"))
			eventually(t, "it is heard of", func() bool { return get("k", "x") != "1" })
			require.Equal(t, "2", get("other", "y"), "its group has a state")
			before := get("k", "x")
			require.NotEqual(t, before, get("k", "x"), "it cannot be stored")
			many, err := tagged(c, "x").GetMulti(ctx, time.Hour, []string{"k", "other"}, newSource("loaded").LoadMany)
			require.NoError(t, err)
			require.Equal(t, map[string]string{"k": "loaded", "other": "2"}, many)
			require.NoError(t, c.DelTags(ctx, "y"), "to delete needs no memory")
			require.NotEqual(t, "2", get("other", "y"))
			require.ErrorContains(t, tagged(c, "x").Set(ctx, time.Hour, "k", "set"), "refused by Redis")
			require.Equal(t, aside.Healthy, c.Health().Mode)

			server.Do("CONFIG", "SET", "maxmemory", "0")
			v := get("k", "x")
			require.NotEqual(t, before, v)
			require.Equal(t, v, get("k", "x"), "it is stored again")
		})
	}
}

// A server that evicts any key (allkeys-lru) may evict that of a group: what belongs to it is loaded
// anew, by everybody, and what was cleared stays so.
func TestAGroupsKeyThatIsEvictedClears(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.WithArgs("--maxmemory", "6mb", "--maxmemory-policy", "allkeys-lru"))
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	const n = 100
	version := 1
	get := func(c *aside.Client, i int) string {
		t.Helper()
		return getTagged(t, c, fmt.Sprint("k", i), func(context.Context, string) (string, error) { return fmt.Sprint(version), nil }, fmt.Sprint("t", i))
	}
	filled := 0
	// evict fills the server until the keys of some groups are evicted whose value is there still.
	evict := func() (orphans []int) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; {
			for range 200 {
				server.Do("SET", fmt.Sprint("filler", filled), strings.Repeat("x", 2000))
				filled++
			}
			orphans = orphans[:0]
			for i := range n {
				if server.Do("EXISTS", wire.TagGroup(fmt.Sprint("t", i))) == int64(0) && server.Do("EXISTS", fmt.Sprint("k", i)) == int64(1) {
					orphans = append(orphans, i)
				}
			}
			if len(orphans) > 0 {
				return orphans
			}
			require.True(t, time.Now().Before(deadline), "nothing is evicted")
			for i := range n { // those that have gone with their values come back
				get(a, i)
			}
		}
	}
	for i := range n {
		require.Equal(t, "1", get(a, i))
		stored(t, a, fmt.Sprint("k", i))
		require.Equal(t, "1", get(b, i))
	}
	orphans := evict()
	t.Logf("%d groups have lost their keys, and their values are there", len(orphans))
	version = 2
	for _, i := range orphans {
		for _, c := range []*aside.Client{a, b} {
			eventually(t, "it is loaded anew", func() bool { return get(c, i) == "2" })
			require.Equal(t, "2", get(c, i))
		}
	}
	version = 3
	for i := range n {
		require.NoError(t, a.DelTags(ctx, fmt.Sprint("t", i)))
	}
	version = 4
	evict()
	for i := range n {
		require.Equal(t, "4", get(a, i), "it was cleared, whatever was evicted since")
		eventually(t, "the other has heard of it", func() bool { return get(b, i) == "4" })
	}
}

// FLUSHALL takes the groups' keys, too: nothing is served that was there before, even if another program
// writes the very bytes again.
func TestAFlushClearsAllGroups(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	a, b, ctx := newClient(t, proxy.Addr(), hasty, option), newClient(t, server.Addr()), testContext(t)
	var db numbered
	view := func(c *aside.Client) *aside.TypedClient[string] {
		return users(c, aside.Clearable(), aside.WithTags("x"))
	}
	get := func(c *aside.Client) string {
		t.Helper()
		v, err := view(c).Get(ctx, time.Hour, "k", db.load)
		require.NoError(t, err)
		return v
	}
	agree := func(not ...string) (v string) {
		t.Helper()
		eventually(t, "they agree", func() bool {
			stored(t, a, "user:k")
			v = get(a)
			stored(t, b, "user:k")
			return get(b) == v
		})
		require.NotContains(t, not, v)
		return v
	}
	require.Equal(t, "1", get(a))
	require.Equal(t, "1", agree())
	bytes := server.Do("GET", "user:k")
	server.Do("FLUSHALL")
	eventually(t, "both have heard of it", func() bool { return get(a) != "1" && get(b) != "1" })
	second := agree("1")
	server.Do("SET", "user:k", bytes)
	eventually(t, "both have heard of it", func() bool { return get(a) != second && get(b) != second })
	third := agree("1", second)

	proxy.Refuse()
	awaitMode(t, a, aside.Degraded)
	require.NoError(t, view(a).Clear(ctx))
	require.NoError(t, view(a).Set(ctx, time.Hour, "k", "kept"))
	server.Do("FLUSHALL")
	proxy.Heal()
	awaitMode(t, a, aside.Healthy)
	eventually(t, "it is replayed", func() bool { return a.Stats().Pending == 0 })
	server.Do("SET", "user:k", bytes)
	agree("1", second, third, "kept")
}

// Tags are any text: the two keys of a tag are in one slot, or, where the tag leaves them no hash tag,
// reached all the same.
func TestTagsOfAnyTextOnACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	clusterOf := func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }
	a, b, ctx := newClient(t, "", clusterOf, patient), newClient(t, "", clusterOf, patient), testContext(t)
	texts := []string{"}", "{}", "{", "}{", "a}b", "{a}", "\x00", "\xff", "ü", " ", ":tag", strings.Repeat("x", wire.LongestTag)}
	var db numbered
	get := func(c *aside.Client, key string, tags ...string) string {
		t.Helper()
		v, err := aside.Typed(c, codec.String(), aside.WithTags(tags...), aside.WithGrace(time.Minute)).Get(ctx, time.Hour, key, func(context.Context, string) (string, error) {
			return fmt.Sprint(db.calls.Add(1)), nil
		})
		require.NoError(t, err)
		stored(t, c, key)
		return v
	}
	for i, tag := range texts {
		key := fmt.Sprint("k", i)
		was := get(a, key, tag)
		require.Equal(t, was, get(b, key, tag), "%q", tag)
		require.NoError(t, a.DelTags(ctx, tag))
		now := get(a, key, tag)
		require.NotEqual(t, was, now, "%q", tag)
		eventually(t, "the other has heard of it, and loads once more at most, where the clocks of two nodes leave open what came first", func() bool {
			now = get(b, key, tag)
			return now != was && get(a, key, tag) == now
		})
		require.NoError(t, b.ExpireTags(ctx, tag))
		require.Equal(t, now, get(b, key, tag), "%q: it is served while it is refreshed", tag)
		eventually(t, "it is refreshed", func() bool { return get(b, key, tag) != now && get(a, key, tag) != now })
	}
	all := get(b, "all", texts...)
	for _, tag := range texts {
		require.Equal(t, all, get(b, "all"))
		require.NoError(t, b.DelTags(ctx, tag))
		next := get(b, "all", texts...)
		require.NotEqual(t, all, next, "%q", tag)
		all = next
	}
}
