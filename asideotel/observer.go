package asideotel

import (
	"context"
	"net"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/redaside/aside"
)

const scope = "github.com/redaside/aside/asideotel"

// The attributes of our own.
const (
	viewKey    = attribute.Key("aside.view")
	sourceKey  = attribute.Key("aside.source")
	staleKey   = attribute.Key("aside.stale")
	sharedKey  = attribute.Key("aside.shared")
	waitedKey  = attribute.Key("aside.waited") // in seconds
	refreshKey = attribute.Key("aside.refresh")
	forKey     = attribute.Key("aside.wait.for")
	keysKey    = attribute.Key("aside.keys") // how many
	resultKey  = attribute.Key("aside.result")
	shardKey   = attribute.Key("aside.shard")
	modeKey    = attribute.Key("aside.mode")
)

// Option changes an Observer.
type Option func(*Observer)

// WithTracerProvider has spans made by provider. Defaults to otel's global one, as it is when New is
// called.
func WithTracerProvider(provider trace.TracerProvider) Option {
	return func(o *Observer) { o.tracers = provider }
}

// WithMeterProvider has measurements taken by provider. Defaults to otel's global one, as it is when
// New is called.
func WithMeterProvider(provider metric.MeterProvider) Option {
	return func(o *Observer) { o.meters = provider }
}

// WithAttributes adds attributes to all spans and metrics: server.address, or which of several
// clients it is.
func WithAttributes(attrs ...attribute.KeyValue) Option {
	return func(o *Observer) { o.base = append(o.base, attrs...) }
}

// WithMaxViews bounds how many views have their own name in attributes; the others are "other". It
// is a guard for names that are made at runtime. Defaults to 100.
func WithMaxViews(n int) Option { return func(o *Observer) { o.maxViews = n } }

// Observer is an [aside.Observer], and an [aside.Tracer], that makes spans and measurements. Give it
// to aside.Options.Observer of one client, and then that client to [Observer.Register]. An Observer
// of your own may tell it what it is told, if it passes Start on as well. Safe for concurrent use.
type Observer struct {
	tracers  trace.TracerProvider  // immutable after New
	meters   metric.MeterProvider  // immutable after New
	base     []attribute.KeyValue  // immutable after New
	maxViews int                   // immutable after New
	tracer   trace.Tracer          // immutable
	meter    metric.Meter          // immutable
	metrics  instruments           // immutable
	onStart  trace.SpanStartOption // has base; immutable

	views sync.Map // by name: *view; at most maxViews

	mu    sync.Mutex
	count int // of views; guarded by mu
	other *view
}

// view is what is made of a view's name, once. Immutable.
type view struct {
	name string
	hits [aside.SourceDisk + 1][]metric.AddOption // by source
}

var (
	_ aside.Observer = (*Observer)(nil)
	_ aside.Tracer   = (*Observer)(nil)
)

// New returns an Observer. What is wrong with an instrument is told to otel's error handler.
func New(opts ...Option) *Observer {
	o := &Observer{maxViews: 100}
	for _, set := range opts {
		if set != nil {
			set(o)
		}
	}
	if o.tracers == nil {
		o.tracers = otel.GetTracerProvider()
	}
	if o.meters == nil {
		o.meters = otel.GetMeterProvider()
	}
	o.tracer = o.tracers.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL))
	o.meter = o.meters.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	o.onStart = trace.WithAttributes(o.base...)
	o.metrics = newInstruments(o.meter)
	o.other = o.newView("other")
	return o
}

