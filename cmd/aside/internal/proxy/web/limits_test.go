package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// dripping is a connection on which a request is sent that never ends, and that reads to its end
// what comes back.
func (f *front) dripping(beginning string) (answer <-chan string) {
	f.t.Helper()
	conn := f.dial()
	_, err := io.WriteString(conn, beginning)
	require.NoError(f.t, err)
	done := make(chan string, 1)
	go func() { // ends with the connection
		text, err := io.ReadAll(conn)
		if err != nil {
			text = []byte("not closed: " + err.Error())
		}
		done <- string(text)
	}()
	return done
}

func await[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func TestAHeaderThatDoesNotEndIsCutOff(t *testing.T) {
	t.Parallel()
	f := newFront(t, setup{http: func(s *http.Server) {
		require.Positive(t, s.ReadHeaderTimeout)
		require.Positive(t, s.IdleTimeout)
		require.Positive(t, s.WriteTimeout)
		s.ReadHeaderTimeout = 2 * time.Second
	}})
	var slow []<-chan string
	for range 50 {
		slow = append(slow, f.dripping("GET /get?key=k HTTP/1.1\r\nHost: localhost\r\nX-Slow"))
	}
	f.put("k", "v") // others are served meanwhile
	f.holds("k", "v")
	for _, answer := range slow {
		require.NotContains(t, await(t, answer), "not closed")
	}
}

func TestAHeaderOfAMegabyteIsRefused(t *testing.T) {
	f := newFront(t, setup{})
	r := f.raw("GET /get?key=k HTTP/1.1\r\nHost: localhost\r\nX-Large: " + strings.Repeat("x", 1<<20) + "\r\n\r\n")
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, r.StatusCode)
	r = f.raw("GET /get?key=" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, r.StatusCode)
	f.put("k", "v")
}

func TestTheLongestKeyFitsIntoAHeader(t *testing.T) {
	f := newFront(t, setup{web: Options{MaxKeyBytes: 100 << 10}})
	r := f.raw("GET " + KeyPath(strings.Repeat("\xff", 100<<10+1)) + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	require.Contains(t, isProblem(t, r, problemKeyTooLong), "102401 bytes, at most 102400")
}

func TestABodyThatIsTooLargeIsNotRead(t *testing.T) {
	f := newFront(t, setup{web: Options{MaxValueBytes: 1 << 20}})
	r := f.raw("PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\nExpect: 100-continue\r\n\r\n")
	require.Contains(t, isProblem(t, r, problemTooLarge), "1000000000000 bytes, at most 1048576")
	require.True(t, r.Close)
	chunk := "10000\r\n" + strings.Repeat("v", 1<<16) + "\r\n"
	r = f.raw("PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat(chunk, 64))
	isProblem(t, r, problemTooLarge)
	require.True(t, r.Close)
	isProblem(t, f.send("GET", "/v1/keys/k", ""), problemNotFound)
	f.put("k", strings.Repeat("v", 1<<20))
}

func TestABodyThatDoesNotEndIsCutOff(t *testing.T) {
	t.Parallel()
	f := newFront(t, setup{web: Options{RequestTimeout: 3 * time.Second, Concurrent: 2}})
	f.put("k", "v")
	var slow []<-chan string
	for range 2 { // they take all places for bodies
		slow = append(slow, f.dripping("PUT /v1/keys/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf"))
	}
	eventually(t, "both are being received", func() bool { return len(f.server.bodies) == 2 })
	f.holds("k", "v") // readers need none
	for _, answer := range slow {
		text := await(t, answer)
		require.Contains(t, text, "408 Request Timeout")
		require.Contains(t, text, "Connection: close")
		require.Contains(t, text, "4 bytes have arrived within 3s")
	}
	f.put("k", "w")
	isProblem(t, f.send("GET", "/v1/keys/slow", ""), problemNotFound)
}

func TestABodyThatBreaksOffIsNotStored(t *testing.T) {
	f := newFront(t, setup{})
	conn := f.dial()
	_, err := io.WriteString(conn, "PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nbroken\r\n")
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, http.StatusBadRequest, response.StatusCode)
	isProblem(t, f.send("GET", "/v1/keys/k", ""), problemNotFound)
}

func TestFurtherRequestsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	f := newFront(t, setup{web: Options{Concurrent: 1, RequestTimeout: 2 * time.Second}})
	f.put("k", "v")
	require.NoError(t, f.server.turns.Enter(context.Background())) // somebody is being served
	r := f.send("GET", "/v1/keys/k", "")
	require.Contains(t, isProblem(t, r, problemBusy), "service.concurrency")
	require.Equal(t, "1", r.Header.Get("Retry-After"))
	isProblem(t, f.send("POST", "/v1/mget", `{"keys":["k"]}`), problemBusy)
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/"} {
		require.Equal(t, http.StatusOK, f.send("GET", path, "").StatusCode, "an operator can still look: %s", path)
	}
	f.server.turns.Leave()
	f.holds("k", "v")

	f = newFront(t, setup{web: Options{Concurrent: 1, RequestTimeout: patience}})
	f.put("k", "v")
	require.NoError(t, f.server.turns.Enter(context.Background()))
	var waiting sync.WaitGroup
	codes := make(chan int, 20)
	for range cap(codes) {
		waiting.Go(func() { codes <- f.send("GET", "/v1/keys/k", "").StatusCode })
	}
	eventually(t, "they wait", func() bool { return f.metric("aside_http_requests_in_flight") == float64(cap(codes)) })
	f.server.turns.Leave()
	waiting.Wait()
	for range cap(codes) {
		require.Equal(t, http.StatusOK, <-codes)
	}
}

