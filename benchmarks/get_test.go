package benchmarks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-redis/cache/v9"
	"github.com/maypok86/otter/v2"
	"github.com/viccon/sturdyc"

	"github.com/redaside/aside/benchmarks/internal/bench"
	"github.com/redaside/aside/internal/faultproxy"
)

// BenchmarkHotHit: one key that everybody has in memory, all cores. "rueidis" is DoCache and
// json.Unmarshal, which is what a typed Get of rueidisaside or valkeyaside consists of on a hit.
// "otter" is the floor: a map of decoded values, no Redis. "otter-ttl" is one whose values end, so that
// it reads the clock, as aside does.
func BenchmarkHotHit(b *testing.B) {
	ctx := context.Background()
	b.Run("lib=aside", func(b *testing.B) {
		c := newAside(b, bench.Addr())
		defer c.Close()
		key := bench.Keys(1)[0]
		_, err := c.get(ctx, key, trivial)
		must(b, err)
		b.ReportAllocs()
		settle(b)
		b.RunParallel(func(pb *testing.PB) {
			key := strings.Clone(key) // as callers have made it, not the one in memory
			for pb.Next() {
				if u, err := c.typed.Get(ctx, bench.TTL, key, trivial); err != nil || u.ID != 1 {
					b.Error(u, err)
				}
			}
		})
	})
	endless := otter.Options[string, bench.User]{MaximumSize: 100_000}
	ending := endless
	ending.ExpiryCalculator = otter.ExpiryWriting[string, bench.User](bench.TTL)
	for _, floor := range []struct {
		name    string
		options *otter.Options[string, bench.User]
	}{{"otter", &endless}, {"otter-ttl", &ending}} {
		b.Run("lib="+floor.name, func(b *testing.B) {
			c := otter.Must(floor.options)
			key := bench.Keys(1)[0]
			c.Set(key, bench.NewUser(1))
			b.ReportAllocs()
			settle(b)
			b.RunParallel(func(pb *testing.PB) {
				key := strings.Clone(key) // as callers have made it, not the one in memory
				for pb.Next() {
					if u, ok := c.GetIfPresent(key); !ok || u.ID != 1 {
						b.Error(u, ok)
					}
				}
			})
		})
	}
	b.Run("lib=rueidis", func(b *testing.B) {
		r := bench.Redis(b)
		defer r.Close()
		key := bench.Keys(1)[0]
		bench.Prefill(b, []string{key})
		b.ReportAllocs()
		settle(b)
		b.RunParallel(func(pb *testing.PB) {
			key := strings.Clone(key) // as callers have made it, not the one in memory
			for pb.Next() {
				raw, err := r.DoCache(ctx, r.B().Get().Key(key).Cache(), bench.TTL).ToString()
				must(b, err)
				_, err = bench.Decode(raw)
				must(b, err)
			}
		})
	})
	b.Run("lib=sturdyc", func(b *testing.B) {
		c := sturdyc.New[bench.User](100_000, 64, bench.TTL, 10)
		key := bench.Keys(1)[0]
		c.Set(key, bench.NewUser(1))
		b.ReportAllocs()
		settle(b)
		b.RunParallel(func(pb *testing.PB) {
			key := strings.Clone(key) // as callers have made it, not the one in memory
			for pb.Next() {
				if u, err := c.GetOrFetch(ctx, key, func(context.Context) (bench.User, error) { return bench.NewUser(1), nil }); err != nil || u.ID != 1 {
					b.Error(u, err)
				}
			}
		})
	})
	b.Run("lib=go-redis-cache", func(b *testing.B) {
		c := newGoRedisUsers(b, bench.Addr()).(*goRedisUsers)
		defer c.Close()
		key := bench.Keys(1)[0]
		must(b, c.Set(&cache.Item{Ctx: ctx, Key: key, Value: bench.NewUser(1), TTL: bench.TTL}))
		b.ReportAllocs()
		settle(b)
		b.RunParallel(func(pb *testing.PB) {
			key := strings.Clone(key) // as callers have made it, not the one in memory
			for pb.Next() {
				var u bench.User
				must(b, c.Cache.Get(ctx, key, &u))
			}
		})
	})
}

