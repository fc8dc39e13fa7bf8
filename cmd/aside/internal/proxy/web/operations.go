package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/redaside/aside"
)

// sendJSON answers with what nobody may cache.
func (x *exchange) sendJSON(status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Errorf("%T is not JSON: %w", value, err))
	}
	body = append(body, '\n')
	h := x.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.answer(status)
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write(body)
	}
}

// serveHealth says that the process lives.
func (x *exchange) serveHealth() {
	if x.allow(http.MethodGet, http.MethodHead) {
		x.sendJSON(http.StatusOK, map[string]string{"status": "alive"})
	}
}

// readiness is the body of /readyz. It needs no token, so it has nothing that says where Redis is.
type readiness struct {
	Status  string     `json:"status"` // "ready" or "stopping"
	Mode    aside.Mode `json:"mode"`
	Since   time.Time  `json:"since"`
	Durable bool       `json:"durable"` // writes that are accepted while Redis is away outlive the process
	Pending int        `json:"pending"` // writes that wait for Redis
}

// serveReady reports whether requests should be sent here. While Redis is away: yes, that is what a
// fallback is for.
func (x *exchange) serveReady() {
	if !x.allow(http.MethodGet, http.MethodHead) {
		return
	}
	health := x.mode.refresh(x.client)
	if health.Mode != aside.Healthy {
		x.w.Header().Set(modeHeader, health.Mode.String())
	}
	body := readiness{
		Status: "ready", Mode: health.Mode, Since: health.Since.UTC(), Durable: health.Durable,
		Pending: health.Fallback.Pending(),
	}
	status := http.StatusOK
	if x.draining.Load() {
		body.Status, status = "stopping", http.StatusServiceUnavailable
	}
	x.sendJSON(status, body)
}

// serveMetrics shows numbers to viewers that may see the page, which has a link to them.
func (x *exchange) serveMetrics() {
	if x.auth != nil && !x.auth.page(x.r) {
		x.unauthorized()
		return
	}
	if x.allow(http.MethodGet, http.MethodHead) {
		x.status = http.StatusOK // whatever it says
		x.metrics.handler.ServeHTTP(x.w, x.r)
	}
}

// serveProfile is what importing net/http/pprof would add to http.DefaultServeMux, which nobody
// serves here.
func (x *exchange) serveProfile() {
	if !x.authorized() {
		return
	}
	x.status = http.StatusOK // whatever it says
	switch strings.TrimPrefix(x.r.URL.Path, "/debug/pprof/") {
	case "cmdline":
		pprof.Cmdline(x.w, x.r)
	case "profile":
		pprof.Profile(x.w, x.r)
	case "symbol":
		pprof.Symbol(x.w, x.r)
	case "trace":
		pprof.Trace(x.w, x.r)
	default:
		pprof.Index(x.w, x.r)
	}
}
