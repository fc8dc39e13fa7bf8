package asideotel_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asideotel"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

// world is a server, and what is exported of a client of it.
type world struct {
	t        *testing.T
	server   *asidetest.Server
	client   *aside.Client
	observer *asideotel.Observer
	spans    *tracetest.SpanRecorder
	reader   *metric.ManualReader
	tracer   trace.Tracer // of the service
}

const secret = "user:4711" // a key, which must be nowhere in what is exported

func newWorld(t *testing.T, opts ...asideotel.Option) *world {
	t.Helper()
	w := &world{t: t, server: asidetest.NewServer(t), spans: tracetest.NewSpanRecorder(), reader: metric.NewManualReader()}
	traces := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(w.spans))
	w.tracer = traces.Tracer("service")
	opts = append([]asideotel.Option{asideotel.WithTracerProvider(traces), asideotel.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(w.reader)))}, opts...)
	w.observer = asideotel.New(opts...)
	w.client = w.server.Client(func(o *aside.Options) { o.Observer = w.observer })
	unregister, err := w.observer.Register(w.client)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, unregister())
		for _, span := range w.spans.Ended() {
			require.NotContains(t, fmt.Sprint(span.Name(), span.Attributes(), span.Status(), span.Events()), "4711", "keys are nowhere")
		}
		require.Len(t, w.spans.Started(), len(w.spans.Ended()), "each span has an end")
	})
	return w
}

func (w *world) users(opts ...aside.ViewOption) *aside.TypedClient[string] {
	return aside.Typed(w.client, codec.String(), append([]aside.ViewOption{aside.WithName("users")}, opts...)...)
}

// tree is what has been exported since the last call, as lines: a span below its parent, and what
// its links lead to.
func (w *world) tree() (lines []string) {
	ended := w.spans.Ended()
	w.spans.Reset()
	names := map[trace.SpanID]string{}
	for _, s := range ended {
		names[s.SpanContext().SpanID()] = s.Name()
	}
	var below func(parent trace.SpanID, indent string)
	below = func(parent trace.SpanID, indent string) {
		for _, s := range ended {
			if s.Parent().SpanID() != parent {
				continue
			}
			line := indent + s.Name()
			for _, link := range s.Links() {
				line += " -> " + names[link.SpanContext.SpanID()]
			}
			for _, e := range s.Events() {
				line += " (" + e.Name + ")"
			}
			if s.Status().Code == codes.Error {
				line += " " + s.Status().Description
			}
			lines = append(lines, line)
			below(s.SpanContext().SpanID(), indent+"  ")
		}
	}
	below(trace.SpanID{}, "")
	return lines
}

func attributes(span sdktrace.ReadOnlySpan) map[string]string {
	all := map[string]string{}
	for _, a := range span.Attributes() {
		all[string(a.Key)] = a.Value.String()
	}
	return all
}

// request makes a span of the service around fn.
func (w *world) request(fn func(ctx context.Context)) {
	ctx, span := w.tracer.Start(w.t.Context(), "request")
	defer span.End()
	fn(ctx)
}

func loader(value string) aside.Loader[string] {
	return func(context.Context, string) (string, error) { return value, nil }
}

