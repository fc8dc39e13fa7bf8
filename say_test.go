package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/wire"
)

// saying is a loader that says something first.
func saying(value string, say func(ld aside.Load)) aside.Loader[string] {
	return func(ctx context.Context, _ string) (string, error) {
		say(aside.LoadFrom(ctx))
		if value == "" {
			return "", aside.ErrNotFound
		}
		return value, nil
	}
}

// getters are the ways to a value of one key, with a grace.
func getters() map[string]func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error) {
	many := func(load aside.Loader[string]) aside.BatchLoader[string] {
		return func(ctx context.Context, keys []string) (map[string]string, error) {
			value, err := load(ctx, keys[0])
			return map[string]string{keys[0]: value}, err
		}
	}
	return map[string]func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error){
		"a view's Get": func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error) {
			return graceful(c).Get(ctx, fresh, key, load)
		},
		"a view's GetMulti": func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error) {
			values, err := graceful(c).GetMulti(ctx, fresh, []string{key}, many(load))
			return values[key], err
		},
		"Get": func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error) {
			return c.Get(ctx, fresh, key, load, aside.WithGrace(grace))
		},
		"GetMulti": func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error) {
			values, err := c.GetMulti(ctx, fresh, []string{key}, many(load), aside.WithGrace(grace))
			return values[key], err
		},
	}
}

// What a loader says of a ttl and a grace holds, and stands in a header with the time of the load;
// where it says nothing the value is raw.
func TestALoaderSaysForHowLongItsResultLives(t *testing.T) {
	server := redistest.Start(t)
	c, other, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	const negative = 30 * time.Second
	for way, get := range getters() {
		for name, row := range map[string]struct {
			value      string
			say        func(ld aside.Load)
			ttl, grace time.Duration
			raw        bool
		}{
			"nothing":                 {"v", func(aside.Load) {}, fresh, grace, true},
			"a ttl":                   {"v", func(ld aside.Load) { ld.SetTTL(2 * fresh) }, 2 * fresh, grace, false},
			"the last ttl counts":     {"v", func(ld aside.Load) { ld.SetTTL(fresh); ld.SetTTL(3 * fresh) }, 3 * fresh, grace, false},
			"a grace":                 {"v", func(ld aside.Load) { ld.SetGrace(2 * grace) }, fresh, 2 * grace, false},
			"no grace":                {"v", func(ld aside.Load) { ld.SetGrace(0) }, fresh, 0, false},
			"both":                    {"v", func(ld aside.Load) { ld.SetTTL(2 * fresh); ld.SetGrace(3 * grace) }, 2 * fresh, 3 * grace, false},
			"an absence":              {"", func(aside.Load) {}, negative, grace, true},
			"the ttl of an absence":   {"", func(ld aside.Load) { ld.SetTTL(2 * fresh) }, 2 * fresh, grace, false},
			"the grace of an absence": {"", func(ld aside.Load) { ld.SetGrace(2 * grace) }, negative, 2 * grace, false},
		} {
			t.Run(way+", "+name, func(t *testing.T) {
				key := t.Name()
				before := serverMicros(server)
				value, err := get(ctx, c, key, saying(row.value, row.say))
				if !strings.Contains(way, "Multi") || row.value != "" {
					require.Equal(t, row.value == "", errors.Is(err, aside.ErrNotFound))
				}
				require.Equal(t, row.value, value)
				eventually(t, "it is stored", func() bool { return c.Stats().Waiting == 0 })
				require.InDelta(t, (row.ttl + row.grace).Milliseconds(), server.Do("PTTL", key), 20_000)
				holds, h, what := wire.Unpack(fmt.Sprint(server.Do("GET", key)))
				require.Equal(t, map[bool]wire.Content{true: wire.Value, false: wire.Absence}[row.value != ""], what)
				require.Equal(t, row.value, holds)
				if row.raw {
					require.Nil(t, h)
				} else {
					require.Equal(t, row.ttl, h.TTL)
					require.Equal(t, row.grace, h.Grace)
					require.InDelta(t, before, h.Began, 5e6)
				}
				for _, c := range []*aside.Client{c, other} {
					value, err := get(ctx, c, key, mustNotLoad)
					require.Equal(t, row.value, value)
					if row.value != "" {
						require.NoError(t, err)
					}
				}
			})
		}
	}
}

// serverMicros is the server's time.
func serverMicros(server *redistest.Server) int64 {
	var seconds, micros int64
	clock := server.Do("TIME").([]any)
	_, _ = fmt.Sscan(fmt.Sprint(clock[0]), &seconds)
	_, _ = fmt.Sscan(fmt.Sprint(clock[1]), &micros)
	return seconds*1e6 + micros
}

