package asidetest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/internal/wire"
)

// Also while Redis is away what a loader says holds, for memory and for what is kept to be replayed.
func TestWhatALoaderSaysHoldsInAnOutage(t *testing.T) {
	for name, change := range map[string]func(*aside.Options){
		"in memory": func(*aside.Options) {},
		"on disk":   func(o *aside.Options) { o.MemoryBytes = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, ctx := asidetest.NewServer(t), t.Context()
				c := server.Client(change)
				server.Down()
				time.Sleep(3 * time.Second)
				require.Equal(t, aside.Degraded, c.Health().Mode)

				loads := 0
				get := func(key string, say func(ld aside.Load)) (string, error) {
					value, err := c.Get(ctx, time.Hour, key, func(ctx context.Context, _ string) (string, error) {
						loads++
						say(aside.LoadFrom(ctx))
						return "v", nil
					})
					synctest.Wait() // until it is kept, or refreshed
					return value, err
				}
				nothing := func(aside.Load) {}
				calls := func(key string, say func(ld aside.Load)) int {
					t.Helper()
					before := loads
					value, err := get(key, say)
					require.NoError(t, err)
					require.Equal(t, "v", value)
					return loads - before
				}

				noStore := func(ld aside.Load) { ld.NoStore() }
				require.Equal(t, 1, calls("none", noStore))
				require.Equal(t, 1, calls("none", noStore), "it is kept nowhere")

				short := func(ld aside.Load) { ld.SetTTL(2 * time.Second) }
				require.Equal(t, 1, calls("short", short))
				require.Equal(t, 0, calls("short", short))
				time.Sleep(2*time.Second + time.Millisecond)
				require.Equal(t, 1, calls("short", short), "it has ended")

				both := func(ld aside.Load) { ld.SetTTL(2 * time.Second); ld.SetGrace(5 * time.Second) }
				require.Equal(t, 1, calls("graceful", both))
				time.Sleep(time.Second)
				require.Equal(t, 0, calls("graceful", both))
				time.Sleep(1500 * time.Millisecond)
				require.Equal(t, 1, calls("graceful", both), "it is stale, and refreshed")
				time.Sleep(7 * time.Second)
				_, err := c.Get(ctx, time.Hour, "graceful", func(context.Context, string) (string, error) { return "", errors.New("broken") })
				require.EqualError(t, err, "broken", "its grace is over")
				time.Sleep(time.Second)

				require.Equal(t, 1, calls("kept", func(ld aside.Load) { ld.SetTTL(10 * time.Minute); ld.SetGrace(time.Minute) }))
				began := time.Now()
				server.Up()
				time.Sleep(5 * time.Second)
				require.Equal(t, aside.Healthy, c.Health().Mode)
				stored, ok := server.Get("kept")
				require.True(t, ok, "it is replayed")
				value, h, what := wire.Unpack(stored)
				require.Equal(t, wire.Value, what)
				require.Equal(t, "v", value)
				require.Equal(t, 10*time.Minute, h.TTL)
				require.Equal(t, time.Minute, h.Grace)
				require.InDelta(t, began.UnixMicro(), h.Began, 1e6)
				left, _ := server.TTL("kept")
				require.InDelta(t, (11*time.Minute - 5*time.Second).Seconds(), left.Seconds(), 2)
				_, ok = server.Get("none")
				require.False(t, ok)
				require.Equal(t, 0, calls("kept", nothing))
			})
		})
	}
}

// WithJitter takes from the ttl and leaves the grace alone, without a header: the end of the key and
// the grace say when the value becomes stale.
func TestJitterLeavesTheGraceAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl, grace = time.Minute, 10 * time.Minute
		server, ctx := asidetest.NewServer(t), t.Context()
		c := server.Client()
		shortest, longest := ttl, time.Duration(0)
		for i := range 200 {
			key := string(rune('a'+i%26)) + time.Duration(i).String()
			loads := 0
			get := func() {
				_, err := c.Get(ctx, ttl, key, func(context.Context, string) (string, error) {
					loads++
					return "v", nil
				}, aside.WithGrace(grace), aside.WithJitter(0.5))
				require.NoError(t, err)
				synctest.Wait()
			}
			get()
			stored, _ := server.Get(key)
			require.Equal(t, "v", stored, "it is raw")
			lives, _ := server.TTL(key)
			fresh := lives - grace
			require.LessOrEqual(t, fresh, ttl)
			require.GreaterOrEqual(t, fresh, ttl/2)
			shortest, longest = min(shortest, fresh), max(longest, fresh)
			time.Sleep(fresh - time.Millisecond)
			get()
			require.Equal(t, 1, loads, "it is fresh to the end of its own ttl")
			time.Sleep(time.Millisecond)
			get()
			require.Equal(t, 2, loads, "and stale from then on")
		}
		require.Greater(t, longest-shortest, ttl*4/10)
	})
}
