// Package freshness decides how long a value counts as fresh, and when a source that fails is asked
// again. It knows neither clocks nor Redis: times and random numbers are arguments.
package freshness

import (
	"math"
	"time"
)

// Jittered returns ttl less a part of it: fraction at most, and that part of fraction which random
// (from 0 to 1) says. So values that are stored together do not expire together. What is left is at
// least a millisecond, the shortest that Redis knows.
func Jittered(ttl time.Duration, fraction, random float64) time.Duration {
	less := time.Duration(float64(ttl) * fraction * random)
	return max(ttl-less, min(ttl, time.Millisecond))
}

// Stale reports whether a value that ends at ends is stale at now, for a reader who gives it so much
// grace: its key lives for ttl and grace, so it is fresh while more than the grace is left. Times are
// of one clock; where grace is 0 nothing is stale. ends is beyond all times for what does not expire.
func Stale(now, ends int64, grace time.Duration) bool {
	return grace > 0 && now >= ends-int64(grace)
}

// Sum is ttl and grace, or the longest time there is.
func Sum(ttl, grace time.Duration) time.Duration {
	if grace > math.MaxInt64-ttl {
		return math.MaxInt64
	}
	return ttl + grace
}

// How long a source that fails is not asked.
const (
	firstBackoff   = time.Second
	longestBackoff = 30 * time.Second
)

// Backoff returns for how long nobody should try again after so many failures in a row, the last
// one included: a second at most after the first, twice as long after each other one, 30 seconds at
// most; less a part of the half that random (from 0 to 1) says, so that sources and keys that have
// failed together are not asked together.
func Backoff(failures int, random float64) time.Duration {
	d := longestBackoff
	if n := max(failures, 1) - 1; n < 5 {
		d = firstBackoff << n
	}
	return d - time.Duration(float64(d/2)*random)
}