// BenchmarkZipf: 10,000 keys asked for as Zipf says, so that some are much hotter than others;
// misses are loaded.
func BenchmarkZipf(b *testing.B) {
	const n = 10_000
	ctx := context.Background()
	draw := func(b *testing.B, get func(key string) error) {
		keys := bench.Keys(n)
		var seed atomic.Uint64
		b.ReportAllocs()
		settle(b)
		b.RunParallel(func(pb *testing.PB) {
			zipf := rand.NewZipf(rand.New(rand.NewPCG(seed.Add(1), 7)), 1.1, 1, n-1)
			for pb.Next() {
				must(b, get(keys[zipf.Uint64()]))
			}
		})
	}
	for _, lib := range []string{"aside", "rueidisaside", "go-redis-cache", "sturdyc"} {
		b.Run("lib="+lib, func(b *testing.B) {
			c := newUsers[lib](b, bench.Addr())
			defer c.Close()
			draw(b, func(key string) error {
				_, err := c.get(ctx, key, trivial)
				return err
			})
		})
	}
}

// BenchmarkFirstRead: 64 callers read keys that are in Redis and not yet in this process, as
// strings. "rueidis" is a plain GET on its pipelined connections: what the round trip alone costs.
func BenchmarkFirstRead(b *testing.B) {
	ctx := context.Background()
	read := func(b *testing.B, get func(key string) error) {
		keys := bench.Keys(b.N)
		bench.Prefill(b, keys)
		defer bench.Remove(b, keys)
		defer b.StopTimer()
		var next atomic.Int64
		callers(b, 64)
		b.ReportAllocs()
		settle(b)
		defer countCPU(b)()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				must(b, get(keys[next.Add(1)-1]))
			}
		})
	}
	for _, lib := range []string{"aside", "rueidisaside"} {
		b.Run("lib="+lib, func(b *testing.B) {
			c := newUsers[lib](b, bench.Addr())
			defer c.Close()
			read(b, func(key string) error {
				_, err := c.Get(ctx, key, func(_ context.Context, key string) (string, error) {
					b.Errorf("%s is not in Redis", key)
					return "", nil
				})
				return err
			})
		})
	}
	b.Run("lib=rueidis", func(b *testing.B) {
		r := bench.Redis(b)
		defer r.Close()
		read(b, func(key string) error { return r.Do(ctx, r.B().Get().Key(key).Build()).Error() })
	})
}

// BenchmarkColdMiss: callers ask for keys that are nowhere, as strings; the loader does nothing.
// rueidisaside takes a lock in Redis, as aside does; go-redis-cache and sturdyc take none, and so
// promise less: each process loads for itself.
func BenchmarkColdMiss(b *testing.B) {
	ctx := context.Background()
	for _, n := range []int{1, 16, 64} {
		for _, lib := range []string{"aside", "rueidisaside", "go-redis-cache", "sturdyc"} {
			b.Run(fmt.Sprintf("callers=%d/lib=%s", n, lib), func(b *testing.B) {
				c := newUsers[lib](b, bench.Addr())
				defer c.Close()
				keys := bench.Keys(b.N)
				defer bench.Remove(b, keys)
				defer b.StopTimer()
				b.ReportAllocs()
				settle(b)
				report := countCPU(b)
				ask(b, n, func(i int) {
					_, err := c.Get(ctx, keys[i], trivialRaw)
					must(b, err)
				})
				must(b, c.stored(ctx, keys[b.N-1]))
				report()
			})
		}
	}
}

// ask does b.N things, numbered from 0, by n goroutines.
func ask(b *testing.B, n int, do func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				do(int(i))
			}
		})
	}
	all.Wait()
}

// BenchmarkMissTrips: what one miss, and the next read of it by the same process, cost in round
// trips and commands. The time means nothing.
func BenchmarkMissTrips(b *testing.B) {
	for _, lib := range []string{"aside", "rueidisaside", "go-redis-cache", "sturdyc"} {
		b.Run("lib="+lib, func(b *testing.B) {
			for range b.N {
				counted(b, newUsers[lib])
			}
		})
	}
}

// counted asks one after another through a proxy that counts.
func counted(b *testing.B, open func(testing.TB, string) users) {
	const n = 100
	ctx := context.Background()
	proxy := faultproxy.New(b, bench.Addr())
	proxy.Ignore("PING", "TIME")
	c := open(b, proxy.Addr())
	defer c.Close()
	keys := bench.Keys(n + 1)
	defer bench.Remove(b, keys)
	_, err := c.get(ctx, keys[n], trivial)
	must(b, err)
	must(b, c.stored(ctx, keys[n])) // the server knows the scripts, also the one that stores
	for _, what := range []string{"miss", "next"} {
		proxy.ResetCounts()
		for _, key := range keys[:n] {
			_, err := c.get(ctx, key, trivial)
			must(b, err)
			must(b, c.stored(ctx, key)) // what a miss sends after it has returned is part of it
		}
		b.ReportMetric(float64(proxy.RoundTrips())/n, "trips/"+what)
		b.ReportMetric(float64(proxy.Commands())/n, "commands/"+what)
	}
}
