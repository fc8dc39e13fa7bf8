package aside_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// Under load the commands of many callers go together; each caller gets the answer for its own key.
func TestCommandsGoTogetherUnderLoad(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr()), testContext(t)
	proxy.Delay(5 * time.Millisecond)
	proxy.ResetCounts()
	server.Do("RPUSH", "k7", "of another type")
	var loads atomic.Int64
	var callers sync.WaitGroup
	for i := range 400 {
		key := fmt.Sprint("k", i)
		if i%4 == 0 {
			server.Do("SET", key, "of "+key)
		}
		callers.Go(func() {
			value, err := c.Get(ctx, time.Minute, key, func(context.Context, string) (string, error) {
				loads.Add(1)
				return "of " + key, nil
			})
			if err != nil || value != "of "+key {
				t.Errorf("%s: %q, %v", key, value, err)
			}
		})
	}
	callers.Wait()
	awaitNobody(t, c) // what was loaded is stored
	require.EqualValues(t, 300, loads.Load())
	require.Less(t, proxy.Commands(), 400, "of the 700 that it takes one by one")
	t.Logf("%d commands for 400 reads and 300 fills", proxy.Commands())
	for i := range 400 {
		if i != 7 {
			require.Equal(t, fmt.Sprint("of k", i), server.Do("GET", fmt.Sprint("k", i)))
		}
	}
	require.Zero(t, c.Stats().FillsRefused)
	require.True(t, c.Stats().RedisConnected)
}

// A caller that leaves before its batch is answered leaves no lock behind, and spoils it for
// nobody.
func TestLeavingABatch(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 20*time.Second, time.Hour }), testContext(t)
	proxy.CutRequests() // until all are there, however long that takes
	short, cancel := context.WithCancel(ctx)
	var stay, leave []<-chan result
	for i := range 100 {
		stay = append(stay, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("stay", i), newSource("v").Load) }))
		leave = append(leave, inBackground(func() (string, error) { return c.Get(short, time.Minute, fmt.Sprint("leave", i), newSource("v").Load) }))
	}
	eventually(t, "all are on their way", func() bool { return c.Stats().Waiting == 200 })
	cancel()
	proxy.Heal()
	proxy.Delay(20 * time.Millisecond)
	for i := range 100 {
		require.Equal(t, result{Value: "v"}, await(t, stay[i]))
		if r := await(t, leave[i]); r.Err != nil {
			require.ErrorIs(t, r.Err, context.Canceled)
		}
	}
	eventually(t, "no lock is left", func() bool {
		for i := range 100 {
			if held := server.Do("GET", fmt.Sprint("leave", i)); held != nil && held != "v" {
				return false
			}
		}
		return true
	})
	// And Close while many are on their way answers them all.
	stay = nil
	for i := range 100 {
		stay = append(stay, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("late", i), newSource("v").Load) }))
	}
	require.NoError(t, c.Close())
	for _, s := range stay {
		if r := await(t, s); r.Err != nil {
			require.ErrorIs(t, r.Err, aside.ErrClosed)
		}
	}
}
