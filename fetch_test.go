package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// fetch is one way to fetch a string, of a client with a grace.
type fetch func(ctx context.Context, c *aside.Client, key string, db *source, opts ...aside.CallOption) (aside.Result[string], error)

// fetches are all there are. They do the same.
// makeStale has c load a key named after the test, and makes it stale then: for half of the grace.
func (f fetch) makeStale(ctx context.Context, t *testing.T, server *redistest.Server, c *aside.Client, db *source) {
	t.Helper()
	_, err := f(ctx, c, t.Name(), db)
	require.NoError(t, err)
	stored(t, c, t.Name())
	makeStale(t, server, t.Name())
	awaitStale(t, c, t.Name())
}

var fetches = map[string]fetch{
	"Fetch": func(ctx context.Context, c *aside.Client, key string, db *source, opts ...aside.CallOption) (aside.Result[string], error) {
		return graceful(c).Fetch(ctx, fresh, key, db.Load, opts...)
	},
	"FetchMulti": func(ctx context.Context, c *aside.Client, key string, db *source, opts ...aside.CallOption) (aside.Result[string], error) {
		return one(graceful(c).FetchMulti(ctx, fresh, []string{key}, db.LoadMany, opts...))(key)
	},
	"a client's Fetch": func(ctx context.Context, c *aside.Client, key string, db *source, opts ...aside.CallOption) (aside.Result[string], error) {
		return c.Fetch(ctx, fresh, key, db.Load, append([]aside.CallOption{aside.WithGrace(grace)}, opts...)...)
	},
	"a client's FetchMulti": func(ctx context.Context, c *aside.Client, key string, db *source, opts ...aside.CallOption) (aside.Result[string], error) {
		return one(c.FetchMulti(ctx, fresh, []string{key}, db.LoadMany, append([]aside.CallOption{aside.WithGrace(grace)}, opts...)...))(key)
	},
}

// one is what a FetchMulti has answered for a single key.
func one(found map[string]aside.Result[string], err error) func(key string) (aside.Result[string], error) {
	return func(key string) (aside.Result[string], error) {
		result, ok := found[key]
		if batch, isBatch := errors.AsType[*aside.BatchError](err); isBatch {
			err = batch.Failed[key]
		}
		if err == nil && !ok {
			err = aside.ErrNotFound
		}
		return result, err
	}
}

func TestFetchSaysWhereAValueIsFrom(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, fetch := range fetches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, ctx, key := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t), t.Name()
			db := newSource("1")
			began := time.Now()
			got, err := fetch(ctx, a, key, db)
			require.NoError(t, err)
			require.Equal(t, "1", got.Value)
			require.Equal(t, aside.SourceLoader, got.Source)
			require.WithinRange(t, got.At, began.Add(-time.Millisecond), time.Now())
			require.InDelta(t, fresh+grace, got.TTL, float64(20*time.Second))
			require.WithinRange(t, time.Now().Add(-got.Age), began.Add(-time.Millisecond), time.Now())
			require.False(t, got.Stale || got.Degraded || got.Waited)
			stored(t, a, key)

			eventually(t, "memory has it", func() bool {
				got, err = fetch(ctx, a, key, db)
				return err == nil && got.Source == aside.SourceMemory
			})
			require.Equal(t, "1", got.Value)
			require.InDelta(t, fresh+grace, got.TTL, float64(20*time.Second))
			require.False(t, got.Stale || got.Degraded || got.Waited)
			if !oldRedis(server) { // which has had it read back
				require.WithinRange(t, time.Now().Add(-got.Age), began.Add(-time.Millisecond), time.Now(), "this process has loaded it")
			}

			got, err = fetch(ctx, b, key, db)
			require.NoError(t, err)
			require.Equal(t, aside.SourceRedis, got.Source)
			require.Equal(t, "1", got.Value)
			require.InDelta(t, fresh+grace, got.TTL, float64(20*time.Second))
			require.Negative(t, got.Age, "a raw value does not say it")
			require.False(t, got.Stale || got.Degraded || got.Waited)

			server.Do("SET", key, "forever")
			eventually(t, "it has heard of it", func() bool {
				got, err = fetch(ctx, a, key, db)
				return err == nil && got.Value == "forever"
			})
			require.Negative(t, got.TTL)
			require.Negative(t, got.Age)

			db.Fail(aside.ErrNotFound)
			require.NoError(t, a.Del(ctx, key))
			got, err = fetch(ctx, a, key, db)
			require.ErrorIs(t, err, aside.ErrNotFound)
			if name == "Fetch" || name == "a client's Fetch" {
				require.Equal(t, aside.SourceLoader, got.Source, "it says so of an absence, too")
				require.InDelta(t, 30*time.Second+grace, got.TTL, float64(20*time.Second))
			}
		})
	}
}

