package freshness_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redaside/aside/internal/freshness"
)

func TestJitterTakesAtMostItsFraction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ttl := time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(100*365*24*time.Hour)).Draw(t, "ttl"))
		fraction, random := rapid.Float64Range(0, 0.9).Draw(t, "fraction"), rapid.Float64Range(0, 1).Draw(t, "random")
		got := freshness.Jittered(ttl, fraction, random)
		if got > ttl || got < time.Millisecond || float64(ttl-got) > float64(ttl)*fraction+1 {
			t.Fatalf("%v of %v with %v, %v", got, ttl, fraction, random)
		}
	})
	require.Equal(t, 54*time.Second, freshness.Jittered(time.Minute, 0.1, 1))
	require.Equal(t, 57*time.Second, freshness.Jittered(time.Minute, 0.1, 0.5))
	require.Equal(t, time.Minute, freshness.Jittered(time.Minute, 0.1, 0))
}

func TestAValueIsStaleWhenOnlyItsGraceIsLeft(t *testing.T) {
	const end = int64(time.Hour)
	for _, row := range []struct {
		left, grace time.Duration
		stale       bool
	}{
		{time.Minute, 0, false}, {0, 0, false}, {time.Minute + 1, time.Minute, false}, {time.Minute, time.Minute, true},
		{time.Second, time.Minute, true}, {time.Minute, time.Hour, true}, {-time.Second, time.Minute, true},
	} {
		require.Equal(t, row.stale, freshness.Stale(end-int64(row.left), end, row.grace), "%+v", row)
	}
	require.False(t, freshness.Stale(end, math.MaxInt64, 100*365*24*time.Hour), "what does not expire is fresh")
}

func TestTtlAndGraceDoNotOverflow(t *testing.T) {
	require.Equal(t, 3*time.Second, freshness.Sum(time.Second, 2*time.Second))
	require.EqualValues(t, math.MaxInt64, freshness.Sum(math.MaxInt64-1, 2))
}

func TestTheBackoffDoublesIsJitteredAndCapped(t *testing.T) {
	for failures, most := range map[int]time.Duration{
		0: time.Second, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 5: 16 * time.Second, 6: 30 * time.Second, 1_000_000: 30 * time.Second,
	} {
		require.Equal(t, most, freshness.Backoff(failures, 0))
		require.Equal(t, most/2, freshness.Backoff(failures, 1))
	}
}
