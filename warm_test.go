package aside_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

func keysNamed(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
	}
	return keys
}

// Warm loads what is missing and nothing else, some at a time, and says how far it is.
func TestWarmLoadsWhatIsMissing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.String(), aside.WithGrace(grace))
	keys := keysNamed(300)
	for _, key := range keys[:100] {
		server.Do("SET", key, "there", "EX", 3600)
	}
	server.Do("SET", "k100", "", "EX", 3600) // empty, and a value
	server.Do("SET", "k101", "\x00aside:1n", "EX", 3600)
	var mu sync.Mutex
	var asked []string
	load := func(_ context.Context, keys []string) (map[string]string, error) {
		mu.Lock()
		defer mu.Unlock()
		require.LessOrEqual(t, len(keys), 50)
		asked = append(asked, keys...)
		found := make(map[string]string)
		for _, key := range keys {
			if key != "k299" {
				found[key] = "loaded"
			}
		}
		return found, nil
	}
	var progress []aside.Warmed
	done, err := view.Warm(ctx, fresh, slices.Values(append(keys, "k7")), load, aside.Warming{Batch: 50, Progress: func(w aside.Warmed) { progress = append(progress, w) }})
	require.NoError(t, err)
	require.Equal(t, aside.Warmed{Keys: 301, There: 103, Loaded: 197, Absent: 1}, done)
	require.Equal(t, done, progress[len(progress)-1])
	require.Len(t, progress, 7)
	slices.Sort(asked)
	want := slices.Sorted(slices.Values(keys[102:]))
	require.Equal(t, want, asked)
	stored(t, c, keys...)
	for _, key := range keys[102:299] {
		require.Equal(t, "loaded", server.Do("GET", key))
		require.InDelta(t, (fresh + grace).Milliseconds(), server.Do("PTTL", key), 20_000)
	}
	require.Equal(t, "there", server.Do("GET", "k0"))
	done, err = view.Warm(ctx, fresh, slices.Values(keys), load, aside.Warming{})
	require.NoError(t, err)
	require.Equal(t, aside.Warmed{Keys: 300, There: 300}, done, "all are there")
}

// What fails does not end it; its end says how much has failed.
func TestWarmCountsWhatFails(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.String())
	server.Do("RPUSH", "k3", "a list")
	no := errors.New("no")
	done, err := view.Warm(ctx, fresh, slices.Values(keysNamed(40)), func(_ context.Context, keys []string) (map[string]string, error) {
		if slices.Contains(keys, "k15") {
			return nil, no
		}
		return map[string]string{}, nil
	}, aside.Warming{Batch: 10})
	require.ErrorContains(t, err, "11 of 40 keys could not be warmed")
	require.Equal(t, aside.Warmed{Keys: 40, Absent: 29, Failed: 11}, done)

	load := func(context.Context, []string) (map[string]string, error) { return nil, nil }
	for what, how := range map[string]aside.Warming{"Rate is -1": {Rate: -1}, "Batch is -1": {Batch: -1}} {
		_, err = view.Warm(ctx, fresh, slices.Values(keysNamed(1)), load, how)
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
		require.ErrorContains(t, err, what)
	}
	_, err = view.Warm(ctx, fresh, nil, load, aside.Warming{})
	require.ErrorContains(t, err, "slices.Values")
	_, err = view.Warm(ctx, 0, slices.Values(keysNamed(1)), load, aside.Warming{})
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	_, err = view.Warm(ctx, fresh, slices.Values(keysNamed(1)), nil, aside.Warming{})
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
}

// It ends with its context, also between batches, and asks for no more keys.
func TestWarmEndsWithItsContext(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := newClient(t, server.Addr())
	ctx, cancel := context.WithCancel(testContext(t))
	pulled := 0
	endless := func(yield func(string) bool) {
		for ; yield(fmt.Sprint("k", pulled)); pulled++ {
		}
	}
	done, err := aside.Typed(c, codec.String()).Warm(ctx, fresh, endless, newSource("v").LoadMany, aside.Warming{Batch: 10, Rate: 1, Progress: func(aside.Warmed) { cancel() }})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 10, done.Loaded)
	require.LessOrEqual(t, pulled, 20)
}

// While Redis is away nothing is loaded, and each key fails.
func TestWarmLoadsNothingWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), hasty), testContext(t)
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	db := newSource("v")
	done, err := aside.Typed(c, codec.String()).Warm(ctx, fresh, slices.Values(keysNamed(100)), db.LoadMany, aside.Warming{})
	require.ErrorIs(t, err, aside.ErrRedisAway)
	require.Equal(t, aside.Warmed{Keys: 100, Failed: 100}, done)
	require.Zero(t, db.Calls.Load())
}

// Where as many loads run as may, it waits its turn.
func TestWarmWaitsForMaxLoads(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.MaxLoads = 1 }), testContext(t)
	db := newSource("v")
	letGo := db.HoldUp()
	holding := inBackground(func() (string, error) { return c.Get(ctx, fresh, "other", db.Load) })
	db.AwaitBegin(t)
	warmed := inBackground(func() (string, error) {
		done, err := aside.Typed(c, codec.String()).Warm(ctx, fresh, maps.Keys(manyValues(10, "")), newSource("v").LoadMany, aside.Warming{})
		return fmt.Sprint(done), err
	})
	eventually(t, "it has been refused once", func() bool { return c.Stats().Overloaded >= 1 })
	letGo()
	require.NoError(t, await(t, holding).Err)
	require.Equal(t, result{Value: fmt.Sprint(aside.Warmed{Keys: 10, Loaded: 10})}, await(t, warmed))
}

// Keys that repeat and fail have failed, each once; those that repeat and are there are there.
func TestWarmDoesNotCountAFailureAsThere(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	server.Do("RPUSH", "a", "x")
	server.Do("SET", "b", "v")
	done, err := aside.Typed(c, codec.String()).Warm(ctx, fresh, slices.Values([]string{"a", "a", "b", "a", "b", "c", "c"}), newSource("v").LoadMany, aside.Warming{})
	require.ErrorContains(t, err, "1 of 7 keys could not be warmed")
	require.Equal(t, aside.Warmed{Keys: 7, There: 2, Loaded: 1, Failed: 1}, done)
}