func TestFetchSaysThatAValueIsStaleAndWhy(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, fetch := range fetches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, other, ctx, key := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t), t.Name()
			db := newSource("1")
			fetch.makeStale(ctx, t, server, c, db)
			broken := errors.New("broken")
			db.Fail(broken)
			got, err := fetch(ctx, c, key, db)
			require.NoError(t, err)
			require.True(t, got.Stale)
			require.Equal(t, "1", got.Value)
			eventually(t, "it says why", func() bool {
				got, err = fetch(ctx, c, key, db)
				return err == nil && errors.Is(got.StaleErr, broken)
			})
			require.True(t, got.Stale)
			require.False(t, got.Degraded || got.Waited)
			got, err = fetch(ctx, other, key, db)
			require.NoError(t, err)
			require.True(t, got.Stale)
			require.Equal(t, aside.SourceRedis, got.Source)
			require.NoError(t, got.StaleErr, "no refresh of this process")
			require.NoError(t, c.Set(ctx, 2*fresh, key, "2"))
			got, err = fetch(ctx, c, key, db)
			require.NoError(t, err)
			require.False(t, got.Stale)
			require.NoError(t, got.StaleErr)
			require.Equal(t, "2", got.Value)
		})
	}
}

func TestFetchSaysThatItHasWaited(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, fetch := range fetches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, other, ctx, key := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t), t.Name()
			db := newSource("1")
			letGo := db.HoldUp()
			type answer struct {
				got aside.Result[string]
				err error
			}
			ask := func(c *aside.Client) <-chan answer {
				answers := make(chan answer, 1)
				go func() {
					got, err := fetch(ctx, c, key, db)
					answers <- answer{got, err}
				}()
				return answers
			}
			first := ask(c)
			db.AwaitBegin(t)
			second, third := ask(c), ask(other)
			awaitShared(t, c, 1)
			eventually(t, "it waits", func() bool { return other.Stats().LockWaits > 0 })
			letGo()
			got := await(t, first)
			require.NoError(t, got.err)
			require.False(t, got.got.Waited, "for its own load")
			got = await(t, second)
			require.NoError(t, got.err)
			require.True(t, got.got.Waited)
			got = await(t, third)
			require.NoError(t, got.err)
			require.True(t, got.got.Waited)
			require.Equal(t, aside.SourceRedis, got.got.Source)

			stored(t, c, key)
			makeStale(t, server, key)
			awaitStale(t, c, key)
			db.Fail(errors.New("broken"))
			result, err := fetch(ctx, c, key, db, aside.WithSoftTimeout(patience))
			require.NoError(t, err)
			require.True(t, result.Waited)
			require.True(t, result.Stale)
			require.Error(t, result.StaleErr)
		})
	}
}

func TestFetchSaysThatRedisWasNotAsked(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, fetch := range fetches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy := faultproxy.New(t, server.Addr())
			_, kept := durable(t)
			c, ctx, db := newClient(t, proxy.Addr(), hasty, kept), testContext(t), newSource("1")
			proxy.Refuse()
			awaitMode(t, c, aside.Degraded)
			got, err := fetch(ctx, c, name, db)
			require.NoError(t, err)
			require.Equal(t, aside.SourceLoader, got.Source)
			require.True(t, got.Degraded)
			got, err = fetch(ctx, c, name, db)
			require.NoError(t, err)
			require.Equal(t, aside.SourceMemory, got.Source)
			require.True(t, got.Degraded)
			require.Less(t, got.Age, patience)
			require.GreaterOrEqual(t, got.Age, time.Duration(0))

			require.NoError(t, c.Set(ctx, fresh+grace, "set"+name, "2"))
			got, err = fetch(ctx, c, "set"+name, db)
			require.NoError(t, err)
			require.True(t, got.Degraded)
			require.Equal(t, "2", got.Value)
			require.GreaterOrEqual(t, got.Age, time.Duration(0), "this process has set it")
		})
	}
	t.Run("from disk", func(t *testing.T) {
		t.Parallel()
		proxy := faultproxy.New(t, server.Addr())
		_, kept := durable(t)
		c, ctx := newClient(t, proxy.Addr(), hasty, kept, func(o *aside.Options) { o.MemoryBytes = -1 }), testContext(t)
		proxy.Refuse()
		awaitMode(t, c, aside.Degraded)
		began := time.Now()
		require.NoError(t, c.Set(ctx, fresh, "disk", "2"))
		got, err := c.Fetch(ctx, fresh, "disk", mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "2", got.Value)
		require.Equal(t, aside.SourceDisk, got.Source)
		require.True(t, got.Degraded)
		require.InDelta(t, fresh, got.TTL, float64(20*time.Second))
		require.WithinRange(t, time.Now().Add(-got.Age), began.Add(-time.Second), time.Now().Add(time.Second), "by the server's clock")
		got, err = c.Fetch(ctx, fresh, "disk", mustNotLoad, aside.WithoutLoad())
		require.NoError(t, err)
		require.Equal(t, aside.SourceDisk, got.Source)
		require.True(t, got.Degraded)
	})
}