// The grace that a loader has set holds for readers that have another one, or none.
func TestTheGraceOfAValueHoldsForAllReaders(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	_, err := a.Get(ctx, fresh, "k", saying("1", func(ld aside.Load) { ld.SetGrace(grace) }))
	require.NoError(t, err)
	stored(t, a, "k")
	makeStale(t, server, "k")
	db := newSource("2")
	value, err := b.Get(ctx, fresh, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "1", value, "it is stale, and refreshed")
	eventually(t, "it is refreshed", func() bool { return server.Do("GET", "k") == "2" })
	require.InDelta(t, fresh.Milliseconds(), server.Do("PTTL", "k"), 20_000, "what says nothing has the grace of its view")
}

// What must not be stored is given to those that wait, and is nowhere afterwards.
func TestNoStore(t *testing.T) {
	server := redistest.Start(t)
	for way, get := range getters() {
		for _, value := range []string{"v", ""} {
			t.Run(fmt.Sprintf("%s of %q", way, value), func(t *testing.T) {
				c, ctx, key := newClient(t, server.Addr()), testContext(t), t.Name()
				began, letGo := make(chan struct{}), make(chan struct{})
				var calls atomic.Int64
				load := func(ctx context.Context, _ string) (string, error) {
					if calls.Add(1) == 1 {
						close(began)
						<-letGo
					}
					return saying(value, func(ld aside.Load) { require.True(t, ld.NoStore()) })(ctx, key)
				}
				callers := []<-chan result{inBackground(func() (string, error) { return get(ctx, c, key, load) })}
				<-began
				for range 3 {
					callers = append(callers, inBackground(func() (string, error) { return get(ctx, c, key, load) }))
				}
				awaitShared(t, c, 3)
				close(letGo)
				for _, caller := range callers {
					got := await(t, caller)
					require.Equal(t, value, got.Value)
					if value != "" {
						require.NoError(t, got.Err)
					}
				}
				eventually(t, "it is over", refreshed(c))
				require.EqualValues(t, 1, calls.Load())
				require.Nil(t, server.Do("GET", key), "and its lock is given back")
				require.Zero(t, c.Stats().MemoryEntries)
				_, _ = get(ctx, c, key, load)
				require.EqualValues(t, 2, calls.Load())
			})
		}
	}
	t.Run("a refresh", func(t *testing.T) {
		c, ctx := newClient(t, server.Addr()), testContext(t)
		server.Do("SET", "k", "1", "PX", (grace / 2).Milliseconds())
		value, err := graceful(c).Get(ctx, fresh, "k", saying("2", func(ld aside.Load) { ld.NoStore() }))
		require.NoError(t, err)
		require.Equal(t, "1", value)
		eventually(t, "what it was to replace is gone", func() bool { return server.Do("GET", "k") == nil })
	})
}

// A value that is wrong fails the load and names what is wrong, and nothing is stored.
func TestWhatALoaderSaysWrongFailsItsLoad(t *testing.T) {
	server := redistest.Start(t)
	for way, get := range getters() {
		for says, say := range map[string]func(ld aside.Load){
			"Load.SetTTL is 0s":        func(ld aside.Load) { ld.SetTTL(0) },
			"Load.SetTTL is -1s":       func(ld aside.Load) { ld.SetTTL(-time.Second); ld.SetTTL(time.Second) },
			"Load.SetTTL is 5ns":       func(ld aside.Load) { ld.SetTTL(5) },
			"Load.SetGrace is -1ns":    func(ld aside.Load) { ld.SetGrace(-1) },
			"Load.SetGrace is 87600":   func(ld aside.Load) { ld.SetGrace(aside.LongestTTL + time.Hour) },
			"ttl is 876000h0m0s, with": func(ld aside.Load) { ld.SetTTL(aside.LongestTTL) },
		} {
			t.Run(way+", "+says, func(t *testing.T) {
				c, ctx, key := newClient(t, server.Addr()), testContext(t), t.Name()
				for _, value := range []string{"v", ""} {
					_, err := get(ctx, c, key, saying(value, say))
					require.ErrorIs(t, err, aside.ErrInvalidArgument)
					require.ErrorContains(t, err, says)
				}
				require.Nil(t, server.Do("GET", key))
			})
		}
	}
}

