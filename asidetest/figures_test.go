package asidetest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

// What a fleet asks of its source, in numbers, by the clock of a bubble.

const (
	fleet      = 4 // clients, each for a process
	sourceTime = 200 * time.Millisecond
	keyTTL     = 500 * time.Millisecond
	keyGrace   = 20 * time.Second
)

// everybody has callers of each client ask again and again, so long.
func everybody(server *asidetest.Server, callers int, every, long time.Duration, ask func(view *aside.TypedClient[string])) {
	var all sync.WaitGroup
	began := time.Now()
	for range fleet {
		view := aside.Typed(server.Client(), codec.String(), aside.WithGrace(keyGrace))
		for i := range callers {
			all.Go(func() {
				time.Sleep(every * time.Duration(i) / time.Duration(callers)) // not all at the same moment
				for time.Since(began) < long {
					ask(view)
					time.Sleep(every)
				}
			})
		}
	}
	all.Wait()
}

func TestAHotKeyIsLoadedOnceInATTLAndNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		var loads, atOnce, asked, waited atomic.Int32
		load := func(context.Context, string) (string, error) {
			loads.Add(1)
			if atOnce.Add(1) > 1 {
				t.Error("two loads at once")
			}
			defer atOnce.Add(-1)
			time.Sleep(sourceTime)
			return "v", nil
		}
		first := aside.Typed(server.Client(), codec.String(), aside.WithGrace(keyGrace))
		_, err := first.Get(ctx, keyTTL, "hot", load)
		require.NoError(t, err)
		synctest.Wait() // until it is stored

		const long = 10 * time.Second
		everybody(server, 20, 5*time.Millisecond, long, func(view *aside.TypedClient[string]) {
			began := time.Now()
			_, err := view.Get(ctx, keyTTL, "hot", load)
			asked.Add(1)
			if err != nil {
				t.Error(err)
			}
			if time.Since(began) >= 2*time.Millisecond {
				waited.Add(1)
			}
		})
		t.Logf("%d loads in %v, %d of %d calls waited", loads.Load(), long, waited.Load(), asked.Load())
		require.Zero(t, waited.Load())
		require.LessOrEqual(t, loads.Load(), int32(1+long/keyTTL), "more than one load in a ttl")
		require.GreaterOrEqual(t, loads.Load(), int32(long/(keyTTL+sourceTime+50*time.Millisecond)), "it is refreshed in each ttl, and what its load takes")
	})
}

func TestASourceThatFailsIsAskedOnceInABackOffByAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		var failing atomic.Bool
		var asked, failed atomic.Int32
		var mu sync.Mutex // of at
		var at []time.Time
		load := func(context.Context, string) (string, error) {
			if failing.Load() {
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Now())
				return "", errors.New("the source fails")
			}
			return "v", nil
		}
		first := aside.Typed(server.Client(), codec.String(), aside.WithGrace(keyGrace))
		_, err := first.Get(ctx, keyTTL, "hot", load)
		require.NoError(t, err)
		synctest.Wait() // until it is stored

		failing.Store(true)
		everybody(server, 200, 50*time.Millisecond, 10*time.Second, func(view *aside.TypedClient[string]) {
			asked.Add(1)
			if value, err := view.Get(ctx, keyTTL, "hot", load); err != nil || value != "v" {
				failed.Add(1)
			}
		})
		t.Logf("%d loads, %d of %d calls failed", len(at), failed.Load(), asked.Load())
		require.Zero(t, failed.Load())
		require.GreaterOrEqual(t, len(at), 3, "it is asked again")
		least := 500 * time.Millisecond
		for i := 1; i < len(at); i++ {
			require.GreaterOrEqual(t, at[i].Sub(at[i-1]), least, "load %d comes within the back-off of the one before", i)
			least *= 2
		}
	})
}

func TestManyKeysThatAreLoadedTogetherNeitherEndNorLoadTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys, bound, ttl = 2000, 64, 10 * time.Second
		server, ctx := asidetest.NewServer(t), t.Context()
		c := server.Client(func(o *aside.Options) { o.MaxLoads = bound })
		view := aside.Typed(c, codec.String(), aside.WithJitter(0.1))
		names := make([]string, keys)
		for i := range names {
			names[i] = fmt.Sprint("key:", i)
		}
		_, err := view.GetMulti(ctx, ttl, names, func(_ context.Context, missing []string) (map[string]string, error) {
			found := make(map[string]string, len(missing))
			for _, key := range missing {
				found[key] = "v"
			}
			return found, nil
		})
		require.NoError(t, err)
		synctest.Wait() // until they are stored
		shortest, longest := ttl, time.Duration(0)
		for _, key := range names {
			left, ok := server.TTL(key)
			require.True(t, ok)
			shortest, longest = min(shortest, left), max(longest, left)
		}
		t.Logf("the ends are spread over %v of %v", longest-shortest, ttl)
		require.GreaterOrEqual(t, longest-shortest, ttl*9/100)
		require.LessOrEqual(t, longest, ttl)
		require.GreaterOrEqual(t, shortest, ttl*9/10-time.Millisecond)

		time.Sleep(ttl + 10*time.Millisecond) // all have ended, the worst case
		var now, most, loads, failed atomic.Int32
		var all sync.WaitGroup
		for _, key := range names {
			all.Go(func() {
				_, err := view.Get(ctx, ttl, key, func(context.Context, string) (string, error) {
					loads.Add(1)
					n := now.Add(1)
					defer now.Add(-1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					time.Sleep(20 * time.Millisecond)
					return "v", nil
				})
				if err != nil {
					failed.Add(1)
				}
			})
		}
		all.Wait()
		t.Logf("%d loads, %d at once at most, %d failed", loads.Load(), most.Load(), failed.Load())
		require.EqualValues(t, keys, loads.Load())
		require.EqualValues(t, bound, most.Load())
		require.Zero(t, failed.Load())
	})
}
