package resp

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/wire"
)

// What another library leaves in a key while it loads it is no value, and a client's own value that
// looks like it is one, for commands of Redis's own, too.
func TestMarksOfOtherLibrariesAreNotChangedAsValues(t *testing.T) {
	w := newTwins(t, "3")
	for _, prefix := range wire.PeerPrefixes() {
		require.Contains(t, scriptClean, "'"+prefix+"'")
		mark := prefix + "0190a8b2-{x}_Y"
		w.behind.Do("SET", "k", mark)
		require.Equal(t, ":1", w.proxy.do("APPEND", "k", "v"), "it was no value")
		require.Equal(t, "v", w.behind.Do("GET", "k"))

		w.behind.Do("SET", "n", mark)
		require.Equal(t, ":1", w.proxy.do("INCR", "n"))

		for _, own := range []string{mark, prefix + strings.Repeat("x", 65), prefix + "with a space", prefix} {
			require.Contains(t, w.proxy.do("SET", "own", own), "OK")
			require.NotContains(t, w.proxy.do("APPEND", "own", "!"), "ERR")
			require.Contains(t, w.proxy.do("GET", "own"), own+"!")
		}
	}
}
