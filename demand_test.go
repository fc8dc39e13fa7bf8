package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// fetched is a Fetch in the background.
type fetched struct {
	aside.Result[string]
	err error
}

func fetchInBackground(fetch func() (aside.Result[string], error)) <-chan fetched {
	ch := make(chan fetched, 1)
	go func() {
		got, err := fetch()
		ch <- fetched{got, err}
	}()
	return ch
}

// A call with WithMaxStale(0) waits for the load, which one process does; others have the stale value
// meanwhile.
func TestACallThatTakesNothingStaleWaitsForTheLoad(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, fetch := range fetches {
		for where, change := range map[string]func(*aside.Options){"in memory": func(*aside.Options) {}, "untracked": untracked} {
			t.Run(name+", "+where, func(t *testing.T) {
				t.Parallel()
				a, b, ctx, key := newClient(t, server.Addr(), change), newClient(t, server.Addr(), change), testContext(t), t.Name()
				db := newSource("1")
				for _, c := range []*aside.Client{a, b} {
					_, err := fetch(ctx, c, key, db)
					require.NoError(t, err)
					stored(t, a, key)
				}
				makeStale(t, server, key)
				awaitStale(t, a, key)
				awaitStale(t, b, key)
				db.Set("2")
				letGo := db.HoldUp()
				strict := make([]<-chan fetched, 0, 20)
				for i := range cap(strict) {
					strict = append(strict, fetchInBackground(func() (aside.Result[string], error) {
						return fetch(ctx, []*aside.Client{a, b}[i%2], key, db, aside.WithMaxStale(0))
					}))
				}
				eventually(t, "it is loaded", func() bool { return db.Calls.Load() == 2 })
				for _, c := range []*aside.Client{a, b} {
					got, err := fetch(ctx, c, key, db)
					require.NoError(t, err)
					require.Equal(t, "1", got.Value, "others do not wait")
					require.True(t, got.Stale)
				}
				letGo()
				for _, ch := range strict {
					got := await(t, ch)
					require.NoError(t, got.err)
					require.Equal(t, "2", got.Value)
					require.False(t, got.Stale)
				}
				require.EqualValues(t, 2, db.Calls.Load(), "one load in all")
				got, err := fetch(ctx, b, key, db, aside.WithMaxStale(0))
				require.NoError(t, err)
				require.Equal(t, "2", got.Value)
				require.EqualValues(t, 2, db.Calls.Load(), "what is fresh is served")
			})
		}
	}
}

// What has been stale for less than WithMaxStale says is served, and refreshed.
func TestACallTakesWhatIsNotTooStale(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, fetch := range fetches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, ctx, key := newClient(t, server.Addr()), testContext(t), t.Name()
			db := newSource("1")
			fetch.makeStale(ctx, t, server, c, db)
			db.Set("2")
			letGo := db.HoldUp()
			got, err := fetch(ctx, c, key, db, aside.WithMaxStale(grace))
			require.NoError(t, err)
			require.Equal(t, "1", got.Value)
			eventually(t, "it is refreshed", func() bool { return db.Calls.Load() == 2 })
			strict := fetchInBackground(func() (aside.Result[string], error) {
				return fetch(ctx, c, key, db, aside.WithMaxStale(grace/4))
			})
			letGo()
			answer := await(t, strict)
			require.NoError(t, answer.err)
			require.Equal(t, "2", answer.Value, "that was too stale")
		})
	}
}

// The loader's error reaches who takes nothing stale, also in its back-off, and costs the others nothing.
func TestALoadThatFailsForOneLeavesTheStaleValueToTheOthers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, fetch := range fetches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, ctx, key := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t), t.Name()
			db := newSource("1")
			fetch.makeStale(ctx, t, server, a, db)
			broken := errors.New("broken")
			db.Fail(broken)
			for range 3 {
				_, err := fetch(ctx, a, key, db, aside.WithMaxStale(0), aside.WithErrorTTL(time.Hour))
				require.ErrorIs(t, err, broken)
			}
			require.EqualValues(t, 2, db.Calls.Load(), "the error is remembered for WithErrorTTL")
			_, err := fetch(ctx, b, key, db, aside.WithMaxStale(0), aside.WithErrorTTL(-1))
			require.ErrorIs(t, err, broken)
			require.EqualValues(t, 3, db.Calls.Load(), "it does not wait for the back-off")
			for _, c := range []*aside.Client{a, b} {
				got, err := fetch(ctx, c, key, db)
				require.NoError(t, err)
				require.Equal(t, "1", got.Value)
			}
			require.Equal(t, "1", server.Do("GET", key))
			db.Fail(nil)
			db.Set("2")
			got, err := fetch(ctx, b, key, db, aside.WithMaxStale(0), aside.WithErrorTTL(-1))
			require.NoError(t, err)
			require.Equal(t, "2", got.Value)
		})
	}
}

