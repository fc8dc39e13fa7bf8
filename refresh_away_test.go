package aside

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
)

// In an outage no lock keeps a call from refreshing what another one has refreshed since both have found it
// stale, or due.
func TestWhatIsFreshAgainIsNotRefreshedInAnOutage(t *testing.T) {
	for name, row := range map[string]struct {
		opts  []ViewOption
		sleep time.Duration
	}{
		"stale": {[]ViewOption{WithGrace(time.Hour)}, time.Minute},
		"due":   {[]ViewOption{WithRefreshAhead(0.5)}, time.Minute - time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, ctx := newAway(t), t.Context()
				var loads atomic.Int32
				view := Typed(c, codec.String(), row.opts...)
				load := func(context.Context, string) (string, error) {
					loads.Add(1)
					time.Sleep(time.Second / 2) // it is due for certain, as loads take so long
					return "v", nil
				}
				ask := func() {
					_, err := view.Get(ctx, time.Minute, "k", load)
					require.NoError(t, err)
					time.Sleep(time.Second)
				}
				ask()
				time.Sleep(row.sleep - 3*time.Second/2)
				require.EqualValues(t, 1, loads.Load())
				late := func() { // who has found it so, and asks for its refresh
					call := &typedLoad[string]{plan: plan{ttl: time.Minute, defaults: view.calls}, t: view, user: load}
					call.plan.call = call
					var err error
					call.options, err = c.callOptions(view.calls, nil)
					require.NoError(t, err)
					refresher{c}.begin([]string{"k"}, &call.plan)
					time.Sleep(time.Second)
				}
				late()
				require.EqualValues(t, 2, loads.Load(), "it is stale")
				late()
				require.EqualValues(t, 2, loads.Load(), "another has refreshed it meanwhile")
			})
		})
	}
}
