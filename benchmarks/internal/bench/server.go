// Package bench is what the benchmarks share: the server, the values, the keys.
package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

var addr string // set by Main

// Addr is the host:port of the one Redis of this run.
func Addr() string { return addr }

// Main runs the tests of a package with a Redis: the one at REDIS_ADDR, or one that is started for
// them.
func Main(m *testing.M) {
	// A server that we start ends with the thread that started it, so it must be this one, which
	// lasts.
	runtime.LockOSThread()
	stop := func() {}
	if addr = os.Getenv("REDIS_ADDR"); addr == "" {
		var err error
		if addr, stop, err = start(); err != nil {
			fmt.Fprintln(os.Stderr, "benchmarks:", err)
			os.Exit(1)
		}
	}
	code := m.Run()
	stop()
	os.Exit(code)
}

func start() (string, func(), error) {
	var program string
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		return "", nil, fmt.Errorf("no REDIS_ADDR and no redis-server in PATH: apt-get install redis-server, or docker run -p 6379:6379 redis and REDIS_ADDR=127.0.0.1:6379")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	at := free.Addr().String()
	free.Close()
	_, port, _ := net.SplitHostPort(at)
	cmd := exec.Command(program, "--bind", "127.0.0.1", "--port", port, "--dir", os.TempDir(), "--save", "", "--appendonly", "no")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for range 500 {
		if conn, err := net.Dial("tcp", at); err == nil {
			conn.Close()
			return at, stop, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	return "", nil, fmt.Errorf("%s does not answer at %s", program, at)
}

// Version is the server's.
func Version(redis rueidis.Client) string {
	info, _ := redis.Do(context.Background(), redis.B().Info().Section("server").Build()).ToString()
	for line := range strings.Lines(info) {
		for _, name := range []string{"valkey_version", "redis_version"} {
			if v, ok := strings.CutPrefix(line, name+":"); ok {
				return strings.TrimSuffix(name, "_version") + " " + strings.TrimSpace(v)
			}
		}
	}
	return "unknown"
}
