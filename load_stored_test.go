package aside

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// A Del that began earlier takes the flight off the table after the key was locked: the fill is
// accepted all the same, and is waited for.
func TestAFillIsWaitedForThoughAWriteTookItsFlight(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c := newConnected(t, proxy.Addr())
	ctx := t.Context()
	_, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) {
		writer{c}.drop([]string{"k"}) // as a write does last
		proxy.CutRequests()
		return "v", nil
	})
	require.NoError(t, err)
	hurried, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.awaitStored(hurried, "k"), context.DeadlineExceeded)
	proxy.Heal()
	value, ok, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "v", value)
	for i := range c.flights.stripes {
		require.Empty(t, c.flights.stripes[i].early)
	}
	requireNothingEarly(t, c)
}

func requireNothingEarly(t *testing.T, c *Client) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); c.loads.earlyBytes.Load() != 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	require.Zero(t, c.loads.earlyBytes.Load())
}

func TestNothingIsEarlyInTheEnd(t *testing.T) {
	server := redistest.Start(t)
	for _, storeFirst := range []bool{false, true} {
		c := newConnected(t, server.Addr())
		c.opt.StoreFirst = storeFirst
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				_, err := c.GetMulti(t.Context(), time.Minute, []string{fmt.Sprint("a", i, storeFirst), fmt.Sprint("b", i, storeFirst)}, func(_ context.Context, keys []string) (map[string]string, error) {
					return map[string]string{keys[0]: strings.Repeat("x", 300<<10)}, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		requireNothingEarly(t, c)
	}
}
