package benchmarks

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redaside/aside/benchmarks/internal/bench"
)

// BenchmarkSet and BenchmarkDel: 64 callers write keys of their own while Redis is there. "rueidis"
// is a plain SET or DEL on its pipelined connections: what the round trip alone costs. Beside the
// time: the CPU time of this process and of the server, which other work on the machine does not
// change as much.
func BenchmarkSet(b *testing.B) {
	ctx := context.Background()
	b.Run("lib=aside", func(b *testing.B) {
		c := newAside(b, bench.Addr())
		defer c.Close()
		writes(b, nil, func(key string) error { return c.Set(ctx, bench.TTL, key, raw) })
	})
	b.Run("lib=rueidis", func(b *testing.B) {
		r := bench.Redis(b)
		defer r.Close()
		writes(b, nil, func(key string) error {
			return r.Do(ctx, r.B().Set().Key(key).Value(raw).Px(bench.TTL).Build()).Error()
		})
	})
}

// BenchmarkDel deletes keys that hold a value.
func BenchmarkDel(b *testing.B) {
	ctx := context.Background()
	b.Run("lib=aside", func(b *testing.B) {
		c := newAside(b, bench.Addr())
		defer c.Close()
		writes(b, bench.Prefill, func(key string) error { return c.Del(ctx, key) })
	})
	b.Run("lib=rueidis", func(b *testing.B) {
		r := bench.Redis(b)
		defer r.Close()
		writes(b, bench.Prefill, func(key string) error { return r.Do(ctx, r.B().Del().Key(key).Build()).Error() })
	})
}

func writes(b *testing.B, prepare func(tb testing.TB, keys []string), write func(key string) error) {
	keys := bench.Keys(b.N)
	if prepare != nil {
		prepare(b, keys)
	}
	defer bench.Remove(b, keys)
	defer b.StopTimer()
	server := serverProcess(b)
	var next atomic.Int64
	callers(b, 64)
	b.ReportAllocs()
	settle(b)
	here, there := ownCPU(b), cpuOf(b, server)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			must(b, write(keys[next.Add(1)-1]))
		}
	})
	perOp := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(b.N) }
	b.ReportMetric(perOp(ownCPU(b)-here), "µs-client/op")
	if server != 0 {
		b.ReportMetric(perOp(cpuOf(b, server)-there), "µs-server/op")
	}
}

// serverProcess is the number of the server's process; 0 if it runs on another machine, or not on
// Linux.
func serverProcess(b *testing.B) int {
	redis := bench.Redis(b)
	defer redis.Close()
	info, err := redis.Do(context.Background(), redis.B().Info().Section("server").Build()).ToString()
	must(b, err)
	_, rest, _ := strings.Cut(info, "process_id:")
	digits, _, _ := strings.Cut(rest, "\r")
	pid, _ := strconv.Atoi(digits)
	if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); !strings.Contains(string(comm), "-server") {
		return 0
	}
	return pid
}

// ownCPU is the CPU time that this process has used.
func ownCPU(b *testing.B) time.Duration {
	var used syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// cpuOf is the CPU time that a process has used, in steps of a hundredth of a second.
func cpuOf(b *testing.B, pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(b, err)
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	ticks := 0
	for _, field := range fields[11:13] {
		n, _ := strconv.Atoi(field)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
