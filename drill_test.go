package aside_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// Drills begin and end all the time; whoever has changed a key reads what it has written, and in the
// end all agree. The rest of drills is tested in asidetest, by the clock of a bubble.
func TestDrillsOfARealServer(t *testing.T) {
	t.Parallel()
	const workers, rounds = 8, 100
	server := redistest.Start(t)
	ctx := testContext(t)
	client, other := newClient(t, server.Addr()), newClient(t, server.Addr())
	var source [workers]atomic.Int64
	load := func(_ context.Context, key string) (string, error) {
		i, err := strconv.Atoi(key)
		if err != nil {
			return "", err
		}
		return strconv.FormatInt(source[i].Load(), 10), nil
	}
	get := func(c *aside.Client, key string) int64 {
		value, err := c.Get(ctx, time.Minute, key, load)
		if err != nil {
			t.Errorf("Get: %v", err)
			return 0
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	drilling, stop := context.WithCancel(ctx)
	var drills sync.WaitGroup
	var loads atomic.Int64
	drills.Go(func() {
		for drilling.Err() == nil {
			short, cancel := context.WithTimeout(drilling, 5*time.Millisecond)
			report, err := client.Drill(short, aside.DrillRedisDown, 0.9)
			cancel()
			if err != nil {
				t.Errorf("Drill: %v", err)
			}
			loads.Add(report.Loads)
		}
	})
	var working sync.WaitGroup
	for i := range workers {
		working.Go(func() {
			key := strconv.Itoa(i)
			for range rounds {
				source[i].Add(1)
				if err := client.Del(ctx, key); err != nil {
					t.Errorf("Del: %v", err)
				}
				if got, want := get(client, key), source[i].Load(); got != want {
					t.Errorf("%s is %d after its change to %d", key, got, want)
				}
				get(other, key)
			}
		})
	}
	working.Wait()
	stop()
	drills.Wait()
	require.Positive(t, loads.Load())
	for i := range workers {
		for _, c := range []*aside.Client{client, other} {
			require.Equal(t, int64(rounds), get(c, fmt.Sprint(i)))
		}
	}
	require.Zero(t, client.Stats().Journaled)
	require.Zero(t, client.Stats().Pending)
	require.Nil(t, client.Health().Drill)
}
