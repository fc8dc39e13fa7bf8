package main

import (
	"bytes"
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

func TestWithRedisEachStepIsAnsweredByTheNearestTier(t *testing.T) {
	server := redistest.Start(t)
	out := quickstart(t, server.Addr())
	expect(t, out, "found at "+server.Addr(),
		step("A gets user 42", "User 42, Lisbon, 500 orders", "loader", "1"),
		step("A gets it again", "User 42, Lisbon, 500 orders", "memory", "0"),
		step("B, as another process, gets it", "User 42, Lisbon, 500 orders", "redis", "0"),
		`200 callers of A get user 7 at once +User 7, Oslo, 500 orders +.*loader.* 1 `,
		step("user 42 moves; A deletes the key", "now in Porto", "-", "0"),
		step("A gets user 42", "User 42, Porto, 500 orders", "loader", "1"),
		`B gets it, once told of the change +User 42, Porto, 500 orders +.*redis +0 `,
		step("A gets user 9999, whom nobody knows", "not found", "loader", "1"),
		step("A gets user 9999 again", "not found", "memory", "0"),
		step("A gets 5 users: 42, 7, 1, 2, 3", "5 profiles", "memory (2×), redis, loader", "1"),
		`calls asked the database 6 times`)
	for _, key := range server.Do("KEYS", "*").([]any) { // stamps of the last deletes, and keys of probes
		if key == "aside:probe:made" { // one for each database, by which a flush is noticed
			continue
		}
		if left, _ := server.Do("PTTL", key.(string)).(int64); left <= 0 || left > ttl.Milliseconds()*3/2 { // stamps stay half a StampTTL longer
			t.Errorf("it left %s in Redis for %d ms", key, left)
		}
		if !strings.HasPrefix(key.(string), "aside:stamps:") && !strings.HasPrefix(key.(string), "aside:probe") {
			t.Errorf("it left %s in Redis", key)
		}
	}
}

func TestWithoutRedisItGoesOnAndSaysWhatThatMeans(t *testing.T) {
	closed := faultproxy.New(t, "127.0.0.1:1")
	closed.Refuse()
	out := quickstart(t, closed.Addr())
	expect(t, out, "not found at "+closed.Addr(), "All works, on a folder",
		`A gets user 42 +User 42, Lisbon, 500 orders +loader +1 `,
		`B, as another process, gets it +User 42, Lisbon, 500 orders +loader +1 `,
		`200 callers of A get user 7 at once +User 7, Oslo, 500 orders +loader.* 1 `,
		step("user 42 moves; A deletes the key", "now in Porto", "-", "0"),
		`A gets user 42 +User 42, Porto, 500 orders +loader +1 `,
		step("B gets it, told by nobody", "User 42, Lisbon, 500 orders", "memory", "0"),
		`A gets user 9999, whom nobody knows +not found +loader +1 `,
		`A gets 5 users: 42, 7, 1, 2, 3 +5 profiles `,
		step("A ends, starts again, gets user 7", "User 7, Oslo, 500 orders", "disk", "0"),
		"1 delete is on disk")
}

func step(name, value, from, queries string) string {
	return regexp.QuoteMeta(name) + " +" + regexp.QuoteMeta(value) + " +" + regexp.QuoteMeta(from) + " +" + queries + " "
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

// quickstart runs the program as a person would and returns what it prints.
func quickstart(t *testing.T, redis string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "quickstart")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	temp := t.TempDir()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "REDIS_ADDR="+redis, "TMPDIR="+temp)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("it ended with %v:\n%s%s", err, out.String(), errs.String())
	}
	t.Logf("after %v:\n%s", time.Since(began), out.String())
	if noise := strings.TrimSpace(errs.String()); noise != "" {
		t.Errorf("it wrote to stderr: %s", noise)
	}
	if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) != 0 {
		t.Errorf("it left files: %v", left)
	}
	return out.String()
}
