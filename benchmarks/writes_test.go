package benchmarks

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/benchmarks/internal/bench"
	stamps "github.com/redaside/aside/internal/stamp"
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

// BenchmarkBareSet and BenchmarkBareDel are the floor of a Set and a Del that leave a stamp: writes go
// together, 32 at most, while four calls are under way, and a script does one command for each value
// and one for each stamp. Nothing is looked at, kept in mind or dropped, and nothing says until when
// it may be done.
func BenchmarkBareSet(b *testing.B) {
	bareWrites(b, `redis.call('PSETEX', KEYS[i], 600000, ARGV[i])`, nil)
}

func BenchmarkBareDel(b *testing.B) { bareWrites(b, `redis.call('UNLINK', KEYS[i])`, bench.Prefill) }

func bareWrites(b *testing.B, command string, prepare func(tb testing.TB, keys []string)) {
	r := bench.Redis(b)
	defer r.Close()
	sha, err := r.Do(context.Background(), r.B().ScriptLoad().Script(`local n = #KEYS / 2
for i = 1, n do
  `+command+`
  redis.call('HSET', KEYS[n+i], KEYS[i], ARGV[n+i])
end
return 1`).Build()).ToString()
	must(b, err)
	all := &together{redis: r, sha: sha}
	writes(b, prepare, all.write)
}

// together sends the writes of many callers together. Safe for concurrent use.
type together struct {
	redis rueidis.Client // immutable
	sha   string         // immutable

	mu   sync.Mutex
	out  int          // calls under way; guarded by mu
	next []*bareWrite // guarded by mu
}

type bareWrite struct {
	key  string
	done chan error
}

func (t *together) write(key string) error {
	const alone = 4
	w := &bareWrite{key, make(chan error, 1)}
	t.mu.Lock()
	t.next = append(t.next, w)
	sends := t.out < alone
	if sends {
		t.out++
	}
	t.mu.Unlock()
	if sends {
		go t.send() // ends when nothing is left to be sent
	}
	return <-w.done
}

func (t *together) send() {
	const most = 32
	stamp := strings.Repeat("s", 24)
	for {
		t.mu.Lock()
		some := t.next[:min(most, len(t.next))]
		t.next = slices.Clone(t.next[len(some):])
		if len(some) == 0 {
			t.out--
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		n := len(some)
		keys, args := make([]string, 2*n), make([]string, 2*n)
		for i, w := range some {
			keys[i], keys[n+i], args[i], args[n+i] = w.key, stamps.Bucket(w.key), raw, stamp
		}
		err := t.redis.Do(context.Background(), t.redis.B().Evalsha().Sha1(t.sha).Numkeys(int64(2*n)).Key(keys...).Arg(args...).Build()).Error()
		for _, w := range some {
			w.done <- err
		}
	}
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
	var next atomic.Int64
	callers(b, 64)
	b.ReportAllocs()
	settle(b)
	defer countCPU(b)()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			must(b, write(keys[next.Add(1)-1]))
		}
	})
}

// countCPU begins to count the CPU time of this process and of the server. What it returns says what
// an operation has taken of them.
func countCPU(b *testing.B) (report func()) {
	server := serverProcess(b)
	here, there := ownCPU(b), cpuOf(b, server)
	return func() {
		perOp := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(b.N) }
		b.ReportMetric(perOp(ownCPU(b)-here), "µs-client/op")
		if server != 0 {
			b.ReportMetric(perOp(cpuOf(b, server)-there), "µs-server/op")
		}
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
