//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

func TestEachRoundIsOneLoaderCallForAllProcesses(t *testing.T) {
	server := redistest.Start(t)
	var out, errs bytes.Buffer
	cmd := exec.Command(build(t), "-rounds", "5", "-json")
	cmd.Env = append(os.Environ(), "REDIS_ADDR="+server.Addr())
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("it ended with %v:\n%s%s", err, out.String(), errs.String())
	}
	var s summary
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		t.Fatalf("%v in:\n%s", err, out.String())
	}
	t.Logf("%s", out.String())
	if !s.Once || s.Rounds != 5 || s.LoaderCalls != 5 || s.MostPerRound != 1 {
		t.Errorf("rounds %d, loader calls %d, at most %d in a round; want 5, 5, 1", s.Rounds, s.LoaderCalls, s.MostPerRound)
	}
	if s.LatencyP50 < s.LoaderMS/2 || s.WakeP50 <= 0 || s.LatencyMax < s.LatencyP99 {
		t.Errorf("the times make no sense:\n%s", out.String())
	}
	if errs.Len() > 0 {
		t.Errorf("it wrote to stderr: %s", errs.String())
	}
}

func TestWithoutRedisItStartsOneAndPrintsPlainLinesIntoAPipe(t *testing.T) {
	if redistest.Binary() == "" {
		redistest.Skip(t, "no redis-server to start")
	}
	temp := t.TempDir()
	cmd := exec.Command(build(t), "-rounds", "2", "-callers", "20")
	cmd.Env = append(os.Environ(), "REDIS_ADDR="+closedAddr(t), "TMPDIR="+temp,
		"PATH="+filepath.Dir(redistest.Binary())+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("it ended with %v:\n%s", err, out)
	}
	text := string(out)
	for _, want := range []string{"started for this run", "      1/2             1  ", "      2/2             1  ", "called once in each of 2 rounds, for 80 callers in 4 processes"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Errorf("escape sequences in a pipe: %q", text)
	}
	if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) != 0 {
		t.Errorf("it left files: %v", left)
	}
}

func TestWithNeitherRedisNorServerItSaysSoInOneLine(t *testing.T) {
	program := build(t)
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "REDIS_ADDR="+closedAddr(t), "PATH="+t.TempDir())
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v, want exit code 1", err)
	}
	if text := strings.TrimSpace(string(out)); strings.Count(text, "\n") != 0 || !strings.Contains(text, "REDIS_ADDR=host:port") {
		t.Errorf("want one line with the remedy, got:\n%s", text)
	}
}

func TestCtrlCLeavesNoChildren(t *testing.T) {
	server := redistest.Start(t)
	for _, sig := range []struct {
		name string
		send func(pid int) error
	}{
		{"Ctrl-C in a terminal", func(pid int) error { return syscall.Kill(-pid, syscall.SIGINT) }},
		{"SIGTERM to the parent", func(pid int) error { return syscall.Kill(pid, syscall.SIGTERM) }},
		{"kill -9 of the parent", func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }},
	} {
		t.Run(sig.name, func(t *testing.T) {
			cmd := exec.Command(build(t), "-rounds", "100000", "-loader", "20ms")
			cmd.Env = append(os.Environ(), "REDIS_ADDR="+server.Addr())
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its group is its children and itself
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			group := cmd.Process.Pid
			t.Cleanup(func() { _ = syscall.Kill(-group, syscall.SIGKILL) })
			for lines := bufio.NewScanner(out); lines.Scan() && !strings.Contains(lines.Text(), "2/100000"); {
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
		})
	}
}

func closedAddr(t *testing.T) string {
	t.Helper()
	closed := faultproxy.New(t, "127.0.0.1:1")
	closed.Refuse()
	return closed.Addr()
}

func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "stampede")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}