// A miss is a call with a load, in which the loader's own calls are; a hit in Redis is a call; one
// in memory is nothing.
func TestATraceOfAGet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		users := w.users()
		w.request(func(ctx context.Context) {
			_, err := users.Get(ctx, time.Minute, secret, func(ctx context.Context, _ string) (string, error) {
				_, span := w.tracer.Start(ctx, "select")
				defer span.End()
				return "v", nil
			})
			require.NoError(t, err)
		})
		ended := w.spans.Ended()
		require.Equal(t, []string{"request", "  get users", "    load users", "      select"}, w.tree())
		for _, span := range ended {
			switch span.Name() {
			case "get users":
				require.Equal(t, trace.SpanKindClient, span.SpanKind())
				require.Equal(t, map[string]string{
					"db.system.name": "redis", "db.operation.name": "get", "aside.view": "users", "aside.source": "loader", "aside.stale": "false", "aside.shared": "false", "aside.waited": "0",
				}, attributes(span))
			case "load users":
				require.Equal(t, map[string]string{"aside.view": "users", "aside.keys": "1", "aside.refresh": "false"}, attributes(span))
			}
		}

		w.server.Set("in redis", "v", 0)
		w.request(func(ctx context.Context) {
			for range 3 {
				_, err := users.Get(ctx, time.Minute, "in redis", loader("no"))
				require.NoError(t, err)
			}
		})
		ended = w.spans.Ended()
		require.Equal(t, []string{"request", "  get users"}, w.tree(), "two of three were in memory")
		require.Equal(t, "redis", attributes(ended[0])["aside.source"])

		w.request(func(ctx context.Context) {
			_, err := users.GetMulti(ctx, time.Minute, []string{"a", "b", "c"}, func(context.Context, []string) (map[string]string, error) {
				return map[string]string{"a": "1", "b": "2"}, nil
			})
			require.NoError(t, err)
			_, _, err = w.client.Peek(ctx, "nothing")
			require.NoError(t, err)
		})
		ended = w.spans.Ended()
		require.Equal(t, []string{"request", "  get_multi users", "    load users", "  peek"}, w.tree())
		require.Equal(t, "3", attributes(ended[1])["db.operation.batch.size"])
	})
}

// A call that waits for the load of another has the wait as a span, which leads to that load.
func TestAWaiterIsLinkedToTheLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		users := w.users()
		done := make(chan struct{}, 2)
		get := func(load aside.Loader[string]) {
			w.request(func(ctx context.Context) {
				_, err := users.Get(ctx, time.Minute, secret, load)
				require.NoError(t, err)
			})
			done <- struct{}{}
		}
		go get(func(context.Context, string) (string, error) {
			time.Sleep(time.Second)
			return "v", nil
		})
		time.Sleep(300 * time.Millisecond)
		go get(loader("no"))
		<-done
		<-done
		synctest.Wait()
		ended := w.spans.Ended()
		require.ElementsMatch(t, []string{"request", "  get users", "    load users", "request", "  get users", "    wait users -> load users"}, w.tree())
		i := slices.IndexFunc(ended, func(s sdktrace.ReadOnlySpan) bool { return s.Name() == "wait users" })
		require.Equal(t, 700*time.Millisecond, ended[i].EndTime().Sub(ended[i].StartTime()))
		require.Equal(t, "call", attributes(ended[i])["aside.wait.for"])
		for _, span := range ended {
			if load := ended[i].Links()[0].SpanContext; span.SpanContext().SpanID() == load.SpanID() {
				require.NotEqual(t, ended[i].SpanContext().TraceID(), load.TraceID(), "it is another request's")
			}
		}
	})
}

func TestAWaitForAnotherProcessIsASpan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := w.server.Client()
		loaded := make(chan error)
		go func() {
			_, err := other.Get(t.Context(), time.Minute, secret, func(context.Context, string) (string, error) {
				time.Sleep(time.Second)
				return "v", nil
			})
			loaded <- err
		}()
		time.Sleep(300 * time.Millisecond)
		w.request(func(ctx context.Context) {
			_, err := w.users().Get(ctx, time.Minute, secret, loader("no"))
			require.NoError(t, err)
		})
		require.NoError(t, <-loaded)
		ended := w.spans.Ended()
		require.Equal(t, []string{"request", "  get users", "    wait users"}, w.tree())
		require.Equal(t, "process", attributes(ended[0])["aside.wait.for"])
		require.InDelta(t, 0.7, ended[0].EndTime().Sub(ended[0].StartTime()).Seconds(), 0.05)
		require.Equal(t, "redis", attributes(ended[1])["aside.source"])
	})
}

// A refresh belongs to no request, so that its spans have a trace of their own.
func TestARefreshIsARoot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		users := w.users(aside.WithGrace(time.Hour))
		w.server.Set(secret, "old", time.Minute)
		w.request(func(ctx context.Context) {
			value, err := users.Get(ctx, time.Minute, secret, loader("new"))
			require.NoError(t, err)
			require.Equal(t, "old", value)
		})
		time.Sleep(time.Second)
		ended := w.spans.Ended()
		require.ElementsMatch(t, []string{"request", "  get users", "refresh users", "  load users"}, w.tree())
		for _, span := range ended {
			switch span.Name() {
			case "get users":
				require.Equal(t, "true", attributes(span)["aside.stale"])
			case "load users":
				require.Equal(t, "true", attributes(span)["aside.refresh"])
			case "refresh users":
				require.Equal(t, "1", attributes(span)["aside.keys"])
			}
		}
	})
}

