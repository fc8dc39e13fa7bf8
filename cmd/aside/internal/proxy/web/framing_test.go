package web

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// answers sends text on a connection of its own, says that nothing more comes if over, and reads
// all answers until the connection is closed.
func (f *front) answers(text string, over bool) (all []reply) {
	f.t.Helper()
	conn := f.dial()
	defer conn.Close()
	_, err := io.WriteString(conn, text)
	require.NoError(f.t, err)
	if over {
		require.NoError(f.t, conn.(*net.TCPConn).CloseWrite())
	}
	for in := bufio.NewReader(conn); ; {
		if _, err := in.Peek(1); err != nil {
			require.NotErrorIs(f.t, err, os.ErrDeadlineExceeded, "the connection is not closed")
			return all
		}
		response, err := http.ReadResponse(in, nil)
		require.NoError(f.t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(f.t, err)
		require.NoError(f.t, response.Body.Close())
		all = append(all, reply{response, string(body)})
	}
}

const smuggled = "PUT /v1/keys/smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nbad"

// Where the next request begins is a matter of opinion in all of these, so there is no next one.
func TestNoRequestIsSmuggledInTheBodyOfAnother(t *testing.T) {
	f := newFront(t, setup{})
	for name, test := range map[string]struct {
		request string
		status  int
		stored  string // what k holds then; "": nothing
	}{
		"both lengths":           {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 204, "hello"},
		"both, the other way":    {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 204, "hello"},
		"both, of a GET":         {"GET /get?key=k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 404, ""},
		"both, of a health":      {"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, ""},
		"both, of no path":       {"GET /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 404, ""},
		"both, from a page":      {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 403, ""},
		"folded":                 {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding:\r\n chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 204, "hello"},
		"1.0, chunked":           {"PUT /v1/keys/k HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 400, ""},
		"1.0, chunked mget":      {"POST /v1/mget HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", 400, ""},
		"1.0, chunked GET":       {"GET /get?key=k HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", 404, ""},
		"1.0, no length":         {"PUT /v1/keys/k HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n", 400, ""},
		"differing lengths":      {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, ""},
		"a list of lengths":      {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5, 5\r\n\r\nhello", 400, ""},
		"a signed length":        {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\nhello", 400, ""},
		"a negative length":      {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\nhello", 400, ""},
		"a hexadecimal length":   {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0x5\r\n\r\nhello", 400, ""},
		"an empty length":        {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: \r\n\r\nhello", 400, ""},
		"a length of 65 bits":    {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18446744073709551621\r\n\r\nhello", 400, ""},
		"a space before :":       {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 400, ""},
		"chunked twice":          {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 501, ""},
		"chunked on two lines":   {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 501, ""},
		"gzip":                   {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\nhello", 501, ""},
		"gzip, chunked":          {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 501, ""},
		"identity":               {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello", 501, ""},
		"a control character":    {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: \x0bchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 400, ""},
		"no chunk size":          {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n", 400, ""},
		"a signed chunk size":    {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", 400, ""},
		"a chunk size with 0x":   {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 400, ""},
		"a huge chunk size":      {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", 400, ""},
		"a chunk that is longer": {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n", 400, ""},
		"an expectation":         {"PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nExpect: 200-ok\r\nContent-Length: 5\r\n\r\nhello", 417, ""},
	} {
		f.send("DELETE", "/v1/keys/k", "")
		all := f.answers(test.request+smuggled, false)
		require.Len(t, all, 1, name)
		require.Equal(t, test.status, all[0].StatusCode, "%s: %s", name, all[0].body)
		if r := f.send("GET", "/v1/keys/k", ""); test.stored == "" {
			require.Equal(t, http.StatusNotFound, r.StatusCode, name)
		} else {
			require.Equal(t, test.stored, r.body, name)
		}
		require.Equal(t, http.StatusNotFound, f.send("GET", "/v1/keys/smuggled", "").StatusCode, name)
	}
}

// What ends early is not the value.
func TestABodyThatEndsEarlyIsNotStored(t *testing.T) {
	f := newFront(t, setup{})
	for name, request := range map[string]string{
		"by its length":     "PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello",
		"by nothing":        "PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n",
		"in 1.0":            "PUT /v1/keys/k HTTP/1.0\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello",
		"in a chunk":        "PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhello",
		"after a chunk":     "PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"in the last chunk": "PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
		"in a trailer":      "PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Trailer: v",
		"before it":         "PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n",
	} {
		f.put("k", "before")
		all := f.answers(request, true)
		if name == "before it" {
			require.Equal(t, http.StatusContinue, all[0].StatusCode)
			all = all[1:]
		}
		require.Len(t, all, 1, name)
		require.Equal(t, http.StatusBadRequest, all[0].StatusCode, name)
		require.Contains(t, isProblem(t, all[0], problemInvalid), "bytes have arrived", name)
		f.holds("k", "before")
	}
}

func TestHeadersThatMakeAValueSomethingElseAreRefused(t *testing.T) {
	f := newFront(t, setup{})
	for _, test := range []struct {
		headers []string
		kind    problemKind
	}{
		{[]string{"Content-Encoding", "gzip"}, problemMedia},
		{[]string{"Content-Encoding", "identity", "Content-Encoding", "gzip"}, problemMedia},
		{[]string{"Content-Encoding", "identity, br"}, problemMedia},
		{[]string{"Content-Encoding", "", "Content-Encoding", "zstd"}, problemMedia},
		{[]string{"Content-Range", "bytes 0-4/10"}, problemInvalid},
		{[]string{"Content-Range", ""}, problemInvalid},
		{[]string{"Content-Type", "text/css", "Content-Type", "text/html"}, problemInvalid},
	} {
		isProblem(t, f.send("PUT", "/v1/keys/refused", "v", test.headers...), test.kind)
		isProblem(t, f.send("GET", "/v1/keys/refused", ""), problemNotFound)
	}
	f.put("k", "v", "Content-Encoding", "identity", "Content-Encoding", "Identity, ")
	f.holds("k", "v")
}

// Several requests of HTTP/1.1 still share a connection, and old clients are still served.
func TestPlainRequestsShareAConnection(t *testing.T) {
	f := newFront(t, setup{})
	one := "PUT /v1/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"
	all := f.answers(one+one+"GET /get?key=k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false)
	require.Len(t, all, 3)
	require.Equal(t, "hello", all[2].body)
	all = f.answers("PUT /v1/keys/k HTTP/1.0\r\nContent-Length: 3\r\n\r\nold", false)
	require.Len(t, all, 1)
	require.Equal(t, http.StatusNoContent, all[0].StatusCode)
	f.holds("k", "old")
}

// HTTP/2 has frames instead, and may announce a length beside them.
func TestALengthThatHTTP2DoesNotKeepIsNotStored(t *testing.T) {
	f := newFront(t, setup{})
	server := httptest.NewUnstartedServer(f.server)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	// A frame is its length (3 bytes), type, flags and stream (4), and what is in it.
	frame := func(kind, flags, stream byte, payload string) string {
		return string([]byte{0, byte(len(payload) >> 8), byte(len(payload)), kind, flags, 0, 0, 0, stream}) + payload
	}
	const data, headers, reset, settings, endStream, endHeaders = 0, 1, 3, 4, 1, 4
	field := func(name, value string) string { // a literal that is not remembered
		return "\x00" + string(rune(len(name))) + name + string(rune(len(value))) + value
	}
	put := func(length, body string) (stored bool) {
		conn, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // a test's own certificate
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		block := field(":method", "PUT") + field(":scheme", "https") + field(":authority", "localhost") + field(":path", "/v1/keys/h2") + field("content-length", length)
		_, err = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+frame(settings, 0, 0, "")+frame(headers, endHeaders, 1, block)+frame(data, endStream, 1, body))
		require.NoError(t, err)
		for {
			var head [9]byte
			_, err := io.ReadFull(conn, head[:])
			require.NoError(t, err)
			payload := make([]byte, int(head[1])<<8|int(head[2]))
			_, err = io.ReadFull(conn, payload)
			require.NoError(t, err)
			switch head[3] {
			case headers:
				return payload[0] == 0x80|9 // the 9th of the static table is :status 204
			case reset:
				return false
			}
		}
	}
	require.True(t, put("5", "hello"))
	for _, length := range []string{"4", "6", "0", "+5", "5, 6"} {
		require.False(t, put(length, "HELLO"), length)
	}
	f.holds("h2", "hello")
}
