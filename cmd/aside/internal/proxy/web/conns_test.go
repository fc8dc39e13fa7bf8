package web

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// ask sends a request on a connection and reads its answer.
func ask(t testing.TB, conn net.Conn, request string) int {
	t.Helper()
	_, err := io.WriteString(conn, request)
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	require.NoError(t, err)
	return response.StatusCode
}

const health = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

// awaitClosed waits until the other side has closed a connection, whatever it says before.
func awaitClosed(t testing.TB, conn net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, conn)
	if timeout, ok := errors.AsType[net.Error](err); ok {
		require.False(t, timeout.Timeout(), "it is not closed")
	}
}

// Idle connections must not keep others from asking: the one that has rested longest goes.
func TestConnectionsThatRestGiveWay(t *testing.T) {
	f := newFront(t, setup{web: Options{MaxConnections: 5}})
	var resting []net.Conn
	for range 20 {
		conn := f.dial()
		require.Equal(t, http.StatusOK, ask(t, conn, health))
		eventually(t, "it rests", func() bool { return f.server.conns.resting() == min(len(resting)+1, 5) })
		resting = append(resting, conn)
	}
	for _, conn := range resting[:15] {
		awaitClosed(t, conn)
	}
	for _, conn := range resting[15:] {
		require.Equal(t, http.StatusOK, ask(t, conn, health))
	}
	require.EqualValues(t, 15, f.server.conns.displaced.Load())
	require.Zero(t, f.server.conns.refused.Load())
	for _, conn := range resting {
		conn.Close()
	}
	eventually(t, "all places are free", func() bool { return f.server.conns.count() == 0 && f.server.store.Connections().Used() == 0 })
}

// resting is how many of them rest.
func (cs *conns) resting() (n int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.open {
		if c.rests.Load() != 0 && !c.first.Load() {
			n++
		}
	}
	return n
}

// Clients that never send a request have a second for it.
func TestSilentConnectionsGiveWay(t *testing.T) {
	t.Parallel()
	f := newFront(t, setup{web: Options{MaxConnections: 5}})
	var silent []net.Conn
	for range 5 {
		silent = append(silent, f.dial())
	}
	eventually(t, "one of them gives way", func() bool {
		conn, err := net.Dial("tcp", f.addr())
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		if _, err := io.WriteString(conn, health); err != nil {
			return false // refused, and closed already
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	awaitClosed(t, silent[0])
}

func TestWhereNoneRestsTheNextIsRefused(t *testing.T) {
	f := newFront(t, setup{web: Options{MaxConnections: 3, RequestTimeout: patience}})
	var sending []net.Conn
	for range 2 {
		conn := f.dial()
		_, err := io.WriteString(conn, "PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nv")
		require.NoError(t, err)
		sending = append(sending, conn)
	}
	eventually(t, "both are being received", func() bool { return len(f.server.bodies) == 2 })
	stream := f.watch()
	stream.next()
	text, err := io.ReadAll(f.dial())
	require.NoError(t, err)
	require.Contains(t, string(text), "HTTP/1.1 503 Service Unavailable\r\n")
	require.Contains(t, string(text), "service.max_http_connections")
	require.Zero(t, f.server.conns.displaced.Load())
	require.Equal(t, http.StatusNoContent, ask(t, sending[0], "v"))
	// The answer arrives before the server notes that the connection rests. Until then another
	// client is refused.
	eventually(t, "its connection rests", func() bool { return f.server.conns.resting() == 1 })
	f.put("k", "w")
}

// A quarter of the open files is the other front end's.
func TestNeitherFrontEndTakesAllConnections(t *testing.T) {
	require.Equal(t, 75, newConns(proxy.NewBudget(100), 20000).max)
	require.Equal(t, 50, newConns(proxy.NewBudget(100), 50).max)
	require.Equal(t, 20000, newConns(proxy.NewBudget(0), 20000).max)
	require.Equal(t, 1, newConns(proxy.NewBudget(1), 20000).max)
}

// Large bodies share what there is; small ones do not wait for them.
func TestBodiesAreReceivedWithinABudget(t *testing.T) {
	f := newFront(t, setup{web: Options{RequestTimeout: patience}})
	f.server.store.LimitReceiving(1 << 20)
	large := strings.Repeat("v", 700<<10)
	conn := f.dial()
	_, err := io.WriteString(conn, "PUT /v1/keys/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 716800\r\n\r\n"+large[1:])
	require.NoError(t, err)
	eventually(t, "it is held", func() bool { return f.server.store.Receiving().Used() == 700<<10-proxy.FreeBytes })
	for _, headers := range []string{"Content-Length: 716800\r\n\r\n" + large, "Transfer-Encoding: chunked\r\n\r\naf000\r\n" + large + "\r\n0\r\n\r\n"} {
		r := f.raw("PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\n" + headers)
		require.Contains(t, isProblem(t, r, problemBusy), "service.max_receiving_bytes")
		require.True(t, r.Close)
	}
	f.put("small", strings.Repeat("v", 10<<10))
	require.Equal(t, http.StatusNoContent, ask(t, conn, "v"))
	eventually(t, "it is given back", func() bool { return f.server.store.Receiving().Used() == 0 })
	f.put("k", large)
	f.holds("k", large)
	f.holds("slow", large)
	r := f.raw("PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n20000\r\n" + large[:0x20000] + "\r\n0\r\n\r\n")
	require.Equal(t, http.StatusNoContent, r.StatusCode)
	f.holds("k", "abc"+large[:0x20000])
}
