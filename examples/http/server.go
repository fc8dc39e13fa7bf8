package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidehttp"
)

// newHandler is all that the service serves.
func newHandler(products *Products, client *aside.Client, registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products/{id}", func(w http.ResponseWriter, r *http.Request) {
		product, err := products.Product(r.Context(), r.PathValue("id"))
		if err != nil {
			fail(w, r, err)
			return
		}
		answer(w, product)
	})
	mux.HandleFunc("PUT /products/{id}", func(w http.ResponseWriter, r *http.Request) {
		var product Product
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&product); err != nil {
			http.Error(w, "the body is no product: "+err.Error(), http.StatusBadRequest)
			return
		}
		if err := products.SetProduct(r.Context(), r.PathValue("id"), product); err != nil {
			fail(w, r, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})

	// For the orchestrator. Neither asks Redis: while that is away the service works, and an
	// orchestrator that restarts it for that would make an outage of it.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, map[string]string{"status": "alive"}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		health := client.Health()
		answer(w, map[string]any{"status": "ready", "redis": health.Mode, "pending": health.Fallback.Pending()})
	})

	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("/debug/cache/", http.StripPrefix("/debug/cache", asidehttp.Handler(client, fromHere)))
	return mux
}

// fromHere is who may see the page about the cache: yours may ask for a password.
func fromHere(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && net.ParseIP(host).IsLoopback()
}

// fail answers with what an error means to a caller.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, aside.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, aside.ErrOverloaded): // as many loads run as the database can take
		w.Header().Set("Retry-After", "1")
		status = http.StatusServiceUnavailable
	case errors.Is(err, aside.ErrLoadTimeout), errors.Is(err, context.DeadlineExceeded):
		status = http.StatusGatewayTimeout
	}
	if status >= http.StatusInternalServerError {
		slog.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	http.Error(w, http.StatusText(status), status)
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the reader has gone
}
