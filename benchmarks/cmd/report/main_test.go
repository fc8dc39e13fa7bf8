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
		"bare otter whose values have a ttl | not run |  | ≤ 1.14× |  |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
}

func TestWakeUpsAreComparedWithWhatTheyCannotBeat(t *testing.T) {
	var out strings.Builder
	write(&out, parse(strings.NewReader(`
BenchmarkStampede/lib=aside-2       50   1 ns/op   300.0 p50-wake-µs
BenchmarkStampede/lib=channels-2    50   1 ns/op   120.0 p50-wake-µs
BenchmarkColdMiss/callers=16/lib=aside-2          100   1000 ns/op
BenchmarkColdMiss/callers=16/lib=rueidisaside-2   100   1690 ns/op
BenchmarkKeyMemory/key=20-2   1   1 ns/op   64.2 B/key
`)), true)
	for _, want := range []string{
		"÷ theirs | 1.50× |  | ≤ 1.5× | yes |",
		"16 callers: throughput ÷ rueidisaside | 1.69× |  | ≥ 1.7× | NO |",
		"key of 20 bytes, beyond that of a plain SET | 64 B |  | ≤ 64 B | yes |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
}
