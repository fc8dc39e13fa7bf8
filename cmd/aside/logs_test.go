package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
	"github.com/redaside/aside/internal/redistest"
)

// unheard is a running `aside serve` whose standard output is the test's affair. What it says is
// read from its log file.
type unheard struct {
	t          testing.TB
	cmd        *exec.Cmd
	log        string
	http, resp string
	ended      chan struct{}
}

func serveUnheard(t testing.TB, stdout, stderr *os.File, args ...string) *unheard {
	t.Helper()
	home := t.TempDir()
	u := &unheard{t: t, log: filepath.Join(home, "aside.log"), ended: make(chan struct{})}
	u.cmd = command(t, home, nil, append([]string{"serve", "--port", "0", "--resp-port", "0", "--log-path", u.log}, args...)...)
	u.cmd.Stdout, u.cmd.Stderr = stdout, stderr
	require.NoError(t, u.cmd.Start())
	go func() { // ends with the process
		defer close(u.ended)
		_ = u.cmd.Wait() // its exit code is looked at
	}()
	t.Cleanup(func() {
		_ = u.cmd.Process.Kill() // it may have ended
		<-u.ended
	})
	line := u.await(servingLine)
	u.http, u.resp = regexp.MustCompile(`http=(\S+)`).FindStringSubmatch(line)[1], regexp.MustCompile(`resp=(\S+)`).FindStringSubmatch(line)[1]
	return u
}

// await waits for a line of the log file.
func (u *unheard) await(line *regexp.Regexp) (found string) {
	u.t.Helper()
	eventually(u.t, "the log has "+line.String(), func() bool {
		text, _ := os.ReadFile(u.log) // it may not be there yet
		found = line.FindString(string(text))
		return found != ""
	})
	return found
}

func (u *unheard) awaitMode(mode string) {
	u.t.Helper()
	eventually(u.t, "it is "+mode, func() bool {
		response, err := http.Get("http://" + u.http + "/readyz")
		require.NoError(u.t, err)
		defer func() { _ = response.Body.Close() }() // was only read from
		body, err := io.ReadAll(response.Body)
		require.NoError(u.t, err)
		return strings.Contains(string(body), `"mode":"`+mode+`"`)
	})
}

// outage must not depend on whether the log is read: an outage, what was written in it, its end,
// and the end of the process.
func (u *unheard) outage(server *redistest.Server) {
	u.t.Helper()
	ctx := testContext(u.t)
	client := redis.NewClient(&redis.Options{Addr: u.resp, MaxRetries: -1, DisableIdentity: true})
	defer func() { _ = client.Close() }() // it was only used for a test
	server.Kill()
	u.awaitMode("degraded")
	require.NoError(u.t, client.Set(ctx, "k", "while away", 0).Err())
	server.Restart()
	u.awaitMode("healthy")
	require.Equal(u.t, "while away", server.Do("GET", "k"))
}

func (u *unheard) terminate() {
	u.t.Helper()
	require.NoError(u.t, u.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-u.ended:
	case <-time.After(patience):
		u.t.Fatal("it does not end")
	}
	require.Equal(u.t, 0, u.cmd.ProcessState.ExitCode())
}

// full makes a pipe that nobody reads, and in which there is no room.
func full(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = r.Close() // some tests have closed them
		_ = w.Close()
	})
	fill(t, w)
	return r, w
}

func fill(t testing.TB, w *os.File) {
	t.Helper()
	for _, size := range []int{4096, 1} {
		for err := error(nil); err == nil; {
			require.NoError(t, w.SetWriteDeadline(time.Now().Add(10*time.Millisecond)))
			_, err = w.Write(make([]byte, size))
		}
	}
	require.NoError(t, w.SetWriteDeadline(time.Time{}))
}

