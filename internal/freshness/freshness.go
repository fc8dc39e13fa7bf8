// Package freshness decides how long a value counts as fresh, and when a source that fails is asked
// again. It knows neither clocks nor Redis: times and random numbers are arguments.
package freshness

import "time"

// Jittered returns ttl less a part of it: fraction at most, and that part of fraction which random
// (from 0 to 1) says. So values that are stored together do not expire together. What is left is at
// least a millisecond, the shortest that Redis knows.
func Jittered(ttl time.Duration, fraction, random float64) time.Duration {
	less := time.Duration(float64(ttl) * fraction * random)
	return max(ttl-less, min(ttl, time.Millisecond))
}
