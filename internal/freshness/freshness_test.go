package freshness_test

import (
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
