package aside

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Without Redis loaders need places. With as many callers as there are places, each of whose
// loaders Gets another key, all would wait for ever.
func TestANestedLoadRunsOnItsParentsPlace(t *testing.T) {
	loaders := func(o *Options, n int) { o.MaxLoaders = n }
	loads := func(o *Options, n int) { o.MaxLoads = n }
	both := func(o *Options, n int) { o.MaxLoaders, o.MaxLoads = n, n }
	for _, row := range []struct {
		places, callers, depth int
		bound                  func(o *Options, n int)
	}{
		{1, 1, 1, loaders}, {1, 1, 5, loaders}, {1, 20, 1, loaders}, {4, 400, 2, loaders},
		{1, 1, 5, loads}, {4, 400, 2, loads}, {1, 20, 1, both}, {4, 400, 2, both},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newAway(t, func(o *Options) { row.bound(o, row.places) })
			var running, most atomic.Int64
			var get func(ctx context.Context, key string, depth int) (string, error)
			get = func(ctx context.Context, key string, depth int) (string, error) {
				return c.Get(ctx, time.Minute, fmt.Sprintf("%s/%d", key, depth), func(ctx context.Context, _ string) (string, error) {
					if depth > 0 {
						return get(ctx, key, depth-1)
					}
					now := running.Add(1)
					defer running.Add(-1)
					for was := most.Load(); now > was && !most.CompareAndSwap(was, now); was = most.Load() {
					}
					time.Sleep(time.Millisecond)
					return "v", nil
				})
			}
			errs := make(chan error)
			for i := range row.callers {
				go func() {
					_, err := get(t.Context(), fmt.Sprint(i), row.depth)
					errs <- err
				}()
			}
			for range row.callers {
				require.NoError(t, <-errs, "%d places", row.places)
			}
			require.LessOrEqual(t, most.Load(), int64(row.places))
			require.Zero(t, c.Stats().Overloaded)
			require.Equal(t, c.opt.MaxLoaders, c.loads.bare.free, "all are given back")
			if c.loads.most != nil {
				require.Equal(t, row.places, c.loads.most.free)
			}
		})
	}
}

func TestOneNestedLoadAtATimeRunsOnAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newAway(t, func(o *Options) { o.MaxLoaders = 1 })
		var running, most atomic.Int64
		_, err := c.Get(t.Context(), time.Minute, "outer", func(ctx context.Context, _ string) (string, error) {
			errs := make(chan error)
			for i := range 3 {
				go func() {
					_, err := c.Get(ctx, time.Minute, fmt.Sprint(i), func(context.Context, string) (string, error) {
						most.Store(max(most.Load(), running.Add(1)))
						defer running.Add(-1)
						time.Sleep(100 * time.Millisecond)
						return "v", nil
					})
					errs <- err
				}()
			}
			for range 3 {
				if err := <-errs; err != nil {
					return "", err
				}
			}
			return "v", nil
		})
		require.NoError(t, err)
		require.EqualValues(t, 1, most.Load())
		require.Equal(t, 1, c.loads.bare.free)
	})
}

// A load that waits for a place moves to the place of the loader that asks for its key: else
// neither would ever run.
func TestAWaitingLoadMovesToThePlaceOfTheLoaderThatWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newAway(t, func(o *Options) { o.MaxLoaders = 1 })
		goOn := make(chan struct{})
		load := func(context.Context, string) (string, error) { return "inner", nil }
		got := make(chan string, 2)
		go func() {
			value, err := c.Get(t.Context(), time.Minute, "outer", func(ctx context.Context, _ string) (string, error) {
				<-goOn
				return c.Get(ctx, time.Minute, "inner", load)
			})
			got <- fmt.Sprint(value, err)
		}()
		synctest.Wait()
		go func() {
			value, err := c.Get(t.Context(), time.Minute, "inner", load)
			got <- fmt.Sprint(value, err)
		}()
		synctest.Wait()
		close(goOn)
		require.Equal(t, "inner<nil>", <-got)
		require.Equal(t, "inner<nil>", <-got)
		require.Equal(t, 1, c.loads.bare.free)
	})
}
