package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

func TestEachOptionChangesWhatItsRowSays(t *testing.T) {
	server := redistest.Start(t)
	cmd := exec.Command(build(t))
	cmd.Env = append(os.Environ(), "REDIS_ADDR="+server.Addr())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("it ended with %v:\n%s%s", err, out.String(), errs.String())
	}
	t.Logf("after %v:\n%s", time.Since(began), out.String())
	expect(t, out.String(),
		row(`none`, `40 fresh`, `40 new`, `40 errors`, `0 1 \d+`),
		row(`WithGrace\(20s\)`, `40 fresh`, `40 old`, `40 old`, `0 1 1`),
		row(`WithGrace, WithSoftTimeout\(1s\)`, `40 fresh`, `20 new, 20 old`, `20 old, 20 old\*`, `0 1 1`),
		row(`WithGrace, WithMaxStale\(0\)`, `40 fresh`, `40 new`, `40 errors`, `0 1 \d+`),
		row(`WithRefreshAhead\(0\.4\)`, `40 fresh`, `40 fresh`, `40 errors`, `0 1 \d+`),
		row(`WithGrace, WithRefreshAhead`, `40 fresh`, `40 fresh`, `40 old`, `0 1 [12]`),
		row(`WithMaxAge\(500ms\)`, `40 new`, `40 new`, `40 errors`, `1 1 \d+`),
		row(`none`, `\d\d`, `\d\d`, `0`),
		row(`WithJitter\(0\.5\)`, `\d\d`, `(\d|1\d|2\d)`, `0`),
		row(`Options\.MaxLoads: 8`, `8`, `\d\d`, `0`))
	if errs.Len() > 0 {
		t.Errorf("it wrote to stderr: %s", errs.String())
	}
}

func row(cells ...string) string { return `(?m)^` + strings.Join(cells, ` *\| `) + ` *\| ` }

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

func TestWithNeitherRedisNorServerItSaysSoInOneLine(t *testing.T) {
	closed := faultproxy.New(t, "127.0.0.1:1")
	closed.Refuse()
	cmd := exec.Command(build(t))
	cmd.Env = append(os.Environ(), "REDIS_ADDR="+closed.Addr(), "PATH="+t.TempDir())
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v, want exit code 1", err)
	}
	if text := strings.TrimSpace(string(out)); strings.Count(text, "\n") != 0 || !strings.Contains(text, "REDIS_ADDR=host:port") {
		t.Errorf("want one line with the remedy, got:\n%s", text)
	}
}

func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "freshness")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}
