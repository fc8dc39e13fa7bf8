// Http is a small service as one runs it: products from a database, with a cache in front, over HTTP.
// It has what a service needs beside its answers: options from flags, a graceful stop, metrics for
// Prometheus, traces for OpenTelemetry, health for an orchestrator, a page about the cache, and tests
// that take Redis away.
//
//	go run ./examples/http -redis 127.0.0.1:6379 -fallback /var/lib/shop/aside
//	curl -X PUT -d '{"name":"Tea","cents":350}' localhost:8080/products/tea
//	curl localhost:8080/products/tea
//	curl localhost:8080/metrics
//
// service.go is the repository: where the cache is read, and where it is told of a change. server.go is
// HTTP, traces.go has the spans. service_test.go and server_test.go show how such a service is tested.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asideotel"
	"github.com/redaside/aside/asideprom"
)

func main() {
	var c config
	flag.StringVar(&c.listen, "listen", "127.0.0.1:8080", "where to serve")
	flag.StringVar(&c.redis, "redis", cmp.Or(os.Getenv("REDIS_ADDR"), "127.0.0.1:6379"), "host:port of Redis; also REDIS_ADDR")
	flag.StringVar(&c.fallback, "fallback", "", "directory for what is written while Redis is away; it must outlive the process")
	flag.StringVar(&c.otlp, "otlp", "", "url of an OpenTelemetry collector, such as http://localhost:4318/v1/traces; none if empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c, func(net.Addr) {}); err != nil {
		slog.Error("the service has ended", "error", err)
		os.Exit(1)
	}
}

type config struct{ listen, redis, fallback, otlp string }

// run serves until ctx ends, and then stops in this order: no new requests, the requests that are being
// served, the cache. ready is told where it serves.
func run(ctx context.Context, c config, ready func(net.Addr)) (err error) {
	traces, flush, err := newTraces(ctx, c.otlp)
	if err != nil {
		return fmt.Errorf("-otlp is %q: %w", c.otlp, err)
	}
	defer func() {
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, flush(patience))
	}()
	durations := asideprom.NewObserver()
	client, err := aside.New(aside.Options{
		Redis:       rueidis.ClientOption{InitAddress: []string{c.redis}},
		FallbackDir: c.fallback,
		Observer:    observer{asideotel.New(asideotel.WithTracerProvider(traces)), durations},
	})
	if err != nil {
		return err // an option is wrong; a Redis that is away is no error
	}
	// After the last request: it stores what is being loaded, and puts on disk what Redis has not been told.
	defer func() { err = errors.Join(err, client.Close()) }()

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), asideprom.New(client, asideprom.WithObserver(durations)))

	listener, err := net.Listen("tcp", c.listen)
	if err != nil {
		return fmt.Errorf("-listen is %q: %w", c.listen, err)
	}
	server := &http.Server{
		Handler:           traced(traces, newHandler(newProducts(client, newDatabase()), client, registry)),
		ReadHeaderTimeout: 5 * time.Second,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }() // ends with Shutdown
	slog.Info("serving", "address", listener.Addr().String())
	ready(listener.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return server.Shutdown(patience)
}
