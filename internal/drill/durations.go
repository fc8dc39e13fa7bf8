package drill

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// durations counts durations in buckets, eight for each power of two of a microsecond. Safe for
// concurrent use.
type durations struct {
	buckets      [bucketCount]atomic.Int64
	sum, longest atomic.Int64 // in nanoseconds
}

const (
	bucketBits  = 3 // of a duration in microseconds, behind its first
	bucketCount = 40 << bucketBits
)

// bucketOf returns the bucket of a duration.
func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < 1<<bucketBits {
		return int(us)
	}
	shift := bits.Len64(us) - 1 - bucketBits
	return min(shift<<bucketBits+int(us>>shift), bucketCount-1)
}

// bucketEnd is where bucket i ends.
func bucketEnd(i int) time.Duration {
	if i < 1<<bucketBits {
		return time.Duration(i+1) * time.Microsecond
	}
	shift := i>>bucketBits - 1
	return time.Duration((i&(1<<bucketBits-1)|1<<bucketBits)+1) << shift * time.Microsecond
}

func (ds *durations) add(d time.Duration) {
	ds.buckets[bucketOf(d)].Add(1)
	ds.sum.Add(int64(d))
	for longest := ds.longest.Load(); int64(d) > longest && !ds.longest.CompareAndSwap(longest, int64(d)); longest = ds.longest.Load() {
	}
}

// quantile returns a duration that the part q of those that were added does not exceed: the end of
// its bucket, or the longest of all. 0: there are none.
func (ds *durations) quantile(q float64) time.Duration {
	var counts [bucketCount]int64
	var all int64
	for i := range counts {
		counts[i] = ds.buckets[i].Load()
		all += counts[i]
	}
	rank := int64(q * float64(all))
	for i, n := range counts {
		if rank -= n; n > 0 && rank < 0 {
			return min(bucketEnd(i), time.Duration(ds.longest.Load()))
		}
	}
	return time.Duration(ds.longest.Load())
}
