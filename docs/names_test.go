package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the docs name exists: tests, files, and the headings that links lead to.
func TestWhatTheDocsNameExists(t *testing.T) {
	var docs []string
	for _, pattern := range []string{"../*.md", "*.md", "adr/*.md"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		docs = append(docs, found...)
	}
	tests := allTestFiles(t)
	for _, doc := range docs {
		content, err := os.ReadFile(doc)
		require.NoError(t, err)
		for _, name := range regexp.MustCompile("`((?:Test|Fuzz|Benchmark|Example)[A-Z_][^`…]*)`").FindAllStringSubmatch(string(content), -1) {
			function, subtest, _ := strings.Cut(name[1], "/")
			require.Contains(t, tests, "func "+function+"(", "%s names %s", doc, name[1])
			require.Contains(t, tests, subtest, "%s names %s", doc, name[1])
		}
		prose := regexp.MustCompile("(?s)```.*?```|`[^`\n]*`").ReplaceAllString(string(content), "") // New[T](x) is no link
		for _, link := range regexp.MustCompile(`\]\(([^)#:]*)(#[^)]*)?\)`).FindAllStringSubmatch(prose, -1) {
			target := doc
			if link[1] != "" {
				target = filepath.Join(filepath.Dir(doc), link[1])
				_, err := os.Stat(target)
				require.NoError(t, err, "%s links to it", doc)
			}
			if link[2] != "" {
				there, err := os.ReadFile(target)
				require.NoError(t, err)
				require.Contains(t, anchors(string(there)), link[2], "%s links to %s", doc, target)
			}
		}
	}
}

// allTestFiles returns the text of all test files of the repository.
func allTestFiles(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	require.NoError(t, filepath.WalkDir("..", func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") && !strings.Contains(path, "/internal/contract/") {
			return err
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		content, err := os.ReadFile(path)
		all.Write(content)
		return err
	}))
	return all.String()
}

// anchors returns what links can lead to in a page: its headings as GitHub names them, and its anchors.
func anchors(page string) []string {
	var names []string
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile("[^a-z0-9 _-]").ReplaceAllString(strings.ToLower(heading[1]), "")
		names = append(names, "#"+strings.ReplaceAll(name, " ", "-"))
	}
	for _, anchor := range regexp.MustCompile(`<a id="([^"]*)">`).FindAllStringSubmatch(page, -1) {
		names = append(names, "#"+anchor[1])
	}
	return names
}

// Each file of the root and of link has its place in the picture of the house.
func TestArchitectureNamesEachFile(t *testing.T) {
	picture, err := os.ReadFile("ARCHITECTURE.md")
	require.NoError(t, err)
	for _, pattern := range []string{"../*.go", "../internal/link/*.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			if name := filepath.Base(file); !strings.HasSuffix(name, "_test.go") {
				require.Regexp(t, `\b`+regexp.QuoteMeta(name)+`\b`, string(picture), file)
			}
		}
	}
}
