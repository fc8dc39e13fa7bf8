package asidetest_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

// twoVersions are views of two versions of a service: what the newer has set is a miss to the older,
// which loads for itself. Each load takes loadTakes.
type twoVersions struct {
	older, newer *aside.TypedClient[string]
	loads        atomic.Int64
	err          error // of the loads
}

const loadTakes = time.Second

func newTwoVersions(t *testing.T, server *asidetest.Server, options func(*aside.Options), opts ...aside.ViewOption) *twoVersions {
	v := &twoVersions{
		older: aside.Typed(server.Client(options), codec.String(), append(opts, aside.WithVersion(1))...),
		newer: aside.Typed(server.Client(), codec.String(), append(opts, aside.WithVersion(2))...),
	}
	require.NoError(t, v.newer.Set(t.Context(), time.Hour, "k", "of 2"))
	return v
}

func (v *twoVersions) load(context.Context, string) (string, error) {
	v.loads.Add(1)
	time.Sleep(loadTakes)
	return "of 1", v.err
}

func (v *twoVersions) loadMany(ctx context.Context, keys []string) (map[string]string, error) {
	value, err := v.load(ctx, keys[0])
	if errors.Is(err, aside.ErrNotFound) {
		return nil, nil
	}
	return map[string]string{keys[0]: value}, err
}

// inUse has time pass for the older one, and asks for another key now and then: what memory has of a
// process that nobody uses is read anew.
func (v *twoVersions) inUse(t *testing.T, d time.Duration) {
	const often = 250 * time.Millisecond
	for ; d > 0; d -= often {
		_, _, err := v.older.Peek(t.Context(), "another")
		require.NoError(t, err)
		time.Sleep(often)
	}
}

// readsAnew has memory hold what Redis has now.
func (v *twoVersions) readsAnew(t *testing.T) string {
	t.Helper()
	value, err := aside.Typed(v.older.Client(), codec.String()).Get(t.Context(), time.Hour, "k", v.load, aside.WithFresh())
	require.NoError(t, err)
	return value
}

type (
	// getting asks for k with the older one.
	getting func(opts ...aside.CallOption) (aside.Result[string], error)
	result  = aside.Result[string]
)

// ways are all ways of that.
func (v *twoVersions) ways(ctx context.Context) map[string]getting {
	return map[string]getting{
		"Fetch": func(opts ...aside.CallOption) (result, error) {
			return v.older.Fetch(ctx, time.Minute, "k", v.load, opts...)
		},
		"FetchMulti": func(opts ...aside.CallOption) (result, error) {
			found, err := v.older.FetchMulti(ctx, time.Minute, []string{"k"}, v.loadMany, opts...)
			if got, ok := found["k"]; ok || err != nil {
				return got, err
			}
			return result{}, aside.ErrNotFound
		},
	}
}

// inTwoVersions runs test in a bubble for each way of asking.
func inTwoVersions(t *testing.T, options func(*aside.Options), test func(t *testing.T, v *twoVersions, get getting), opts ...aside.ViewOption) {
	for _, way := range []string{"Fetch", "FetchMulti"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newTwoVersions(t, asidetest.NewServer(t), options, opts...)
				test(t, v, v.ways(t.Context())[way])
			})
		})
	}
}

// mustGet asks, and tells whether that has called the loader.
func mustGet(t *testing.T, v *twoVersions, get getting, opts ...aside.CallOption) (loaded bool) {
	t.Helper()
	before := v.loads.Load()
	got, err := get(opts...)
	require.NoError(t, err)
	require.Equal(t, "of 1", got.Value)
	return v.loads.Load() > before
}

func unchanged(*aside.Options) {}

// What an older pod keeps beside a newer value ends with the ttl of its call, and is as old as its load.
func TestWhatAnOlderPodKeepsEndsAndAges(t *testing.T) {
	inTwoVersions(t, unchanged, func(t *testing.T, v *twoVersions, get getting) {
		require.True(t, mustGet(t, v, get))
		require.False(t, mustGet(t, v, get), "it is kept")
		require.False(t, mustGet(t, v, get, aside.WithMaxAge(loadTakes+loadTakes/4)))
		require.True(t, mustGet(t, v, get, aside.WithMaxAge(loadTakes-loadTakes/4)), "its load began earlier")
		v.inUse(t, time.Minute-time.Second)
		require.False(t, mustGet(t, v, get))
		v.inUse(t, 2*time.Second)
		require.True(t, mustGet(t, v, get), "its ttl is over")
	})
}

// What an older pod has begun to load before a change is not kept beside the value of after it.
func TestAnOlderPodKeepsNothingOfBeforeAChange(t *testing.T) {
	inTwoVersions(t, unchanged, func(t *testing.T, v *twoVersions, get getting) {
		loading := make(chan struct{})
		go func() {
			defer close(loading)
			_, err := get()
			assert.NoError(t, err)
		}()
		time.Sleep(loadTakes / 2)
		require.NoError(t, v.newer.Set(t.Context(), time.Hour, "k", "of 2 again"))
		time.Sleep(loadTakes / 4) // it hears of it
		require.Equal(t, "of 2 again", v.readsAnew(t))
		<-loading
		require.True(t, mustGet(t, v, get))
		require.False(t, mustGet(t, v, get))
	})
}

