package aside_test

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

type knowns = map[string]aside.Known

func TestUpdateAwayChangesWhatWasKept(t *testing.T) {
	server := redistest.Start(t)
	between := faultproxy.New(t, server.Addr())
	dir, option := durable(t)
	c, ctx := newClient(t, between.Addr(), hasty, option), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "read", "r"))
	_, _, err := c.Peek(ctx, "read")
	require.NoError(t, err)
	never := func(knowns) (knowns, error) { panic("it was called") }
	require.ErrorIs(t, c.UpdateAway(ctx, []string{"read"}, never), aside.ErrNotAway)
	require.False(t, c.Away("read"))

	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.True(t, c.Away("read"))
	require.NoError(t, c.Set(ctx, time.Hour, "a", "1"))
	was, err := c.Look(ctx, "a")
	require.NoError(t, err)
	atMost := time.Now().Add(was.TTL)
	require.NoError(t, c.Set(ctx, 2*aside.LongestTTL, "endless", "e"))
	require.NoError(t, c.Del(ctx, "gone"))
	keys := []string{"a", "endless", "gone", "read", "a"}
	require.NoError(t, c.UpdateAway(ctx, keys, func(kept knowns) (knowns, error) {
		require.Len(t, kept, 3, "what was read is not known: others may have changed it")
		require.Equal(t, "1", kept["a"].Value)
		require.InDelta(t, time.Hour, kept["a"].TTL, float64(time.Minute))
		require.Equal(t, "e", kept["endless"].Value)
		require.Negative(t, kept["endless"].TTL)
		require.True(t, kept["gone"].Deleted)
		a := kept["a"]
		a.Value = "2"
		time.Sleep(100 * time.Millisecond) // so long, its end does not move
		return knowns{"a": a, "endless": {Deleted: true}, "gone": {Value: "back", TTL: time.Minute}}, nil
	}))
	now := time.Now()
	a, err := c.Look(ctx, "a")
	require.NoError(t, err)
	require.Less(t, now.Add(a.TTL).Sub(atMost), 80*time.Millisecond)
	refusal := errors.New("not so")
	require.ErrorIs(t, c.UpdateAway(ctx, []string{"a"}, func(knowns) (knowns, error) { return knowns{"a": {Deleted: true}}, refusal }), refusal)
	require.ErrorIs(t, c.UpdateAway(ctx, []string{"a"}, func(knowns) (knowns, error) { return knowns{"b": {Deleted: true}}, nil }), aside.ErrInvalidArgument)
	require.ErrorIs(t, c.UpdateAway(ctx, []string{"a"}, func(knowns) (knowns, error) {
		return knowns{"a": {Value: strings.Repeat("x", 100<<20), TTL: time.Hour}}, nil
	}), aside.ErrTooLarge)
	sees := func(c *aside.Client) {
		t.Helper()
		for key, want := range map[string]string{"a": "2", "gone": "back"} {
			v, ok, err := c.Peek(ctx, key)
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, want, v)
		}
		_, ok, err := c.Peek(ctx, "endless")
		require.NoError(t, err)
		require.False(t, ok)
	}
	sees(c)
	closeClient(t, c, dir)
	c = newClient(t, between.Addr(), hasty, func(o *aside.Options) { o.FallbackDir, o.RequireRedis = dir, false })
	sees(c)
	between.Heal()
	awaitMode(t, c, aside.Healthy)
	require.Equal(t, "2", server.Do("GET", "a"))
	require.InDelta(t, time.Hour.Milliseconds(), server.Do("PTTL", "a"), float64(time.Minute.Milliseconds()))
	require.Equal(t, "back", server.Do("GET", "gone"))
	require.Nil(t, server.Do("GET", "endless"))
}

// Many add to one number at once, while Redis comes and goes: what UpdateAway and Update have
// acknowledged is all there. A relapse would lose an addition to another, or to a replay.
func TestNoUpdateAwayIsLost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	between := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, between.Addr(), hasty, option), testContext(t)
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, time.Hour, "n", "0"))
	add := func() error {
		return c.UpdateAway(ctx, []string{"other", "n"}, func(kept knowns) (knowns, error) {
			k, ok := kept["n"]
			if !ok {
				return nil, aside.ErrRedisAway
			}
			n, err := strconv.Atoi(k.Value)
			k.Value = strconv.Itoa(n + 1)
			return knowns{"n": k}, err
		})
	}
	const callers, each = 8, 50
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range each {
				require.NoError(t, add())
			}
		})
	}
	all.Wait()
	between.Heal()
	sum := callers * each
	for { // until Redis is asked
		err := add()
		if errors.Is(err, aside.ErrNotAway) || errors.Is(err, aside.ErrRedisAway) {
			break
		}
		require.NoError(t, err)
		sum++
	}
	eventually(t, "it is replayed", func() bool { return c.Health().Mode == aside.Healthy && c.Stats().Pending == 0 })
	require.Equal(t, strconv.Itoa(sum), server.Do("GET", "n"))
}

func TestUpdateAwayNeedsADirectory(t *testing.T) {
	c, err := aside.New(aside.Options{Redis: plain("127.0.0.1:1"), ConnectTimeout: time.Millisecond, Logger: quiet})
	require.NoError(t, err)
	ctx := testContext(t)
	require.ErrorIs(t, c.Set(ctx, time.Hour, "a", "1"), aside.ErrNotDurable)
	require.ErrorIs(t, c.UpdateAway(ctx, []string{"a"}, func(knowns) (knowns, error) { panic("it was called") }), aside.ErrRedisAway)
	require.ErrorContains(t, c.Close(), "1 writes and deletes that were to be replayed are lost")
}
