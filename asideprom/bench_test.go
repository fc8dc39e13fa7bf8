//go:build unix

package asideprom_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
)

// A hit from memory, of a client whose metrics are registered and measured, in pairs with one of a
// client without: ratio is that of the processor's time. The other pair shows how far two clients
// without differ. A scrape is in neither.
func BenchmarkHit(b *testing.B) {
	bare := func() func() {
		s := newService(b, func(o *aside.Options) { o.Observer = nil })
		s.registry = prometheus.NewRegistry()
		return hit(b, s)
	}
	without := bare()
	for _, pair := range []struct {
		name string
		call func()
	}{{"with-by-without", hit(b, newService(b))}, {"without-by-without", bare()}} {
		b.Run(pair.name, func(b *testing.B) {
			const each = 20_000
			calls, spent := [2]func(){pair.call, without}, [2]time.Duration{}
			b.ReportAllocs()
			for i := 0; i < b.N; i += each {
				for turn := range calls {
					which := (turn + i/each) % 2
					began := processorTime(b)
					for range each {
						calls[which]()
					}
					spent[which] += processorTime(b) - began
				}
			}
			b.ReportMetric(float64(spent[0])/float64(spent[1]), "ratio")
		})
	}
}

// hit returns a call that is answered from memory.
func hit(b *testing.B, s *service) func() {
	b.Helper()
	load := func(context.Context, string) (string, error) { return "v", nil }
	call := func() {
		if _, err := s.client.Get(ctx, time.Hour, "k", load); err != nil {
			b.Fatal(err)
		}
	}
	eventually(b, "it is in memory", func() bool { call(); return s.client.Stats().MemoryHits > 0 })
	return call
}

// processorTime is what this process has used, in user mode.
func processorTime(t testing.TB) time.Duration {
	var usage syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano())
}
