package audit

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func newAuditor(now *atomic.Int64, change ...func(*Options)) *Auditor {
	o := Options{Fraction: 0.1, AtOnce: 2, PerSecond: 10, Target: 0.01, Longest: 100 * 365 * 24 * time.Hour, Now: now.Load}
	for _, c := range change {
		c(&o)
	}
	return New(o)
}

func TestAShareOfTheHitsIsDrawn(t *testing.T) {
	t.Parallel()
	for _, fraction := range []float64{0.001, 0.1, 1} {
		const hits = 200_000
		a, drawn := newAuditor(new(atomic.Int64), func(o *Options) { o.Fraction = fraction }), 0
		for range hits {
			if a.Draws() {
				drawn++
			}
		}
		deviation := math.Sqrt(hits * fraction * (1 - fraction))
		require.InDelta(t, hits*fraction, drawn, 6*deviation)
	}
}

func TestAuditsAreBounded(t *testing.T) {
	t.Parallel()
	var now atomic.Int64
	a := newAuditor(&now)
	require.True(t, a.Begin())
	require.False(t, a.Begin(), "ten a second")
	now.Add(int64(100 * time.Millisecond))
	require.True(t, a.Begin())
	now.Add(int64(time.Hour))
	require.False(t, a.Begin(), "two at once")
	a.Judge(Same, 0)
	var began atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if a.Begin() {
				began.Add(1)
			}
		})
	}
	all.Wait()
	require.LessOrEqual(t, began.Load(), int64(1))
	r := a.Report()
	require.Equal(t, int64(24), r.Sampled)
	require.Equal(t, int64(24)-2-began.Load(), r.Skipped)
	require.Equal(t, int64(1), r.Same)
}

func TestTheUpperBoundIsThatOfTables(t *testing.T) {
	t.Parallel()
	for n, bound := range map[int64]float64{0: 3.00, 1: 4.74, 5: 10.51, 10: 16.96, 50: 63.29} {
		require.InEpsilon(t, bound, atMost(n), 0.02, n)
	}
}

// Hits of keys that change at a known rate are judged, as an audit would; with the suggested ttl no
// more of them are stale than was aimed at.
func TestWithTheSuggestedTTLFewHitsAreStale(t *testing.T) {
	t.Parallel()
	const rate, ttl = 1.0 / 600, 300.0 // a change in ten minutes, values of up to five
	draw := rand.New(rand.NewPCG(1, 2))
	stale := func(ttl float64, judge func(bool, float64)) (share float64) {
		n := 0
		for range 20_000 {
			age := draw.Float64() * ttl
			changed := draw.Float64() < -math.Expm1(-rate*age)
			if changed {
				n++
			}
			if judge != nil {
				judge(changed, age)
			}
		}
		return float64(n) / 20_000
	}
	a := newAuditor(new(atomic.Int64))
	share := stale(ttl, func(changed bool, age float64) {
		a.running.Add(1)
		a.Judge(map[bool]Verdict{false: Same, true: Stale}[changed], time.Duration(age*float64(time.Second)))
	})
	require.Greater(t, share, 0.15, "too many")
	suggested := a.Report().SuggestedTTL
	require.InEpsilon(t, 2*0.01/rate, suggested.Seconds(), 0.15, "12 seconds")
	require.Less(t, stale(suggested.Seconds(), nil), 0.012)
}

func TestWithoutStaleHitsASuggestionGrowsWithWhatWasSeen(t *testing.T) {
	t.Parallel()
	a := newAuditor(new(atomic.Int64))
	judge := func(n int, v Verdict, age time.Duration) time.Duration {
		for range n {
			a.running.Add(1)
			a.Judge(v, age)
		}
		return a.Report().SuggestedTTL
	}
	require.Zero(t, judge(99, Same, time.Minute), "too few")
	first := judge(1, Same, time.Minute)
	require.InEpsilon(t, 2*0.01*100*60/3, first.Seconds(), 0.15, "of 100 minutes none has shown a change: at most 3")
	require.InEpsilon(t, 10*first.Seconds(), judge(900, Same, time.Minute).Seconds(), 0.02)
	require.Less(t, judge(100_000, Stale, time.Minute), time.Second)
	judge(1, Overtaken, time.Hour)
	judge(1, Failed, time.Hour)
	r := a.Report()
	require.Equal(t, []int64{1000, 100_000, 1, 1}, []int64{r.Same, r.Stale, r.Overtaken, r.Failed})
	a = newAuditor(new(atomic.Int64))
	require.Zero(t, judge(1000, Stale, time.Minute), "all are stale")
	for _, age := range []time.Duration{-1, 0, 1, time.Millisecond, time.Hour, math.MaxInt64} {
		require.LessOrEqual(t, ageOf(ageBucket(age)), max(age.Seconds(), 0.001))
	}
}
