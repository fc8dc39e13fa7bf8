package benchmarks

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/benchmarks/internal/bench"
	"github.com/redaside/aside/internal/faultproxy"
)

const multi = 100

func loadAll(_ context.Context, keys []string) (map[string]bench.User, error) {
	found := make(map[string]bench.User, len(keys))
	for i, key := range keys {
		found[key] = bench.NewUser(i)
	}
	return found, nil
}

// multiGetter gets typed values for keys, and loads those that are missing.
type multiGetter func(ctx context.Context, keys []string) (map[string]bench.User, error)

// storedAll is stored for what a multiGetter has loaded.
type storedAll func(ctx context.Context, keys []string) error

func asideMulti(c *asideUsers) multiGetter {
	return func(ctx context.Context, keys []string) (map[string]bench.User, error) {
		return c.typed.GetMulti(ctx, bench.TTL, keys, loadAll)
	}
}

// lockFree is what one writes by hand over rueidis: DoMultiCache, the loader for what is missing, a
// pipeline of SET. No locks, so each process that misses loads.
func lockFree(r rueidis.Client) multiGetter {
	return func(ctx context.Context, keys []string) (map[string]bench.User, error) {
		reads := make([]rueidis.CacheableTTL, len(keys))
		for i, key := range keys {
			reads[i] = rueidis.CT(r.B().Get().Key(key).Cache(), bench.TTL)
		}
		values := make(map[string]bench.User, len(keys))
		var missing []string
		for i, answer := range r.DoMultiCache(ctx, reads...) {
			raw, err := answer.ToString()
			if rueidis.IsRedisNil(err) {
				missing = append(missing, keys[i])
				continue
			}
			if err == nil {
				values[keys[i]], err = bench.Decode(raw)
			}
			if err != nil {
				return nil, err
			}
		}
		if len(missing) == 0 {
			return values, nil
		}
		found, err := loadAll(ctx, missing)
		if err != nil {
			return nil, err
		}
		writes := make([]rueidis.Completed, 0, len(found))
		for key, u := range found {
			values[key] = u
			writes = append(writes, r.B().Set().Key(key).Value(bench.Encode(u)).Px(bench.TTL).Build())
		}
		for _, answer := range r.DoMulti(ctx, writes...) {
			if err := answer.Error(); err != nil {
				return nil, err
			}
		}
		return values, nil
	}
}

var multiLibs = []struct {
	name string
	open func(testing.TB, string) (multiGetter, storedAll, func())
}{
	{"aside", func(tb testing.TB, addr string) (multiGetter, storedAll, func()) {
		c := newAside(tb, addr)
		stored := func(ctx context.Context, keys []string) error {
			_, err := c.LookMulti(ctx, keys)
			return err
		}
		return asideMulti(c), stored, func() { must(tb, c.Close()) }
	}},
	{"rueidis", func(tb testing.TB, addr string) (multiGetter, storedAll, func()) {
		r := bench.RedisAt(tb, addr)
		return lockFree(r), func(context.Context, []string) error { return nil }, r.Close
	}},
}

// BenchmarkGetMultiHot: 100 keys that are in memory, all cores. "rueidis" is DoMultiCache and
// json.Unmarshal.
func BenchmarkGetMultiHot(b *testing.B) {
	ctx := context.Background()
	for _, lib := range multiLibs {
		b.Run("lib="+lib.name, func(b *testing.B) {
			get, stored, done := lib.open(b, bench.Addr())
			defer done()
			keys := bench.Keys(multi)
			for range 2 { // load, and let rueidis read what it wrote
				_, err := get(ctx, keys)
				must(b, err)
				must(b, stored(ctx, keys))
			}
			b.ReportAllocs()
			settle(b)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if values, err := get(ctx, keys); err != nil || len(values) != multi {
						b.Error(len(values), err)
					}
				}
			})
		})
	}
}

// BenchmarkGetMultiCold: 100 keys that are nowhere, one call after another. aside locks each of
// them; "rueidis" locks none, and "bare" is the floor of what locks. Beside the time: what a call, and the next one for the same keys,
// cost in round trips and commands.
func BenchmarkGetMultiCold(b *testing.B) {
	ctx := context.Background()
	for _, lib := range multiLibs {
		b.Run("lib="+lib.name, func(b *testing.B) {
			get, stored, done := lib.open(b, bench.Addr())
			defer done()
			keys := bench.Keys(b.N * multi)
			defer bench.Remove(b, keys)
			b.ReportAllocs()
			settle(b)
			report := countCPU(b)
			for i := range b.N {
				if values, err := get(ctx, keys[i*multi:(i+1)*multi]); err != nil || len(values) != multi {
					b.Error(len(values), err)
				}
			}
			must(b, stored(ctx, keys[(b.N-1)*multi:]))
			report()
			b.StopTimer()

			const n = 20
			proxy := faultproxy.New(b, bench.Addr())
			proxy.Ignore("PING", "TIME")
			get, stored, done = lib.open(b, proxy.Addr())
			defer done()
			more := bench.Keys((n + 1) * multi)
			defer bench.Remove(b, more)
			_, err := get(ctx, more[n*multi:])
			must(b, err)
			must(b, stored(ctx, more[n*multi:]))
			for _, what := range []string{"call", "next"} {
				proxy.ResetCounts()
				for i := range n {
					_, err := get(ctx, more[i*multi:(i+1)*multi])
					must(b, err)
					must(b, stored(ctx, more[i*multi:(i+1)*multi]))
				}
				b.ReportMetric(float64(proxy.RoundTrips())/n, "trips/"+what)
				b.ReportMetric(float64(proxy.Commands())/n, "commands/"+what)
			}
		})
	}
	b.Run("lib=bare", bareMultiCold)
}

// bareMultiCold locks keys, loads them and fills them behind the next call's back, as GetMulti does, and
// looks at nothing: neither at markers nor at what was there.
func bareMultiCold(b *testing.B) {
	ctx := context.Background()
	r := bench.Redis(b)
	defer r.Close()
	lock := rueidis.NewLuaScript(`for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[1], 'NX', 'PX', ARGV[2]) end
return 1`)
	fill := rueidis.NewLuaScript(`for i = 1, #KEYS do redis.call('PSETEX', KEYS[i], ARGV[#ARGV], ARGV[i]) end
redis.call('EXISTS', unpack(KEYS))
return 1`)
	ttl, marker := strconv.FormatInt(bench.TTL.Milliseconds(), 10), strings.Repeat("m", 40)
	all := bench.Keys(b.N * multi)
	defer bench.Remove(b, all)
	settle(b)
	report := countCPU(b)
	filled := make(chan error, 1)
	filled <- nil
	for i := range b.N {
		keys := all[i*multi : (i+1)*multi]
		must(b, lock.Exec(ctx, r, keys, []string{marker, "5000"}).Error())
		found, err := loadAll(ctx, keys)
		must(b, err)
		args := make([]string, 0, multi+1)
		for _, key := range keys {
			args = append(args, bench.Encode(found[key]))
		}
		must(b, <-filled)
		go func() { filled <- fill.Exec(ctx, r, keys, append(args, ttl)).Error() }() // ends before the next one begins
	}
	must(b, <-filled)
	report()
}
