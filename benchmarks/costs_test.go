package benchmarks

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/benchmarks/internal/bench"
	"github.com/redaside/aside/internal/redistest"
)

// BenchmarkKeyMemory writes 200,000 keys by Set, on a server of its own, and as many by plain SET on
// another. The figure is what the first has more of, in bytes of Redis's memory for each key: what
// says who wrote it last. Run it with -benchtime=1x.
func BenchmarkKeyMemory(b *testing.B) {
	const keys, writers = 200_000, 64
	ctx := context.Background()
	for _, length := range []int{20, 100} {
		name := func(i int) string { return fmt.Sprintf("user:%0*d", length-len("user:"), i) }
		each := func(write func(key string) error) {
			var all sync.WaitGroup
			for from := range writers {
				all.Go(func() {
					for i := from; i < keys && !b.Failed(); i += writers {
						must(b, write(name(i)))
					}
				})
			}
			all.Wait()
		}
		b.Run(fmt.Sprintf("key=%d", length), func(b *testing.B) {
			var more float64
			for range b.N {
				stamped, plain := redistest.Start(b), redistest.Start(b)
				c := newAside(b, stamped.Addr(), func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 10*time.Second, time.Minute })
				before := memory(b, stamped)
				each(func(key string) error { return c.Set(ctx, time.Hour, key, raw) })
				with := memory(b, stamped) - before
				must(b, c.Close())
				r := bench.RedisAt(b, plain.Addr())
				before = memory(b, plain)
				each(func(key string) error {
					return r.Do(ctx, r.B().Set().Key(key).Value(raw).Px(time.Hour).Build()).Error()
				})
				without := memory(b, plain) - before
				r.Close()
				more += float64(with-without) / keys
			}
			b.ReportMetric(more/float64(b.N), "B/key")
		})
	}
}

// memory is what a server uses at rest: while it moves its keys to a larger table, bit by bit, it
// has both.
func memory(b *testing.B, s *redistest.Server) int64 {
	b.Helper()
	const still = 3 * time.Second
	used, since := int64(-1), time.Now()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		now := int64(infoOf(b, s, "memory", "used_memory"))
		if difference := now - used; difference < -16<<10 || difference > 16<<10 {
			used, since = now, time.Now()
		} else if time.Since(since) > still {
			return now
		}
	}
	b.Fatal("the server's memory does not come to rest")
	return 0
}

func infoOf(b *testing.B, s *redistest.Server, section string, names ...string) (sum float64) {
	b.Helper()
	info, _ := s.Do("INFO", section).(string)
	found := 0
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		for _, wanted := range names {
			if name == wanted {
				v, err := strconv.ParseFloat(value, 64)
				must(b, err)
				sum += v
				found++
			}
		}
	}
	if found != len(names) {
		b.Fatalf("INFO %s does not have %v", section, names)
	}
	return sum
}

// BenchmarkIdle has 1,000 clients in this process that nobody uses, each with a key in its memory,
// and looks at them for 10 seconds, on a server of its own: commands that each sends in a second,
// the heap that each takes, and the CPU time that the server spends on them, beyond what it spends
// on nobody, as a share of a core. "rueidis" is as many plain clients. Run it with -benchtime=1x.
func BenchmarkIdle(b *testing.B) {
	const clients, rest, watch = 1000, 5 * time.Second, 10 * time.Second
	ctx := context.Background()
	idle := func(b *testing.B, open func(addr string) (stop func())) {
		server := redistest.Start(b)
		use := func() (commands, cpu float64) { // in a second
			commands, cpu = -infoOf(b, server, "stats", "total_commands_processed"), -infoOf(b, server, "cpu", "used_cpu_user", "used_cpu_sys")
			began := time.Now()
			time.Sleep(watch)
			commands, cpu = commands+infoOf(b, server, "stats", "total_commands_processed"), cpu+infoOf(b, server, "cpu", "used_cpu_user", "used_cpu_sys")
			seconds := time.Since(began).Seconds()
			return commands / seconds, cpu / seconds
		}
		nobodysCommands, nobodysCPU := use()
		before := heap()
		stops := make([]func(), clients)
		for i := range stops {
			stops[i] = open(server.Addr())
		}
		time.Sleep(rest) // what a client does when it is new is over
		perClient := float64(heap()-before) / clients
		commands, cpu := use()
		for _, stop := range stops {
			stop()
		}
		b.ReportMetric((commands-nobodysCommands)/clients, "commands/s")
		b.ReportMetric(100*(cpu-nobodysCPU)*1000/clients, "%-of-a-core/1000")
		b.ReportMetric(perClient/1024, "heap-KiB")
	}
	b.Run("lib=aside", func(b *testing.B) {
		idle(b, func(addr string) func() {
			c := newAside(b, addr)
			_, err := c.get(ctx, "k", trivial)
			must(b, err)
			return func() { must(b, c.Close()) }
		})
	})
	b.Run("lib=rueidis", func(b *testing.B) {
		idle(b, func(addr string) func() {
			r := bench.RedisAt(b, addr)
			if _, err := r.DoCache(ctx, r.B().Get().Key("k").Cache(), bench.TTL).ToString(); !rueidis.IsRedisNil(err) {
				must(b, err)
			}
			return r.Close
		})
	})
	b.Run("lib=silent", func(b *testing.B) {
		idle(b, func(addr string) func() {
			conn, err := net.Dial("tcp", addr)
			must(b, err)
			return func() { must(b, conn.Close()) }
		})
	})
}
