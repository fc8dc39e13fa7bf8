package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// How much garbage may pile up: gcRoom beside a small cache, so that the collector does not run all
// the time, and gcPercent of a large one, which with Go's own 100 would take its size twice.
const (
	gcRoom    = 12 << 20
	gcPercent = 35
)

// gcPercentFor is GOGC for a heap in which so much lives. Go takes a heap for 4 MiB at least, of
// which 300 % are gcRoom.
func gcPercentFor(live uint64) int {
	return int(max(gcPercent, min(100*gcRoom/max(live, 1), 300)))
}

// tuneGC sets it now, and after each collection: that makes an object that nobody has any more,
// whose cleanup comes back here.
func tuneGC(set int) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	// To set it stops the world for a moment: not for trifles.
	if percent := gcPercentFor(sample[0].Value.Uint64()); percent < set*9/10 || percent > set*11/10 {
		debug.SetGCPercent(percent)
		set = percent
	}
	runtime.AddCleanup(new([16]byte), tuneGC, set)
}
