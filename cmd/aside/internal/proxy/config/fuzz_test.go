package config_test

import (
	"os"
	"strings"
	"testing"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
)

// Whatever stands in a file, it is read or refused, each problem with a place and a remedy, and a
// secret is never repeated.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		"", "---", "cache: {capacity: 1}", "redis:\n  addrs: [a, b]\n", "a: &a\n  b: *a\n", "log: !!binary x", "? [a]\n: b\n", "service: {token: hunter2-secret}",
		"cache: *x", "service:\n  token: [hunter2-secret]\n", "\xff", "a: 1\n---\nb: 2\n", "<<: {a: b}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		t.Chdir(t.TempDir())
		if err := os.WriteFile("f.yaml", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := config.Load(config.Sources{File: "f.yaml"})
		if err == nil {
			return
		}
		for _, p := range err.(config.Problems) { //nolint:errorlint // it is all that Load returns
			if p.Where == "" || p.What == "" || p.Remedy == "" {
				t.Fatalf("%+v", p)
			}
		}
		if strings.Contains(content, "token: hunter2-secret") && strings.Contains(err.Error(), "hunter2-secret") && !strings.Contains(err.Error(), "there is no setting") {
			t.Fatal(err)
		}
	})
}
