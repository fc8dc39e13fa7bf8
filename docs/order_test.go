package docs

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// In the root a file uses the files of its own row of ARCHITECTURE.md and of those below: so a reader
// of a file need not know what stands above it. client.go and arguments.go name the types of what a
// client and a call's options hold, and everybody uses client.go.
func TestFilesOfTheRootUseThoseBelow(t *testing.T) {
	picture, err := os.ReadFile("ARCHITECTURE.md")
	require.NoError(t, err)
	_, root, _ := strings.Cut(string(picture), "**The root, package aside")
	root, _, _ = strings.Cut(root, "**Below it**")
	row := make(map[string]int)
	for i, line := range strings.Split(root, "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, file := range regexp.MustCompile(`\w+\.go\b`).FindAllString(cells[1], -1) {
				row[file] = i
			}
		}
	}
	var up []string
	for use := range usesOfFiles(t, "..") {
		if use.by != "client.go" && use.by != "arguments.go" && use.of != "client.go" && row[use.of] < row[use.by] {
			up = append(up, fmt.Sprintf("%s uses %s of %s, which stands above it", use.by, use.name, use.of))
		}
	}
	slices.Sort(up)
	require.Empty(t, up, "move the name to where it belongs, or the file to another row")
	require.Greater(t, len(row), 40, "the table was found")
}

// use says that a file uses a name that another file of the package declares.
type use struct{ by, of, name string }

// usesOfFiles returns which files of a package use which others. What it imports is not looked at.
func usesOfFiles(t *testing.T, dir string) map[use]bool {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, file)
	}
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
	config := types.Config{Importer: nothing{}, Error: func(error) {}}
	pkg, _ := config.Check("aside", set, files, info) // with errors: what is imported is missing
	file := func(pos token.Pos) string { return filepath.Base(set.Position(pos).Filename) }
	uses := make(map[use]bool)
	for name, object := range info.Uses {
		if object.Pkg() == pkg && object.Pos().IsValid() {
			if by, of := file(name.Pos()), file(object.Pos()); by != of {
				uses[use{by, of, object.Name()}] = true
			}
		}
	}
	require.Greater(t, len(uses), 1000, "names were found")
	return uses
}

// nothing imports nothing.
type nothing struct{}

func (nothing) Import(string) (*types.Package, error) { return nil, errors.New("left out") }
