package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// These tests run the binary as others do: this test program, told to be it.

const beAside = "RUN_AS_ASIDE"

func TestMain(m *testing.M) {
	if os.Getenv(beAside) != "" {
		main()
	}
	redis.SetLogger(quietRedis{})
	// rueidis sleeps for a second before it looks at a topology again that it could not read,
	// whether it is closed or not.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

// quietRedis drops what go-redis says of proxies that were ended on purpose.
type quietRedis struct{}

func (quietRedis) Printf(context.Context, string, ...any) {}

// patience bounds every wait for something that has to happen. It proves nothing about speed.
const patience = time.Minute

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// command is the binary in a directory of its own, with a state directory of its own and nothing
// else of ours in its environment.
func command(t testing.TB, home string, environ []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, args...)
	cmd.Dir = home
	cmd.Env = []string{beAside + "=1", "HOME=" + home, "PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	cmd.Env = append(cmd.Env, environ...)
	return cmd
}

type result struct {
	code           int
	stdout, stderr string
}

// runAside runs a command to its end.
func runAside(t testing.TB, args ...string) result {
	t.Helper()
	return runIn(t, t.TempDir(), nil, args...)
}

func runIn(t testing.TB, home string, environ []string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := command(t, home, environ, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() { // ends with the process
		defer close(ended)
		_ = cmd.Wait() // its exit code is looked at
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		<-ended
		t.Fatalf("aside %s does not end: %s%s", strings.Join(args, " "), stdout.String(), stderr.String())
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// served is a running `aside serve`.
type served struct {
	t    testing.TB
	cmd  *exec.Cmd
	http string // address; "" if off
	resp string
	done chan struct{} // closed when it has ended, and all that it wrote was read

	mu     sync.Mutex
	output strings.Builder // guarded by mu, as is the next one
	more   chan struct{}   // closed, and replaced, with each line
}

var servingLine = regexp.MustCompile(`msg="aside: serving"(.*)`)

// serve starts it at free ports and returns when it serves.
func serve(t testing.TB, home string, environ []string, args ...string) *served {
	t.Helper()
	return serveBy(t, home, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, environ...) }, args...)
}

// serveBy is serve by a changed command.
func serveBy(t testing.TB, home string, change func(*exec.Cmd), args ...string) *served {
	t.Helper()
	s := &served{t: t, done: make(chan struct{}), more: make(chan struct{})}
	s.cmd = command(t, home, nil, append([]string{"serve", "--port", "0", "--resp-port", "0"}, args...)...)
	change(s.cmd)
	out, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	s.cmd.Stderr = os.Stderr
	require.NoError(t, s.cmd.Start())
	go func() { // ends with the process
		defer close(s.done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			s.mu.Lock()
			s.output.WriteString(lines.Text() + "\n")
			close(s.more)
			s.more = make(chan struct{})
			s.mu.Unlock()
		}
		_ = s.cmd.Wait() // its exit code is looked at
	}()
	t.Cleanup(s.kill)
	line := s.await(servingLine)
	field := func(name string) string {
		if m := regexp.MustCompile(` ` + name + `=(\S+)`).FindStringSubmatch(line); m != nil {
			return m[1]
		}
		return ""
	}
	s.http, s.resp = field("http"), field("resp")
	return s
}

func (s *served) text() (text string, more <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.output.String(), s.more
}

// await waits for a line, and returns it.
func (s *served) await(line *regexp.Regexp) string {
	s.t.Helper()
	timeout := time.After(patience)
	for {
		text, more := s.text()
		if m := line.FindString(text); m != "" {
			return m
		}
		select {
		case <-more:
		case <-s.done:
			if text, _ := s.text(); line.FindString(text) == "" {
				s.t.Fatalf("it ended with code %d before it said %s:\n%s", s.cmd.ProcessState.ExitCode(), line, text)
			}
		case <-timeout:
			s.t.Fatalf("it does not say %s:\n%s", line, text)
		}
	}
}

// kill is kill -9; it returns when the process is gone.
func (s *served) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.done
}

func (s *served) signal(sig syscall.Signal) {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(sig))
}

// end waits until it has ended, and returns its exit code.
func (s *served) end() int {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		text, _ := s.text()
		s.t.Fatalf("it does not end:\n%s", text)
	}
	return s.cmd.ProcessState.ExitCode()
}

// client is a RESP client of it.
func (s *served) client() *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: s.resp, MaxRetries: -1, DisableIdentity: true})
	s.t.Cleanup(func() { _ = client.Close() }) // it was only used for a test
	return client
}

// fetch does an HTTP request and returns status and body.
func (s *served) fetch(method, path, body string) (int, string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(testContext(s.t), method, "http://"+s.http+path, strings.NewReader(body))
	require.NoError(s.t, err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	require.NoError(s.t, err)
	defer func() { _ = response.Body.Close() }() // was only read from
	content, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	return response.StatusCode, string(content)
}

// eventually waits until something holds that no event tells of.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	require.Eventually(t, holds, patience, 10*time.Millisecond, "it never came to be that %s", what)
}

// connect waits until a server that was just started lets us in.
func connect(t testing.TB, option rueidis.ClientOption) rueidis.Client {
	t.Helper()
	option.DisableCache, option.ForceSingleClient = true, true
	var client rueidis.Client
	eventually(t, "the server has loaded its data", func() bool {
		c, err := rueidis.NewClient(option)
		if err != nil {
			return false
		}
		if err := c.Do(context.Background(), c.B().Ping().Build()).Error(); err != nil {
			c.Close()
			return false
		}
		client = c
		return true
	})
	t.Cleanup(client.Close)
	return client
}

func writeFile(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}
