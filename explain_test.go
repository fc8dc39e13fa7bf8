package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

func explain(t testing.TB, c *aside.Client, key string, options ...aside.ExplainOption) aside.Explanation {
	t.Helper()
	x, err := c.Explain(testContext(t), key, options...)
	require.NoError(t, err)
	return x
}

func TestAKeyIsExplained(t *testing.T) {
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)

	x := explain(t, a, "k")
	require.Equal(t, "k", x.Key)
	require.WithinDuration(t, time.Now(), x.At, patience)
	require.Equal(t, aside.Healthy, x.Mode)
	require.True(t, x.Redis.Asked)
	require.NoError(t, x.Redis.Err)
	require.Equal(t, "nothing", x.Redis.Holds)
	require.Nil(t, x.Memory)
	require.Nil(t, x.Stamp)
	require.Nil(t, x.Lock)
	require.Nil(t, x.Refresh)
	require.Nil(t, x.Pending)
	require.Nil(t, x.LastLoad)
	require.Nil(t, x.LastError)
	require.Nil(t, x.Value)
	require.False(t, x.Loading)

	require.NoError(t, b.Set(ctx, time.Minute, "k", "hello"))
	x = explain(t, a, "k")
	require.Equal(t, "value", x.Redis.Holds)
	require.Equal(t, "string", x.Redis.Type)
	require.EqualValues(t, 5, x.Redis.Bytes)
	require.InDelta(t, time.Minute, x.Redis.TTL, float64(patience))
	require.Nil(t, x.Value, "nobody has asked for it")
	require.Equal(t, explain(t, b, "k").Client, x.Stamp.By)
	require.NotEqual(t, x.Client, x.Stamp.By)
	require.False(t, x.Stamp.Ours)
	require.False(t, x.Stamp.Deleted)
	require.EqualValues(t, 1, x.Stamp.Number)
	require.WithinDuration(t, time.Now(), x.Stamp.At, patience)
	require.WithinDuration(t, time.Now().Add(time.Minute), x.Stamp.Ends, patience)
	require.True(t, explain(t, b, "k").Stamp.Ours)
	require.Equal(t, "hello", *explain(t, a, "k", aside.ExplainValue()).Value)

	require.NoError(t, a.Set(ctx, 2*aside.LongestTTL, "k", "for ever"))
	require.Negative(t, explain(t, a, "k").Redis.TTL)
	require.True(t, explain(t, a, "k").Stamp.Ours)
	require.NoError(t, a.Del(ctx, "k"))
	x = explain(t, a, "k")
	require.Equal(t, "nothing", x.Redis.Holds)
	require.True(t, x.Stamp.Deleted)
	require.Zero(t, x.Stamp.Ends)

	_, err := a.Get(ctx, time.Minute, "absent", func(context.Context, string) (string, error) { return "", aside.ErrNotFound })
	require.ErrorIs(t, err, aside.ErrNotFound)
	stored(t, a, "absent")
	x = explain(t, a, "absent", aside.ExplainValue())
	require.Equal(t, "absence", x.Redis.Holds)
	require.True(t, x.LastLoad.NotFound)
	require.Empty(t, x.LastLoad.Err)
	require.Nil(t, x.Value)

	server.Do("HSET", "hash", "f", "v")
	x = explain(t, a, "hash", aside.ExplainValue())
	require.Equal(t, "other", x.Redis.Holds)
	require.Equal(t, "hash", x.Redis.Type)
	server.Do("SET", "newer", "\x00aside:9?")
	require.Equal(t, "unreadable", explain(t, a, "newer").Redis.Holds)
	server.Do("SET", "headed", wire.PackHeader(wire.Header{Began: 1_795_000_000_000_000, TTL: time.Minute, Grace: time.Hour, Took: time.Second, Version: 3, Prefix: wire.Prefixed{Length: 2}, Tags: []wire.Tag{{Name: "a"}, {Name: "b"}}}, "the value"))
	x = explain(t, a, "headed", aside.ExplainValue())
	require.Equal(t, "value", x.Redis.Holds)
	require.Equal(t, &aside.HeaderExplanation{
		Began: time.UnixMicro(1_795_000_000_000_000), TTL: time.Minute, Grace: time.Hour, Took: time.Second, Version: 3, Prefix: 2, Tags: []string{"a", "b"}, Groups: "cleared", Changed: []string{"prefix he", "tag a", "tag b"},
	}, x.Redis.Header)
	require.Equal(t, "the value", *x.Value)
	server.Do("SET", "empty", "")
	require.Equal(t, "value", explain(t, a, "empty").Redis.Holds)
	require.Empty(t, *explain(t, a, "empty", aside.ExplainValue()).Value)
	server.Do("SET", "theirs", "rueidisid:01HZXK3V9Q8Y6T5R4E3W2Q1AZS", "PX", 60_000)
	x = explain(t, a, "theirs")
	require.Equal(t, "lock", x.Redis.Holds)
	require.True(t, x.Redis.ForeignLock)
	require.Empty(t, x.Lock.By)
	server.Do("SET", "long", strings.Repeat("x", 3<<20))
	x = explain(t, a, "long", aside.ExplainValue())
	require.EqualValues(t, 3<<20, x.Redis.Bytes)
	require.Len(t, *x.Value, 1<<20)
}