// aside serve | head -5
func TestTheReaderOfTheLogMayGo(t *testing.T) {
	server := redistest.Start(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	u := serveUnheard(t, w, w, "--redis", "redis://"+server.Addr())
	require.NoError(t, w.Close())
	require.NoError(t, r.Close())
	u.outage(server)
	require.NoError(t, u.cmd.Process.Signal(syscall.SIGHUP))
	u.await(regexp.MustCompile(`the configuration was read again`))
	u.outage(server)
	u.terminate()
}

func TestTheLogNeedNotBeRead(t *testing.T) {
	server := redistest.Start(t)
	_, w := full(t)
	u := serveUnheard(t, w, w, "--redis", "redis://"+server.Addr(), "--log-level", "debug")
	u.outage(server)
	require.NoError(t, u.cmd.Process.Signal(syscall.SIGHUP))
	u.await(regexp.MustCompile(`the configuration was read again`))
	u.terminate()
	u.await(regexp.MustCompile(`aside: stopped`))
}

// What stands in the way of the last words does not keep the process from ending either.
func TestAProcessEndsThoughNobodyReadsWhy(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }() // it was only there
	_, w := full(t)
	_, port, err := net.SplitHostPort(taken.Addr().String())
	require.NoError(t, err)
	cmd := command(t, t.TempDir(), nil, "serve", "--port", port, "--redis", "redis://127.0.0.1:1")
	cmd.Stdout, cmd.Stderr = w, w
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process
	select {
	case err := <-ended:
		require.Error(t, err)
		require.Equal(t, exitFailed, cmd.ProcessState.ExitCode())
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		t.Fatal("it does not end")
	}
}

// A reader that comes back finds the lines that come from then on, and how many it has missed.
func TestAPipeMayGetAnotherReader(t *testing.T) {
	server := redistest.Start(t)
	path := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	first, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	require.NoError(t, err)
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	u := serveUnheard(t, w, nil, "--redis", "redis://"+server.Addr())
	require.NoError(t, w.Close())
	require.NoError(t, first.Close())
	u.outage(server)
	second, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	require.NoError(t, err)
	defer func() { _ = second.Close() }() // was only read from
	u.outage(server)
	u.terminate()
	text, err := io.ReadAll(second)
	require.NoError(t, err)
	require.Regexp(t, `(?m)^time=\S+ level=WARN msg="aside: log lines could not be written" lost=\d+ error=".*broken pipe"\n`, string(text))
	require.Contains(t, string(text), `msg="aside: stopped"`)
}

func TestALogFileIsARegularFile(t *testing.T) {
	home := t.TempDir()
	require.NoError(t, syscall.Mkfifo(filepath.Join(home, "fifo"), 0o600))
	for _, path := range []string{"fifo", "/dev/null"} {
		got := runIn(t, home, nil, "serve", "--log-path", path)
		require.Equal(t, exitUsage, got.code, got.stderr)
		require.Contains(t, got.stderr, fmt.Sprintf(`log.path is %q: it cannot be written (it is not a regular file; log.stdout writes to standard output)`, path))
	}
}

// copytruncate, of the file and of what a shell has opened without O_APPEND.
func TestALogThatSomebodyEmptiesHasNoHole(t *testing.T) {
	server := redistest.Start(t)
	out, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
	require.NoError(t, err)
	u := serveUnheard(t, out, nil, "--redis", "redis://"+server.Addr())
	defer func() { _ = out.Close() }() // the process writes to it
	eventually(t, "standard output has that line, too", func() bool {
		text, err := os.ReadFile(out.Name())
		require.NoError(t, err)
		return servingLine.Match(text)
	})
	for _, path := range []string{u.log, out.Name()} {
		require.NoError(t, os.Truncate(path, 0))
	}
	u.outage(server)
	u.terminate()
	for _, path := range []string{u.log, out.Name()} {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NotContains(t, string(text), "\x00")
		require.Regexp(t, `^time=`, string(text))
		require.Contains(t, string(text), "aside: stopped")
	}
}

func newLogFile(t testing.TB, c config.Log) *logFile {
	t.Helper()
	f, err := openLogFile(c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.now.Close() }) // the test has read it
	return f
}

