package aside_test

import (
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// byFirstKey is a proxy that sends each command to one of two servers, by its first key, and what
// has none to the first.
func byFirstKey(t *testing.T, a, b *redistest.Server) string {
	return between(t, func(args []string) (int, string) {
		key, keyed := "", false
		switch {
		case slices.Contains([]string{"EVAL", "EVALSHA"}, verb(args)):
			if n, _ := strconv.Atoi(args[2]); n > 0 {
				key, keyed = args[3], true
			}
		case slices.Contains([]string{"GET", "SET", "DEL", "EXISTS", "PEXPIRE", "UNLINK"}, verb(args)):
			key, keyed = args[1], true
		}
		if !keyed {
			return 0, ""
		}
		h := fnv.New32a()
		_, _ = h.Write([]byte(key))
		return int(h.Sum32()>>7) % 2, ""
	}, a.Addr(), b.Addr())
}

// A proxy that partitions is noticed at once: no key is left out by a script for many, nothing is
// served from memory, and it is said.
func TestAProxyThatPartitionsIsNoticed(t *testing.T) {
	a, b := redistest.Start(t), redistest.Start(t)
	front := byFirstKey(t, a, b)
	var log logged
	c, ctx := newClient(t, front, hasty, log.option), testContext(t)
	other := newClient(t, front, hasty)
	require.Equal(t, aside.Healthy, c.Health().Mode)
	require.ErrorContains(t, c.Health().Err, "spread over several servers")
	log.await(t, 1, "level=WARN", "spread over several servers")
	var keys []string
	for i := range 20 {
		keys = append(keys, fmt.Sprint("k", i))
		require.NoError(t, c.Set(ctx, time.Hour, keys[i], "old"))
	}
	require.NotEmpty(t, keysOf(a))
	require.NotEmpty(t, keysOf(b))
	for range 2 {
		values, err := c.GetMulti(ctx, time.Hour, keys, newSource("loaded").LoadMany)
		require.NoError(t, err)
		for _, key := range keys {
			require.Equal(t, "old", values[key])
		}
	}
	require.NoError(t, other.Del(ctx, keys...))
	for _, key := range keys {
		_, ok, err := c.Peek(ctx, key)
		require.NoError(t, err)
		require.False(t, ok, "%s was deleted", key)
	}
	db := newSource("new")
	for range 2 {
		values, err := c.GetMulti(ctx, time.Hour, keys, db.LoadMany)
		require.NoError(t, err)
		require.Len(t, values, len(keys))
		stored(t, c, keys...)
	}
	require.EqualValues(t, 1, db.Calls.Load())
	require.NoError(t, c.Touch(ctx, time.Minute, keys...))
	for _, key := range keys {
		value, err := other.Get(ctx, time.Hour, key, mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "new", value)
	}
	require.Zero(t, c.Stats().MemoryHits)
	require.Zero(t, other.Stats().MemoryHits)
}

// An address that leads to two primaries in turn is noticed when it comes back to the first. A
// failover and back is none.
func TestTwoPrimariesInTurnAreNoticed(t *testing.T) {
	for _, related := range []bool{false, true} {
		t.Run(fmt.Sprint("a failover ", related), func(t *testing.T) {
			first := redistest.Start(t, redistest.WithReplication())
			second := redistest.Start(t, redistest.WithReplication())
			follow := func(server, of *redistest.Server) {
				if !related {
					return
				}
				host, port, err := net.SplitHostPort(of.Addr())
				require.NoError(t, err)
				of.Do("REPLICAOF", "NO", "ONE")
				server.Do("REPLICAOF", host, port)
				eventually(t, "it is in sync", func() bool {
					role, _ := server.Do("ROLE").([]any)
					return len(role) > 3 && role[3] == "connected"
				})
			}
			follow(second, first)
			proxy := faultproxy.New(t, first.Addr())
			c, ctx := newClient(t, proxy.Addr(), hasty), testContext(t)
			require.NoError(t, c.Health().Err)
			follow(first, second)
			proxy.SetUpstream(second.Addr())
			proxy.Reset()
			eventually(t, "it is at the second", func() bool { return c.Stats().Failovers == 1 })
			awaitMode(t, c, aside.Healthy)
			follow(second, first)
			proxy.SetUpstream(first.Addr())
			proxy.Reset()
			eventually(t, "it is at the first", func() bool { return c.Stats().Failovers == 2 })
			awaitMode(t, c, aside.Healthy)
			if related {
				eventually(t, "memory is used", func() bool {
					_, err := c.Get(ctx, time.Hour, "k", newSource("v").Load)
					require.NoError(t, err)
					return c.Stats().MemoryHits > 0
				})
				require.NoError(t, c.Health().Err)
				return
			}
			eventually(t, "it is said", func() bool { return c.Health().Err != nil })
			require.ErrorContains(t, c.Health().Err, "two primaries in turn")
			hits := c.Stats().MemoryHits
			for range 20 {
				_, err := c.Get(ctx, time.Hour, "k", newSource("v").Load)
				require.NoError(t, err)
			}
			require.Equal(t, hits, c.Stats().MemoryHits)
		})
	}
}