func TestWhoLoadsAKeyIsExplained(t *testing.T) {
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	db := newSource("v")
	letGo := db.HoldUp()
	got := inBackground(func() (string, error) { return b.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	x := explain(t, a, "k")
	require.Equal(t, "lock", x.Redis.Holds)
	require.False(t, x.Lock.Ours)
	require.NotEmpty(t, x.Lock.By)
	require.WithinDuration(t, time.Now(), x.Lock.Made, patience)
	require.GreaterOrEqual(t, x.Lock.Age, time.Duration(0))
	require.Less(t, x.Lock.Age, patience)
	require.Positive(t, x.Lock.Left)
	require.False(t, x.Loading)
	x = explain(t, b, "k")
	require.True(t, x.Lock.Ours)
	require.True(t, x.Loading)
	letGo()
	require.NoError(t, await(t, got).Err)
	stored(t, b, "k")
	x = explain(t, b, "k")
	require.False(t, x.Loading)
	require.Nil(t, x.Lock)
	require.Equal(t, "value", x.Redis.Holds)
	require.Nil(t, x.Stamp, "a load leaves none")
	require.Equal(t, 1, x.LastLoad.Keys)
	require.Nil(t, explain(t, a, "k").LastLoad, "it was another process's")

	broken := errors.New(strings.Repeat("the database is away; ", 20))
	_, err := b.Get(ctx, time.Minute, "bad", func(context.Context, string) (string, error) { return "", broken })
	require.ErrorIs(t, err, broken)
	x = explain(t, b, "bad")
	require.Nil(t, x.LastLoad)
	require.Contains(t, x.LastError.Err, "the database is away")
	require.Less(t, len(x.LastError.Err), 250)
	require.WithinDuration(t, time.Now(), x.LastError.At, patience)
}

// What a refresh holds stands beside the key, and in its own state after a failure.
func TestARefreshIsExplained(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	require.NoError(t, c.Set(ctx, fresh, "k", "v"))
	makeStale(t, server, "k")
	awaitStale(t, c, "k")
	db := newSource("w")
	db.Fail(errors.New("no"))
	letGo := db.HoldUp()
	_, err := graceful(c).Get(ctx, fresh, "k", db.Load)
	require.NoError(t, err)
	db.AwaitBegin(t)
	x := explain(t, c, "k")
	require.True(t, x.Refreshing)
	require.True(t, x.Refresh.Ours)
	require.Zero(t, x.Refresh.Failures)
	require.Positive(t, x.Refresh.Left)
	require.Equal(t, "value", x.Redis.Holds)
	letGo()
	eventually(t, "it has failed", refreshed(c))
	x = explain(t, c, "k")
	require.False(t, x.Refreshing)
	require.Equal(t, 1, x.Refresh.Failures)
	require.Equal(t, "no", x.LastError.Err)
}

func TestAnOutageIsExplained(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	dir, kept := durable(t)
	_ = dir
	c, ctx := newClient(t, server.Addr(), kept), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "old"))
	_, _, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	server.Kill()
	awaitMode(t, c, aside.Degraded)
	x := explain(t, c, "k")
	require.Equal(t, aside.Degraded, x.Mode)
	require.False(t, x.Redis.Asked)
	require.ErrorIs(t, x.Redis.Err, aside.ErrRedisAway)
	require.Equal(t, "unverified", x.Memory.State)
	require.True(t, x.Memory.Read)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "new"))
	value, _, err := c.Peek(ctx, "k") // memory has it from then on, at the latest
	require.NoError(t, err)
	require.Equal(t, "new", value)
	x = explain(t, c, "k", aside.ExplainValue())
	require.Equal(t, "set", x.Pending.Op)
	require.True(t, x.Pending.Replays)
	require.Equal(t, 3, x.Pending.Bytes)
	require.Equal(t, x.Client, x.Pending.By)
	require.WithinDuration(t, time.Now(), x.Pending.At, patience)
	require.WithinDuration(t, time.Now().Add(time.Hour), x.Pending.Expires, patience)
	require.NotNil(t, x.Value, "%+v", x.Memory)
	require.Equal(t, "new", *x.Value)
	require.NoError(t, c.Del(ctx, "k"))
	x = explain(t, c, "k")
	require.Equal(t, "del", x.Pending.Op)
	require.Zero(t, x.Pending.Expires)
	server.RestartKeepingData()
	awaitMode(t, c, aside.Healthy)
	require.Nil(t, explain(t, c, "k").Pending)
}

