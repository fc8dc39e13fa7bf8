package converge

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// What a fleet of processes asks of its source for one key that all of them want, and what their
// callers wait: promise 9. The counts are tests, the times benchmarks.

const (
	fleetSize = 4
	hotTTL    = 500 * time.Millisecond
	slowLoad  = 200 * time.Millisecond
)

// fleet are processes that ask for one key.
type fleet struct {
	t         testing.TB
	processes []*process
	key       string

	mu      sync.Mutex // guards all below
	failing bool
	loads   []time.Time // when they began
}

func startFleet(t testing.TB, grace time.Duration) *fleet {
	t.Helper()
	f := &fleet{t: t, key: "hot"}
	config := nodeConfig{
		Addr: redistest.Start(t).Addr(), RedisTimeout: 2 * time.Second, LockTTL: 10 * time.Second, // a busy machine must not look like an outage
		Views: &viewConfig{Prefix: "group/", Grace: grace},
	}
	for range fleetSize {
		p, err := startProcess(config, f.load)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.end()) })
		f.processes = append(f.processes, p)
	}
	require.Eventually(t, func() bool { // they begin degraded
		return !slices.ContainsFunc(f.processes, func(p *process) bool { return p.do(request{Verb: "health"}).Mode != 0 })
	}, patience, time.Millisecond)
	a := f.processes[0].do(request{Verb: "fetch", Keys: []string{f.key}, TTL: hotTTL, Patience: patience, View: &viewRequest{}})
	require.Empty(t, a.Err)
	return f
}

func (f *fleet) load(keys []string) map[string]string {
	f.mu.Lock()
	f.loads = append(f.loads, time.Now())
	failing, n := f.failing, len(f.loads)
	f.mu.Unlock()
	if failing {
		return nil
	}
	time.Sleep(slowLoad)
	return map[string]string{keys[0]: fmt.Sprint(n)}
}

// ask has the callers of all processes ask, and returns what came of it, and when loads began. The
// answer's waits are sorted.
func (f *fleet) ask(c crowd, failing bool) (all answer, loads []time.Time) {
	f.mu.Lock()
	f.failing, f.loads = failing, nil
	f.mu.Unlock()
	answers := make([]answer, len(f.processes))
	var asking sync.WaitGroup
	for i, p := range f.processes {
		asking.Go(func() { answers[i] = p.do(request{Verb: "crowd", Keys: []string{f.key}, TTL: hotTTL, Crowd: c}) })
	}
	asking.Wait()
	for _, a := range answers {
		require.Empty(f.t, a.Err)
		all.Calls, all.Errors, all.Waits = all.Calls+a.Calls, all.Errors+a.Errors, append(all.Waits, a.Waits...)
		if a.FirstErr != "" {
			all.FirstErr = a.FirstErr
		}
	}
	slices.Sort(all.Waits)
	f.mu.Lock()
	defer f.mu.Unlock()
	return all, f.loads
}

// most is how many loads there may be in so long by a source that works: one in a ttl, and one that was
// due at the beginning.
func most(long time.Duration) int { return 1 + int(long/hotTTL) }

// mostFailing is the same of a source that fails: each back-off is half of what it may be, at least.
func mostFailing(long time.Duration) (loads int) {
	least := 500 * time.Millisecond
	for at := time.Duration(0); at <= long; at += least / 2 {
		loads++
		least = min(2*least, 30*time.Second)
	}
	return loads
}

func (a answer) wait(part float64) time.Duration {
	return time.Duration(a.Waits[min(int(part*float64(len(a.Waits))), len(a.Waits)-1)]) * time.Microsecond
}

// 4 processes × 200 callers: one load in a ttl by all of them together.
func TestAHotKeyIsLoadedOnceInATTLByTheFleet(t *testing.T) {
	t.Parallel()
	f := startFleet(t, time.Minute)
	c := crowd{Callers: 200, Every: 20 * time.Millisecond, For: 3 * time.Second}
	began := time.Now()
	all, loads := f.ask(c, false)
	long := time.Since(began)
	t.Logf("%d calls, %d loads in %v; half of the calls took less than %v, 99 in 100 less than %v", all.Calls, len(loads), long, all.wait(0.5), all.wait(0.99))
	require.Zero(t, all.Errors, all.FirstErr)
	require.LessOrEqual(t, len(loads), most(long), "more than one load in a ttl")
	require.Greater(t, len(loads), 1, "it is refreshed")
}

// 4 processes × 200 callers of a source that fails: nobody gets its error, and it is asked once in a
// back-off by all of them together.
func TestAFailingSourceIsAskedOnceInABackOffByTheFleet(t *testing.T) {
	t.Parallel()
	f := startFleet(t, time.Minute)
	c := crowd{Callers: 200, Every: 20 * time.Millisecond, For: 4 * time.Second}
	began := time.Now()
	all, loads := f.ask(c, true)
	long := time.Since(began)
	t.Logf("%d calls, %d loads in %v", all.Calls, len(loads), long)
	require.Zero(t, all.Errors, all.FirstErr)
	require.LessOrEqual(t, len(loads), mostFailing(long), "more than one load in a back-off")
	require.Greater(t, len(loads), 1, "it is asked again")
}

// BenchmarkHotKey: a hot key with a ttl of 500 ms, whose load takes 200 ms; 4 processes × 20 callers,
// each of which asks every 5 ms. "none" has no grace: its callers wait for each load. An iteration is
// one ttl: run it with -benchtime=20x.
func BenchmarkHotKey(b *testing.B) {
	for name, grace := range map[string]time.Duration{"grace": 5 * time.Second, "none": 0} {
		b.Run("lib="+name, func(b *testing.B) {
			f := startFleet(b, grace)
			b.ResetTimer()
			all, loads := f.ask(crowd{Callers: 20, Every: 5 * time.Millisecond, For: time.Duration(b.N) * hotTTL}, false)
			b.StopTimer()
			require.Zero(b, all.Errors, all.FirstErr)
			f.report(b, all)
			b.ReportMetric(float64(max(len(loads)-1, 0))/float64(b.N), "loads/ttl") // one was due at the beginning
		})
	}
}

// BenchmarkFailingSource: the same key, of a source that fails; 4 processes × 200 callers. An iteration
// is a second: run it with -benchtime=10x.
func BenchmarkFailingSource(b *testing.B) {
	b.Run("lib=grace", func(b *testing.B) {
		long := time.Duration(b.N) * time.Second
		f := startFleet(b, long+time.Minute)
		b.ResetTimer()
		all, loads := f.ask(crowd{Callers: 200, Every: 50 * time.Millisecond, For: long}, true)
		b.StopTimer()
		f.report(b, all)
		b.ReportMetric(float64(all.Errors), "errors")
		b.ReportMetric(float64(len(loads)), "loads")
		b.ReportMetric(float64(len(loads))/float64(mostFailing(long)), "loads/back-off")
	})
}

func (f *fleet) report(b *testing.B, all answer) {
	b.ReportMetric(float64(all.wait(0.5).Microseconds()), "p50-µs")
	b.ReportMetric(float64(all.wait(0.99).Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(all.wait(0.999).Microseconds())/1000, "p99.9-ms")
}
