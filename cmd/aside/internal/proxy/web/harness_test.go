package web

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/harness"
	"github.com/redaside/aside/internal/redistest"
)

func TestMain(m *testing.M) {
	// rueidis sleeps for a second before it looks at a topology again that it could not read,
	// closed or not.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

// patience bounds every wait of a test for something that has to happen. It proves nothing about
// speed.
const patience = time.Minute

var quiet = slog.New(slog.DiscardHandler)

// front is a Server that is served, as cmd/aside would, and the Redis behind it.
type front struct {
	t      testing.TB
	redis  *redistest.Server
	client *aside.Client
	server *Server
	http   *httptest.Server
}

// setup is what a test changes.
type setup struct {
	client []func(*aside.Options)
	web    Options
	http   func(*http.Server)
}

func newFront(t testing.TB, set setup) *front {
	t.Helper()
	f := &front{t: t, redis: redistest.Start(t)}
	options := aside.Options{
		Redis:          rueidis.ClientOption{InitAddress: []string{f.redis.Addr()}},
		ConnectTimeout: patience,
		RequireRedis:   true,
		RedisTimeout:   2 * time.Second, // a loaded machine must not look like an outage
		LockTTL:        10 * time.Second,
		StaleLease:     5 * time.Second,
		Logger:         quiet,
	}
	for _, change := range set.client {
		change(&options)
	}
	client, err := aside.New(options)
	require.NoError(t, err)
	t.Cleanup(func() { harness.Close(t, client, options.FallbackDir) })
	f.client = client
	if set.web.Logger == nil {
		set.web.Logger = quiet
	}
	f.server = New(proxy.NewStore(client, 0), set.web)
	t.Cleanup(f.server.Close)
	f.http = httptest.NewUnstartedServer(nil)
	f.http.Config = f.server.HTTPServer()
	if set.http != nil {
		set.http(f.http.Config)
	}
	f.http.Listener = f.server.Limit(f.http.Listener)
	f.http.Start()
	t.Cleanup(func() {
		f.server.Close() // else its Close would wait for the event streams
		f.http.Close()
	})
	return f
}

// durable gives a client a fallback directory.
func durable(t testing.TB) func(*aside.Options) {
	dir := filepath.Join(t.TempDir(), "fallback")
	return func(o *aside.Options) { o.FallbackDir = dir }
}

// hasty are the options of a client that is to notice soon that Redis hangs.
func hasty(o *aside.Options) {
	o.RedisTimeout, o.LockTTL, o.StaleLease = time.Second, 2*time.Second, time.Second
}

// reply is an answer, read to its end.
type reply struct {
	*http.Response
	body string
}

func (f *front) addr() string { return strings.TrimPrefix(f.http.URL, "http://") }

// send sends a request as a client would; headers are name, value, name, value.
func (f *front) send(method, path, body string, headers ...string) reply {
	f.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, f.http.URL+path, strings.NewReader(body))
	require.NoError(f.t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	client := *f.http.Client()
	client.Timeout = patience
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.Do(r)
	require.NoError(f.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(f.t, err)
	return reply{response, string(text)}
}

// raw sends exactly this, on a connection of its own, and reads the answer.
func (f *front) raw(text string) reply {
	f.t.Helper()
	conn := f.dial()
	defer conn.Close()
	go func() { _, _ = io.WriteString(conn, text) }() // ends with the connection; the answer may come before it is all sent
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(f.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(f.t, err)
	return reply{response, string(body)}
}

func (f *front) dial() net.Conn {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.addr())
	require.NoError(f.t, err)
	require.NoError(f.t, conn.SetDeadline(time.Now().Add(patience)))
	f.t.Cleanup(func() { conn.Close() })
	return conn
}

// isProblem checks that an answer is a problem of a kind, with all that RFC 9457 has.
func isProblem(t testing.TB, r reply, kind problemKind) (detail string) {
	t.Helper()
	require.Equal(t, kind.status, r.StatusCode, r.body)
	require.Equal(t, "application/problem+json", r.Header.Get("Content-Type"))
	require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
	var p struct {
		Type, Title, Detail string
		Status              int
	}
	require.NoError(t, json.Unmarshal([]byte(r.body), &p), r.body)
	require.Equal(t, problemBase+kind.name, p.Type)
	require.Equal(t, kind.title, p.Title)
	require.Equal(t, kind.status, p.Status)
	require.NotEmpty(t, p.Detail)
	return p.Detail
}

// awaitMode waits until answers say that this is the mode.
func (f *front) awaitMode(mode aside.Mode) {
	f.t.Helper()
	want := mode.String()
	if mode == aside.Healthy {
		want = ""
	}
	eventually(f.t, "it is "+mode.String(), func() bool { return f.send("GET", "/readyz", "").Header.Get(modeHeader) == want })
}

// eventually waits for what another process or server does in its own time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// put stores a value that must be accepted.
func (f *front) put(key, value string, headers ...string) reply {
	f.t.Helper()
	r := f.send("PUT", KeyPath(key), value, headers...)
	require.Equal(f.t, http.StatusNoContent, r.StatusCode, r.body)
	return r
}

func (f *front) holds(key, value string) {
	f.t.Helper()
	r := f.send("GET", KeyPath(key), "")
	require.Equal(f.t, http.StatusOK, r.StatusCode, r.body)
	require.Equal(f.t, value, r.body)
}
