package ops

import (
	"os"
	"path/filepath"
	"testing"
)

// A record file holds what it holds: what is accepted has a checksum that fits, and reading it never panics.
func FuzzDecode(f *testing.F) {
	names, err := filepath.Glob("../../fallback/testdata/v1-*.json")
	if err != nil || len(names) == 0 {
		f.Fatal(names, err)
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		r, bad := decodeRecord(content)
		if bad == nil && !valid(&r) {
			t.Fatalf("accepted: %+v", r)
		}
		if bad != nil && (bad.kind == "" || bad.detail == "") {
			t.Fatalf("refused without a reason: %+v", bad)
		}
	})
}
