package asidetest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
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

// drilled is what Drill has returned.
type drilled struct {
	report aside.DrillReport
	err    error
}

// drill begins a drill of all keys, or of a fraction, and returns how to end it.
func drill(t *testing.T, client *aside.Client, fraction float64) (end func() drilled) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan drilled, 1)
	go func() {
		report, err := client.Drill(ctx, aside.DrillRedisDown, fraction)
		done <- drilled{report, err}
	}()
	synctest.Wait()
	require.NotNil(t, client.Health().Drill, "a drill runs")
	return func() drilled {
		cancel()
		return <-done
	}
}

func TestADrillAsksLoadersAndKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		client := server.Client()
		for _, key := range []string{"k", "seen", "later"} {
			server.Set(key, "in Redis", time.Hour)
		}
		get := func(key string) string {
			t.Helper()
			value, err := client.Get(ctx, time.Hour, key, loader("loaded"))
			require.NoError(t, err)
			return value
		}
		require.Equal(t, "in Redis", get("seen"))
		end := drill(t, client, 1)
		require.Equal(t, "in Redis", get("seen"), "memory serves as in an outage")
		require.Equal(t, "loaded", get("k"))
		stored, _ := server.Get("k")
		require.Equal(t, "in Redis", stored)
		require.Equal(t, "in Redis", get("k"), "an outage would have kept what was loaded: Redis stands for that")
		require.Equal(t, "in Redis", get("k"), "from memory")
		require.Equal(t, 1, server.Loads("k"))

		require.NoError(t, client.Set(ctx, time.Hour, "written", "new"), "writes go to Redis")
		stored, _ = server.Get("written")
		require.Equal(t, "new", stored)
		require.Empty(t, server.Records())
		_, _, err := client.Peek(ctx, "later")
		require.ErrorIs(t, err, aside.ErrRedisAway)
		_, err = client.LookMulti(ctx, []string{"later"})
		require.ErrorIs(t, err, aside.ErrRedisAway)
		_, err = client.Get(ctx, time.Hour, "later", mustNotLoad, aside.WithoutLoad())
		require.ErrorIs(t, err, aside.ErrRedisAway)
		require.Equal(t, aside.Healthy, client.Health().Mode)

		time.Sleep(time.Second)
		got := end()
		require.NoError(t, got.err)
		r := got.report
		require.Equal(t, aside.DrillRedisDown, r.Kind)
		require.InDelta(t, 1, r.Fraction, 0)
		require.GreaterOrEqual(t, r.Took, time.Second)
		require.Equal(t, []int64{2, 5, 1, 3}, []int64{r.MemoryHits, r.Reads, r.Kept, r.Unanswered})
		require.Equal(t, []int64{1, 1, 0, 1}, []int64{r.Loads, r.Keys, r.Running, r.MostRunning})
		require.Equal(t, []int64{0, 0, 0}, []int64{r.Refused, r.Errors, r.Cancelled})
		require.Nil(t, client.Health().Drill)
		require.Equal(t, "in Redis", get("later"), "as before")

		server.Set("k", "changed", time.Hour)
		synctest.Wait()
		require.Equal(t, "changed", get("k"), "nothing of the drill has stayed")
	})
}

// What was kept ends with DegradedTTL, and with the ttl, as it would in an outage.
func TestADrillLoadsAgainWhenAnOutageWould(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		client := server.Client(func(o *aside.Options) { o.MemoryBytes = -1 }) // which would hide it
		for _, key := range []string{"long", "short"} {
			server.Set(key, "in Redis", time.Hour)
		}
		end := drill(t, client, 1)
		for range 60 {
			for key, ttl := range map[string]time.Duration{"long": time.Hour, "short": 10 * time.Second} {
				_, err := client.Get(ctx, ttl, key, loader("loaded"))
				require.NoError(t, err)
			}
			time.Sleep(time.Second)
		}
		require.NoError(t, end().err)
		require.Equal(t, 2, server.Loads("long"), "every DegradedTTL, 30 seconds")
		require.Equal(t, 6, server.Loads("short"))
	})
}

