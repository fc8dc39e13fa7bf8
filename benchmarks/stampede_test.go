package benchmarks

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redaside/aside/benchmarks/internal/bench"
)

// BenchmarkStampede: 4 clients × 200 callers ask for one cold key at once; the loader takes 50 ms. The clients are in one
// process here, so that peers can be compared; examples/stampede has 4 real processes. One iteration is one round: run
// it with -benchtime=50x. The wake-up is from the loader's return until a caller has its value: fill, push, wake.
func BenchmarkStampede(b *testing.B) {
	const (
		clients, perClient = 4, 200
		loader             = 50 * time.Millisecond
	)
	ctx := context.Background()
	for _, lib := range []string{"aside", "peer"} {
		b.Run("lib="+lib, func(b *testing.B) {
			all := make([]users, clients)
			for i := range all {
				all[i] = newUsers[lib](b, bench.Addr())
				defer all[i].Close()
			}
			_, err := all[0].get(ctx, bench.Keys(1)[0], trivial) // the server knows the scripts
			must(b, err)
			keys := bench.Keys(b.N)
			var latencies, wakes []time.Duration
			most := int64(0)
			settle(b)
			for round := range b.N {
				var loads, loaded atomic.Int64
				asked := make([]time.Time, clients*perClient)
				had := make([]time.Time, clients*perClient)
				start := make(chan struct{})
				var done sync.WaitGroup
				for i := range asked {
					done.Go(func() {
						<-start
						asked[i] = time.Now()
						_, err := all[i%clients].get(ctx, keys[round], func(context.Context, string) (bench.User, error) {
							loads.Add(1)
							time.Sleep(loader)
							loaded.Store(time.Now().UnixNano())
							return bench.NewUser(1), nil
						})
						had[i] = time.Now()
						must(b, err)
					})
				}
				runtime.Gosched()
				close(start)
				done.Wait()
				most = max(most, loads.Load())
				for i := range asked {
					latencies = append(latencies, had[i].Sub(asked[i]))
					wakes = append(wakes, time.Duration(had[i].UnixNano()-loaded.Load()))
				}
			}
			b.StopTimer()
			slices.Sort(latencies)
			slices.Sort(wakes)
			b.ReportMetric(float64(most), "loads/round")
			b.ReportMetric(ms(latencies, 0.99), "p99-latency-ms")
			b.ReportMetric(ms(wakes, 0.5)*1000, "p50-wake-µs")
			b.ReportMetric(ms(wakes, 0.99)*1000, "p99-wake-µs")
		})
	}
}

func ms(sorted []time.Duration, q float64) float64 {
	return float64(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Microseconds()) / 1000
}

// BenchmarkMemory: 10⁶ distinct keys through one client with MemoryBytes at its default of 64 MiB. One iteration is all of
// them: run it with -benchtime=1x.
func BenchmarkMemory(b *testing.B) {
	const (
		keys        = 1_000_000
		memoryBytes = 64 << 20
	)
	ctx := context.Background()
	b.Run("lib=aside", func(b *testing.B) {
		before, goroutines := heap(), runtime.NumGoroutine()
		c := newAside(b, bench.Addr())
		defer c.Close()
		get := asideMulti(c)
		mostHeap := uint64(0)
		most := 0
		for range b.N {
			for from := 0; from < keys; from += 1000 {
				batch := make([]string, 1000)
				for i := range batch {
					batch[i] = bench.Key("memory", from+i)
				}
				_, err := get(ctx, batch)
				must(b, err)
				most = max(most, runtime.NumGoroutine()-goroutines)
				if from%100_000 == 99_000 {
					for _, key := range batch { // single ones too: they keep the decoded value
						_, err := c.get(ctx, key, trivial)
						must(b, err)
					}
					mostHeap = max(mostHeap, heap()-before)
				}
			}
		}
		b.StopTimer()
		stats := c.Stats()
		b.Logf("%+v", stats)
		b.ReportMetric(float64(mostHeap)/memoryBytes, "heap/MemoryBytes")
		b.ReportMetric(float64(stats.MemoryBytes)/memoryBytes, "estimate/MemoryBytes")
		b.ReportMetric(float64(stats.MemoryEntries), "entries")
		b.ReportMetric(float64(stats.RedisErrors), "redis-errors") // a client without Redis stores nothing: then this measures nothing
		b.ReportMetric(float64(most), "goroutines")
		var all []string
		for i := range keys {
			all = append(all, bench.Key("memory", i))
		}
		bench.Remove(b, all)
	})
}

// heap is what is reachable.
func heap() uint64 {
	for range 2 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
