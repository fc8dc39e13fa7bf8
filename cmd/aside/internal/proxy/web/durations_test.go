package web

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
)

// What is counted together is exported as if each had been counted by a histogram of the library's.
func TestDurationsAreThoseOfAHistogram(t *testing.T) {
	var d durations
	desc := prometheus.NewDesc("d", "", nil, nil)
	require.Nil(t, d.metric(desc), "nothing was counted")
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Buckets: bounds})
	all := []time.Duration{0, 1, 6 * time.Second, time.Hour}
	for _, bound := range boundsInTime {
		all = append(all, bound-1, bound, bound+1)
	}
	var counting sync.WaitGroup
	for _, took := range all {
		n := 1 + rand.IntN(200)
		counting.Go(func() { d.observe(took, n) })
		for range n {
			h.Observe(took.Seconds())
		}
	}
	counting.Wait()
	var got, want dto.Metric
	require.NoError(t, d.metric(desc).Write(&got))
	require.NoError(t, h.Write(&want))
	require.Equal(t, want.GetHistogram().GetSampleCount(), got.GetHistogram().GetSampleCount())
	require.InEpsilon(t, want.GetHistogram().GetSampleSum(), got.GetHistogram().GetSampleSum(), 1e-9)
	upTo := func(m *dto.Metric) map[float64]uint64 {
		all := make(map[float64]uint64)
		for _, bucket := range m.GetHistogram().GetBucket() {
			all[bucket.GetUpperBound()] = bucket.GetCumulativeCount()
		}
		return all
	}
	require.Equal(t, upTo(&want), upTo(&got))
}
