package main

import (
	"bufio"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

func TestADrillEndsWithTheCommand(t *testing.T) {
	server := redistest.Start(t)
	server.Do("SET", "k", "v")
	s := serve(t, t.TempDir(), nil, "--redis", "redis://"+server.Addr(), "--cache-capacity", "0")
	reads := func() int {
		status, _ := s.fetch(http.MethodGet, "/get?key=k", "")
		return status
	}
	require.Equal(t, http.StatusOK, reads())

	got := runAside(t, "drill", "--url", "http://"+s.http, "--fraction", "1", "--for", "100ms")
	require.Equal(t, 0, got.code, got.stderr)
	require.Contains(t, got.stdout, "a drill runs for 100ms, with 1 of the keys")
	require.Contains(t, got.stdout, "the drill has ended, after")
	eventually(t, "all is as before", func() bool { return reads() == http.StatusOK })

	for _, end := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		cmd := command(t, t.TempDir(), nil, "drill", "--url", "http://"+s.http, "--fraction", "1", "--for", "1h")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		require.True(t, lines.Scan())
		require.Equal(t, http.StatusServiceUnavailable, reads())
		another := runAside(t, "drill", "--url", "http://"+s.http)
		require.Equal(t, 1, another.code)
		require.Contains(t, another.stderr, "a drill runs already")
		require.NoError(t, cmd.Process.Signal(end))
		var said strings.Builder
		for lines.Scan() {
			said.WriteString(lines.Text())
		}
		_ = cmd.Wait() // killed
		if end == syscall.SIGINT {
			require.Contains(t, said.String(), "the drill has ended")
			require.Zero(t, cmd.ProcessState.ExitCode())
		}
		eventually(t, "all is as before", func() bool { return reads() == http.StatusOK })
	}
}

func TestADrillNeedsTheToken(t *testing.T) {
	server, token := redistest.Start(t), []string{"ASIDE_SERVICE_TOKEN=secret"}
	s := serve(t, t.TempDir(), token, "--redis", "redis://"+server.Addr())
	args := []string{"drill", "--url", "http://" + s.http, "--for", "50ms"}
	got := runAside(t, args...)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "401 Unauthorized")
	got = runIn(t, t.TempDir(), token, args...)
	require.Equal(t, 0, got.code, got.stderr)
}
