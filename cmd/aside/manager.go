package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside"
)

// closingTakes is what the end of the proxy may take beyond draining: the client's Close.
const closingTakes = 4 * time.Second

// manager is the service manager that has started this process, such as systemd, and wants to hear
// how it does: sd_notify(3), a datagram for each message. A nil manager hears nothing. Safe for
// concurrent use.
type manager struct {
	conn     net.Conn
	watchdog time.Duration // how long it may go without hearing of us; 0: it does not watch
	log      *slog.Logger
}

// newManager returns the manager that the environment names; nil if there is none.
func newManager(getenv func(string) string, log *slog.Logger) *manager {
	socket := getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil { // it may time out, and end us: its own log says that, and ours says why
		log.Warn("aside: the service manager cannot be told that this process is ready", "NOTIFY_SOCKET", socket, "error", err)
		return nil
	}
	m := &manager{conn: conn, log: log}
	if usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
		if pid := getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) { // else it is meant for another process
			m.watchdog = time.Duration(usec) * time.Microsecond
		}
	}
	return m
}

func (m *manager) close() {
	if m != nil {
		_ = m.conn.Close() // nothing waits in it
	}
}

// tell sends lines such as READY=1.
func (m *manager) tell(lines ...string) {
	if m == nil {
		return
	}
	_ = m.conn.SetWriteDeadline(time.Now().Add(time.Second)) // a manager that hangs must not hang us
	if _, err := m.conn.Write([]byte(strings.Join(lines, "\n"))); err != nil {
		m.log.Warn("aside: the service manager does not take a message", "message", strings.Join(lines, " "), "error", err)
	}
}

// stopping tells that the process is about to end, and how long that may take.
func (m *manager) stopping(atMost time.Duration) {
	m.tell("STOPPING=1", "STATUS=draining", fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", atMost.Microseconds()))
}

// watch tells the manager that the process is alive, as often as it wants to hear it and as long as
// alive says so. It returns when ctx ends.
func (m *manager) watch(ctx context.Context, alive func(context.Context) error) {
	if m == nil || m.watchdog == 0 {
		return
	}
	every := m.watchdog / 2
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		within, cancel := context.WithTimeout(ctx, every)
		err := alive(within)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			m.tell("WATCHDOG=1")
		default:
			m.log.Error("aside: the proxy does not answer itself; the service manager is not told that it is alive", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// answers returns an error unless whoever listens at addr answers what is sent. That it refuses, or
// hangs up, is an answer, too: it runs.
func answers(ctx context.Context, addr string, secure bool, send string) error {
	var dial interface {
		DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	} = new(net.Dialer)
	if secure { // the certificate is made out to a name, and nothing secret is said
		dial = &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	}
	conn, err := dial.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("%s: %w", addr, err)
	}
	defer func() { _ = conn.Close() }() // was only asked
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err = conn.Write([]byte(send)); err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%s does not answer: %w", addr, err)
	}
	return nil
}

// notify tells m that p serves, in which mode, and, from now on, that it is alive. Calling end ends
// that, and returns when nothing more is told.
func (p *proxyServer) notify(m *manager) (end func()) {
	if m == nil {
		return func() {}
	}
	m.tell("READY=1", "STATUS="+p.client.Health().Mode.String())
	unwatch := p.client.OnModeChange(func(change aside.ModeChange) { m.tell("STATUS=" + change.To.String()) })
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { m.watch(ctx, p.alive) }) // ends with ctx
	return func() {
		unwatch()
		cancel()
		watching.Wait()
	}
}

// alive returns an error unless the front ends answer.
func (p *proxyServer) alive(ctx context.Context) error {
	for _, front := range []struct {
		ln   net.Listener
		send string
	}{{p.respLn, "PING\r\n"}, {p.httpLn, "GET /healthz HTTP/1.0\r\n\r\n"}} {
		if front.ln == nil {
			continue
		}
		if err := answers(ctx, reachable(front.ln.Addr()), p.cert != nil, front.send); err != nil {
			return err
		}
	}
	return nil
}
