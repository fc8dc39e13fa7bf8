package web

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/internal/statuspage"
)

// window counts how long requests took in the last minute, second by second. Safe for concurrent
// use.
//
// Durations fall into buckets, each at most 1/8 wider than its beginning, from a
// microsecond to a minute; so a percentile is told up to 12.5 % too high, and never too low.
type window struct {
	seconds [windowSlots]slot
}

const (
	windowSeconds = 60
	windowSlots   = windowSeconds + 4 // the one that is being filled, and some that a late reader may still be reading
	octaves       = 26                // 2^26 µs are 67 s; what takes longer counts as that
	steps         = 8                 // buckets in each
	bucketCount   = octaves * steps
)

// slot is one second.
type slot struct {
	clearing sync.Mutex   // held while the slot is made ready for another second
	second   atomic.Int64 // that it counts
	buckets  [bucketCount]atomic.Uint32
}

func (w *window) observe(took time.Duration, now time.Time, n int) {
	second := now.Unix()
	s := &w.seconds[second%windowSlots]
	if s.second.Load() != second {
		s.clear(second)
	}
	s.buckets[bucketOf(took)].Add(uint32(n))
}

// clear forgets a second of a minute ago. A request that was so late that it still counts there
// counts now: once, and nothing depends on it.
func (s *slot) clear(second int64) {
	s.clearing.Lock()
	defer s.clearing.Unlock()
	if s.second.Load() >= second {
		return
	}
	for i := range s.buckets {
		s.buckets[i].Store(0)
	}
	s.second.Store(second)
}

// latencies are those of the last 60 whole seconds.
func (w *window) latencies(now time.Time) statuspage.Latencies {
	l := statuspage.Latencies{Rate: make([]int64, windowSeconds)}
	var all [bucketCount]int64
	for i := range windowSeconds {
		second := now.Unix() - windowSeconds + int64(i)
		s := &w.seconds[second%windowSlots]
		if s.second.Load() != second {
			continue
		}
		for b := range s.buckets {
			n := int64(s.buckets[b].Load())
			all[b] += n
			l.Rate[i] += n
		}
		l.Count += l.Rate[i]
	}
	l.P50, l.P99 = percentile(&all, l.Count, 50), percentile(&all, l.Count, 99)
	return l
}

// percentile is the end of the bucket in which the nth hundredth lies, in microseconds.
func percentile(buckets *[bucketCount]int64, count, nth int64) float64 {
	if count == 0 {
		return 0
	}
	rank := (count*nth + 99) / 100
	for b, n := range buckets {
		if rank -= n; rank <= 0 {
			return float64(bucketEnd(b))
		}
	}
	return float64(bucketEnd(bucketCount - 1))
}

// bucketOf is the bucket of a duration: below 8 µs one for each microsecond, then eight for each
// power of two.
func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < steps {
		return int(us)
	}
	octave := bits.Len64(us) - 4 // us >> octave is 8 to 15
	return min(steps*octave+int(us>>octave), bucketCount-1)
}

// bucketEnd is where a bucket ends, in microseconds.
func bucketEnd(b int) uint64 {
	if b < 2*steps {
		return uint64(b) + 1
	}
	octave := b/steps - 1
	return uint64(b%steps+steps+1) << octave
}
