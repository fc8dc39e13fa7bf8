//go:build race

package aside_test

// Under the race detector sync.Pools drop some of what they get, at random.
func init() { moreAllocations = 1 }
