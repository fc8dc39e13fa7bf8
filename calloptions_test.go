package aside_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

// A wrong option is refused by the call that has it, and by all calls of a view that has it.
func TestABadOptionNamesFieldValueAndRemedy(t *testing.T) {
	c, ctx := newClient(t, redistest.Start(t).Addr()), testContext(t)
	for want, option := range map[string]aside.Option{
		"WithLoadTimeout is 0s: must be positive":                  aside.WithLoadTimeout(0),
		"WithLoadTimeout is 30ns: must be at least 1ms":            aside.WithLoadTimeout(30),
		"WithNegativeTTL is -1s: must be positive, or -1":          aside.WithNegativeTTL(-time.Second),
		"WithErrorTTL is 0s: must be positive, or -1":              aside.WithErrorTTL(0),
		"WithMaxStale is -1ns: must be positive, or 0 for nothing": aside.WithMaxStale(-1),
		"WithMaxAge is -1s: must be positive, or 0 for none":       aside.WithMaxAge(-time.Second),
		"WithMaxAge is 30ns: must be at least 1ms":                 aside.WithMaxAge(30),
		"WithRefreshAhead is 1: must be from 0 to 0.9, the par":    aside.WithRefreshAhead(1),
		"WithRefreshAhead is -0.1: must be from 0 to 0.9":          aside.WithRefreshAhead(-0.1),
		"WithRefreshAhead is NaN: must be from 0 to 0.9":           aside.WithRefreshAhead(math.NaN()),
		"WithJitter is 1: must be from 0 to 0.9":                   aside.WithJitter(1),
		"WithJitter is -0.1: must be from 0 to 0.9":                aside.WithJitter(-0.1),
		"WithJitter is NaN: must be from 0 to 0.9, the part of":    aside.WithJitter(math.NaN()),
	} {
		_, err := c.Get(ctx, time.Minute, "k", mustNotLoad, option)
		require.ErrorIs(t, err, aside.ErrInvalidArgument, want)
		require.ErrorContains(t, err, want)
		view := aside.Typed(c, codec.String(), option)
		_, err = view.Get(ctx, time.Minute, "k", mustNotLoad)
		require.ErrorIs(t, err, aside.ErrInvalidArgument, want)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, view.Set(ctx, time.Minute, "k", "v"), want)
	}
	view := aside.Typed(c, codec.String(), aside.WithMaxLoads(0))
	_, err := view.Get(ctx, time.Minute, "k", mustNotLoad)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	require.ErrorContains(t, err, "WithMaxLoads is 0: must be from 1 to")
	_, err = c.Get(ctx, time.Minute, "k", newSource("v").Load, nil, aside.Option(nil))
	require.NoError(t, err, "no option is none")
}

func TestAViewsOptionsAreTheDefaultsOfItsCalls(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.String(), aside.WithNegativeTTL(-1), aside.WithLoadTimeout(time.Hour))
	absent := func(context.Context, string) (string, error) { return "", aside.ErrNotFound }
	for range 2 {
		_, err := view.Get(ctx, time.Minute, "k", absent)
		require.ErrorIs(t, err, aside.ErrNotFound)
	}
	stored(t, c, "k")
	require.Empty(t, keysOf(server), "the view remembers no absence")
	_, err := view.GetMulti(ctx, time.Minute, []string{"k"}, func(context.Context, []string) (map[string]string, error) { return nil, nil })
	require.NoError(t, err)
	stored(t, c, "k")
	require.Empty(t, keysOf(server))
	_, err = view.Get(ctx, time.Minute, "k", absent, aside.WithNegativeTTL(20*time.Second))
	require.ErrorIs(t, err, aside.ErrNotFound)
	stored(t, c, "k")
	require.InDelta(t, 20_000, server.Do("PTTL", "k"), 5_000, "the call does")
}

// What is loaded together does not expire together, and memory ends with Redis.
func TestWithJitterSpreadsTheEndsOfLife(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	const ttl, n = 1000 * time.Second, 300
	view := aside.Typed(c, codec.String(), aside.WithJitter(0.1))
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
	}
	all := func(_ context.Context, keys []string) (map[string]string, error) {
		values := make(map[string]string)
		for _, key := range keys {
			if key != "k0" { // an absence has a ttl as well
				values[key] = "v"
			}
		}
		return values, nil
	}
	_, err := view.GetMulti(ctx, ttl, keys[:n-1], all, aside.WithNegativeTTL(ttl))
	require.NoError(t, err)
	_, err = view.Get(ctx, ttl, keys[n-1], newSource("v").Load)
	require.NoError(t, err)
	stored(t, c, keys...)
	least, most := int64(math.MaxInt64), int64(0)
	for _, key := range keys {
		left := server.Do("PTTL", key).(int64)
		least, most = min(least, left), max(most, left)
		found, err := c.Look(ctx, key)
		if key != "k0" {
			require.NoError(t, err)
			require.InDelta(t, left, found.TTL.Milliseconds(), 10_000)
		}
	}
	require.LessOrEqual(t, most, ttl.Milliseconds())
	require.GreaterOrEqual(t, least, ttl.Milliseconds()*9/10-20_000)
	require.Greater(t, most-least, ttl.Milliseconds()*9/100-1_000, "spread over nine tenths of the fraction") // 300 of them: one in 10^13 fails

	require.NoError(t, view.Set(ctx, ttl, "set", "v"))
	require.InDelta(t, ttl.Milliseconds(), server.Do("PTTL", "set"), 20_000, "an explicit ttl is left as it is")
}