// In a batch each key may have its own; what is said of all counts where nothing is said of one.
func TestABatchLoaderSaysItOfEachKey(t *testing.T) {
	server := redistest.Start(t)
	for _, n := range []int{3, 200} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c, ctx := newClient(t, server.Addr()), testContext(t)
			keys := make([]string, n)
			for i := range keys {
				keys[i] = fmt.Sprint(n, "k", i)
			}
			values, err := c.GetMulti(ctx, time.Hour, keys, func(ctx context.Context, keys []string) (map[string]string, error) {
				ld, values := aside.LoadFrom(ctx), make(map[string]string)
				require.True(t, ld.SetTTL(2*time.Hour))
				for i, key := range keys {
					values[key] = "v"
					if i > 1 {
						require.True(t, ld.For(key).SetTTL(time.Duration(i+1)*time.Hour))
					}
				}
				require.True(t, ld.For(keys[1]).NoStore())
				require.False(t, ld.For("another").NoStore())
				require.False(t, ld.For("another").For(keys[0]).NoStore())
				return values, nil
			})
			require.NoError(t, err)
			require.Len(t, values, n)
			eventually(t, "they are stored", refreshed(c))
			require.InDelta(t, (2 * time.Hour).Milliseconds(), server.Do("PTTL", keys[0]), 20_000)
			require.Nil(t, server.Do("GET", keys[1]))
			for i, key := range keys[2:] {
				require.InDelta(t, (time.Duration(i+3) * time.Hour).Milliseconds(), server.Do("PTTL", key), 20_000)
			}
		})
	}
}

// Where there is no loader, or none any more, nothing happens.
func TestWhatNoLoaderSaysIsIgnored(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	ignored := func(ld aside.Load) {
		t.Helper()
		require.False(t, ld.SetTTL(2*time.Hour))
		require.False(t, ld.SetTTL(-1))
		require.False(t, ld.SetGrace(2*time.Hour))
		require.False(t, ld.NoStore())
		require.False(t, ld.Stale())
		require.False(t, ld.For("k").NoStore())
	}
	ignored(aside.Load{})
	ignored(aside.LoadFrom(ctx))
	_, ok := aside.StaleOf[string](ctx)
	require.False(t, ok)
	_, ok = aside.StaleOfKey[string](ctx, "k")
	require.False(t, ok)

	var late context.Context
	began, said := make(chan struct{}), make(chan struct{})
	_, err := c.Get(ctx, time.Hour, "k", func(ctx context.Context, _ string) (string, error) {
		late = context.WithoutCancel(ctx)
		ld := aside.LoadFrom(ctx)
		go func() { // a loader's goroutine that goes on, for the race detector
			close(began)
			for ld.SetTTL(time.Hour) {
			}
			close(said)
		}()
		<-began
		return "v", nil
	})
	require.NoError(t, err)
	await(t, said)
	ignored(aside.LoadFrom(late))
	stored(t, c, "k")

	// A nested load is a load of its own, also where it is nobody else's.
	_, err = c.Get(ctx, time.Hour, "outer", func(ctx context.Context, _ string) (string, error) {
		if _, err := c.Get(ctx, time.Hour, "inner", saying("v", func(ld aside.Load) { ld.SetTTL(2 * time.Hour) })); err != nil {
			return "", err
		}
		server.Do("SET", "undecodable", "{")
		view := aside.Typed(c, codec.JSON[int](), aside.WithNegativeTTL(-1))
		_, err := view.Get(ctx, time.Hour, "undecodable", func(ctx context.Context, _ string) (int, error) {
			server.Do("SET", "undecodable", "{") // each time, so that it is called for this call alone in the end
			aside.LoadFrom(ctx).NoStore()
			return 1, nil
		})
		return "v", err
	})
	require.NoError(t, err)
	eventually(t, "all is stored", refreshed(c))
	require.InDelta(t, time.Hour.Milliseconds(), server.Do("PTTL", "outer"), 20_000)
	require.InDelta(t, (2 * time.Hour).Milliseconds(), server.Do("PTTL", "inner"), 20_000)
}