// A caller that has found a newer value in Redis has what another one has loaded meanwhile.
func TestAnOlderPodLoadsNothingThatWasLoadedSinceItAsked(t *testing.T) {
	var letGo chan struct{}
	held := func(o *aside.Options) {
		letGo = make(chan struct{})
		var second atomic.Bool
		o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			if e.Kind == aside.EventHit && e.Source == aside.SourceRedis && !second.Swap(true) {
				<-letGo
			}
		})
	}
	inTwoVersions(t, held, func(t *testing.T, v *twoVersions, get getting) {
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			got, err := get()
			assert.NoError(t, err)
			assert.Equal(t, "of 1", got.Value)
			assert.Equal(t, aside.SourceMemory, got.Source)
			assert.Equal(t, loadTakes, got.Age)
			assert.Equal(t, time.Minute, got.TTL)
		}()
		synctest.Wait() // it is held up
		require.True(t, mustGet(t, v, get))
		close(letGo)
		<-asked
		require.EqualValues(t, 1, v.loads.Load())
	})
}

// Where no changes are told, an older pod keeps nothing that it began to load before Redis was last asked:
// that would last too long. And it shares a load for StaleLease.
func TestAnOlderPodThatIsToldOfNoChanges(t *testing.T) {
	untracked := func(o *aside.Options) {
		o.Redis.DisableCache, o.UntrackedTTL, o.StaleLease = true, time.Minute, loadTakes/4
	}
	inTwoVersions(t, untracked, func(t *testing.T, v *twoVersions, get getting) {
		require.True(t, mustGet(t, v, get))
		require.False(t, mustGet(t, v, get))
		require.NoError(t, v.newer.Set(t.Context(), time.Hour, "k", "of 2 again"))
		require.Equal(t, "of 2 again", v.readsAnew(t))
		v.loads.Store(0)
		var all sync.WaitGroup
		ask := func() {
			_, err := get()
			assert.NoError(t, err)
		}
		all.Go(ask)
		time.Sleep(loadTakes / 8)
		all.Go(ask)
		time.Sleep(loadTakes / 4)
		require.Equal(t, "of 2 again", v.readsAnew(t))
		require.EqualValues(t, 1, v.loads.Load(), "two share it")
		all.Go(ask)
		synctest.Wait()
		require.EqualValues(t, 2, v.loads.Load(), "who asks later does not")
		all.Wait()

		v.inUse(t, time.Minute)
		all.Go(ask)
		time.Sleep(loadTakes / 2)
		require.Equal(t, "of 2 again", v.readsAnew(t))
		all.Wait()
		require.True(t, mustGet(t, v, get))
		require.False(t, mustGet(t, v, get))
	})
}

// With WithFresh an older pod is not given what it has loaded before.
func TestAnOlderPodLoadsAgainForWithFresh(t *testing.T) {
	inTwoVersions(t, unchanged, func(t *testing.T, v *twoVersions, get getting) {
		require.True(t, mustGet(t, v, get))
		require.True(t, mustGet(t, v, get, aside.WithFresh()))
		require.True(t, mustGet(t, v, get, aside.WithFresh()))
		require.False(t, mustGet(t, v, get))
	})
}

// What ExpireTags has made stale is too stale for WithMaxStale(0), also what an older pod has loaded.
func TestAnOlderPodHeedsExpireTags(t *testing.T) {
	opts := []aside.ViewOption{aside.WithTags("x"), aside.WithGrace(time.Hour)}
	inTwoVersions(t, unchanged, func(t *testing.T, v *twoVersions, get getting) {
		require.True(t, mustGet(t, v, get, aside.WithMaxStale(0)))
		require.False(t, mustGet(t, v, get, aside.WithMaxStale(0)))
		require.NoError(t, v.older.Client().ExpireTags(t.Context(), "x"))
		require.True(t, mustGet(t, v, get, aside.WithMaxStale(0)))
	}, opts...)
}

// An older pod that finds nothing beside a newer value says so, each time.
func TestAnOlderPodThatFindsNothing(t *testing.T) {
	inTwoVersions(t, unchanged, func(t *testing.T, v *twoVersions, get getting) {
		v.err = aside.ErrNotFound
		for range 3 {
			_, err := get()
			require.ErrorIs(t, err, aside.ErrNotFound)
		}
		v.err = nil
		require.True(t, mustGet(t, v, get))
	})
}

// To an older pod that is not to load, a newer value is none.
func TestAnOlderPodThatDoesNotLoad(t *testing.T) {
	for name, options := range map[string]func(*aside.Options){"with memory": unchanged, "without memory": func(o *aside.Options) { o.MemoryBytes = -1 }} {
		t.Run(name, func(t *testing.T) {
			inTwoVersions(t, options, func(t *testing.T, v *twoVersions, get getting) {
				for range 2 { // from Redis, from memory
					got, err := get(aside.WithoutLoad())
					require.Error(t, err)
					require.Empty(t, got.Value)
					_, ok, err := v.older.Peek(t.Context(), "k")
					require.NoError(t, err)
					require.False(t, ok)
				}
				require.Zero(t, v.loads.Load())
			})
		})
	}
}

// An absence has no version: it is one to all.
func TestAnAbsenceHasNoVersion(t *testing.T) {
	inTwoVersions(t, unchanged, func(t *testing.T, v *twoVersions, get getting) {
		require.NoError(t, v.newer.Del(t.Context(), "k"))
		_, err := v.newer.Get(t.Context(), time.Hour, "k", func(context.Context, string) (string, error) { return "", aside.ErrNotFound })
		require.ErrorIs(t, err, aside.ErrNotFound)
		synctest.Wait()
		_, err = get()
		require.ErrorIs(t, err, aside.ErrNotFound)
		require.Zero(t, v.loads.Load())
		time.Sleep(time.Second)
		require.True(t, mustGet(t, v, get, aside.WithMaxAge(time.Millisecond)), "an absence that is too old is loaded again")
	})
}
