package asidehttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidehttp"
	"github.com/redaside/aside/asidetest"
)

func anybody(*http.Request) bool { return true }

// service is one that has the page under /debug/cache/.
func service(t testing.TB, client *aside.Client, guard asidehttp.Guard) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/debug/cache/", http.StripPrefix("/debug/cache", asidehttp.Handler(client, guard)))
	mux.Handle("/debug/cache", http.StripPrefix("/debug/cache", asidehttp.Handler(client, guard)))
	mux.Handle("/plain/", asidehttp.Handler(client, guard))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

// reply is an answer whose body was read, and closed.
type reply struct{ *http.Response }

func get(t testing.TB, url string, headers ...string) (reply, string) {
	t.Helper()
	return do(t, http.MethodGet, url, headers...)
}

func do(t testing.TB, method, url string, headers ...string) (reply, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return reply{response}, string(body)
}

func TestWithoutAGuardNobodyIsLetIn(t *testing.T) {
	client := asidetest.New(t)
	refuses := func(*http.Request) bool { return false }
	for _, path := range []string{"/debug/cache/", "/debug/cache/status", "/debug/cache/explain?key=k", "/debug/cache", "/plain/"} {
		response, body := get(t, service(t, client, nil).URL+path)
		require.Equal(t, http.StatusForbidden, response.StatusCode, path)
		require.Contains(t, body, "has no guard, so nobody may see it: give asidehttp.Handler a function that says who may")
		require.Equal(t, 1, strings.Count(body, "\n"))
		response, body = get(t, service(t, client, refuses).URL+path)
		require.Equal(t, http.StatusForbidden, response.StatusCode, path)
		require.Contains(t, body, "does not let this request in")
	}
}

func TestTheGuardSeesTheRequest(t *testing.T) {
	server := service(t, asidetest.New(t), func(r *http.Request) bool { return r.Header.Get("X-Role") == "operator" })
	response, _ := get(t, server.URL+"/debug/cache/status", "X-Role", "operator")
	require.Equal(t, http.StatusOK, response.StatusCode)
	response, _ = get(t, server.URL+"/debug/cache/status")
	require.Equal(t, http.StatusForbidden, response.StatusCode)
}

func TestThePageIsWhereItIsMounted(t *testing.T) {
	server := service(t, asidetest.New(t), anybody)
	for _, at := range []string{"/debug/cache/", "/plain/"} {
		response, body := get(t, server.URL+at)
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.Contains(t, body, `data-what="service" data-events="" data-status="status"`)
		require.NotContains(t, body, "{{")
		require.Contains(t, response.Header.Get("Content-Security-Policy"), "default-src 'none'")
		require.Contains(t, response.Header.Get("Content-Security-Policy"), "connect-src 'self'")
		response, _ = get(t, server.URL+at+"nothing")
		require.Equal(t, http.StatusNotFound, response.StatusCode)
	}
	response, _ := get(t, server.URL+"/debug/cache?x=/evil")
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	to, err := response.Location()
	require.NoError(t, err)
	require.Equal(t, server.URL+"/debug/cache/", to.String())
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		response, _ = do(t, method, server.URL+"/debug/cache/explain?key=k")
		require.Equal(t, http.StatusMethodNotAllowed, response.StatusCode)
		require.Equal(t, "GET, HEAD", response.Header.Get("Allow"))
	}
}

