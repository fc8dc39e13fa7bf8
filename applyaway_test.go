package aside_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/vfs"
)

type keptOf = map[string]aside.Kept

func TestApplyAwayKeepsOperationsOnSeveralKeysOrNone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, cut, heal := away(t, server, func(o *aside.Options) { o.MaxValueBytes = 4 << 10 })
	ctx := testContext(t)
	server.Do("SET", "plain", "5")
	never := func(keptOf) error { panic("it was called") }
	require.ErrorIs(t, c.ApplyAway(ctx, []aside.Change{{Key: "a", Operations: []aside.Operation{op("INCR")}}}, never), aside.ErrNotAway)
	cut()
	require.NoError(t, c.Set(ctx, time.Hour, "a", "1"))
	looked := false
	require.NoError(t, c.ApplyAway(ctx, []aside.Change{
		{Key: "a", Operations: []aside.Operation{op("INCR"), op("incrby", "2")}},
		{Key: "plain", Operations: []aside.Operation{op("INCR")}},
		{Key: "list", Operations: []aside.Operation{op("LPUSH", "x", "y")}},
		{Key: "only looked at"},
	}, func(kept keptOf) error {
		looked = true
		require.Len(t, kept, 4)
		require.Equal(t, "1", kept["a"].Now.Text)
		require.False(t, kept["plain"].Now.Known)
		return nil
	}))
	require.True(t, looked)
	was := c.Stats().Pending
	require.Equal(t, 3, was)
	k, ok, err := c.Kept(ctx, "a")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "4", k.Now.Text)
	value, _, err := c.Peek(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, "4", value)

	refusal := errors.New("not so")
	incr := []aside.Operation{op("INCR")}
	for _, wrong := range []struct {
		changes []aside.Change
		decide  func(keptOf) error
		is      error
	}{
		{[]aside.Change{{Key: "a", Operations: incr}, {Key: "new", Operations: incr}}, func(keptOf) error { return refusal }, refusal},
		{[]aside.Change{{Key: "a", Operations: incr}, {Key: "new", Operations: []aside.Operation{op("ZADD", "1", "m")}}}, never, aside.ErrInvalidArgument},
		{[]aside.Change{{Key: "a", Operations: incr}, {Key: "a", Operations: incr}}, never, aside.ErrInvalidArgument},
		{[]aside.Change{{Key: "a", Operations: incr}, {Key: "new", Operations: []aside.Operation{op("SET", strings.Repeat("v", 5<<10))}}}, nil, aside.ErrTooLarge},
		{[]aside.Change{{Key: "new"}}, nil, nil},
	} {
		require.ErrorIs(t, c.ApplyAway(ctx, wrong.changes, wrong.decide), wrong.is)
		require.Equal(t, was, c.Stats().Pending)
		k, _, err := c.Kept(ctx, "a")
		require.NoError(t, err)
		require.Equal(t, "4", k.Now.Text)
	}
	heal()
	require.Equal(t, "4", server.Do("GET", "a"))
	require.Equal(t, "6", server.Do("GET", "plain"))
	require.Equal(t, []any{"y", "x"}, server.Do("LRANGE", "list", 0, -1))
	require.Nil(t, server.Do("GET", "new"))
}

// At the replay each key goes by its own rule: what somebody else has set later, or Redis refuses, parts no other key from its
// operations.
func TestEachKeyOfATransactionIsReplayedByItself(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, cut, heal := away(t, server)
	other, ctx := newClient(t, server.Addr()), testContext(t)
	awaitMode(t, other, aside.Healthy)
	server.Do("SET", "text", "no list")
	cut()
	require.NoError(t, c.ApplyAway(ctx, []aside.Change{
		{Key: "n", Operations: []aside.Operation{op("INCRBY", "5")}},
		{Key: "mine", Operations: []aside.Operation{op("SET", "a")}},
		{Key: "text", Operations: []aside.Operation{op("LPUSH", "x")}},
	}, nil))
	time.Sleep(250 * time.Millisecond) // beyond what two clocks may differ
	require.NoError(t, other.Set(ctx, time.Hour, "mine", "theirs"))
	heal()
	require.Equal(t, "5", server.Do("GET", "n"))
	require.Equal(t, "theirs", server.Do("GET", "mine"))
	require.Equal(t, "no list", server.Do("GET", "text"))
	require.EqualValues(t, 1, c.Stats().Rejected)
}

// A disk that hangs holds up no caller whose time is over, and parts nothing: before it goes on nothing is there, then all of it.
func TestATransactionOnADiskThatHangs(t *testing.T) {
	server := redistest.Start(t)
	fsys := vfs.NewMem()
	dir, err := fallback.OpenFS(fsys, fallback.Options{Logger: quiet, FlushInterval: time.Hour})
	require.NoError(t, err)
	c, cut, heal := away(t, server, func(o *aside.Options) { o.FallbackDir, o.Store = "", dir })
	cut()
	ctx, cancel := context.WithCancel(testContext(t))
	fsys.Hang()
	gone := make(chan error, 1)
	go func() { // ends with ctx
		gone <- c.ApplyAway(ctx, []aside.Change{{Key: "a", Operations: []aside.Operation{op("INCR")}}, {Key: "b", Operations: []aside.Operation{op("INCR")}}}, nil)
	}()
	fsys.AwaitHung()
	cancel()
	require.ErrorIs(t, <-gone, context.Canceled)
	for _, key := range []string{"a", "b"} {
		_, ok, err := c.Kept(testContext(t), key)
		require.NoError(t, err)
		require.False(t, ok)
	}
	fsys.Unhang()
	for _, key := range []string{"a", "b"} { // which waits for what was left behind
		_, err := c.Apply(testContext(t), key, []aside.Operation{op("INCR")}, nil)
		require.ErrorIs(t, err, aside.ErrKept)
	}
	heal()
	require.Equal(t, "2", server.Do("GET", "a"))
	require.Equal(t, "2", server.Do("GET", "b"))
}

// What memory has of a key that a transaction only reads is still there afterwards.
func TestApplyAwayLeavesWhatItOnlyLooksAt(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, cut, heal := away(t, server)
	ctx := testContext(t)
	server.Do("SET", "read", "5", "EX", "1000")
	eventually(t, "it is in memory", func() bool {
		value, ok, err := c.Peek(ctx, "read")
		return err == nil && ok && value == "5"
	})
	cut()
	for range 2 {
		require.NoError(t, c.ApplyAway(ctx, []aside.Change{{Key: "counter", Operations: []aside.Operation{op("INCR")}}, {Key: "read"}}, func(kept keptOf) error {
			require.Equal(t, "5", kept["read"].Now.Text)
			return nil
		}))
		value, ok, err := c.Peek(ctx, "read")
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "5", value)
	}
	heal()
}
