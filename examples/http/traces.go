package main

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asideotel"
	"github.com/redaside/aside/asideprom"
)

// newTraces returns where spans go: to a collector at url (OTLP over HTTP), or nowhere if that is "".
// flush sends what is left.
func newTraces(ctx context.Context, url string) (provider trace.TracerProvider, flush func(context.Context) error, err error) {
	if url == "" {
		return noop.NewTracerProvider(), func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(url))
	if err != nil {
		return nil, nil, err
	}
	batches := sdk.NewTracerProvider(sdk.WithBatcher(exporter))
	return batches, batches.Shutdown, nil
}

// observer tells both: spans by asideotel, which is told of beginnings, too, and durations by
// asideprom.
type observer struct {
	*asideotel.Observer
	durations *asideprom.Observer
}

// Observe implements aside.Observer.
func (o observer) Observe(ctx context.Context, e aside.Event) {
	o.Observer.Observe(ctx, e)
	o.durations.Observe(ctx, e)
}

// traced has a span for each request, which those of the cache are within.
func traced(provider trace.TracerProvider, next http.Handler) http.Handler {
	tracer := provider.Tracer("shop")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, span := tracer.Start(r.Context(), r.Method, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attribute.String("url.path", r.URL.Path)))
		defer span.End()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
