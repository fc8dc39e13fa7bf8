package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asideprom"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/internal/redistest"
)

// request does one, and returns status and body.
func request(t *testing.T, method, url, body string) (status int, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }() // was only read from
	all, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(all)
}

func TestTheEndpoints(t *testing.T) {
	durations := asideprom.NewObserver()
	client := asidetest.New(t, func(o *aside.Options) { o.Observer = durations })
	registry := prometheus.NewRegistry()
	registry.MustRegister(asideprom.New(client, asideprom.WithObserver(durations)))
	server := httptest.NewServer(newHandler(newProducts(client, newDatabase()), client, registry))
	defer server.Close()
	for _, row := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/products/coffee", "", 200, `{"name":"Coffee","cents":420}`},
		{"GET", "/products/tea", "", 404, "Not Found"},
		{"PUT", "/products/tea", `{"name":"Tea","cents":350}`, 204, ""},
		{"GET", "/products/tea", "", 200, `{"name":"Tea","cents":350}`},
		{"PUT", "/products/tea", `tea`, 400, "the body is no product"},
		{"GET", "/healthz", "", 200, `{"status":"alive"}`},
		{"GET", "/readyz", "", 200, `{"pending":0,"redis":"healthy","status":"ready"}`},
		{"GET", "/metrics", "", 200, "aside_loads_total"},
		{"GET", "/debug/cache/", "", 200, ""},
	} {
		status, text := request(t, row.method, server.URL+row.path, row.body)
		if status != row.status || !strings.Contains(text, row.want) {
			t.Errorf("%s %s: %d %s, want %d %s", row.method, row.path, status, text, row.status, row.want)
		}
	}
}

// The service as it is started, on a real Redis, and as it stops: what it was doing is done.
func TestAGracefulStop(t *testing.T) {
	redis, folder := redistest.Start(t), t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ready, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- run(ctx, config{listen: "127.0.0.1:0", redis: redis.Addr(), fallback: folder}, func(at net.Addr) { ready <- at })
	}()
	var url string
	select {
	case at := <-ready:
		url = "http://" + at.String()
	case err := <-ended:
		t.Fatal(err)
	}
	if status, text := request(t, "GET", url+"/products/coffee", ""); status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	if stored := redis.Do("GET", "product:coffee"); stored != `{"name":"Coffee","cents":420}` {
		t.Errorf("Close has stored %v", stored)
	}
}
