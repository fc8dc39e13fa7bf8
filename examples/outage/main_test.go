//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/redaside/aside/internal/redistest"
)

func TestEverythingIsAsPromisedAndSaysSoInATable(t *testing.T) {
	temp := t.TempDir()
	cmd := exec.Command(build(t))
	cmd.Env = append(os.Environ(), "TMPDIR="+temp, "REDIS_SERVER="+redisServer(t))
	began := time.Now()
	out, err := cmd.CombinedOutput()
	text := string(out)
	if err != nil {
		t.Fatalf("it ended with %v:\n%s", err, text)
	}
	t.Logf("after %v:\n%s", time.Since(began), text)
	expect(t, text,
		`1  Redis runs`, `set 2000 vouchers +ok +Redis`,
		`2  Redis is killed`, `The service is degraded`, `\d+ calls, 0 failed\. `,
		`3  Life goes on`, `get product:pear +\{"stock":8\} +memory`, `set product:apple +ok: \{"stock":1\} +disk`,
		`del product:plum +ok +disk`, `get product:plum +there is none +loader`,
		`4  The service is killed`, `kill -9 of the service, after \d{3,4} ack`, `db/0/72/14/64/721464d684554a25473109253ce91033.json`,
		`#aside 1 `, `\*\d \$3 (SET|DEL) `, `"key": "product:apple",`, `"data": \{"stock":1\},`,
		`5  The service is started again`, `It is degraded`, `get product:apple +\{"stock":1\} +disk`, ` 0 forgotten `,
		`6  Redis comes back`, `it has 100 vouchers that were used`, `Redis answers`, `is recovering`, `peek at 100 used ones +0 valid`, `\[#{40}\]`, `is healthy`, `Its report: replayed \d+\s+of`,
		`7  What happened`,
		row("set 600 carts", "Redis dying", "600", "all there"),
		row("set apple", "Redis away", "yes", `{"stock":1}`),
		row("delete plum", "Redis away", "yes", "gone"),
		row("set date, then delete", "Redis away", "yes", "gone"),
		row("delete lime, then set", "Redis away", "yes", `{"stock":4}`),
		row("load fig", "Redis away", "-", "not put there"),
		`set (\d+) orders +service killed +\d+ +all there +ok\n`,
		`delete (\d+) vouchers +service killed +\d+ +all gone +ok\n`,
		`what was under way +service killed +no +(not )?done: fine, too +ok\n`,
		`set \d+ other vouchers +Redis up +\d+ +all there +ok\n`,
		`beside the lock: 0 files`, `Everything is as promised`)
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 && !strings.Contains(line, temp) {
			t.Errorf("%d characters: %s", n, line)
		}
	}
	if strings.Contains(text, "\x1b") || strings.Contains(text, "\r") {
		t.Errorf("escape sequences in a pipe: %q", text)
	}
	if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) != 0 {
		t.Errorf("it left files: %v", left)
	}
}

func row(fields ...string) string {
	for i := range fields {
		fields[i] = regexp.QuoteMeta(fields[i])
	}
	return strings.Join(fields, " +") + " +ok\n"
}

// expect looks for patterns, in this order.
func expect(t *testing.T, out string, patterns ...string) {
	t.Helper()
	rest := out
	for _, pattern := range patterns {
		at := regexp.MustCompile(pattern).FindStringIndex(rest)
		if at == nil {
			t.Fatalf("nothing matches %q here or later:\n%s", pattern, rest)
		}
		rest = rest[at[1]:]
	}
}

// Were something lost, the table would say so: else it would prove nothing.
func TestTheTableSaysWhatIsWrong(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("SET", "here", "v")
	redis.Do("SET", "undead", "v")
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	audit := func(l *ledger) (bool, string) {
		ok, err := l.audit(context.Background(), newScreen(out), &server{addr: redis.Addr()})
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return ok, string(text)
	}
	var l ledger
	l.note("set it", "then", "yes", "there", map[string]string{"here": "v"})
	l.entries = append(l.entries, entry{what: "neither", acked: "no", want: map[string]string{"nobody": "v"}, either: true})
	if ok, text := audit(&l); !ok || strings.Contains(text, "WRONG") {
		t.Errorf("%v:\n%s", ok, text)
	}
	l.note("delete that", "then", "yes", "gone", map[string]string{"undead": "", "gone": ""})
	l.note("set them", "then", "2", "all there", map[string]string{"here": "v", "lost": "v"})
	ok, text := audit(&l)
	if ok {
		t.Errorf("it takes that for right:\n%s", text)
	}
	expect(t, text, `delete that +then +yes +1 of 2 wrong +WRONG`, `undead holds "v", want ""`, `set them +then +2 +1 of 2 wrong +WRONG`, `lost holds "", want "v"`)
}

func TestWithoutAServerItSaysSoInOneLine(t *testing.T) {
	cmd := exec.Command(build(t))
	cmd.Env = append(os.Environ(), "REDIS_SERVER=", "PATH="+t.TempDir())
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v, want exit code 1", err)
	}
	if text := strings.TrimSpace(string(out)); strings.Count(text, "\n") != 0 || !strings.Contains(text, "REDIS_SERVER=/path") {
		t.Errorf("want one line with the remedy, got:\n%s", text)
	}
}

func TestCtrlCLeavesNothing(t *testing.T) {
	for _, sig := range []struct {
		name string
		send func(pid int) error
		kill bool
	}{
		{"Ctrl-C in a terminal", func(pid int) error { return syscall.Kill(-pid, syscall.SIGINT) }, false},
		{"SIGTERM to the parent", func(pid int) error { return syscall.Kill(pid, syscall.SIGTERM) }, false},
		{"kill -9 of the parent", func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }, true},
	} {
		t.Run(sig.name, func(t *testing.T) {
			temp := t.TempDir()
			cmd := exec.Command(build(t))
			cmd.Env = append(os.Environ(), "TMPDIR="+temp, "REDIS_SERVER="+redisServer(t))
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its group is its children and itself
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			group := cmd.Process.Pid
			t.Cleanup(func() { _ = syscall.Kill(-group, syscall.SIGKILL) })
			for lines := bufio.NewScanner(out); lines.Scan() && !strings.Contains(lines.Text(), "again and again"); {
			}
			if err := sig.send(group); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, out) // ends when nobody has the pipe open any more
			if err := cmd.Wait(); err == nil {
				t.Error("it ended as if nothing had happened")
			}
			for deadline := time.Now().Add(5 * time.Second); syscall.Kill(-group, 0) == nil; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("processes of its group are still there")
				}
			}
			if sig.kill {
				return
			}
			if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) != 0 {
				t.Errorf("it left files: %v", left)
			}
			if text := strings.TrimSpace(errs.String()); text != "outage: interrupted" {
				t.Errorf("it says %q", text)
			}
		})
	}
}

func redisServer(t *testing.T) string {
	t.Helper()
	program := redistest.Binary()
	if program == "" {
		redistest.Skip(t, "no redis-server to start")
	}
	return program
}

func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "outage")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}