func TestAReaderThatDoesNotReadHoldsUpNobody(t *testing.T) {
	f := newFront(t, setup{web: Options{Concurrent: 1}})
	f.put("large", strings.Repeat("v", 8<<20))
	for range 3 {
		conn := f.dial()
		_, err := io.WriteString(conn, "GET /v1/keys/large HTTP/1.1\r\nHost: localhost\r\n\r\n")
		require.NoError(t, err)
		answer, err := bufio.NewReader(conn).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 200 OK\r\n", answer, "it is being written, to somebody who does not take it")
	}
	f.put("k", "v")
	f.holds("k", "v")
}

func TestAPanicIsAnAnswer(t *testing.T) {
	var log strings.Builder
	var mu sync.Mutex
	f := newFront(t, setup{web: Options{Logger: slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil))}})
	w := httptest.NewRecorder()
	f.server.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/v1/keys/k", panics{}))
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Contains(t, w.Body.String(), "bug in the proxy")
	require.InDelta(t, 1, f.metric("aside_request_duration_seconds", "command", "put", "status", "500"), 0)
	f.put("k", "v") // nothing is held
	mu.Lock()
	defer mu.Unlock()
	require.Contains(t, log.String(), "a request panicked")
	require.Contains(t, log.String(), "limits_test.go", "with a stack")
}

type panics struct{}

func (panics) Read([]byte) (int, error) { panic(errors.New("no body")) }

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func TestClosingKeepsServingButIsNotReady(t *testing.T) {
	f := newFront(t, setup{})
	f.put("k", "v")
	f.server.Drain()
	r := f.send("GET", "/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
	require.Contains(t, r.body, `"status":"stopping"`)
	require.Equal(t, http.StatusOK, f.send("GET", "/healthz", "").StatusCode)
	f.server.Close()
	f.server.Close()
	f.holds("k", "v")
	isProblem(t, f.send("GET", "/events", ""), problemStopping)
}

func TestShutdownEndsEventStreams(t *testing.T) {
	f := newFront(t, setup{})
	stream := f.watch()
	stream.next()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, f.http.Config.Shutdown(ctx))
	stream.ended()
}

// Random bytes, half requests and methods that nobody knows: others are served.
func TestGarbageIsRefused(t *testing.T) {
	f := newFront(t, setup{})
	for i, text := range []string{
		"\x00\x01\x02\r\n\r\n", "*1\r\n$4\r\nPING\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "G@T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /v1/keys/%zz HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
		"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"GET /get?key=\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		conn := f.dial()
		_, err := io.WriteString(conn, text)
		require.NoError(t, err)
		line, err := bufio.NewReader(conn).ReadString('\n')
		require.NoError(t, err, "%q", text)
		require.Regexp(t, `^HTTP/1\.1 (400|505) `, line, "%q", text)
		conn.Close()
		f.put(fmt.Sprint("k", i), "v")
	}
	r := f.raw("BREW /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	isProblem(t, r, problemMethod)
	r = f.raw("OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	require.Less(t, r.StatusCode, 500)
}