// In an outage writes tell that they are kept; probes and what else happens by itself make no spans.
func TestAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		users := w.users()
		w.request(func(ctx context.Context) {
			require.NoError(t, users.Set(ctx, time.Minute, secret, "v"))
			require.NoError(t, w.client.Del(ctx, secret, "other"))
		})
		require.Equal(t, []string{"request", "  set users", "  delete"}, w.tree())
		w.server.Down()
		time.Sleep(2 * time.Second)
		w.request(func(ctx context.Context) {
			require.NoError(t, users.Set(ctx, time.Minute, secret, "v"))
		})
		require.Equal(t, []string{"request", "  set users (aside.journaled)"}, w.tree())
		require.EqualValues(t, 1, w.number("aside.mode", "aside.mode", "degraded"))
		require.EqualValues(t, 1, w.number("aside.pending_writes", "", ""))
		w.server.Up()
		time.Sleep(5 * time.Second)
		require.Empty(t, w.tree(), "probes and replays are nobody's")
		require.EqualValues(t, 1, w.number("aside.mode", "aside.mode", "healthy"))
		require.EqualValues(t, 0, w.number("aside.mode", "aside.mode", "degraded"))
		require.EqualValues(t, 1, w.number("aside.replayed", "aside.result", "applied"))
		require.Positive(t, w.number("aside.probe.duration", "error.type", ""))
		require.Positive(t, w.number("aside.probe.duration", "error.type", "*"))
		require.EqualValues(t, 1, w.number("aside.outages", "", ""))
	})
}

// An error is told by its kind; that there is no value is none.
func TestErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		users := w.users()
		for _, test := range []struct {
			err  error
			told []string
		}{
			{aside.ErrNotFound, []string{"get users", "  load users"}},
			{fmt.Errorf("no %s", secret), []string{"get users _OTHER", "  load users _OTHER"}},
			{fmt.Errorf("no %s: %w", secret, context.DeadlineExceeded), []string{"get users deadline_exceeded", "  load users deadline_exceeded"}},
		} {
			_, err := users.Get(t.Context(), time.Minute, secret+test.err.Error(), func(context.Context, string) (string, error) { return "", test.err })
			require.ErrorIs(t, err, test.err)
			require.Equal(t, test.told, w.tree())
		}
		_, err := users.Get(t.Context(), time.Minute, secret, func(context.Context, string) (string, error) { panic(secret) })
		require.Error(t, err)
		require.Equal(t, []string{"get users panic", "  load users panic"}, w.tree())
		_, err = users.GetMulti(t.Context(), time.Minute, []string{"a", "b"}, func(context.Context, []string) (map[string]string, error) { return nil, errors.New(secret) })
		require.Error(t, err)
		require.Equal(t, []string{"get_multi users _OTHER", "  load users _OTHER"}, w.tree())
		w.server.Do("LPUSH", "list", "x")
		_, _, err = w.client.Peek(t.Context(), "list")
		require.Error(t, err)
		require.Equal(t, []string{"peek WRONGTYPE"}, w.tree())
		require.EqualValues(t, 1, w.number("aside.load.duration", "aside.result", "not_found"))
		require.EqualValues(t, 4, w.number("aside.load.duration", "aside.result", "error"))
	})
}

