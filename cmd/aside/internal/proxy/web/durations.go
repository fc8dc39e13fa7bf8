package web

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// bounds are where the buckets of request_duration_seconds end.
var bounds = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

// durations is a histogram with these bounds that takes many alike at once; prometheus.Histogram takes
// them one by one, which was 15 ns for each command. Safe for concurrent use. Zero is usable.
type durations struct {
	buckets [16 + 1]atomic.Uint64 // one for each bound, and what is longer
	sum     atomic.Int64          // ns
}

// observe counts n that took so long.
func (d *durations) observe(took time.Duration, n int) {
	d.buckets[bucketBelow(took)].Add(uint64(n))
	d.sum.Add(int64(took) * int64(n))
}

// metric is what was counted; nil: nothing was. The sum may be some commands ahead of the rest, or behind.
func (d *durations) metric(desc *prometheus.Desc, labels ...string) prometheus.Metric {
	upTo := make(map[float64]uint64, len(bounds))
	var count uint64
	for i, bound := range bounds {
		count += d.buckets[i].Load()
		upTo[bound] = count
	}
	if count += d.buckets[len(bounds)].Load(); count == 0 {
		return nil
	}
	return prometheus.MustNewConstHistogram(desc, count, time.Duration(d.sum.Load()).Seconds(), upTo, labels...)
}

var boundsInTime = func() (all [16]time.Duration) {
	for i, bound := range bounds {
		all[i] = time.Duration(math.Round(bound * float64(time.Second)))
	}
	return all
}()

func bucketBelow(took time.Duration) int {
	for i, bound := range boundsInTime {
		if took <= bound {
			return i
		}
	}
	return len(boundsInTime)
}
