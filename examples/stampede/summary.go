package main

import (
	"slices"
	"time"
)

// round is what came of one cold key.
type round struct {
	loads     int
	latencies []time.Duration // from a caller's request to its answer; sorted
	wakes     []time.Duration // from the loader's return to a caller's answer: fill, push, wake-up; sorted
}

func newRound(answers []answer) round {
	var r round
	var loaded int64
	for _, a := range answers {
		r.loads += a.Loads
		loaded = max(loaded, a.Loaded)
	}
	for _, a := range answers {
		for _, call := range a.Calls {
			r.latencies = append(r.latencies, time.Duration(call[1]-call[0]))
			r.wakes = append(r.wakes, time.Duration(call[1]-loaded))
		}
	}
	slices.Sort(r.latencies)
	slices.Sort(r.wakes)
	return r
}

// quantile of what is sorted.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// summary is over all rounds. What is exported is what -json prints; times are in milliseconds.
type summary struct {
	Rounds       int     `json:"rounds"`
	Processes    int     `json:"processes"`
	Callers      int     `json:"callers_per_process"`
	LoaderMS     float64 `json:"loader_ms"`
	LoaderCalls  int     `json:"loader_calls"`
	MostPerRound int     `json:"most_loader_calls_in_a_round"`
	Once         bool    `json:"once_in_each_round"`
	LatencyP50   float64 `json:"latency_p50_ms"`
	LatencyP99   float64 `json:"latency_p99_ms"`
	LatencyMax   float64 `json:"latency_max_ms"`
	WakeP50      float64 `json:"wake_p50_ms"`
	WakeP99      float64 `json:"wake_p99_ms"`
	TookMS       float64 `json:"took_ms"`

	latencies, wakes []time.Duration
}

func newSummary(set settings) *summary {
	return &summary{Processes: set.processes, Callers: set.callers, LoaderMS: ms(set.loader), Once: true}
}

func (s *summary) add(r round) {
	s.Rounds++
	s.LoaderCalls += r.loads
	s.MostPerRound = max(s.MostPerRound, r.loads)
	s.Once = s.Once && r.loads == 1
	s.latencies = append(s.latencies, r.latencies...)
	s.wakes = append(s.wakes, r.wakes...)
}

func (s *summary) finish(took time.Duration) *summary {
	slices.Sort(s.latencies)
	slices.Sort(s.wakes)
	s.LatencyP50, s.LatencyP99, s.LatencyMax = ms(quantile(s.latencies, 0.5)), ms(quantile(s.latencies, 0.99)), ms(quantile(s.latencies, 1))
	s.WakeP50, s.WakeP99 = ms(quantile(s.wakes, 0.5)), ms(quantile(s.wakes, 0.99))
	s.TookMS = ms(took)
	return s
}

func ms(d time.Duration) float64 { return float64(d.Round(time.Microsecond)) / 1e6 }
