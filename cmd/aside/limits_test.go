package main

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// More clients than the process may have files open, none of which has a token or anything to say:
// those who have are served, and Redis and the fallback directory have the files that they need.
func TestIdleClientsDoNotTakeTheFilesOfRedisAndTheDirectory(t *testing.T) {
	server := redistest.Start(t)
	home := t.TempDir()
	writeFile(t, home, "token", "secret")
	s := serveBy(t, home, func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", `ulimit -n 256; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
		var err error
		cmd.Path, err = exec.LookPath("sh")
		require.NoError(t, err)
	}, "--redis", "redis://"+server.Addr(), "--token-file", "token", "--fallback-dir", filepath.Join(home, "fallback"))
	for _, addr := range []string{s.http, s.resp} {
		for range 300 {
			conn, err := net.Dial("tcp", addr)
			require.NoError(t, err)
			t.Cleanup(func() { _ = conn.Close() })
		}
	}
	put := func(key string) bool {
		request, err := http.NewRequestWithContext(testContext(t), http.MethodPut, "http://"+s.http+"/v1/keys/"+key, strings.NewReader("v"))
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer secret")
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Do(request)
		if err != nil {
			return false // refused in the first second, and closed already
		}
		defer func() { _ = response.Body.Close() }() // nothing is in it
		return response.StatusCode == http.StatusNoContent
	}
	eventually(t, "who has something to say is served", func() bool { return put("k") })
	server.Kill()
	s.await(regexp.MustCompile(`to=degraded`))
	for i := range 10 {
		eventually(t, "it is kept", func() bool { return put("away" + strconv.Itoa(i)) })
	}
	server.Restart()
	eventually(t, "Redis has it", func() bool { return server.Do("EXISTS", "away9") == int64(1) })
	fds, err := os.ReadDir("/proc/" + strconv.Itoa(s.cmd.Process.Pid) + "/fd")
	if err == nil { // where there is /proc
		require.Less(t, len(fds), 256-20)
	}
}
