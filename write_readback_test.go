package aside_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

func readingBack(o *aside.Options) { o.ReadBack = true }

// A relapse would have a cache that has just written a value say that it does not know it.
func TestWhatWasWrittenIsThereWhenRedisGoesAway(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), hasty, readingBack), testContext(t)
	other := newClient(t, server.Addr())
	want := map[string]string{}
	for i := range 200 { // first as a new key, then as one that is tracked already, whose push comes behind the write's own answer
		key, value := fmt.Sprint("k", i%50), fmt.Sprint("v", i)
		require.NoError(t, c.Set(ctx, time.Hour, key, value))
		found, err := c.Look(ctx, key)
		require.NoError(t, err)
		require.Equal(t, aside.SourceMemory, found.Source, "round %d", i)
		require.Equal(t, value, found.Value)
		want[key] = value
	}
	require.NoError(t, c.Update(ctx, []string{"n"}, func(ctx context.Context, redis rueidis.Client) error {
		return redis.Do(ctx, redis.B().Incrby().Key("n").Increment(42).Build()).Error()
	}))
	want["n"] = "42"
	require.NoError(t, c.Touch(ctx, 2*time.Hour, "k1", "k2", "none"))
	require.NoError(t, c.Set(ctx, time.Hour, "changed", "ours"))
	require.NoError(t, other.Set(ctx, time.Hour, "changed", "7"))
	eventually(t, "the push has arrived", func() bool {
		value, _, err := c.Peek(ctx, "changed")
		return err == nil && value == "7"
	})
	require.NoError(t, c.Set(ctx, time.Hour, "deleted", "ours"))
	require.NoError(t, c.Del(ctx, "deleted"))
	want["changed"] = "7"

	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	for key, value := range want {
		found, err := c.Look(ctx, key)
		require.NoError(t, err, key)
		require.Equal(t, value, found.Value, key)
		require.Equal(t, aside.SourceMemory, found.Source, key)
	}
	found, err := c.Look(ctx, "k1")
	require.NoError(t, err)
	require.InDelta(t, 7200, found.TTL.Seconds(), 30)
	for _, key := range []string{"deleted", "none"} {
		_, err := c.Look(ctx, key)
		require.ErrorIs(t, err, aside.ErrRedisAway, key)
	}
}

// What is read back is told of changes, as what is read.
func TestWhatWasReadBackIsGivenUpWhenOthersChangeIt(t *testing.T) {
	server := redistest.Start(t)
	c, other, ctx := newClient(t, server.Addr(), readingBack), newClient(t, server.Addr(), readingBack), testContext(t)
	var writers sync.WaitGroup
	for w, client := range []*aside.Client{c, other} {
		writers.Go(func() {
			for i := range 300 {
				key := fmt.Sprint("k", i%3)
				if err := client.Set(ctx, time.Hour, key, fmt.Sprint("by ", w, ": ", i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	for i := range 3 {
		key := fmt.Sprint("k", i)
		require.NoError(t, other.Set(ctx, time.Hour, key, "last"))
		eventually(t, "both have the last value", func() bool {
			a, _, errA := c.Peek(ctx, key)
			b, _, errB := other.Peek(ctx, key)
			return errors.Join(errA, errB) == nil && a == "last" && b == "last"
		})
	}
}

func TestNothingIsReadBackUnlessAskedFor(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "v"))
	require.Zero(t, c.Stats().MemoryEntries)
	found, err := c.Look(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, aside.SourceRedis, found.Source)

	none := newClient(t, server.Addr(), readingBack, func(o *aside.Options) { o.MemoryBytes = -1 })
	require.NoError(t, none.Set(ctx, time.Hour, "k", "v"))
	require.Zero(t, none.Stats().MemoryEntries)
}

// Writes that read back are no hits: nobody has asked.
func TestReadingBackIsNotCountedAsAHit(t *testing.T) {
	c, ctx := newClient(t, redistest.Start(t).Addr(), readingBack), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "v"))
	stats := c.Stats()
	require.Equal(t, 1, stats.MemoryEntries)
	require.Zero(t, stats.MemoryHits+stats.RedisHits+stats.DiskHits)
}

// Until Redis has been reached no shard is known, and there is nothing to be read back.
func TestNothingIsReadBackBeforeRedisWasReached(t *testing.T) {
	dir, _ := durable(t)
	c, ctx := newDurable(t, "127.0.0.1:1", dir, readingBack), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "v"))
	require.NoError(t, c.Del(ctx, "other"))
	value, err := c.Get(ctx, time.Hour, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "v", value)
}
