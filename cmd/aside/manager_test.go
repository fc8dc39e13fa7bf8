package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// serviceManager is the socket of a service manager.
type serviceManager struct {
	t    testing.TB
	path string
	conn *net.UnixConn
	told []string // so far
}

func newServiceManager(t testing.TB) *serviceManager {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") //nolint:usetesting // t.TempDir's may be longer than a socket's name can be
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &serviceManager{t: t, path: filepath.Join(dir, "s")}
	m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.conn.Close() })
	return m
}

// hears waits for a message with this line in it.
func (m *serviceManager) hears(line string) {
	m.t.Helper()
	require.NoError(m.t, m.conn.SetReadDeadline(time.Now().Add(patience)))
	buffer := make([]byte, 4096)
	for {
		n, err := m.conn.Read(buffer)
		require.NoError(m.t, err, "it has not told %s, but %q", line, m.told)
		message := string(buffer[:n])
		m.told = append(m.told, message)
		if slices.Contains(strings.Split(message, "\n"), line) {
			return
		}
	}
}

// As systemd's Type=notify with WatchdogSec= and TimeoutStopSec= goes by it.
func TestTheServiceManagerHearsOfTheProxysLife(t *testing.T) {
	manager, server := newServiceManager(t), redistest.Start(t)
	s := serve(t, t.TempDir(), []string{"NOTIFY_SOCKET=" + manager.path, "WATCHDOG_USEC=200000"}, "--redis", "redis://"+server.Addr(), "--drain-timeout", "7s")
	manager.hears("READY=1")
	require.Len(t, manager.told, 1, "something was told before it was ready")
	manager.hears("WATCHDOG=1")
	manager.hears("WATCHDOG=1")
	server.Kill()
	require.Error(t, s.client().Publish(testContext(t), "c", "m").Err()) // noticed at the latest now
	manager.hears("STATUS=degraded")
	s.signal(syscall.SIGTERM)
	manager.hears("STOPPING=1")
	require.Contains(t, manager.told[len(manager.told)-1], "EXTEND_TIMEOUT_USEC=11000000")
	require.Equal(t, 0, s.end())
}

// Without a service manager, and with one that is not there, the proxy serves.
func TestAServiceManagerThatIsNotThereKeepsNothingFromServing(t *testing.T) {
	s := serve(t, t.TempDir(), []string{"NOTIFY_SOCKET=/nowhere/at/all"}, "--redis", "redis://127.0.0.1:1")
	require.NoError(t, s.client().Ping(testContext(t)).Err())
	text, _ := s.text()
	require.Contains(t, text, "NOTIFY_SOCKET=/nowhere/at/all")
}

// The watchdog is for a process that hangs: then it must hear nothing.
func TestTheWatchdogHearsNothingOfAFrontEndThatHangs(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, answers(ctx, ln.Addr().String(), false, "PING\r\n"), os.ErrDeadlineExceeded) // the kernel has accepted, and nobody reads
	require.ErrorIs(t, answers(ctx, ln.Addr().String(), true, "PING\r\n"), context.DeadlineExceeded)

	refuses, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = refuses.Close() }()
	go func() { // ends with its one connection
		if conn, err := refuses.Accept(); err == nil {
			_ = conn.Close()
		}
	}()
	require.NoError(t, answers(testContext(t), refuses.Addr().String(), false, "PING\r\n"), "who hangs up, runs")

	manager := newServiceManager(t)
	m := newManager(func(name string) string {
		return map[string]string{"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1000"}[name]
	}, slog.New(slog.DiscardHandler))
	defer m.close()
	ctx, cancel = context.WithCancel(t.Context())
	asked := 0
	m.watch(ctx, func(context.Context) error {
		if asked++; asked == 3 {
			cancel()
		}
		return os.ErrDeadlineExceeded
	})
	m.tell("END=1")
	manager.hears("END=1")
	require.Len(t, manager.told, 1)
}

// A process that was started by another one must not answer for it.
func TestTheWatchdogOfAnotherProcessIsNotOurs(t *testing.T) {
	manager := newServiceManager(t)
	for pid, ours := range map[string]bool{"": true, "1": false} {
		m := newManager(func(name string) string {
			return map[string]string{"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": pid}[name]
		}, slog.Default())
		require.Equal(t, ours, m.watchdog > 0, "WATCHDOG_PID=%s", pid)
		m.close()
	}
}
