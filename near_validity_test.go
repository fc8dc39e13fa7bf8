package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// Promise 3: what another process has changed is not served beyond StaleLease, even if the network fails silently (and
// beyond that for DegradedTTL, which is next to nothing here).
func TestASilentPartitionDoesNotMakeReadsStaleBeyondTheLease(t *testing.T) {
	for _, fault := range []string{"black hole", "replies cut"} {
		t.Run(fault, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			const lease = 400 * time.Millisecond
			cut := newClient(t, proxy.Addr(), hasty, forgetful, func(o *aside.Options) { o.StaleLease = lease })
			writer, ctx := newClient(t, server.Addr()), testContext(t)
			require.NoError(t, writer.Set(ctx, time.Hour, "k", "old"))
			_, err := cut.Get(ctx, time.Hour, "k", mustNotLoad)
			require.NoError(t, err)
			db := newSource("new")
			if fault == "black hole" {
				proxy.BlackHole()
			} else {
				proxy.CutReplies()
			}
			began := time.Now() // nothing that the server says after this arrives
			require.NoError(t, writer.Set(ctx, time.Hour, "k", "new"))
			stale, lastStale := 0, time.Duration(0)
			for time.Since(began) < 3*lease {
				asked := time.Since(began)
				value, err := cut.Get(ctx, time.Hour, "k", db.Load)
				require.NoError(t, err)
				if value == "old" {
					stale, lastStale = stale+1, asked
				}
			}
			require.Positive(t, stale, "the fault had no effect")
			require.LessOrEqual(t, lastStale, lease)
			t.Logf("the last stale read began %v after the cut, of a lease of %v", lastStale, lease)
			proxy.Heal()
			eventually(t, "it is back", func() bool { return cut.Stats().RedisConnected })
			value, err := cut.Get(ctx, time.Hour, "k", db.Load)
			require.NoError(t, err)
			require.Equal(t, "new", value)
		})
	}
}

// What was read on a connection that is lost is not served, for changes were not pushed meanwhile.
func TestALostConnectionGivesUpTheMemory(t *testing.T) {
	for _, fault := range []string{"reset", "CLIENT KILL", "restart"} {
		t.Run(fault, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := newClient(t, proxy.Addr(), hasty, forgetful), testContext(t)
			for i := range 20 {
				want := fmt.Sprint(i)
				server.Do("SET", "k", want)
				eventually(t, "it is connected and reads "+want, func() bool {
					value, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "", errors.New("away") })
					return err == nil && value == want
				})
				flushes := c.Stats().Flushes
				switch fault {
				case "reset":
					proxy.Refuse()
					server.Do("SET", "k", "changed") // while nobody is told
					proxy.Heal()
				case "CLIENT KILL":
					server.Do("CLIENT", "KILL", "TYPE", "normal")
					server.Do("SET", "k", "changed")
				case "restart":
					if i > 2 {
						return
					}
					server.Kill()
					server.Restart()
					server.Do("SET", "k", "changed")
				}
				eventually(t, "the loss is noticed", func() bool { return c.Stats().Flushes > flushes })
				eventually(t, "it reads what is there now", func() bool {
					value, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "", errors.New("away") })
					require.NotEqual(t, want, value)
					return err == nil && value == "changed"
				})
			}
		})
	}
}

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

// A full server makes room by evicting keys, also while it runs our own commands. What was evicted is not tracked any
// more, so it must not stay in memory: nobody would tell us when it is written again.
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