// A value whose group was cleared stands in Redis still, and is not served.
func TestAClearedGroupIsExplained(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	tagged := aside.Typed(c, codec.String(), aside.WithTags("red"))
	db := newSource("v")
	get := func() {
		_, err := tagged.Get(ctx, time.Minute, "k", db.Load)
		require.NoError(t, err)
	}
	get()
	stored(t, c, "k")
	eventually(t, "it is in memory", func() bool { get(); return explain(t, c, "k").Memory != nil })
	x := explain(t, c, "k")
	require.Equal(t, []string{"red"}, x.Redis.Header.Tags)
	require.Equal(t, "unchanged", x.Redis.Header.Groups)
	require.Equal(t, "verified", x.Memory.State)
	require.NoError(t, c.DelTags(ctx, "red"))
	x = explain(t, c, "k", aside.ExplainValue())
	require.Equal(t, "value", x.Redis.Holds)
	require.Equal(t, "cleared", x.Redis.Header.Groups)
	require.Equal(t, []string{"tag red"}, x.Redis.Header.Changed)
	require.NotNil(t, x.Memory)
	require.Equal(t, "grouped", x.Memory.State)
	require.Equal(t, []string{"tag red"}, x.Memory.Changed)
}

// Explain asks Redis for the groups that it does not know, says which have changed, and makes none.
func TestExplainAsksForGroupsAndMakesNone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(a, codec.String(), aside.WithPrefix("p:"), aside.Clearable(), aside.WithTags("x", "y"), aside.WithGrace(grace))
	db := newSource("v")
	load := func() {
		t.Helper()
		_, err := view.Get(ctx, time.Hour, "k", db.Load)
		require.NoError(t, err)
		stored(t, a, "p:k")
	}
	says := func(groups string, changed ...string) {
		t.Helper()
		before := keysOf(server)
		h := explain(t, b, "p:k").Redis.Header
		require.Equal(t, groups, h.Groups)
		require.Equal(t, changed, h.Changed)
		require.ElementsMatch(t, before, keysOf(server), "it has made no group")
	}
	load()
	says("unchanged")
	require.NoError(t, a.ExpireTags(ctx, "y"))
	says("expired", "tag y")
	require.NoError(t, a.DelTags(ctx, "x"))
	says("cleared", "tag x")
	require.NoError(t, view.Clear(ctx))
	says("cleared", "prefix p:", "tag x")
	load()
	says("unchanged")
	server.Do("DEL", wire.TagGroup("y"))
	says("cleared", "tag y")
	load()
	server.Do("ACL", "SETUSER", "default", "resetkeys", "~p:*", "~aside:stamps:*", "~aside:probe*", "~aside:refresh*")
	h := explain(t, b, "p:k").Redis.Header
	server.Do("ACL", "SETUSER", "default", "allkeys")
	require.Equal(t, "unknown", h.Groups)
	require.Empty(t, h.Changed)
}

// A clearing that waits to be replayed has cleared.
func TestAClearingThatWaitsIsExplained(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, option := durable(t)
	c, ctx := newClient(t, server.Addr(), hasty, option), testContext(t)
	_, err := tagged(c, "x").Get(ctx, time.Hour, "k", newSource("v").Load)
	require.NoError(t, err)
	stored(t, c, "k")
	eventually(t, "it is in memory", func() bool {
		_, err := c.Get(ctx, time.Hour, "k", mustNotLoad)
		require.NoError(t, err)
		return explain(t, c, "k").Memory != nil
	})
	server.Kill()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, c.DelTags(ctx, "x"))
	x := explain(t, c, "k")
	require.Error(t, x.Redis.Err)
	require.Equal(t, "grouped", x.Memory.State)
	require.Equal(t, []string{"tag x"}, x.Memory.Changed)
}

func TestAnEntryOfWhichNoChangesAreToldIsExplained(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr(), untracked, func(o *aside.Options) { o.UntrackedTTL = time.Hour })
	server.Do("SET", "k", "v")
	_, _, err := c.Peek(testContext(t), "k")
	require.NoError(t, err)
	x := explain(t, c, "k", aside.ExplainValue())
	require.Equal(t, "untracked", x.Memory.State)
	require.Equal(t, "v", *x.Value)
}

