package asidetest_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

// Warm keeps to its rate: what is there costs none of it.
func TestWarmKeepsToItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := asidetest.NewServer(t)
		view := aside.Typed(server.Client(), codec.String())
		keys := func(yield func(string) bool) {
			for i := 0; i < 1000 && yield(fmt.Sprint("k", i)); i++ {
			}
		}
		load := func(_ context.Context, keys []string) (map[string]string, error) {
			found := make(map[string]string)
			for _, key := range keys {
				found[key] = "v"
			}
			return found, nil
		}
		began := time.Now()
		done, err := view.Warm(t.Context(), time.Hour, keys, load, aside.Warming{Rate: 100})
		require.NoError(t, err)
		require.Equal(t, 1000, done.Loaded)
		require.InDelta(t, 9.9, time.Since(began).Seconds(), 0.1, "1,000 keys, 100 a second; the first 10 at once")
		began = time.Now()
		done, err = view.Warm(t.Context(), time.Hour, keys, load, aside.Warming{Rate: 100})
		require.NoError(t, err)
		require.Equal(t, 1000, done.There)
		require.Less(t, time.Since(began), time.Second)
	})
}