// What is older than WithMaxAge, or does not say how old it is, is loaded again and replaced, also where
// it does not expire.
func TestACallTakesNothingOlderThanItsMaxAge(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, fetch := range fetches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, ctx, key := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t), t.Name()
			for i, set := range [][]any{{"SET", key, "foreign", "PX", 3_600_000}, {"SET", key, "foreign"}} {
				server.Do(set...)
				db := newSource("loaded")
				eventually(t, "it has heard of it", func() bool {
					got, err := fetch(ctx, a, key, db)
					return err == nil && got.Value == "foreign"
				})
				letGo := db.HoldUp()
				strict := fetchInBackground(func() (aside.Result[string], error) { return fetch(ctx, a, key, db, aside.WithMaxAge(time.Hour)) })
				eventually(t, "it is loaded", func() bool { return db.Calls.Load() == 1 })
				got, err := fetch(ctx, b, key, db)
				require.NoError(t, err)
				require.Equal(t, "foreign", got.Value, "others do not wait")
				letGo()
				answer := await(t, strict)
				require.NoError(t, answer.err)
				require.Equal(t, "loaded", answer.Value)
				require.GreaterOrEqual(t, answer.Age, time.Duration(0))
				awaitNobody(t, a)
				for _, c := range []*aside.Client{a, b} {
					eventually(t, "it is replaced", func() bool {
						got, err = fetch(ctx, c, key, db)
						return err == nil && got.Value == "loaded"
					})
					got, err = fetch(ctx, c, key, db, aside.WithMaxAge(time.Hour))
					require.NoError(t, err)
					require.Equal(t, "loaded", got.Value)
					require.GreaterOrEqual(t, got.Age, time.Duration(0), "%d: a header says it", i)
					require.Less(t, got.Age, patience)
				}
				require.EqualValues(t, 1, db.Calls.Load(), "it is young enough")
				for n := range 3 {
					got, err = fetch(ctx, a, key, db, aside.WithMaxAge(time.Millisecond))
					require.NoError(t, err)
					time.Sleep(2 * time.Millisecond) // the age, not a synchronisation
					require.EqualValues(t, n+2, db.Calls.Load(), "its own load it takes")
				}
			}
		})
	}
}

// A call with WithFresh sees what was acknowledged before it, whatever memory holds and whoever asks.
func TestWithFreshSeesWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, fetch := range fetches {
		for where, change := range map[string]func(*aside.Options){"with memory": func(*aside.Options) {}, "untracked": untracked} {
			t.Run(name+", "+where, func(t *testing.T) {
				t.Parallel()
				c, ctx, key := newClient(t, server.Addr(), change), testContext(t), t.Name()
				db := newSource("loaded")
				var others sync.WaitGroup
				defer others.Wait()
				for i := range 50 {
					server.Do("SET", key, "older")
					for range 4 { // whose flights it must not share
						others.Go(func() {
							for range 3 { // neighbours that spin would leave the call no processor
								if _, err := fetch(ctx, c, key, db); err != nil {
									t.Error(err)
								}
							}
						})
					}
					server.Do("SET", key, i)
					got, err := fetch(ctx, c, key, db, aside.WithFresh())
					require.NoError(t, err)
					require.Equal(t, strconv.Itoa(i), got.Value)
					require.Equal(t, aside.SourceRedis, got.Source)
					others.Wait()
				}
				server.Do("SET", key, "kept")
				got, err := fetch(ctx, c, key, db, aside.WithFresh(), aside.WithoutLoad())
				require.NoError(t, err)
				require.Equal(t, "kept", got.Value)
				require.Zero(t, db.Calls.Load())
			})
		}
	}
}

// Where Redis does not answer, WithFresh does not pretend.
func TestWithFreshNeedsRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), hasty), testContext(t)
	db := newSource("1")
	for name, fetch := range fetches {
		_, err := fetch(ctx, c, name, db)
		require.NoError(t, err)
	}
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	for name, fetch := range fetches {
		for _, opts := range [][]aside.CallOption{{aside.WithFresh()}, {aside.WithFresh(), aside.WithoutLoad()}} {
			_, err := fetch(ctx, c, name, db, opts...)
			require.ErrorIs(t, err, aside.ErrRedisAway, name)
			require.ErrorContains(t, err, "WithFresh")
		}
		_, err := fetch(ctx, c, name, db)
		require.NoError(t, err, "others go on")
	}
}