func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	all := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		all[e.Name()] = string(text)
	}
	return all
}

func TestAFullLogFileIsPutAsideAndTheOldestGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	// One that was left by versions before, one that was called the same in the same millisecond,
	// and what is none of ours.
	for _, name := range []string{"aside-2006-01-02T15-04-05.000-size.log", "aside-2006-01-02T15-04-05.000-size_1.log", "aside-x.log", "other.log"} {
		writeFile(t, dir, name, name)
	}
	f := newLogFile(t, config.Log{Path: filepath.Join(dir, "aside.log"), MaxSize: 20, MaxBackups: 2})
	for i := range 7 {
		require.NoError(t, f.write(fmt.Appendf(nil, "line %d\n", i))) // 7 bytes: two fit
	}
	got := contents(t, dir)
	require.Len(t, got, 5, "%v", got)
	require.Equal(t, "line 6\n", got["aside.log"])
	require.Contains(t, got, "aside-x.log")
	require.Contains(t, got, "other.log")
	var older []string
	for name, text := range got {
		if name != "aside.log" && strings.HasPrefix(name, "aside-2") {
			older = append(older, text)
		}
	}
	require.ElementsMatch(t, []string{"line 2\nline 3\n", "line 4\nline 5\n"}, older)

	require.NoError(t, os.Truncate(filepath.Join(dir, "aside.log"), 0)) // also after it has begun anew
	require.NoError(t, f.write([]byte("next\n")))
	require.Equal(t, "next\n", contents(t, dir)["aside.log"])
}

func TestALogFileThatWasMovedIsOpenedAgain(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "aside.log")
	var stdout bytes.Buffer
	l, err := openLogs(config.Log{Path: path, Level: "info", Format: "text", MaxSize: 1 << 20}, &stdout)
	require.NoError(t, err)
	defer func() { _ = l.inFile.now.Close() }() // the test has read it
	l.logger.Info("one")
	require.Zero(t, l.file.queue.Flush(patience))
	require.NoError(t, os.Rename(path, path+".1"))
	l.reopen()
	require.Zero(t, l.file.queue.Flush(patience))
	require.FileExists(t, path, "without a line")
	l.logger.Info("two")
	l.Close()
	require.Contains(t, contents(t, dir)["aside.log.1"], "msg=one")
	require.Regexp(t, `^time=\S+ level=INFO msg=two\n$`, contents(t, dir)["aside.log"])
	require.Empty(t, stdout.String())
}

// A hung disk costs the log file and nothing else, also where it is to be opened again.
func TestOneDestinationOfTheLogDoesNotHoldUpAnother(t *testing.T) {
	release := make(chan struct{})
	var good bytes.Buffer
	fails := errors.New("disk full")
	stuck := newSink("text", func([]byte) error { <-release; return nil })
	failing := newSink("json", func([]byte) error { return fails })
	l := &logs{stdout: newSink("text", func(line []byte) error { good.Write(line); return nil }), file: stuck, inFile: new(logFile)}
	log := handlerOf("text", everyone{stuck, failing, l.stdout}, &l.level)
	for i := range logLines + 100 {
		require.NoError(t, log.Handle(context.Background(), slog.NewRecord(time.Now(), slog.LevelInfo, fmt.Sprint("line ", i), 0)))
		if i%1000 == 0 { // so that neither has more waiting than it may
			require.Zero(t, l.stdout.queue.Flush(patience))
			require.Zero(t, failing.queue.Flush(patience))
		}
	}
	l.reopen()
	require.Zero(t, l.stdout.queue.Flush(patience))
	require.Equal(t, logLines+100, strings.Count(good.String(), "\n"))
	require.Zero(t, failing.queue.Flush(patience))
	require.EqualValues(t, logLines+100, failing.lost)
	require.GreaterOrEqual(t, stuck.queue.Flush(time.Millisecond), logLines)
	close(release)
	require.Zero(t, stuck.queue.Flush(patience))
}
