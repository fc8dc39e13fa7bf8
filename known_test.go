package aside_test

import (
	"context"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/redistest"
)

// plainStore has the methods of a fallback.Store and no others.
type plainStore struct{ fallback.Store }

// Close has no error, though what it held is lost.
func (s plainStore) Close(ctx context.Context) error {
	_ = s.Store.Close(ctx)
	return nil
}

// listingStore can list its keys as well.
type listingStore struct{ plainStore }

func (listingStore) Keys() iter.Seq[string] { return slices.Values([]string{"listed"}) }

func TestKnownKeysAreThoseOfMemoryAndTheStore(t *testing.T) {
	for name, change := range map[string]func(*aside.Options){
		"a directory":              func(o *aside.Options) { o.FallbackDir = t.TempDir() },
		"a strict LRU":             func(o *aside.Options) { o.FallbackDir, o.MemoryKeys = t.TempDir(), 1000 },
		"a store without Keys":     func(o *aside.Options) { o.Store = plainStore{fallback.NewMemory(1 << 20)} },
		"a store that lists a key": func(o *aside.Options) { o.Store = listingStore{plainStore{fallback.NewMemory(1 << 20)}} },
		"no memory":                func(o *aside.Options) { o.FallbackDir, o.MemoryBytes = t.TempDir(), -1 },
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			c, ctx := newClient(t, server.Addr(), hasty, change, func(o *aside.Options) { o.DegradedTTL = -1 }), testContext(t)
			server.Do("SET", "read", "r")
			_, ok, err := c.Peek(ctx, "read")
			require.NoError(t, err)
			require.True(t, ok)
			server.Kill()
			awaitMode(t, c, aside.Degraded)
			_ = c.Set(ctx, time.Hour, "set", "s") // an error of a store that is not durable
			_ = c.Set(ctx, time.Hour, "deleted", "s")
			_ = c.Del(ctx, "deleted")
			all := slices.Sorted(c.KnownKeys())
			want := []string{"read", "set"}
			switch name {
			case "no memory":
				want = []string{"set"}
			case "a store that lists a key":
				want = []string{"listed", "read", "set"}
			}
			require.Equal(t, want, slices.Compact(all))
			for range c.KnownKeys() {
				break // and nothing is left behind
			}
		})
	}
}

// Who looks at all keys must not drive out of memory what Redis alone had.
func TestLookAwayLeavesNoTrace(t *testing.T) {
	server := redistest.Start(t)
	_, option := durable(t)
	c, ctx := newClient(t, server.Addr(), hasty, option, func(o *aside.Options) { o.DegradedTTL, o.MemoryKeys = -1, 2 }), testContext(t)
	server.Do("SET", "read", "r")
	_, _, err := c.Peek(ctx, "read")
	require.NoError(t, err)
	_, err = c.LookAway(ctx, "none")
	require.ErrorIs(t, err, aside.ErrRedisAway, "it could be asked, and is not")
	server.Kill()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, time.Hour, "on disk", "d"))
	_, err = c.Look(ctx, "read")
	require.NoError(t, err)
	require.NoError(t, c.Set(ctx, time.Hour, "newest", "n"))
	require.NoError(t, c.Del(ctx, "gone"))
	before := c.Stats()
	for range 3 {
		for key, want := range map[string]string{"on disk": "d", "newest": "n", "read": "r"} {
			found, err := c.LookAway(ctx, key)
			require.NoError(t, err)
			require.Equal(t, want, found.Value)
		}
	}
	_, err = c.LookAway(ctx, "gone")
	require.ErrorIs(t, err, aside.ErrNotFound)
	_, err = c.LookAway(ctx, "unheard of")
	require.ErrorIs(t, err, aside.ErrRedisAway)
	after := c.Stats()
	require.Equal(t, before.MemoryHits, after.MemoryHits)
	require.Equal(t, before.DiskHits, after.DiskHits)
	_, err = c.Look(ctx, "read")
	require.NoError(t, err, "memory has it still")
	require.NoError(t, c.Close())
	_, err = c.LookAway(ctx, "read")
	require.ErrorIs(t, err, aside.ErrClosed)
}
