package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/fallback"
)

// Whatever net/http takes for a request is answered: what a PUT has stored is what the next GET
// returns, an error is a problem with its type, and nothing panics. Redis is away, so that a fuzzer
// needs no server; the directory is real.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET /get?key=a HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: \"x\", W/\"y\"\r\nIf-Match: *\r\n\r\n",
		"PUT /v1/keys/a%2Fb?ttl=90s HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
		"PUT /v1/keys/a?ttl=1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"PUT /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nIf-None-Match: *\r\nContent-Length: 0\r\n\r\n",
		"DELETE /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n\r\n",
		"POST /v1/mget HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\n\r\n{\"keys\":[\"a\",\"b\\ud800\",\"\\u0000\"]}",
		"POST /v1/mget HTTP/1.1\r\nHost: localhost\r\nContent-Length: 37\r\n\r\n{\"keys\":[\"YQ==\"],\"encoding\":\"base64\"}",
		"HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: aside_page=x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\ntoken=x",
		"GET /metrics HTTP/1.0\r\n\r\n", "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	panics := new(panicking)
	client, err := aside.New(aside.Options{
		Redis: rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}}, ConnectTimeout: time.Millisecond, Logger: quiet,
		FallbackDir: filepath.Join(f.TempDir(), "fallback"), Fallback: fallback.Options{Sync: fallback.OS},
	})
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, client.Close()) })
	s := New(proxy.NewStore(client, 0), Options{Logger: slog.New(panics), MaxValueBytes: 1 << 16, MaxKeyBytes: 128, MaxKeys: 10})
	f.Cleanup(s.Close)

	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
		if err != nil || r.URL.Path == "/events" { // that one ends with its viewer
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		path, method := r.URL.EscapedPath(), r.Method
		var sent bytes.Buffer // as much of the body as was read
		r.Body = io.NopCloser(io.TeeReader(r.Body, &sent))
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r.WithContext(ctx))
		if len(panics.said) > 0 {
			t.Fatalf("%q: %s", data, panics.said)
		}
		if ctx.Err() != nil {
			t.Fatalf("%q took all of %v", data, patience)
		}
		if w.Code >= 400 && method != http.MethodHead && path != "/" {
			var p struct{ Type, Title, Detail string }
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || !strings.Contains(p.Type, "#problem-") || p.Detail == "" {
				t.Fatalf("%q is answered %d %q", data, w.Code, w.Body)
			}
		}
		if w.Code == http.StatusInternalServerError {
			t.Fatalf("%q is answered %q", data, w.Body)
		}
		if method == http.MethodPut && w.Code == http.StatusNoContent {
			get := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
			get.URL.Path, get.URL.RawPath, get.Host = r.URL.Path, r.URL.RawPath, "localhost"
			w = httptest.NewRecorder()
			s.ServeHTTP(w, get)
			if w.Code == http.StatusNotFound { // its ttl may have been short
				return
			}
			if w.Code != http.StatusOK || w.Body.String() != sent.String() {
				t.Fatalf("%q was stored, and then there is %d %q", data, w.Code, w.Body)
			}
		}
	})
}

// panicking is a log in which panics are remembered.
type panicking struct{ said string }

func (p *panicking) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelError
}
func (p *panicking) WithAttrs([]slog.Attr) slog.Handler { return p }
func (p *panicking) WithGroup(string) slog.Handler      { return p }

func (p *panicking) Handle(_ context.Context, r slog.Record) error {
	p.said = r.Message
	r.Attrs(func(a slog.Attr) bool {
		p.said += " " + a.String()
		return true
	})
	return nil
}