// MaxLoads bounds the loads of a client, WithMaxLoads those of a view, while Redis is well.
func TestAtMostMaxLoadsRunAtOnce(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		option func(*aside.Options)
		view   []aside.ViewOption
		says   string
	}{
		"of a client": {func(o *aside.Options) { o.MaxLoads = 4 }, nil, "Options.MaxLoads (4)"},
		"of a view":   {func(*aside.Options) {}, []aside.ViewOption{aside.WithMaxLoads(4)}, "WithMaxLoads (4)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, ctx := newClient(t, redistest.Start(t).Addr(), row.option), testContext(t)
			view := aside.Typed(c, codec.String(), row.view...)
			var running crowd
			release := make(chan struct{})
			load := func(context.Context, string) (string, error) {
				defer running.enter()()
				<-release
				return "v", nil
			}
			var callers sync.WaitGroup
			var overloaded atomic.Int64
			for i := range 20 {
				callers.Go(func() {
					_, err := view.Get(ctx, time.Minute, fmt.Sprint("k", i), load)
					switch {
					case errors.Is(err, aside.ErrOverloaded):
						overloaded.Add(1)
						if !strings.Contains(err.Error(), row.says) {
							t.Errorf("%v does not say %s", err, row.says)
						}
					case err != nil:
						t.Error(err)
					}
				})
			}
			eventually(t, "the others have given up", func() bool { return overloaded.Load() == 16 })
			if row.view != nil {
				other := aside.Typed(c, codec.String())
				value, err := other.Get(ctx, time.Minute, "other", newSource("v").Load)
				require.NoError(t, err, "another view has its own bound, or none")
				require.Equal(t, "v", value)
			}
			close(release)
			callers.Wait()
			_, err := view.Get(ctx, time.Minute, "again", load)
			require.NoError(t, err)
			require.EqualValues(t, 4, running.most.Load())
			require.EqualValues(t, 16, c.Stats().Overloaded)
		})
	}
}

// A call WithoutLoad has what is there.
func TestWithoutLoadLoadsNothing(t *testing.T) {
	for name, change := range map[string]func(*aside.Options){"with memory": func(*aside.Options) {}, "untracked": untracked} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			c, ctx := newClient(t, server.Addr(), change), testContext(t)
			view := aside.Typed(c, codec.JSON[int]())
			noLoad := func(context.Context, string) (int, error) { panic("it is loaded") }
			noLoads := func(context.Context, []string) (map[string]int, error) { panic("they are loaded") }
			_, err := view.Get(ctx, time.Minute, "none", noLoad, aside.WithoutLoad())
			require.ErrorIs(t, err, aside.ErrNotCached)
			require.Nil(t, server.Do("GET", "none"), "and locks nothing")

			server.Do("SET", "there", "7")
			server.Do("SET", "wrong", "x")
			_, err = c.Get(ctx, time.Minute, "absent", func(context.Context, string) (string, error) { return "", aside.ErrNotFound })
			require.ErrorIs(t, err, aside.ErrNotFound)
			stored(t, c, "absent")
			value, err := view.Get(ctx, time.Minute, "there", noLoad, aside.WithoutLoad())
			require.NoError(t, err)
			require.Equal(t, 7, value)
			_, err = view.Get(ctx, time.Minute, "absent", noLoad, aside.WithoutLoad())
			require.ErrorIs(t, err, aside.ErrNotFound)
			_, err = view.Get(ctx, time.Minute, "wrong", noLoad, aside.WithoutLoad())
			require.ErrorIs(t, err, aside.ErrNotCached)
			values, err := view.GetMulti(ctx, time.Minute, []string{"none", "there", "absent", "wrong"}, noLoads, aside.WithoutLoad())
			require.NoError(t, err)
			require.Equal(t, map[string]int{"there": 7}, values)

			slow := newSource("8")
			letGo := slow.HoldUp()
			loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "loading", slow.Load) })
			slow.AwaitBegin(t)
			_, err = view.Get(ctx, time.Minute, "loading", noLoad, aside.WithoutLoad())
			require.ErrorIs(t, err, aside.ErrNotCached)
			letGo()
			require.NoError(t, await(t, loading).Err)
		})
	}
}
