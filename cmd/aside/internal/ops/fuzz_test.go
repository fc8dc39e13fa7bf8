package ops

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redaside/aside/fallback"
)

// A record file holds what it holds: what is accepted has a checksum that fits, and reading it
// never panics.
func FuzzDecode(f *testing.F) {
	names, err := filepath.Glob("../../../../fallback/testdata/v1-*.json")
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
		r, err := fallback.DecodeFile("", content)
		if accepted := err == nil || errors.Is(err, fallback.ErrFileOtherKey); accepted && !valid(&r) {
			t.Fatalf("accepted: %+v", r)
		}
		if err == nil {
			return
		}
		if kind, detail := damageOf(err); kind == "" || detail == "" {
			t.Fatalf("refused without a reason: %v", err)
		}
	})
}

// valid reports whether the store would take in a record.
func valid(r *fallback.Record) bool {
	switch r.Op {
	case fallback.OpSet, fallback.OpFill:
		if r.Expires <= 0 {
			return false
		}
	case fallback.OpDel:
		if r.Expires != 0 || r.Value != "" {
			return false
		}
	default:
		return false
	}
	printable := func(c rune) bool { return c > ' ' && c <= '~' }
	return r.Stamp != "" && len(r.Stamp) <= 64 && strings.TrimFunc(r.Stamp, printable) == ""
}
