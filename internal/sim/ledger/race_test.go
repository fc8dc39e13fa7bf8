//go:build race

package ledger

// A trial has one goroutine: what the detector can see, it sees in the first.
func init() { usualTrials = 500 }
