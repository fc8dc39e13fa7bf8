package services_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// HAProxy before a primary and its replica, as docs/OPERATIONS.md has it, and without the line that
// closes connections to a server that is none of its own any more.

// check is HAProxy's for a primary.
const check = `
    option tcp-check
    tcp-check send PING\r\n
    tcp-check expect string +PONG
    tcp-check send "INFO replication\r\n"
    tcp-check expect string role:master
`

func startHAProxy(t *testing.T, atServer string, servers ...*redistest.Server) (addr string) {
	t.Helper()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		redistest.Skip(t, "there is no haproxy in PATH (apt-get install haproxy)")
	}
	addr = fmt.Sprintf("127.0.0.1:%d", faultproxy.ReservePort(t))
	var config strings.Builder
	fmt.Fprintf(&config, "defaults\n    mode tcp\n    timeout connect 1s\n    timeout client 1h\n    timeout server 1h\nlisten redis\n    bind %s%s", addr, check)
	for i, server := range servers {
		fmt.Fprintf(&config, "    server r%d %s check inter 100ms fall 2 rise 1 %s\n", i, server.Addr(), atServer)
	}
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(path, []byte(config.String()), 0o600))
	haproxy := exec.Command(program, "-db", "-f", path)
	output, err := os.Create(filepath.Join(filepath.Dir(path), "log"))
	require.NoError(t, err)
	defer output.Close()
	haproxy.Stdout, haproxy.Stderr = output, output
	require.NoError(t, haproxy.Start())
	t.Cleanup(func() {
		_ = haproxy.Process.Kill()
		_ = haproxy.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(output.Name())
			t.Logf("haproxy: %s", text)
		}
	})
	eventually(t, "HAProxy listens", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return addr
}

// follow makes replica follow primary.
func follow(t *testing.T, replica, primary *redistest.Server) {
	t.Helper()
	host, port, err := net.SplitHostPort(primary.Addr())
	require.NoError(t, err)
	replica.Do("REPLICAOF", host, port)
}

func TestHAProxyLeadsToTheNewPrimary(t *testing.T) {
	for name, atServer := range map[string]string{"with shutdown-sessions": "on-marked-down shutdown-sessions", "without": ""} {
		t.Run(name, func(t *testing.T) {
			old, next := redistest.Start(t), redistest.Start(t)
			follow(t, next, old)
			eventually(t, "the replica is in step", func() bool {
				return strings.Contains(fmt.Sprint(next.Do("INFO", "replication")), "master_link_status:up")
			})
			addr := startHAProxy(t, atServer, old, next)
			var client *aside.Client
			client, err := aside.New(aside.Options{
				Redis: rueidis.ClientOption{InitAddress: []string{addr}}, RequireRedis: true, ConnectTimeout: 20 * time.Second, Logger: slog.New(slog.DiscardHandler),
			})
			require.NoError(t, err)
			defer client.Close()
			ctx := context.Background()
			require.NoError(t, client.Set(ctx, time.Minute, "k", "before"))
			require.Equal(t, "before", old.Do("GET", "k"))

			next.Do("REPLICAOF", "NO", "ONE")
			follow(t, old, next)
			eventually(t, "the new primary is written to", func() bool {
				return client.Set(ctx, time.Minute, "k", "after") == nil && next.Do("GET", "k") == "after"
			})
			eventually(t, "it is healthy, and nothing is left to replay", func() bool { return client.Health().Err == nil && client.Stats().Pending == 0 })
			load := func(context.Context, string) (string, error) { return "v", nil }
			eventually(t, "memory is used", func() bool {
				_, err := client.Get(ctx, time.Minute, "m", load)
				require.NoError(t, err)
				return client.Stats().MemoryHits > 0
			})
			next.Do("SET", "m", "changed")
			eventually(t, "a change is heard of", func() bool {
				value, err := client.Get(ctx, time.Minute, "m", load)
				require.NoError(t, err)
				return value == "changed"
			})
		})
	}
}