// A path that ends as one of the page's addresses does is that of the page all the same.
func TestThePageIsMountedAtANameOfItsOwn(t *testing.T) {
	mux := http.NewServeMux()
	for _, at := range []string{"/status/", "/explain/"} {
		mux.Handle(at, asidehttp.Handler(asidetest.New(t), anybody))
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	for _, at := range []string{"/status/", "/explain/"} {
		response, _ := get(t, server.URL+at)
		require.Equal(t, http.StatusOK, response.StatusCode, at)
		require.Equal(t, "text/html; charset=utf-8", response.Header.Get("Content-Type"), at)
		response, _ = get(t, server.URL+at+"status")
		require.Equal(t, "application/json", response.Header.Get("Content-Type"), at)
	}
}

// A value, or a key, is no command to the terminal that shows it.
func TestAnExplanationAsTextMovesNoCursor(t *testing.T) {
	client := asidetest.New(t)
	for _, control := range []string{"\x1b[2J", "\x07", "\u009b2J", "\u0085", "\x7f", "\r"} {
		key := "k" + control
		require.NoError(t, client.Set(t.Context(), time.Minute, key, "one\n\t"+control+"two"))
		at := service(t, client, anybody).URL + "/debug/cache/explain?value=1&format=text&key=" + url.QueryEscape(key)
		_, body := get(t, at)
		require.NotContains(t, body, control)
		require.Contains(t, body, "one\n\t ")
		require.Contains(t, body, "two\n")
	}
}

func TestStatusIsWhatTheClientDoes(t *testing.T) {
	server := asidetest.NewServer(t)
	client := server.Client()
	page := service(t, client, anybody)
	type loads struct{ Calls, Errors int64 }
	status := func() (s struct {
		Mode    string
		Error   string
		Todo    string
		Loads   *loads
		Latency map[string]any
		Tiers   struct{ Memory, Missed int64 }
		Backlog struct {
			Sets     int
			MaxBytes int64 `json:"max_bytes"`
		}
		Changes []struct{ To string }
	}) {
		response, body := get(t, page.URL+"/debug/cache/status")
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.Equal(t, "application/json", response.Header.Get("Content-Type"))
		require.Equal(t, "no-store", response.Header.Get("Cache-Control"))
		require.NoError(t, json.Unmarshal([]byte(body), &s), body)
		return s
	}
	_, err := client.Get(t.Context(), time.Minute, "k", func(context.Context, string) (string, error) { return "", errors.New("no") })
	require.Error(t, err)
	s := status()
	require.Equal(t, "healthy", s.Mode)
	require.Equal(t, "Nothing.", s.Todo)
	require.Equal(t, &loads{1, 1}, s.Loads)
	require.Nil(t, s.Latency)
	require.EqualValues(t, 1, s.Tiers.Missed)
	require.Positive(t, s.Backlog.MaxBytes)
	server.Down()
	for s = status(); s.Mode != "degraded" || len(s.Changes) == 0; s = status() { // a change is told a moment after the mode
		time.Sleep(5 * time.Millisecond)
	}
	_ = client.Set(t.Context(), time.Minute, "k", "v")
	s = status()
	require.Equal(t, 1, s.Backlog.Sets)
	require.Equal(t, "degraded", s.Changes[0].To)
	require.Contains(t, s.Todo, "Bring back Redis")
	server.Up()
	for status().Mode != "healthy" {
		time.Sleep(5 * time.Millisecond)
	}
}

func TestKeysAreExplained(t *testing.T) {
	client := asidetest.New(t)
	page := service(t, client, anybody).URL + "/debug/cache/explain"
	require.NoError(t, client.Set(t.Context(), time.Minute, "k", "the value"))
	response, body := get(t, page+"?key=k")
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, "application/json", response.Header.Get("Content-Type"))
	require.Contains(t, body, `"holds":"value"`)
	require.NotContains(t, body, "the value")
	_, body = get(t, page+"?key=k&value=1")
	require.Contains(t, body, `"value":{"text":"the value"}`)
	response, body = get(t, page+"?key=k", "Accept", "text/html,application/xhtml+xml")
	require.Equal(t, "text/html; charset=utf-8", response.Header.Get("Content-Type"))
	require.Contains(t, body, `href="./"`)
	require.Contains(t, response.Header.Get("Content-Security-Policy"), "script-src 'none'")
	_, body = get(t, page+"?key=k&format=text")
	require.Contains(t, body, "key  \"k\"\n")
	_, body = get(t, page+"?key=%FF&format=json")
	require.Contains(t, body, `"key_encoding":"base64"`)
	for query, want := range map[string]string{"": "key: is missing", "?key=k&value=yes": "neither 0 nor 1", "?key=%zz": "encode each byte", "?key=" + strings.Repeat("k", 100_000): "too large"} {
		response, body = get(t, page+query)
		require.Equal(t, http.StatusBadRequest, response.StatusCode, query)
		require.Contains(t, body, want)
	}
	require.NoError(t, client.Close())
	response, _ = get(t, page+"?key=k")
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
}