// A loader has the value that it is to replace, wherever that was found.
func TestALoaderHasTheOldValue(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*aside.Options){"in memory": func(*aside.Options) {}, "untracked": untracked, "no memory": func(o *aside.Options) { o.MemoryBytes = -1 }} {
		for way, get := range getters() {
			t.Run(name+", "+way, func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				c, ctx := newClient(t, server.Addr(), change), testContext(t)
				type found struct {
					old   string
					ok    bool
					stale bool
				}
				loads := make(chan found, 8)
				load := func(ctx context.Context, key string) (string, error) {
					old, ok := aside.StaleOf[string](ctx)
					again, _ := aside.StaleOfKey[string](ctx, key)
					require.Equal(t, old, again)
					_, wrong := aside.StaleOf[int](ctx)
					require.False(t, wrong)
					loads <- found{old, ok, aside.LoadFrom(ctx).Stale()}
					aside.LoadFrom(ctx).SetGrace(grace)
					return old + "+", nil
				}
				value, err := get(ctx, c, "k", load)
				require.NoError(t, err)
				require.Equal(t, "+", value)
				require.Equal(t, found{}, await(t, loads), "there is none")
				for _, holds := range []string{"+", "++"} { // the first has a header, as the second has
					eventually(t, "it is stored", refreshed(c))
					makeStale(t, server, "k")
					eventually(t, "it is refreshed", func() bool {
						_, err := get(ctx, c, "k", load)
						require.NoError(t, err)
						return len(loads) > 0
					})
					require.Equal(t, found{holds, true, true}, await(t, loads))
				}
			})
		}
	}
}

type page struct {
	Body, ETag string
}

// The old value is of the view's type, and the loader's own.
func TestTheOldValueIsTyped(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.JSON[*page](), aside.WithGrace(grace))
	keys := []string{"a", "b", "gone"}
	server.Do("SET", "a", `{"Body":"1","ETag":"x"}`, "PX", (grace / 2).Milliseconds())
	server.Do("SET", "gone", wire.Absent, "PX", (grace / 2).Milliseconds())
	loaded := make(chan struct{})
	values, err := view.GetMulti(ctx, fresh, keys, func(ctx context.Context, keys []string) (map[string]*page, error) {
		found := make(map[string]*page)
		for _, key := range keys {
			old, ok := aside.StaleOfKey[*page](ctx, key)
			require.Equal(t, key == "a", ok, key)
			require.Equal(t, ok, aside.LoadFrom(ctx).For(key).Stale())
			if ok {
				require.Equal(t, &page{"1", "x"}, old)
				old.Body = "2"
				defer close(loaded)
			} else {
				old = &page{Body: "new"}
			}
			found[key] = old
		}
		if len(keys) > 1 {
			_, ok := aside.StaleOf[*page](ctx)
			require.False(t, ok, "of which?")
		}
		return found, nil
	})
	require.NoError(t, err)
	require.Equal(t, &page{"1", "x"}, values["a"])
	await(t, loaded)
	eventually(t, "it is refreshed", func() bool { return strings.Contains(fmt.Sprint(server.Do("GET", "a")), `"2"`) })
	require.Equal(t, &page{"1", "x"}, values["a"])
}

// A Refresh has the value that it is to replace, be it fresh, if this process has it.
func TestARefreshOfAnyValueHasTheOldOne(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.JSON[page]())
	key := "k"
	server.Do("SET", key, `{"Body":"1","ETag":"x"}`)
	old := func(ctx context.Context, _ string) (page, error) {
		old, ok := aside.StaleOf[page](ctx)
		require.Equal(t, ok, aside.LoadFrom(ctx).Stale())
		old.Body += "+"
		return old, nil
	}
	value, err := view.Refresh(ctx, time.Minute, "other", old)
	require.NoError(t, err)
	require.Equal(t, page{Body: "+"}, value, "there was none")
	eventually(t, "it is in memory", func() bool {
		_, err := view.Get(ctx, time.Minute, key, func(context.Context, string) (page, error) { return page{}, errDown })
		return err == nil && c.Stats().MemoryEntries > 0
	})
	value, err = view.Refresh(ctx, time.Minute, key, old)
	require.NoError(t, err)
	require.Equal(t, page{"1+", "x"}, value)
}

// A call that wants a younger value than there is has its loader called with the old one.
func TestALoaderOfACallThatWantsAYoungerValueHasTheOldOne(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*aside.Options){"in memory": func(*aside.Options) {}, "untracked": untracked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			c, ctx := newClient(t, server.Addr(), change), testContext(t)
			server.Do("SET", "k", "1", "PX", fresh.Milliseconds()) // raw: nobody knows how old it is
			value, err := graceful(c).Get(ctx, fresh, "k", func(ctx context.Context, _ string) (string, error) {
				old, ok := aside.StaleOf[string](ctx)
				require.True(t, ok)
				return old + "+", nil
			}, aside.WithMaxAge(time.Minute))
			require.NoError(t, err)
			require.Equal(t, "1+", value)
		})
	}
}
