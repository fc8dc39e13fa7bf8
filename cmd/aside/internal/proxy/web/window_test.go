package web

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/statuspage"
)

func TestABucketHoldsWhatItSays(t *testing.T) {
	for b := range bucketCount - 1 {
		end := time.Duration(bucketEnd(b)) * time.Microsecond
		require.Equal(t, b, bucketOf(end-1), "up to %v", end)
		require.Equal(t, b+1, bucketOf(end))
	}
	require.Zero(t, bucketOf(-time.Second))
	require.Equal(t, bucketCount-1, bucketOf(math.MaxInt64))
	require.Greater(t, bucketEnd(bucketCount-1), uint64(60e6), "a minute still has a bucket")
}

func TestPercentilesAreAtMostAnEighthTooHigh(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 3, 99, 100, 101, 10_000} {
		var w window
		now := time.Unix(1_000_000_000, 0)
		var all []float64
		for range n {
			us := math.Exp(random.Float64() * math.Log(5e6))
			all = append(all, us)
			w.observe(time.Duration(us*1000), now.Add(-time.Duration(1+random.IntN(60))*time.Second), 1)
		}
		slices.Sort(all)
		l := w.latencies(now)
		require.Equal(t, int64(n), l.Count)
		for nth, got := range map[int]float64{50: l.P50, 99: l.P99} {
			exact := all[(n*nth+99)/100-1]
			require.GreaterOrEqual(t, got, math.Floor(exact), "p%d of %d", nth, n)
			require.LessOrEqual(t, got, exact*1.125+1, "p%d of %d", nth, n)
		}
	}
}

func TestAWindowForgetsAfterAMinute(t *testing.T) {
	var w window
	began := time.Unix(1_000_000_000, 0)
	require.Equal(t, statuspage.Latencies{Rate: make([]int64, 60)}, w.latencies(began))
	w.observe(time.Millisecond, began, 1)
	require.Zero(t, w.latencies(began).Count, "the second is not over")
	for s := 1; s <= 60; s++ {
		l := w.latencies(began.Add(time.Duration(s) * time.Second))
		require.Equal(t, int64(1), l.Count, "after %d s", s)
		require.Equal(t, int64(1), l.Rate[60-s])
	}
	require.Zero(t, w.latencies(began.Add(61*time.Second)).Count)
	later := began.Add(windowSlots * time.Second) // the same slot
	w.observe(time.Second, later, 1)
	l := w.latencies(later.Add(time.Second))
	require.Equal(t, int64(1), l.Count)
	require.InDelta(t, 1e6, l.P50, 125e3)
}

func TestAWindowCountsWhatManyObserve(t *testing.T) {
	var w window
	began := time.Unix(1_000_000_000, 0)
	var observers sync.WaitGroup
	for range 8 {
		observers.Go(func() {
			for i := range 30_000 { // half a minute, so that nothing is forgotten meanwhile
				w.observe(time.Millisecond, began.Add(time.Duration(i)*time.Millisecond), 1)
			}
		})
	}
	observers.Wait()
	require.Equal(t, int64(240_000), w.latencies(began.Add(30*time.Second)).Count)
}
