package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asideotel"
	"github.com/redaside/aside/asideprom"
	"github.com/redaside/aside/asidetest"
)

// A request that the database has answered is one trace, with the cache's spans within the request's.
func TestARequestIsATrace(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	traces := sdk.NewTracerProvider(sdk.WithSyncer(spans))
	client := asidetest.New(t, func(o *aside.Options) {
		o.Observer = observer{asideotel.New(asideotel.WithTracerProvider(traces)), asideprom.NewObserver()}
	})
	server := httptest.NewServer(traced(traces, newHandler(newProducts(client, newDatabase()), client, prometheus.NewRegistry())))
	if status, text := request(t, "GET", server.URL+"/products/coffee", ""); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	server.Close() // the request's span has ended
	var names []string
	for _, span := range spans.GetSpans() {
		names = append(names, span.Name)
		if span.SpanContext.TraceID() != spans.GetSpans()[0].SpanContext.TraceID() {
			t.Errorf("%s is in a trace of its own", span.Name)
		}
	}
	slices.Sort(names)
	if want := []string{"GET", "get products", "load products"}; !slices.Equal(names, want) {
		t.Errorf("the spans are %q, want %q", names, want)
	}
}

// What is left is sent when the service stops.
func TestSpansReachACollector(t *testing.T) {
	var posts atomic.Int64
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/traces" && r.ContentLength > 0 {
			posts.Add(1)
		}
	}))
	defer collector.Close()
	traces, flush, err := newTraces(t.Context(), collector.URL+"/v1/traces")
	if err != nil {
		t.Fatal(err)
	}
	_, span := traces.Tracer("test").Start(t.Context(), "one")
	span.End()
	if err := flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if posts.Load() != 1 {
		t.Errorf("the collector was told %d times", posts.Load())
	}
}