// A loader that asks for what is too stale for it does not wait for itself.
func TestALoaderThatTakesNothingStale(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := graceful(c, aside.WithMaxStale(0))
	for _, key := range []string{"a", "b"} {
		require.NoError(t, c.Set(ctx, grace/2, key, "old"))
	}
	var loads atomic.Int64
	loadB := func(ctx context.Context, _ string) (string, error) {
		loads.Add(1)
		if _, err := view.Get(ctx, fresh, "a", mustNotLoad); !errors.Is(err, aside.ErrRecursiveLoad) {
			return "", fmt.Errorf("it asks for itself and gets %w", err)
		}
		return "b", nil
	}
	value, err := view.Get(ctx, fresh, "a", func(ctx context.Context, _ string) (string, error) {
		loads.Add(1)
		b, err := view.Get(ctx, fresh, "b", loadB)
		return "a and " + b, err
	})
	require.NoError(t, err)
	require.Equal(t, "a and b", value)
	require.EqualValues(t, 2, loads.Load())
	eventually(t, "it is stored", func() bool { return server.Do("GET", "a") == "a and b" })
	require.Equal(t, "old", server.Do("GET", "b"), "it was loaded for that loader alone")
}

// Where no refresh lock can be had, the loader is called for the call alone.
func TestACallThatTakesNothingStaleWhereNoLockCanBeHad(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	if server.Name() == "redis" && strings.HasPrefix(server.Version(), "6.") {
		return // keys are checked within scripts since 7.0
	}
	require.NoError(t, c.Set(ctx, grace/2, "k", "old"))
	server.Do("ACL", "SETUSER", "default", "resetkeys", "~k", "~aside:stamps:*", "~aside:probe*")
	t.Cleanup(func() { server.Do("ACL", "SETUSER", "default", "allkeys") })
	for name, fetch := range fetches {
		db := newSource(name)
		got, err := fetch(ctx, c, "k", db, aside.WithMaxStale(0))
		require.NoError(t, err)
		require.Equal(t, name, got.Value)
		require.Equal(t, aside.SourceLoader, got.Source)
		require.EqualValues(t, 1, db.Calls.Load())
		require.Equal(t, "old", server.Do("GET", "k"))
	}
}

// Options without loads keep to what is good enough.
func TestWithoutLoadLeavesOutWhatWillNotDo(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	require.NoError(t, c.Set(ctx, grace/2, "k", "old"))
	for range 2 { // from Redis, and from memory
		for _, need := range []aside.CallOption{aside.WithMaxStale(0), aside.WithMaxAge(time.Hour)} {
			_, err := graceful(c).Get(ctx, fresh, "k", mustNotLoad, aside.WithoutLoad(), need)
			require.ErrorIs(t, err, aside.ErrNotCached)
			found, err := graceful(c).GetMulti(ctx, fresh, []string{"k"}, newSource("").LoadMany, aside.WithoutLoad(), need)
			require.NoError(t, err)
			require.Empty(t, found)
		}
		value, err := graceful(c).Get(ctx, fresh, "k", mustNotLoad, aside.WithoutLoad())
		require.NoError(t, err)
		require.Equal(t, "old", value)
	}
}

// A call takes from a refresh that runs already only what it would take from memory: nothing older than
// its WithMaxAge.
func TestACallTakesNothingTooOldFromARefreshThatRuns(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, fetch := range fetches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, ctx, key := newClient(t, server.Addr()), testContext(t), t.Name()
			db := newSource("1")
			fetch.makeStale(ctx, t, server, c, db)
			db.Set("2")
			letGo := db.HoldUp()
			_, err := fetch(ctx, c, key, db) // begins a refresh
			require.NoError(t, err)
			eventually(t, "it is refreshed", func() bool { return db.Calls.Load() == 2 })
			time.Sleep(2 * time.Millisecond) // the age, not a synchronisation
			db.Set("3")
			strict := fetchInBackground(func() (aside.Result[string], error) {
				return fetch(ctx, c, key, db, aside.WithMaxAge(time.Millisecond))
			})
			eventually(t, "it has asked Redis", func() bool { return c.Stats().RedisHits+c.Stats().MemoryHits > 0 })
			time.Sleep(50 * time.Millisecond) // it waits for the refresh now; if not yet, it loads anew all the same
			letGo()
			got := await(t, strict)
			require.NoError(t, got.err)
			require.Equal(t, "3", got.Value)
			require.EqualValues(t, 3, db.Calls.Load(), "what was loaded after it had asked it takes")
		})
	}
}

// Who has waited for another process's refresh is told so.
func TestACallThatWaitedForAnotherProcesssRefreshSaysSo(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, fetch := range fetches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, ctx, key := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t), t.Name()
			server.Do("SET", key, "1", "PX", (grace / 2).Milliseconds())
			db := newSource("2")
			letGo := db.HoldUp()
			_, err := fetch(ctx, a, key, db)
			require.NoError(t, err)
			eventually(t, "it is refreshed", func() bool { return db.Calls.Load() == 1 })
			strict := fetchInBackground(func() (aside.Result[string], error) { return fetch(ctx, b, key, db, aside.WithMaxStale(0)) })
			eventually(t, "it waits for that", func() bool { return b.Stats().RefreshesHeldOff > 0 })
			letGo()
			got := await(t, strict)
			require.NoError(t, got.err)
			require.Equal(t, "2", got.Value)
			require.True(t, got.Waited)
			require.EqualValues(t, 1, db.Calls.Load())
		})
	}
}
