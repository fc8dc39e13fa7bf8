package asidetest_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

// An hour of two processes that ask all the time: one load a minute while the source is well, one in
// a back-off while it fails, and never an error or a value beyond its ttl and grace.
func TestAnHourOfAValueWithGraceInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl, grace = time.Minute, 10 * time.Minute
		server, ctx := asidetest.NewServer(t), t.Context()
		var loads atomic.Int64
		var broken atomic.Bool
		load := func(context.Context, string) (time.Time, error) {
			loads.Add(1)
			time.Sleep(200 * time.Millisecond)
			if broken.Load() {
				return time.Time{}, errors.New("broken")
			}
			return time.Now(), nil
		}
		clients := []*aside.Client{server.Client(), server.Client()}
		ask := func(d time.Duration) (oldest time.Duration) {
			for begin := time.Now(); time.Since(begin) < d; time.Sleep(100 * time.Millisecond) {
				for _, c := range clients {
					asked := time.Now()
					got, err := aside.Typed(c, codec.JSON[time.Time](), aside.WithGrace(grace)).Get(ctx, ttl, "k", load)
					require.NoError(t, err)
					if loads.Load() > 1 {
						require.Less(t, time.Since(asked), 10*time.Millisecond, "nobody waits for the loader")
					}
					oldest = max(oldest, time.Since(got))
				}
			}
			return oldest
		}
		oldest := ask(time.Hour)
		require.InDelta(t, 60, loads.Load(), 2, "one a minute, of both")
		require.Less(t, oldest, ttl+time.Second)

		broken.Store(true)
		loads.Store(0)
		oldest = ask(9 * time.Minute)
		require.Greater(t, oldest, 8*time.Minute, "stale-if-error")
		require.Less(t, oldest, ttl+grace)
		require.LessOrEqual(t, loads.Load(), int64(5+9*60/15+1), "after five failures one in 15 to 30 seconds")
		require.GreaterOrEqual(t, loads.Load(), int64(5+8*60/31))

		broken.Store(false)
		loads.Store(0)
		ask(time.Minute)
		require.LessOrEqual(t, loads.Load(), int64(2))
		require.Less(t, ask(time.Second), ttl+time.Second, "it is well again")
	})
}
