package resp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"), // it sleeps for a second, with nothing to do
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2")) // likewise, five
}

const patience = time.Minute

var quiet = slog.New(slog.DiscardHandler)

// newStore makes a Store that may start without Redis, and that waits for it as long as a machine
// may need that has much else to do.
func newStore(t testing.TB, addr, dir string) (*proxy.Store, *aside.Client) {
	t.Helper()
	return newHastyStore(t, addr, dir, func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 5*time.Second, time.Minute })
}

// newHastyStore waits for Redis for a second, for tests in which it does not answer. Where somebody
// listens there, it returns when Redis has answered: a busy machine is no start without Redis.
func newHastyStore(t testing.TB, addr, dir string, change ...func(*aside.Options)) (*proxy.Store, *aside.Client) {
	t.Helper()
	o := aside.Options{
		Redis: rueidis.ClientOption{InitAddress: []string{addr}}, FallbackDir: dir, Logger: quiet, ConnectTimeout: patience,
		RedisTimeout: time.Second, LockTTL: 10 * time.Second,
	}
	for _, f := range change {
		f(&o)
	}
	c, err := aside.New(o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	if conn, err := net.Dial("tcp", o.Redis.InitAddress[0]); err == nil {
		_ = conn.Close()
		eventually(t, "Redis answers", func() bool { return c.Health().Mode != aside.Degraded })
	}
	return proxy.NewStore(c, 0), c
}

// serve serves store until the test ends.
func serve(t testing.TB, store *proxy.Store, o Options) (s *Server, addr string) {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet
	}
	s = New(store, o)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }() // ends with Close
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.NoError(t, <-served)
	})
	return s, ln.Addr().String()
}

// unreachable is an address at which nobody listens.
const unreachable = "127.0.0.1:1"

// peer is a client that shows replies as they are.
type peer struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *peer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
	return &peer{t, nc, bufio.NewReader(nc)}
}

func (p *peer) send(text string) {
	p.t.Helper()
	_, err := io.WriteString(p, text)
	require.NoError(p.t, err)
}

// do sends a command and returns its reply, spelled out.
func (p *peer) do(args ...string) string {
	p.t.Helper()
	p.send(encoded(args...))
	return p.reply()
}

// encoded is a command as clients send it.
func encoded(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return b.String()
}

func (p *peer) reply() string {
	p.t.Helper()
	s, err := readReply(p.r)
	require.NoError(p.t, err)
	return s
}

// readReply reads one reply and spells it out: its lines, with spaces between.
func readReply(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line, ok := strings.CutSuffix(line, "\r\n")
	if !ok || line == "" {
		return "", fmt.Errorf("no line of a reply: %q", line)
	}
	n, _ := strconv.Atoi(line[1:])
	switch line[0] {
	case '+', '-', ':', '_', ',', '#':
		return line, nil
	case '$', '=':
		if n < 0 {
			return line, nil
		}
		data := make([]byte, n+2)
		if _, err := io.ReadFull(r, data); err != nil {
			return "", err
		}
		return line[:1] + string(data[:n]), nil
	case '*', '~', '>', '%':
		if line[0] == '%' {
			n *= 2
		}
		var b strings.Builder
		b.WriteString(line)
		for range n {
			s, err := readReply(r)
			if err != nil {
				return "", err
			}
			b.WriteString(" " + s)
		}
		return b.String(), nil
	}
	return "", fmt.Errorf("no reply begins like that: %q", line)
}

// closed waits until the server has closed the connection, and returns what it has sent before.
func (p *peer) closed() string {
	p.t.Helper()
	rest, err := io.ReadAll(p.r)
	if err != nil { // a reset says the same
		var network net.Error
		require.False(p.t, errors.As(err, &network) && network.Timeout(), "the connection is still open")
	}
	return string(rest)
}

// lacks reports whether a server of that version is too old for a command, or for its options.
func lacks(version string, args []string) bool {
	since := ""
	switch name := strings.ToUpper(args[0]); name {
	case "GETDEL", "GETEX", "COPY", "SMISMEMBER", "LMOVE", "BLMOVE", "RESET":
		since = "6.2"
	case "DECRBY":
		if len(args) > 2 && args[2] == "-9223372036854775808" { // it turns the sign first
			since = "6.2"
		}
	case "EXPIRETIME", "PEXPIRETIME":
		since = "7.0"
	case "EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT":
		if len(args) > 3 || len(args) == 3 && args[2] == "9223372036854775807" { // NX, XX, GT, LT; it takes such an end
			since = "7.0"
		}
	case "SET":
		options := strings.ToUpper(strings.Join(args[min(3, len(args)):], " "))
		if strings.Contains(options, "GET") {
			since = "6.2"
		}
		if strings.Contains(options, "GET") && strings.Contains(options, "NX") {
			since = "7.0"
		}
	}
	return version < since
}

// saysOtherwise reports whether both are errors, and a server of that version has other words for them than Redis 7, as which the
// proxy speaks.
func saysOtherwise(version, want, got string) bool {
	return version < "7" && strings.HasPrefix(want, "-ERR ") && strings.HasPrefix(got, "-ERR ")
}

// requireTTL requires that a reply says that so many seconds are left, but for the minute that a busy
// machine may have taken.
func requireTTL(t testing.TB, seconds int, reply string) {
	t.Helper()
	left, err := strconv.Atoi(strings.TrimPrefix(reply, ":"))
	require.NoError(t, err)
	require.InDelta(t, seconds-30, left, 30)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, patience, 5*time.Millisecond, what)
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	t.Cleanup(cancel)
	return ctx
}
