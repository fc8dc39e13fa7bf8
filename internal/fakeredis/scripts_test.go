package fakeredis

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/script"
)

// Should this fail, somebody has changed a script: change its twin in scripts.go or stamps.go
// likewise, then its sum. The comparison with real servers (compare_test.go) shows whether it is
// right.
func TestEachScriptHasATwinThatWasWrittenForIt(t *testing.T) {
	var names []string
	for _, s := range script.All() {
		require.Equal(t, s.Name(), twins[s.SHA()].name, "internal/script/%s.lua, or what it includes, is not what its twin was written for: its sum is %s now", s.Name(), s.SHA())
		names = append(names, s.Name())
	}
	require.Len(t, twins, len(names), "a twin without a script")
}