func TestTheEndOfADrillSendsItsCallersToRedis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		client := server.Client()
		server.Set("k", "in Redis", time.Hour)
		server.Set("batch", "in Redis", time.Hour)
		var ended atomic.Int64
		hang := func(ctx context.Context) error {
			<-ctx.Done()
			ended.Add(1)
			return ctx.Err()
		}
		end := drill(t, client, 1)
		var callers sync.WaitGroup
		for range 10 {
			callers.Go(func() {
				value, err := client.Get(ctx, time.Hour, "k", func(ctx context.Context, _ string) (string, error) { return "", hang(ctx) })
				require.NoError(t, err)
				require.Equal(t, "in Redis", value)
			})
		}
		callers.Go(func() {
			values, err := client.GetMulti(ctx, time.Hour, []string{"batch"}, func(ctx context.Context, _ []string) (map[string]string, error) { return nil, hang(ctx) })
			require.NoError(t, err)
			require.Equal(t, map[string]string{"batch": "in Redis"}, values)
		})
		synctest.Wait()
		require.Equal(t, int64(2), client.Health().Drill.Running)
		began := time.Now()
		got := end()
		callers.Wait()
		require.Less(t, time.Since(began), 100*time.Millisecond)
		require.NoError(t, got.err)
		require.Equal(t, int64(2), got.report.Loads, "ten callers share one")
		synctest.Wait()
		require.Equal(t, int64(2), ended.Load(), "the database is spared at once")
	})
}

func TestADrillIsBoundedByMaxLoaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		client := server.Client(func(o *aside.Options) { o.MaxLoaders = 2 })
		end := drill(t, client, 1)
		var callers sync.WaitGroup
		var refused, most, running atomic.Int64
		for i := range 5 {
			callers.Go(func() {
				_, err := client.Get(ctx, time.Hour, fmt.Sprint(i), func(context.Context, string) (string, error) {
					most.Store(max(most.Load(), running.Add(1)))
					defer running.Add(-1)
					time.Sleep(3 * time.Second)
					return "", errors.New("broken")
				})
				if errors.Is(err, aside.ErrOverloaded) {
					refused.Add(1)
				} else {
					require.EqualError(t, err, "broken")
				}
			})
		}
		callers.Wait()
		r := end().report
		require.Equal(t, int64(2), most.Load())
		require.Equal(t, int64(3), refused.Load())
		require.Equal(t, []int64{5, 5, 5, 3, 2}, []int64{r.Reads, r.Loads, r.MostRunning, r.Refused, r.Errors})
		require.Equal(t, []time.Duration{3 * time.Second, 3 * time.Second, 3 * time.Second, 6 * time.Second}, []time.Duration{r.P50, r.P99, r.Longest, r.LoadTime})
		for i := range 5 {
			_, err := client.Get(ctx, time.Hour, fmt.Sprint(i), loader("well"))
			require.NoError(t, err, "no error of the drill is held")
		}
	})
}

func TestADrillTakesAShareOfTheKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys = 2000
		server, ctx := asidetest.NewServer(t), t.Context()
		client := server.Client(func(o *aside.Options) { o.MemoryBytes = -1 })
		all := make([]string, keys)
		for i := range all {
			all[i] = fmt.Sprint("k", i)
			if i%2 == 0 {
				server.Set(all[i], "in Redis", time.Hour)
			}
		}
		end := drill(t, client, 0.25)
		load := func(_ context.Context, keys []string) (map[string]string, error) {
			values := make(map[string]string)
			for _, key := range keys {
				values[key] = "loaded"
			}
			return values, nil
		}
		var loaded [2][2]int // of those that Redis has, and of the others; in the first round, and in the second
		for round := range 2 {
			values, err := client.GetMulti(ctx, time.Hour, all, load)
			require.NoError(t, err)
			require.Len(t, values, keys)
			for i, key := range all {
				if values[key] == "loaded" {
					loaded[i%2][round]++
				}
			}
		}
		require.InDelta(t, keys/8, loaded[0][0], 75, "five deviations of a quarter of those that Redis has")
		require.Zero(t, loaded[0][1], "the same keys are in the share, and an outage would have them")
		require.Equal(t, keys/2, loaded[1][0])
		share := end().report
		require.InDelta(t, keys/4, share.Keys, 100)
		require.Len(t, server.Keys(), keys, "what Redis did not have is stored by those who are not in the drill, and in the second round")
	})
}

func TestADrillEndsWhenRedisIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		client := server.Client()
		done := make(chan drilled, 1)
		go func() {
			report, err := client.Drill(ctx, aside.DrillRedisDown, 1)
			done <- drilled{report, err}
		}()
		synctest.Wait()
		_, err := client.Drill(ctx, aside.DrillRedisDown, 0.5)
		require.ErrorIs(t, err, aside.ErrDrillRunning)
		server.Down()
		got := <-done
		require.ErrorIs(t, got.err, aside.ErrRedisAway)
		require.ErrorContains(t, got.err, "the drill has ended: the mode is degraded")
		require.Nil(t, client.Health().Drill)
		_, err = client.Drill(ctx, aside.DrillRedisDown, 1)
		require.ErrorIs(t, err, aside.ErrRedisAway)
		value, err := client.Get(ctx, time.Hour, "k", loader("loaded"))
		require.NoError(t, err)
		require.Equal(t, "loaded", value)
		value, err = client.Get(ctx, time.Hour, "k", mustNotLoad)
		require.NoError(t, err, "a real outage keeps it")
		require.Equal(t, "loaded", value)
	})
}

func TestADrillThatCannotBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		client := server.Client()
		for _, fraction := range []float64{0, -1, 1.01, math.NaN(), math.Inf(1)} {
			_, err := client.Drill(ctx, aside.DrillRedisDown, fraction)
			require.ErrorIs(t, err, aside.ErrInvalidArgument, fraction)
		}
		_, err := client.Drill(ctx, aside.DrillKind(7), 1)
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
		require.ErrorContains(t, err, "DrillKind(7)")

		done := make(chan error, 1)
		go func() {
			_, err := client.Drill(ctx, aside.DrillRedisDown, 1)
			done <- err
		}()
		synctest.Wait()
		require.NoError(t, client.Close())
		require.ErrorIs(t, <-done, aside.ErrClosed)
		_, err = client.Drill(ctx, aside.DrillRedisDown, 1)
		require.ErrorIs(t, err, aside.ErrClosed)
	})
}

// Warm and Refresh are there to fill Redis, and do so in a drill, too: also where they have waited for
// a load of the drill.
func TestWarmAndRefreshFillRedisInADrill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		client := server.Client()
		loadMany := func(_ context.Context, keys []string) (map[string]string, error) {
			found := make(map[string]string, len(keys))
			for _, key := range keys {
				found[key] = "v"
			}
			return found, nil
		}
		end := drill(t, client, 1)
		var getting sync.WaitGroup
		for _, key := range []string{"w1", "r1"} {
			getting.Go(func() {
				_, err := client.Get(ctx, time.Hour, key, func(context.Context, string) (string, error) {
					time.Sleep(time.Second)
					return "the drill's", nil
				})
				require.NoError(t, err)
			})
		}
		synctest.Wait()
		done, err := aside.Typed(client, codec.String()).Warm(ctx, time.Hour, slices.Values([]string{"w1", "w2", "w3"}), loadMany, aside.Warming{})
		require.NoError(t, err)
		require.Equal(t, aside.Warmed{Keys: 3, Loaded: 3}, done)
		for _, key := range []string{"r1", "r2"} {
			value, err := client.Refresh(ctx, time.Hour, key, loader("v"))
			require.NoError(t, err)
			require.Equal(t, "v", value)
		}
		getting.Wait()
		for _, key := range []string{"w1", "w2", "w3", "r1", "r2"} {
			stored, _ := server.Get(key)
			require.Equal(t, "v", stored, key)
		}
		require.NoError(t, end().err)
	})
}

// Keys that a drill has in its share do not take those of the same batch with them, that are not.
func TestADrillLeavesTheOtherKeysOfABatchAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		client := server.Client(func(o *aside.Options) { o.MaxLoaders = 1 })
		end := drill(t, client, 0.5)
		var in, out []string
		for i := 0; len(in) < 2 || len(out) < 1; i++ {
			key := fmt.Sprint(i)
			if _, _, err := client.Peek(ctx, key); err != nil {
				in = append(in, key)
			} else {
				out = append(out, key)
			}
		}
		letGo := make(chan struct{})
		var holding sync.WaitGroup
		holding.Go(func() {
			_, err := client.Get(ctx, time.Hour, in[0], func(context.Context, string) (string, error) {
				<-letGo
				return "v", nil
			})
			require.NoError(t, err)
		})
		synctest.Wait()
		found, err := client.GetMulti(ctx, time.Hour, []string{in[1], out[0]}, func(_ context.Context, keys []string) (map[string]string, error) {
			require.Equal(t, []string{out[0]}, keys)
			return map[string]string{out[0]: "v"}, nil
		})
		failed, ok := errors.AsType[*aside.BatchError](err)
		require.True(t, ok, err)
		require.Len(t, failed.Failed, 1)
		require.ErrorIs(t, failed.Failed[in[1]], aside.ErrOverloaded)
		require.Equal(t, map[string]string{out[0]: "v"}, found)
		close(letGo)
		holding.Wait()
		require.NoError(t, end().err)
	})
}

func TestADrillWithoutAContextLeavesNoDrill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := asidetest.NewServer(t).Client()
		var none context.Context
		require.Panics(t, func() { _, _ = client.Drill(none, aside.DrillRedisDown, 1) })
		require.Nil(t, client.Health().Drill)
		require.NoError(t, drill(t, client, 1)().err)
	})
}
