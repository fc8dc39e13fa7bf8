package benchmarks

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/benchmarks/internal/bench"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
)

const groupPrefix = "bench:group:"

// BenchmarkGroupHit is BenchmarkHotHit for one caller of a view with one more option each; "plain" has
// none. A key without its view's prefix is shorter by that, and so are the calls' arguments.
func BenchmarkGroupHit(b *testing.B) {
	ctx := context.Background()
	prefix := aside.WithPrefix(groupPrefix)
	for _, row := range []struct {
		name  string
		short bool
		opts  []aside.ViewOption
	}{
		{"plain", false, nil},
		{"grace", false, []aside.ViewOption{aside.WithGrace(time.Minute)}},
		{"ahead", false, []aside.ViewOption{aside.WithRefreshAhead(0.1)}},
		{"prefix", true, []aside.ViewOption{prefix}},
		{"all", true, []aside.ViewOption{prefix, aside.WithGrace(time.Minute), aside.WithRefreshAhead(0.1)}},
		{"clearable", true, []aside.ViewOption{prefix, aside.Clearable()}},
		{"tags", false, []aside.ViewOption{aside.WithTags("x", "y", "z")}},
	} {
		b.Run("lib="+row.name, func(b *testing.B) {
			c := newAside(b, bench.Addr())
			defer c.Close()
			view := aside.Typed(c.Client, codec.JSON[bench.User](), row.opts...)
			key := groupPrefix + bench.Keys(1)[0]
			full := key
			if row.short {
				key = key[len(groupPrefix):]
			}
			_, err := view.Get(ctx, bench.TTL, key, trivial)
			must(b, err)
			must(b, c.stored(ctx, full))
			b.ReportAllocs()
			settle(b)
			for b.Loop() {
				if u, err := view.Get(ctx, bench.TTL, key, trivial); err != nil || u.ID != 1 {
					b.Fatal(u, err)
				}
			}
			b.StopTimer()
			if hits := c.Stats().MemoryHits; hits < int64(b.N) {
				b.Fatalf("%d hits of %d", hits, b.N)
			}
		})
	}
}

// BenchmarkClear: what it takes to clear a prefix with so many entries, in round trips and commands,
// the next read of one of them included or not. The time of the preparation does not count.
func BenchmarkClear(b *testing.B) {
	ctx := context.Background()
	for _, n := range []int{1000, 1_000_000} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			proxy := faultproxy.New(b, bench.Addr())
			proxy.Ignore("PING", "TIME")
			c := newAside(b, proxy.Addr())
			defer c.Close()
			prefix := bench.Key("clear", n) + ":"
			view := aside.Typed(c.Client, codec.JSON[bench.User](), aside.WithPrefix(prefix), aside.Clearable())
			keys := make([]string, n)
			for i := range keys {
				keys[i] = prefix + fmt.Sprint(i)
			}
			defer bench.Remove(b, keys)
			must(b, view.Set(ctx, bench.TTL, "0", bench.NewUser(0)))
			redis := bench.Redis(b)
			defer redis.Close()
			entry, err := redis.Do(ctx, redis.B().Get().Key(keys[0]).Build()).ToString()
			must(b, err)
			bench.Each(b, keys, func(b rueidis.Builder, _ int, key string) rueidis.Completed { // as the view would have set it
				return b.Set().Key(key).Value(entry).Px(bench.TTL).Build()
			})
			last := fmt.Sprint(n - 1)
			for range b.N {
				_, err := view.Get(ctx, bench.TTL, last, func(context.Context, string) (bench.User, error) { return bench.NewUser(0), nil })
				must(b, err)
				must(b, c.stored(ctx, keys[n-1]))
				proxy.ResetCounts()
				must(b, view.Clear(ctx))
				b.ReportMetric(float64(proxy.RoundTrips()), "trips/clear")
				b.ReportMetric(float64(proxy.Commands()), "commands/clear")
				_, ok, err := view.Peek(ctx, last)
				must(b, err)
				if ok {
					b.Fatal("it is not cleared")
				}
			}
		})
	}
}
