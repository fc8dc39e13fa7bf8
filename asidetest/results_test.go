package asidetest_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

const (
	resultTTL, resultGrace = time.Minute, time.Hour
	resultTakes            = time.Second // a load
)

// fetching asks for k, with a grace, and with an age, which has the time of its load stored.
type fetching func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (aside.Result[string], error)

var fetchings = map[string]fetching{
	"Fetch": func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (aside.Result[string], error) {
		return aside.Typed(c, codec.String(), aside.WithGrace(resultGrace), aside.WithMaxAge(resultGrace)).Fetch(ctx, resultTTL, "k", load)
	},
	"FetchMulti": func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (aside.Result[string], error) {
		view := aside.Typed(c, codec.String(), aside.WithGrace(resultGrace), aside.WithMaxAge(resultGrace))
		got, err := view.FetchMulti(ctx, resultTTL, []string{"k"}, manyOf(load))
		return got["k"], err
	},
	"a client's Fetch": func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (aside.Result[string], error) {
		return c.Fetch(ctx, resultTTL, "k", load, aside.WithGrace(resultGrace), aside.WithMaxAge(resultGrace))
	},
	"a client's FetchMulti": func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (aside.Result[string], error) {
		got, err := c.FetchMulti(ctx, resultTTL, []string{"k"}, manyOf(load), aside.WithGrace(resultGrace), aside.WithMaxAge(resultGrace))
		return got["k"], err
	},
}

// manyOf loads k as load does.
func manyOf(load aside.Loader[string]) aside.BatchLoader[string] {
	return func(ctx context.Context, keys []string) (map[string]string, error) {
		value, err := load(ctx, keys[0])
		return map[string]string{keys[0]: value}, err
	}
}

func slowLoad(context.Context, string) (string, error) {
	time.Sleep(resultTakes)
	return "v", nil
}

// A Result says when Redis was asked, or the load of the value began, how old the value is, and how long
// its key has still to live: all to the millisecond, wherever it is from.
func TestAResultSaysWhenAndHowOld(t *testing.T) {
	for name, fetch := range fetchings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, ctx := asidetest.NewServer(t), t.Context()
				a, b := server.Client(), server.Client()
				var loaded, ends time.Time // when its load began, and when its key ends
				check := func(c *aside.Client, source aside.Source, at time.Time, degraded bool) {
					t.Helper()
					got, err := fetch(ctx, c, slowLoad)
					require.NoError(t, err)
					require.Equal(t, source, got.Source)
					if source == aside.SourceLoader {
						loaded, ends = time.Now().Add(-resultTakes), time.Now().Add(resultTTL+resultGrace)
					}
					require.WithinDuration(t, at, got.At, time.Millisecond)
					require.InDelta(t, time.Since(loaded), got.Age, float64(time.Millisecond))
					require.InDelta(t, time.Until(ends), got.TTL, float64(time.Millisecond))
					require.Equal(t, degraded, got.Degraded)
					require.False(t, got.Stale || got.Waited || got.Untracked)
					time.Sleep(resultTakes / 4)
				}
				began := time.Now()
				check(a, aside.SourceLoader, began, false)
				check(a, aside.SourceMemory, began, false)
				asked := time.Now()
				check(b, aside.SourceRedis, asked, false)
				check(b, aside.SourceMemory, asked, false)
				server.Down()
				time.Sleep(3 * time.Second)
				check(a, aside.SourceMemory, began, true)
				check(b, aside.SourceMemory, asked, true)
				loaded, ends = time.Now(), time.Now().Add(resultTTL+resultGrace)
				require.NoError(t, a.Set(ctx, resultTTL+resultGrace, "k", "v"))
				time.Sleep(resultTakes / 4)
				check(a, aside.SourceMemory, loaded, true)
			})
		})
	}
}

// What is not stored has nothing left to live; what does not expire says so.
func TestAResultThatIsNotStoredOrDoesNotExpire(t *testing.T) {
	for name, fetch := range fetchings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, ctx := asidetest.NewServer(t), t.Context()
				c, other := server.Client(), server.Client()
				got, err := fetch(ctx, c, func(ctx context.Context, key string) (string, error) {
					aside.LoadFrom(ctx).NoStore()
					return slowLoad(ctx, key)
				})
				require.NoError(t, err)
				require.Zero(t, got.TTL)
				require.Equal(t, resultTakes, got.Age)
				dated := aside.Typed(other, codec.String(), aside.WithMaxAge(resultGrace))
				require.NoError(t, dated.Set(ctx, aside.LongestTTL+1, "k", "v"))
				for _, source := range []aside.Source{aside.SourceRedis, aside.SourceMemory} {
					got, err = fetch(ctx, c, slowLoad)
					require.NoError(t, err)
					require.Equal(t, source, got.Source)
					require.Negative(t, got.TTL)
				}
			})
		})
	}
}

// Where others put again and again what a view cannot read, its call has what is loaded for it alone. That
// is as old as its load, and not stored.
func TestAResultThatIsLoadedForOneCallSaysHowOldItIs(t *testing.T) {
	unreadable := codec.Func(func(s string) (string, error) { return s, nil }, func(string) (string, error) { return "", errors.New("unreadable") })
	for name, fetch := range map[string]func(ctx context.Context, view *aside.TypedClient[string]) (aside.Result[string], error){
		"Fetch": func(ctx context.Context, view *aside.TypedClient[string]) (aside.Result[string], error) {
			return view.Fetch(ctx, resultTTL, "k", slowLoad)
		},
		"FetchMulti": func(ctx context.Context, view *aside.TypedClient[string]) (aside.Result[string], error) {
			got, err := view.FetchMulti(ctx, resultTTL, []string{"k"}, manyOf(slowLoad))
			return got["k"], err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, ctx := asidetest.NewServer(t), t.Context()
				other, sets := server.Client(), 0
				set := func() {
					sets++
					assert.NoError(t, other.Set(ctx, time.Hour, "k", strconv.Itoa(sets)))
				}
				set()
				c := server.Client(func(o *aside.Options) {
					o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
						if e.Kind == aside.EventDecodeFailed {
							set()
						}
					})
				})
				got, err := fetch(ctx, aside.Typed(c, unreadable))
				require.NoError(t, err)
				require.Greater(t, sets, 3)
				require.Equal(t, "v", got.Value)
				require.Equal(t, aside.SourceLoader, got.Source)
				require.WithinDuration(t, time.Now().Add(-resultTakes), got.At, time.Millisecond)
				require.InDelta(t, resultTakes, got.Age, float64(time.Millisecond))
				require.Zero(t, got.TTL)
			})
		})
	}
}
