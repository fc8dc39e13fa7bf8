package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
	"github.com/redaside/aside/internal/redistest"
)

func TestBashCompletesCommandsFlagsAndValues(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		redistest.Skip(t, "needs bash")
	}
	script := runAside(t, "completion", "bash")
	require.Equal(t, 0, script.code, script.stderr)
	home := t.TempDir()
	path := writeFile(t, t.TempDir(), "script", script.stdout)
	writeFile(t, home, "conf.yaml", "")
	for _, row := range []struct{ line, want string }{
		{"aside ", "serve inspect verify replay export doctor explain drill healthcheck completion version"},
		{"aside ver", "verify version"},
		{"aside -", "--help --version"},
		{"aside serve --cache-", "--cache-capacity --cache-expiry --cache-max-bytes --cache-degraded-ttl --cache-grace --cache-keep-written"},
		{"aside serve --ins", "--insecure"},
		{"aside serve --no-ins", "--no-insecure"},
		{"aside serve --config co", "conf.yaml"},
		{"aside serve --port ", ""},
		{"aside completion ", "bash zsh fish"},
		{"aside serve --log-level ", "debug info warn error"},
		{"aside serve --log-level = ", "debug info warn error"},
		{"aside serve --log-level =", "debug info warn error"},
		{"aside serve --fallback-sync = e", "everysec"},
		{"aside serve --config = co", "conf.yaml"},
		{"aside inspect con", "conf.yaml"},
		{"aside replay x --d", "--dry-run"},
	} {
		words := strings.Split(row.line, " ")
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = "'" + w + "'"
		}
		cmd := exec.Command(bash, "--norc", "-c", fmt.Sprintf(`source "$1"; COMP_WORDS=(%s); COMP_CWORD=%d; _aside; echo "${COMPREPLY[*]}"`,
			strings.Join(quoted, " "), len(words)-1), "bash", path)
		cmd.Dir = home
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, row.want, strings.TrimSpace(string(out)), row.line)
	}
}

func TestZshAndFishCompleteEveryFlag(t *testing.T) {
	for _, shell := range []string{"zsh", "fish"} {
		got := runAside(t, "completion", shell)
		require.Equal(t, 0, got.code, got.stderr)
		for _, s := range config.Settings() {
			if s.Flag() != "" {
				require.Regexp(t, `(--|-l )`+regexp.QuoteMeta(s.Flag())+`\b`, got.stdout, shell)
			}
		}
	}
}

// completionHome is a directory with something to complete, and the script of a shell in a
// directory of its own.
func completionHome(t *testing.T, shell, name string) (program, home, path string) {
	t.Helper()
	program, err := exec.LookPath(shell)
	if err != nil {
		redistest.Skip(t, "needs "+shell)
	}
	home = t.TempDir()
	writeFile(t, home, "conf.yaml", "")
	require.NoError(t, os.Mkdir(filepath.Join(home, "folder"), 0o700))
	return program, home, writeFile(t, t.TempDir(), name, runAside(t, "completion", shell).stdout)
}

func TestFishCompletes(t *testing.T) {
	fish, home, script := completionHome(t, "fish", "aside.fish")
	for _, row := range completions {
		cmd := exec.CommandContext(testContext(t), fish, "--no-config", "-c", `source $argv[1]; complete -C $argv[2]`, script, row.line)
		cmd.Dir, cmd.Env = home, append(os.Environ(), "HOME="+home)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		var offered []string
		for line := range strings.Lines(string(out)) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			offered = append(offered, word)
		}
		require.ElementsMatch(t, row.want, offered, row.line)
	}
}

func TestZshCompletes(t *testing.T) {
	zsh, home, script := completionHome(t, "zsh", "_aside")
	for _, row := range completions {
		cmd := exec.CommandContext(testContext(t), zsh, "-f", "-c", zshTypes, "zsh", filepath.Dir(script), row.line)
		cmd.Dir, cmd.Env = home, append(os.Environ(), "HOME="+home, "TERM=xterm")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		for _, word := range row.want {
			require.Contains(t, string(out), strings.TrimSuffix(word, "/"), "%s: %q", row.line, out) // a sign that ends a word is shown bold
		}
	}
}