// Redis tracks nothing for who looks, and memory has what it had.
func TestExplainingChangesNothing(t *testing.T) {
	for name, change := range map[string]func(*aside.Options){
		"otter": func(*aside.Options) {}, "LRU": func(o *aside.Options) { o.MemoryKeys = 100 },
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			c, ctx := newClient(t, server.Addr(), change), testContext(t)
			server.Do("SET", "looked", "v")
			server.Do("SET", "read", "v")
			read := func() {
				_, ok, err := c.Peek(ctx, "read")
				require.NoError(t, err)
				require.True(t, ok)
			}
			eventually(t, "it is in memory", func() bool { read(); return c.Stats().MemoryHits > 0 })
			was := c.Stats()
			x := explain(t, c, "looked", aside.ExplainValue())
			require.Equal(t, "value", x.Redis.Holds)
			require.Nil(t, x.Memory)
			x = explain(t, c, "read")
			require.Equal(t, "verified", x.Memory.State)
			require.True(t, x.Memory.Read)
			require.Zero(t, x.Memory.Expires)
			is := c.Stats()
			require.Equal(t, was.MemoryEntries, is.MemoryEntries)
			require.Equal(t, was.MemoryHits, is.MemoryHits)
			require.Equal(t, was.RedisHits, is.RedisHits)
			require.Zero(t, is.Waiting)

			// Pushes come in order: that of "read" would come behind one of "looked".
			server.Do("SET", "looked", "w")
			server.Do("HSET", stamp.Bucket("looked"), "f", "v")
			server.Do("SET", stamp.RefreshLock("looked"), "w")
			server.Do("SET", "read", "w")
			eventually(t, "the other is pushed", func() bool { return c.Stats().Invalidations > was.Invalidations })
			require.Equal(t, was.Invalidations+1, c.Stats().Invalidations)
		})
	}
}

// Relapse: looking at a key of the LRU makes it the one that was used last.
func TestExplainingIsNoUse(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.MemoryKeys = 2 }), testContext(t)
	for _, key := range []string{"a", "b"} {
		server.Do("SET", key, "v")
		_, _, err := c.Peek(ctx, key)
		require.NoError(t, err)
	}
	require.NotNil(t, explain(t, c, "a").Memory)
	server.Do("SET", "c", "v")
	_, _, err := c.Peek(ctx, "c")
	require.NoError(t, err)
	require.Nil(t, explain(t, c, "a").Memory)
	require.NotNil(t, explain(t, c, "b").Memory)
}

func TestExplainNeedsAKeyThatCanBeOne(t *testing.T) {
	c := newClient(t, redistest.Start(t).Addr())
	_, err := c.Explain(testContext(t), strings.Repeat("k", 1<<20))
	require.ErrorIs(t, err, aside.ErrTooLarge)
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	_, err = c.Explain(ctx, "k")
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, c.Close())
	_, err = c.Explain(testContext(t), "k")
	require.ErrorIs(t, err, aside.ErrClosed)
}

func TestKeysOfAClusterAreExplainedWhereTheyAre(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	c, ctx := newClient(t, "", patient, func(o *aside.Options) { o.Redis = rueidis.ClientOption{InitAddress: cluster.Addrs()} }), testContext(t)
	for i := range 9 {
		key := fmt.Sprint("k", i)
		require.NoError(t, c.Set(ctx, time.Minute, key, "v"))
		x := explain(t, c, key)
		require.Equal(t, cluster.Addrs()[cluster.NodeOf(key)], x.Shard)
		require.Equal(t, "value", x.Redis.Holds)
		require.True(t, x.Stamp.Ours)
	}
}

// The server of users' tests answers it, too.
func TestExplainOnAServerOfTests(t *testing.T) {
	server := asidetest.NewServer(t)
	c := server.Client()
	require.NoError(t, c.Set(testContext(t), time.Minute, "k", "v"))
	x := explain(t, c, "k", aside.ExplainValue())
	require.Equal(t, "value", x.Redis.Holds)
	require.True(t, x.Stamp.Ours)
	require.Equal(t, "v", *x.Value)
}

// Where less is permitted than the script asks for, the rest is told.
func TestExplainWithTheDocumentedPermissions(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr())
	require.NoError(t, c.Set(testContext(t), time.Minute, "app:k", "hello"))
	server.Do("ACL", "SETUSER", "default", "-type", "-strlen", "resetkeys", "~app:*", "~aside:stamps:*", "~aside:probe*")
	x := explain(t, c, "app:k")
	require.NoError(t, x.Redis.Err)
	require.Equal(t, "value", x.Redis.Holds)
	require.Empty(t, x.Redis.Type)
	require.EqualValues(t, 5, x.Redis.Bytes)
	require.True(t, x.Stamp.Ours)
	require.Nil(t, x.Refresh)
	require.Error(t, explain(t, c, "other").Redis.Err)
}