// view returns what is known of the view of that name: of "other" if there are too many.
func (o *Observer) view(name string) *view {
	if v, ok := o.views.Load(name); ok {
		return v.(*view)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if v, ok := o.views.Load(name); ok {
		return v.(*view)
	}
	if o.count >= o.maxViews {
		return o.other
	}
	o.count++
	v := o.newView(name)
	o.views.Store(name, v)
	return v
}

func (o *Observer) newView(name string) *view {
	v := &view{name: name}
	for source := range v.hits {
		set := attribute.NewSet(append([]attribute.KeyValue{viewKey.String(name), sourceKey.String(aside.Source(source).String())}, o.base...)...)
		v.hits[source] = []metric.AddOption{metric.WithAttributeSet(set)}
	}
	return v
}

// started is what Start has put into a context. Immutable.
type started struct {
	kind aside.EventKind
	span trace.Span
}

type startedKey struct{}

// Start implements [aside.Tracer].
func (o *Observer) Start(ctx context.Context, e aside.Event) context.Context {
	v := o.view(e.View)
	kind, op := trace.SpanKindInternal, e.Kind.String()
	attrs := []attribute.KeyValue{viewKey.String(v.name)}
	switch e.Kind {
	case aside.EventGet, aside.EventWrite:
		kind, op = trace.SpanKindClient, e.Op
		attrs = append(attrs, semconv.DBSystemNameRedis, semconv.DBOperationName(e.Op))
		if e.Keys > 1 {
			attrs = append(attrs, semconv.DBOperationBatchSize(e.Keys))
		}
	case aside.EventLoad:
		attrs = append(attrs, keysKey.Int(e.Keys), refreshKey.Bool(e.Refresh))
	case aside.EventRefresh:
	default:
		return ctx
	}
	ctx, span := o.tracer.Start(ctx, spanName(op, v.name), trace.WithSpanKind(kind), trace.WithAttributes(attrs...), o.onStart) //nolint:spancheck // end ends it
	return context.WithValue(ctx, startedKey{}, &started{e.Kind, span})                                                         //nolint:spancheck // likewise
}

func spanName(op, view string) string {
	if view == "" {
		return op
	}
	return op + " " + view
}

// Observe implements [aside.Observer].
func (o *Observer) Observe(ctx context.Context, e aside.Event) {
	switch e.Kind {
	case aside.EventHit:
		o.hit(ctx, &e)
	case aside.EventGet:
		attrs := []attribute.KeyValue{sourceKey.String(e.Source.String()), staleKey.Bool(e.Stale), sharedKey.Bool(e.Shared)}
		o.end(ctx, &e, append(attrs, waitedKey.Float64(e.Waited.Seconds())))
		o.measure(ctx, o.metrics.get, &e, sourceKey.String(e.Source.String()), semconv.DBOperationName(e.Op))
	case aside.EventLoad:
		o.end(ctx, &e, nil)
		o.measure(ctx, o.metrics.load, &e, resultKey.String(resultOf(e.Err)), refreshKey.Bool(e.Refresh))
	case aside.EventWrite:
		o.end(ctx, &e, nil)
		o.measure(ctx, o.metrics.write, &e, semconv.DBOperationName(e.Op))
	case aside.EventRefresh:
		o.end(ctx, &e, []attribute.KeyValue{keysKey.Int(e.Keys)})
		o.measure(ctx, o.metrics.refresh, &e)
	case aside.EventLockWait:
		o.waited(ctx, &e, "process")
	case aside.EventShared:
		o.waited(ctx, &e, "call")
	case aside.EventJournaled:
		trace.SpanFromContext(ctx).AddEvent("aside.journaled", trace.WithAttributes(errorType(e.Err)...))
	case aside.EventProbe:
		o.measureServer(ctx, o.metrics.probe, &e)
	case aside.EventCommand, aside.EventRedisError:
		attrs := []attribute.KeyValue{semconv.DBSystemNameRedis}
		if e.Op != "" {
			attrs = append(attrs, semconv.DBOperationName("EVALSHA"), semconv.DBStoredProcedureName(e.Op))
		}
		o.measureServer(ctx, o.metrics.command, &e, attrs...)
	case aside.EventReplay:
		o.replayed(ctx, &e)
	}
}

func (o *Observer) hit(ctx context.Context, e *aside.Event) {
	v := o.view(e.View)
	o.metrics.viewHits.Add(ctx, 1, v.hits[e.Source]...)
	if e.Source != aside.SourceMemory { // its call has a span, which says so
		return
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.AddEvent("aside.hit", trace.WithAttributes(viewKey.String(v.name)))
	}
}

// end ends the span that Start has begun for what e tells the end of.
func (o *Observer) end(ctx context.Context, e *aside.Event, attrs []attribute.KeyValue) {
	s, _ := ctx.Value(startedKey{}).(*started)
	if s == nil || s.kind != e.Kind || !s.span.IsRecording() { // it may be that of the call that it is part of
		return
	}
	if failed := errorType(e.Err); failed != nil {
		s.span.SetStatus(codes.Error, failed[0].Value.AsString())
		attrs = append(attrs, failed...)
	}
	s.span.SetAttributes(attrs...)
	s.span.End()
}

// waited makes the span of a wait, which is over.
func (o *Observer) waited(ctx context.Context, e *aside.Event, whom string) {
	o.measure(ctx, o.metrics.wait, e, forKey.String(whom))
	v := o.view(e.View)
	opts := []trace.SpanStartOption{trace.WithTimestamp(e.At.Add(-e.Duration)), trace.WithAttributes(viewKey.String(v.name), forKey.String(whom)), o.onStart}
	if e.Load != nil {
		if load, ok := e.Load.Value(startedKey{}).(*started); ok {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: load.span.SpanContext()}))
		}
	}
	_, span := o.tracer.Start(ctx, spanName("wait", v.name), opts...)
	span.End(trace.WithTimestamp(e.At))
}

// measure takes the duration of something in a view.
func (o *Observer) measure(ctx context.Context, of metric.Float64Histogram, e *aside.Event, attrs ...attribute.KeyValue) {
	o.record(ctx, of, e.Duration, append(append(attrs, viewKey.String(o.view(e.View).name)), errorType(e.Err)...))
}

// measureServer takes the duration of something at the server, or shard, that Key names.
func (o *Observer) measureServer(ctx context.Context, of metric.Float64Histogram, e *aside.Event, attrs ...attribute.KeyValue) {
	attrs = append(attrs, errorType(e.Err)...)
	if host, port, err := net.SplitHostPort(e.Key); err == nil {
		attrs = append(attrs, semconv.ServerAddress(host))
		if n, err := strconv.Atoi(port); err == nil {
			attrs = append(attrs, semconv.ServerPort(n))
		}
	}
	o.record(ctx, of, e.Duration, attrs)
}

func (o *Observer) record(ctx context.Context, of metric.Float64Histogram, took time.Duration, attrs []attribute.KeyValue) {
	of.Record(ctx, took.Seconds(), metric.WithAttributes(append(attrs, o.base...)...))
}

func (o *Observer) replayed(ctx context.Context, e *aside.Event) {
	if e.Replay == nil {
		return
	}
	report := e.Replay.Report
	for result, n := range map[string]int{
		"applied": report.Applied, "superseded": report.Superseded, "deleted": report.Deleted, "dropped": report.Dropped, "refused": report.Refused, "unanswered": report.Failed,
	} {
		o.metrics.replayed.Add(ctx, int64(n), metric.WithAttributes(append([]attribute.KeyValue{resultKey.String(result)}, o.base...)...))
	}
}
