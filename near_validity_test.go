package aside_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

func TestFlushAllAndFullTrackingTables(t *testing.T) {
	server := redistest.Start(t, redistest.WithArgs("--tracking-table-max-keys", "10"))
	c, db, ctx := newClient(t, server.Addr()), newSource("v"), testContext(t)
	for range 5 {
		for i := range 100 { // ten times what the table can hold: most are invalidated again at once
			_, err := c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.Load)
			require.NoError(t, err)
		}
	}
	require.EqualValues(t, 100, db.Calls.Load())
	eventually(t, "the server has given up keys", func() bool {
		_, err := c.Get(ctx, time.Minute, "k0", db.Load)
		require.NoError(t, err)
		return c.Stats().Invalidations > 50
	})
	_, err := c.Get(ctx, time.Minute, "k1", db.Load)
	require.NoError(t, err)
	flushes := c.Stats().Flushes
	db.Set("new")
	server.Do("FLUSHALL")
	eventually(t, "the flush is heard of", func() bool { return c.Stats().Flushes > flushes })
	value, err := c.Get(ctx, time.Minute, "k1", db.Load)
	require.NoError(t, err)
	require.Equal(t, "new", value)
}

// A full server makes room by evicting keys, also while it runs our own commands. What was evicted
// is not tracked any more, so it must not stay in memory: nobody would tell us when it is written
// again.
func TestKeysThatOurOwnWritesEvictLeaveTheMemory(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	big := strings.Repeat("x", 50_000)
	keys := make([]string, 20)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
		require.NoError(t, c.Set(ctx, time.Hour, keys[i], big))
		_, err := c.Get(ctx, time.Hour, keys[i], mustNotLoad)
		require.NoError(t, err)
	}
	_, used, _ := strings.Cut(fmt.Sprint(server.Do("INFO", "memory")), "used_memory:")
	used, _, _ = strings.Cut(used, "\r\n")
	bytes, err := strconv.Atoi(used)
	require.NoError(t, err)
	server.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
	server.Do("CONFIG", "SET", "maxmemory", fmt.Sprint(bytes+100_000))
	t.Cleanup(func() {
		server.Do("CONFIG", "SET", "maxmemory", "0")
		server.Do("CONFIG", "SET", "maxmemory-policy", "noeviction")
	})
	for i := range 12 {
		require.NoError(t, c.Set(ctx, time.Hour, fmt.Sprint("mine", i), big))
	}
	server.Do("CONFIG", "SET", "maxmemory", "0")
	evicted := 0
	for _, key := range keys {
		if server.Do("EXISTS", key) == int64(0) {
			evicted++
			server.Do("SET", key, "written again")
			eventually(t, "it is read again", func() bool {
				value, _, err := c.Peek(ctx, key)
				require.NoError(t, err)
				return value == "written again"
			})
		}
	}
	require.Positive(t, evicted)
}