// The numbers of Stats are read at collection; what is measured has the attributes that the
// conventions want.
func TestMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, asideotel.WithAttributes(attribute.String("client", "one")))
		users := w.users()
		for range 10 {
			_, err := users.Get(t.Context(), time.Minute, secret, loader("v"))
			require.NoError(t, err)
		}
		require.NoError(t, users.Set(t.Context(), time.Minute, secret, "v"))
		_, err := users.Get(t.Context(), time.Minute, secret, loader("v"))
		require.NoError(t, err)
		synctest.Wait() // commands are told by a goroutine of their own
		stats := w.client.Stats()
		require.Equal(t, stats.MemoryHits, w.number("aside.hits", "aside.source", "memory"))
		require.Positive(t, stats.MemoryHits)
		require.EqualValues(t, 1, w.number("aside.hits", "aside.source", "redis"))
		require.EqualValues(t, 1, w.number("aside.loads", "", ""))
		require.EqualValues(t, 1, w.number("aside.view.hits", "aside.source", "redis"))
		require.EqualValues(t, 1, w.number("aside.get.duration", "aside.source", "loader"))
		require.EqualValues(t, 1, w.number("aside.get.duration", "aside.source", "redis"))
		require.EqualValues(t, 1, w.number("aside.write.duration", "db.operation.name", "set"))
		require.EqualValues(t, 1, w.number("db.client.operation.duration", "db.stored_procedure.name", "set"))
		require.EqualValues(t, 1, w.number("db.client.operation.duration", "db.stored_procedure.name", "fill"))
		require.EqualValues(t, 2, w.number("db.client.operation.duration", "db.stored_procedure.name", "read_or_lock"))
		require.EqualValues(t, stats.MemoryEntries, w.number("aside.memory.entries", "client", "one"))
		require.EqualValues(t, 1, w.number("aside.load.duration", "client", "one"), "all have the attributes of WithAttributes")
		for name, all := range w.collect() {
			for _, p := range all {
				require.NotContains(t, p.attrs.Encoded(attribute.DefaultEncoder()), "4711", name)
			}
		}
	})
}

// Names of views that are made at runtime do not make ever more series.
func TestAGuardOnViews(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, asideotel.WithMaxViews(3))
		for i := range 20 {
			view := aside.Typed(w.client, codec.String(), aside.WithName(fmt.Sprint("view", i)))
			_, err := view.Get(t.Context(), time.Minute, fmt.Sprint("k", i), loader("v"))
			require.NoError(t, err)
		}
		seen := map[string]int{}
		for _, line := range w.tree() {
			seen[strings.TrimSpace(line)]++
		}
		require.Equal(t, map[string]int{
			"get view0": 1, "load view0": 1, "get view1": 1, "load view1": 1, "get view2": 1, "load view2": 1, "get other": 17, "load other": 17,
		}, seen)
		require.EqualValues(t, 17, w.number("aside.get.duration", "aside.view", "other"))
		require.Len(t, w.collect()["aside.get.duration"], 4)
	})
}

// With HitEvents a hit in memory is an event of the span around it.
func TestHitEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		client := w.server.Client(func(o *aside.Options) { o.Observer, o.HitEvents = w.observer, true })
		w.request(func(ctx context.Context) {
			for range 3 {
				_, err := client.Get(ctx, time.Minute, secret, loader("v"))
				require.NoError(t, err)
			}
		})
		require.Equal(t, []string{"request (aside.hit) (aside.hit)", "  get", "    load"}, w.tree())
		require.EqualValues(t, 2, w.number("aside.view.hits", "aside.source", "memory"))
	})
}

func TestRegisterWantsAClient(t *testing.T) {
	t.Parallel()
	_, err := asideotel.New().Register(nil)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
}

// point is one series, by its count or its value.
type point struct {
	attrs attribute.Set
	n     int64
}

// collect has all series by the name of their metric.
func (w *world) collect() map[string][]point {
	w.t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(w.t, w.reader.Collect(w.t.Context(), &all))
	series := map[string][]point{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					series[m.Name] = append(series[m.Name], point{p.Attributes, p.Value})
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					series[m.Name] = append(series[m.Name], point{p.Attributes, int64(p.Count)})
				}
			}
		}
	}
	return series
}

// number is the sum of those series of a metric whose attribute key is value; "" that do not have
// it; "*" that have it. key "": all.
func (w *world) number(name, key, value string) (n int64) {
	w.t.Helper()
	all := w.collect()[name]
	require.NotEmpty(w.t, all, name)
	for _, p := range all {
		has, ok := p.attrs.Value(attribute.Key(key))
		if key == "" || ok && (has.String() == value || value == "*") || !ok && value == "" {
			n += p.n
		}
	}
	return n
}
