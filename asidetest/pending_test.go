package asidetest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

// What this process has set and could not replay yet is newer than any load: it is served while it is stale,
// and not refreshed. Who takes nothing stale has a load of its own, which the others do not see.
func TestWhatWaitsToBeReplayedIsNotRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		c, loads := server.Client(), 0
		load := func(context.Context, string) (string, error) {
			loads++
			return "loaded", nil
		}
		view := aside.Typed(c, codec.String(), aside.WithGrace(time.Hour))
		get := func(want string, opts ...aside.CallOption) {
			t.Helper()
			value, err := view.Get(ctx, time.Minute, "k", load, opts...)
			require.NoError(t, err)
			require.Equal(t, want, value)
			synctest.Wait()
		}
		server.Down()
		time.Sleep(3 * time.Second)
		require.Equal(t, aside.Degraded, c.Health().Mode)
		require.NoError(t, c.Set(ctx, time.Hour/2, "k", "set"))
		for range 3 {
			get("set")
		}
		require.Zero(t, loads)
		get("loaded", aside.WithMaxStale(0))
		require.Equal(t, 1, loads)
		get("set")
		require.Equal(t, 1, loads)
	})
}
