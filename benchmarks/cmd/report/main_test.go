package main

import (
	"strings"
	"testing"
)

func TestReportComparesMediansWithTargets(t *testing.T) {
	var out strings.Builder
	write(&out, parse(strings.NewReader(`
BenchmarkHotHit/lib=aside-2     100   40.0 ns/op   0 B/op   0 allocs/op
BenchmarkHotHit/lib=rueidis-2   100   1000 ns/op
BenchmarkHotHit/lib=go-redis-cache-2   100   500 ns/op
BenchmarkHotHit/lib=aside-2     100   80.0 ns/op   0 B/op   0 allocs/op
BenchmarkHotHit/lib=rueidis-2   100   1600 ns/op
BenchmarkHotHit/lib=aside-2     100   40.0 ns/op   0 B/op   0 allocs/op
BenchmarkHotHit/lib=rueidis-2   100   1200 ns/op
`)), true)
	for _, want := range []string{
		"DoCache + JSON (a typed rueidisaside Get) | 25.0× | 20.0 … 30.0 | ≥ 30× | NO |",
		"allocations | 0 |  | ≤ 0 | yes |",
		"TinyLFU | 12.5× |  |  |  |",
		"bare otter | not run |  | ≤ 2.2× |  |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
}
