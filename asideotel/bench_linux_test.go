package asideotel_test

import (
	"context"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asideotel"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

// A hit allocates nothing, with an Observer and even where that is told of it.
func TestAHitAllocatesNothing(t *testing.T) {
	for _, how := range [][2]bool{{false, false}, {true, false}, {true, true}} {
		require.Zero(t, testing.AllocsPerRun(1000, hitting(t, how[0], how[1])), "%v", how)
	}
}

// hitting returns a function that has a hit in the memory of a client: with an Observer that is
// registered, if so, and which is told of hits, if so.
func hitting(tb testing.TB, observed, hits bool) func() {
	tb.Helper()
	observer := newSDK()
	client := asidetest.NewServer(tb).Client(func(o *aside.Options) {
		if observed {
			o.Observer, o.HitEvents = observer, hits
		}
	})
	if observed {
		_, err := observer.Register(client)
		require.NoError(tb, err)
	}
	view := aside.Typed(client, codec.JSON[int](), aside.WithName("numbers"))
	hit := func() {
		if _, err := view.Get(tb.Context(), time.Hour, "k", func(context.Context, string) (int, error) { return 1, nil }); err != nil {
			tb.Fatal(err)
		}
	}
	require.NoError(tb, view.Set(tb.Context(), time.Hour, "k", 1))
	for range 10 {
		hit()
	}
	return hit
}

func newSDK() *asideotel.Observer {
	traces, meters := sdktrace.NewTracerProvider(), metric.NewMeterProvider(metric.WithReader(metric.NewManualReader()))
	return asideotel.New(asideotel.WithTracerProvider(traces), asideotel.WithMeterProvider(meters))
}

func BenchmarkHit(b *testing.B) {
	for name, how := range map[string][2]bool{"without": {false, false}, "with": {true, false}, "with-hit-events": {true, true}} {
		b.Run(name, func(b *testing.B) {
			hit := hitting(b, how[0], how[1])
			b.ReportAllocs()
			for b.Loop() {
				hit()
			}
		})
	}
}

// BenchmarkHitPaired reports what a hit costs with an Observer, and with one that is told of hits,
// over what it costs without: of CPU time, in turns, the median. "spread" is without over without.
func BenchmarkHitPaired(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ways := []func(){hitting(b, false, false), hitting(b, false, false), hitting(b, true, false), hitting(b, true, true)}
	const turn = 400_000 // so that the ticks of the clock do not matter
	ratios := make([][]float64, len(ways))
	for b.Loop() {
		took := make([]float64, len(ways))
		for i, hit := range ways {
			before := cpu(b)
			for range turn {
				hit()
			}
			took[i] = (cpu(b) - before).Seconds()
		}
		for i := range ways {
			ratios[i] = append(ratios[i], took[i]/took[0])
		}
	}
	for i, name := range []string{"", "spread", "with/without", "hit-events/without"} {
		if slices.Sort(ratios[i]); name != "" {
			b.ReportMetric(ratios[i][len(ratios[i])/2], name)
		}
	}
}

// cpu is what this thread has had.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	const thread = 1 // RUSAGE_THREAD
	var used syscall.Rusage
	require.NoError(tb, syscall.Getrusage(thread, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
