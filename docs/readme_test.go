package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the README shows compiles: each of its Go blocks is a program.
func TestTheReadmeCompiles(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	blocks := strings.Split(string(readme), "```go\n")[1:]
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		program, _, ok := strings.Cut(block, "```")
		require.True(t, ok)
		dir := t.TempDir()
		mod, err := os.ReadFile("../go.mod")
		require.NoError(t, err)
		mod = []byte(strings.Replace(string(mod), "module github.com/redaside/aside\n", "module readme\n", 1) +
			"\nrequire github.com/redaside/aside v0.0.0\nreplace github.com/redaside/aside => " + root + "\n")
		sum, err := os.ReadFile("../go.sum")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), mod, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o600))
		vet := exec.Command("go", "vet", "-mod=mod", ".")
		vet.Dir = dir
		vet.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
		out, err := vet.CombinedOutput()
		require.NoError(t, err, "%s\n%s", program, out)
	}
}