// Fetch shares Get's errors, and leaves a view that is wrong as wrong.
func TestFetchReportsWhatGetReports(t *testing.T) {
	c, ctx := newClient(t, redistest.Start(t).Addr()), testContext(t)
	for name, fetch := range fetches {
		broken := errors.New("broken")
		db := newSource("1")
		db.Fail(broken)
		_, err := fetch(ctx, c, name, db)
		require.ErrorIs(t, err, broken)
		_, err = fetch(ctx, c, name+" not cached", db, aside.WithoutLoad())
		if strings.HasSuffix(name, "Multi") { // a key that is left out
			require.ErrorIs(t, err, aside.ErrNotFound)
		} else {
			require.ErrorIs(t, err, aside.ErrNotCached)
		}
		_, err = fetch(ctx, c, name, db, aside.WithJitter(2))
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
	}
	_, err := c.Fetch(ctx, fresh, "k", nil)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	_, err = c.FetchMulti(ctx, fresh, []string{"k"}, nil)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	_, err = aside.Typed(nil, codec.String()).Fetch(ctx, fresh, "k", mustNotLoad)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	_, err = aside.Typed(nil, codec.String()).FetchMulti(ctx, fresh, []string{"k"}, newSource("").LoadMany)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
}

// A value that cannot be read for good is loaded for the call alone, and the result says so.
func TestFetchOfWhatNobodyCanRead(t *testing.T) {
	c, ctx := newClient(t, redistest.Start(t).Addr()), testContext(t)
	view := aside.NewTypedClient(c, func(s string) (string, error) { return s, nil }, func(string) (string, error) { return "", errors.New("unreadable") })
	got, err := view.Fetch(ctx, fresh, "k", newSource("1").Load)
	require.NoError(t, err)
	require.Equal(t, "1", got.Value)
	require.Equal(t, aside.SourceLoader, got.Source)
	found, err := view.FetchMulti(ctx, fresh, []string{"m"}, newSource("1").LoadMany)
	require.NoError(t, err)
	require.Equal(t, "1", found["m"].Value)
	require.Equal(t, aside.SourceLoader, found["m"].Source)
}

// moreAllocations is what two measurements of the same may differ by.
var moreAllocations = 0.5

// What Fetch says costs no allocation: not for a hit, nor for what Redis has, nor for a load.
func TestFetchAllocatesNoMoreThanGet(t *testing.T) {
	server := redistest.Start(t)
	ctx := testContext(t)
	load := func(context.Context, string) (int, error) { return 7, nil }
	loadString := func(context.Context, string) (string, error) { return "7", nil }
	for name, change := range map[string]func(*aside.Options){"memory": func(*aside.Options) {}, "redis": untracked, "loader": untracked} {
		c := newClient(t, server.Addr(), change, func(o *aside.Options) { o.StoreFirst = true })
		view := aside.Typed(c, codec.JSON[int](), aside.WithGrace(grace))
		n := 0
		key := func() string {
			if name == "loader" {
				n++
				return fmt.Sprintf("%s:%08d", name, n)
			}
			return name
		}
		for what, calls := range map[string][2]func(){
			"a view": {
				func() { _, _ = view.Get(ctx, fresh, key(), load) },
				func() { _, _ = view.Fetch(ctx, fresh, key(), load) },
			},
			"a client": {
				func() { _, _ = c.Get(ctx, fresh, key(), loadString) },
				func() { _, _ = c.Fetch(ctx, fresh, key(), loadString) },
			},
		} {
			least := [2]float64{1e9, 1e9}
			for range 5 { // what else runs allocates now and then
				for i, call := range calls {
					least[i] = min(least[i], testing.AllocsPerRun(1, func() {
						for range 200 {
							call()
						}
					})/200)
				}
			}
			t.Logf("%s, %s: Get %v, Fetch %v", name, what, least[0], least[1])
			require.Less(t, least[1], least[0]+moreAllocations, "%s, %s", name, what)
			if name == "memory" {
				require.Zero(t, least[1])
			}
		}
	}
}
