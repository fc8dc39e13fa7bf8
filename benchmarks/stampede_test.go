package benchmarks

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/benchmarks/internal/bench"
)

// BenchmarkStampede: 4 clients × 200 callers ask for one cold key at once; the loader takes 50 ms.
// The clients are in one process here, so that peers can be compared; examples/stampede has 4 real
// processes. One iteration is one round: run it with -benchtime=50x. The wake-up is from the
// loader's return until a caller has its value: fill, push, wake. "channels" is the floor: as many
// goroutines that wait for a channel, and nothing else.
func BenchmarkStampede(b *testing.B) {
	const (
		clients, perClient = 4, 200
		loader             = 50 * time.Millisecond
	)
	ctx := context.Background()
	for _, lib := range []string{"aside", "rueidisaside"} {
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
			b.ReportMetric(float64(most), "loads/round")
			b.ReportMetric(ms(latencies, 0.99), "p99-latency-ms")
			reportWakes(b, wakes)
		})
	}
	b.Run("lib=channels", func(b *testing.B) {
		var wakes []time.Duration
		settle(b)
		for range b.N {
			wakes = append(wakes, wakeByChannel(clients, perClient)...)
		}
		reportWakes(b, wakes)
	})
}

func reportWakes(b *testing.B, wakes []time.Duration) {
	b.StopTimer()
	slices.Sort(wakes)
	b.ReportMetric(ms(wakes, 0.5)*1000, "p50-wake-µs")
	b.ReportMetric(ms(wakes, 0.99)*1000, "p99-wake-µs")
}

func ms(sorted []time.Duration, q float64) float64 {
	return float64(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Microseconds()) / 1000
}

// wakeByChannel is what is left of a stampede without a cache: goroutines that each wait for a
// channel of their client's, for the client and for a context, as callers do, and are all told at
// once.
func wakeByChannel(clients, perClient int) (wakes []time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	closing, cancelClosing := context.WithCancel(context.Background())
	defer cancelClosing()
	told := make([]chan struct{}, clients)
	for i := range told {
		told[i] = make(chan struct{})
	}
	had := make([]time.Time, clients*perClient)
	var waiting, done sync.WaitGroup
	waiting.Add(len(had))
	for i := range had {
		done.Go(func() {
			waiting.Done()
			select {
			case <-told[i%clients]:
			case <-ctx.Done():
			case <-closing.Done():
			}
			had[i] = time.Now()
		})
	}
	waiting.Wait()
	time.Sleep(50 * time.Millisecond) // as long as the loader takes; all wait by then
	began := time.Now()
	for _, c := range told {
		close(c)
	}
	done.Wait()
	for _, at := range had {
		wakes = append(wakes, at.Sub(began))
	}
	return wakes
}

// BenchmarkMemory: 10⁶ distinct keys through one client with MemoryBytes at its default of 64 MiB.
// One iteration is all of them: run it with -benchtime=1x.
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

// BenchmarkWakeUp: 4 clients with one caller each ask for one cold key; the loader takes 5 ms. The
// wake-up is from when the client that has loaded knows that the value is stored until each of the
// others has it: one round trip, from idleness. (In BenchmarkStampede it is mostly 800 goroutines
// that share the cores.) "rueidis" is a GET by itself every 5 ms, which finds everybody as fast
// asleep. Run it with -benchtime=100x.
func BenchmarkWakeUp(b *testing.B) {
	const (
		clients = 4
		loader  = 5 * time.Millisecond
	)
	ctx := context.Background()
	b.Run("lib=aside", func(b *testing.B) {
		all := make([]users, clients)
		for i := range all {
			all[i] = newUsers["aside"](b, bench.Addr())
			defer all[i].Close()
		}
		keys := bench.Keys(b.N)
		defer bench.Remove(b, keys)
		var wakes []time.Duration
		settle(b)
		for round := range b.N {
			var filled time.Time
			had := make([]time.Time, clients)
			var done sync.WaitGroup
			for i := range clients {
				done.Go(func() {
					loaded := false
					_, err := all[i].get(ctx, keys[round], func(context.Context, string) (bench.User, error) {
						loaded = true
						time.Sleep(loader)
						return bench.NewUser(1), nil
					})
					had[i] = time.Now()
					must(b, err)
					if loaded {
						had[i] = time.Time{}
						must(b, all[i].stored(ctx, keys[round]))
						filled = time.Now()
					}
				})
			}
			done.Wait()
			for _, at := range had {
				if !at.IsZero() {
					wakes = append(wakes, max(at.Sub(filled), 0))
				}
			}
		}
		reportWakes(b, wakes)
	})
	b.Run("lib=rueidis", func(b *testing.B) {
		r := bench.Redis(b)
		defer r.Close()
		key := bench.Keys(1)[0]
		var took []time.Duration
		settle(b)
		for range b.N {
			time.Sleep(loader)
			began := time.Now()
			answer := r.Do(ctx, r.B().Get().Key(key).Build())
			took = append(took, time.Since(began))
			if err := answer.Error(); !rueidis.IsRedisNil(err) {
				must(b, err)
			}
		}
		reportWakes(b, took)
	})
}
