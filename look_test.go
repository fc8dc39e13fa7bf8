package aside_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

func TestLookSaysFromWhereAndForHowLong(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	dir, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), hasty, option), testContext(t)
	began := time.Now()
	check := func(c *aside.Client, source aside.Source, key, value string, ttl time.Duration) aside.Found {
		t.Helper()
		found, err := c.Look(ctx, key)
		require.NoError(t, err)
		require.Equal(t, source, found.Source)
		require.Equal(t, value, found.Value)
		if ttl < 0 {
			require.Negative(t, found.TTL)
		} else {
			require.InDelta(t, ttl.Seconds(), found.TTL.Seconds(), 30)
		}
		require.WithinRange(t, found.At, began.Add(-time.Second), time.Now())
		return found
	}
	_, err := c.Look(ctx, "k")
	require.ErrorIs(t, err, aside.ErrNotFound)
	server.Do("SET", "k", "v", "EX", "3600")
	server.Do("SET", "stays", "v")
	if oldRedis(server) { // it may push that later than it answers the next read, which is not kept then
		eventually(t, "the push has come", func() bool { return c.Stats().Invalidations > 0 })
	}
	first := check(c, aside.SourceRedis, "k", "v", time.Hour)
	require.Equal(t, first.At.UnixNano(), check(c, aside.SourceMemory, "k", "v", time.Hour).At.UnixNano())
	check(c, aside.SourceRedis, "stays", "v", -1)
	check(c, aside.SourceMemory, "stays", "v", -1)
	server.Do("LPUSH", "list", "v")
	_, err = c.Look(ctx, "list")
	require.ErrorContains(t, err, "refused by Redis: ")
	require.ErrorContains(t, err, "WRONGTYPE") // behind "Error running script" before Redis 7
	require.NotErrorIs(t, err, aside.ErrRedisAway)

	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	check(c, aside.SourceMemory, "k", "v", time.Hour)
	require.NoError(t, c.Set(ctx, time.Hour, "away", "v"))
	eventually(t, "it is in memory", func() bool { // it is on disk alone if the end of the connection was told during the Set
		found, err := c.Look(ctx, "away")
		return err == nil && found.Source == aside.SourceMemory
	})
	check(c, aside.SourceMemory, "away", "v", time.Hour)
	_, err = c.Look(ctx, "unknown")
	require.ErrorIs(t, err, aside.ErrRedisAway)
	require.NoError(t, c.Del(ctx, "k"))
	_, err = c.Look(ctx, "k")
	require.ErrorIs(t, err, aside.ErrNotFound, "this process knows")
	closeClient(t, c, dir)

	next, err := aside.New(aside.Options{Redis: plain(proxy.Addr()), FallbackDir: dir, Logger: quiet})
	require.NoError(t, err)
	defer next.Close()
	check(next, aside.SourceDisk, "away", "v", time.Hour)
	found, err := next.LookMulti(ctx, []string{"away", "k"})
	require.NoError(t, err)
	require.Len(t, found, 1)
	_, err = next.LookMulti(ctx, []string{"away", "unknown"})
	require.ErrorIs(t, err, aside.ErrRedisAway)
	require.ErrorContains(t, err, "unknown")
}

func TestLookMultiAsksOnceForAllThatIsNotInMemory(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T) []string{
		"one server": func(t *testing.T) []string { return []string{redistest.Start(t).Addr()} },
		"cluster":    func(t *testing.T) []string { return redistest.StartCluster(t).Addrs() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addrs := start(t)
			c, ctx := newClient(t, "", patient, func(o *aside.Options) { o.Redis.InitAddress = addrs }), testContext(t)
			var keys []string
			for i := range 300 {
				key := fmt.Sprint("k", i)
				keys = append(keys, key, key, fmt.Sprint("absent", i))
				require.NoError(t, c.Set(ctx, time.Hour, key, key))
			}
			for range 2 {
				found, err := c.LookMulti(ctx, keys)
				require.NoError(t, err)
				require.Len(t, found, 300)
				for key, f := range found {
					require.Equal(t, key, f.Value)
				}
			}
			require.Equal(t, int64(300), c.Stats().MemoryHits, "the second time")
			require.Equal(t, int64(300), c.Stats().RedisHits, "the first time")
		})
	}
}

// MemoryKeys is exact, and what was used longest ago goes first; MemoryTTL ends what Redis has for
// longer.
func TestMemoryIsBoundedByKeysAndTime(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.MemoryKeys, o.MemoryTTL = 3, 300*time.Millisecond }), testContext(t)
	source := func(key string) aside.Source {
		found, err := c.Look(ctx, key)
		require.NoError(t, err)
		return found.Source
	}
	for i := range 5 {
		server.Do("SET", fmt.Sprint("k", i), "v")
	}
	read := time.Now()
	for _, key := range []string{"k0", "k1", "k2"} {
		require.Equal(t, aside.SourceRedis, source(key))
	}
	if source("k0") != aside.SourceMemory || source("k3") != aside.SourceRedis { // which drops k1
		t.Log("a slow machine")
	}
	for _, key := range []string{"k0", "k2", "k3"} {
		if got := source(key); time.Since(read) < 300*time.Millisecond {
			require.Equal(t, aside.SourceMemory, got, key)
		}
	}
	require.Equal(t, aside.SourceRedis, source("k1"))
	require.Equal(t, 3, c.Stats().MemoryEntries)
	eventually(t, "it is asked for again", func() bool { return source("k1") == aside.SourceRedis })
	_, err := aside.New(aside.Options{MemoryKeys: -1, MemoryTTL: -1, Logger: quiet})
	require.ErrorContains(t, err, "MemoryKeys")
	require.ErrorContains(t, err, "MemoryTTL")
}

// What was acknowledged and cannot be read just now is not "nothing".
func TestARecordThatCannotBeReadIsNotNothing(t *testing.T) {
	c, err := aside.New(aside.Options{Redis: plain("127.0.0.1:1"), MemoryBytes: -1, Store: unreadable{fallback.NewMemory(0)}, Logger: quiet})
	require.NoError(t, err)
	defer c.Close() // says that the record is lost
	ctx := testContext(t)
	require.ErrorIs(t, c.Set(ctx, time.Hour, "k", "v"), aside.ErrNotDurable)
	_, _, err = c.Peek(ctx, "k")
	require.ErrorIs(t, err, aside.ErrRedisAway)
	require.ErrorIs(t, err, syscall.EMFILE)
	_, err = c.LookMulti(ctx, []string{"k"})
	require.ErrorIs(t, err, syscall.EMFILE)
}

type unreadable struct{ fallback.Store }

func (unreadable) Get(string) (fallback.Record, bool, error) {
	return fallback.Record{}, false, syscall.EMFILE
}

// A command for very many keys takes its time, which says nothing about Redis.
func TestLookMultiOfVeryManyKeysIsNoOutage(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	keys := make([]string, 50_000)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
	}
	found, err := c.LookMulti(ctx, keys)
	require.NoError(t, err)
	require.Empty(t, found)
	require.Zero(t, c.Stats().Outages)
}
