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

// A value with a header is changed as its value.
func TestAValueWithAHeaderIsChangedAsItsValue(t *testing.T) {
	w := newTwins(t, "3")
	headed := func(value string) string { return wire.PackHeader(wire.Header{Began: 1}, value) }
	w.behind.Do("SET", "k", headed("value"), "EX", 1000)
	require.Equal(t, "$value", w.proxy.do("GET", "k"))
	require.Equal(t, ":6", w.proxy.do("APPEND", "k", "!"))
	require.Equal(t, "value!", w.behind.Do("GET", "k"))
	require.Greater(t, w.behind.Do("TTL", "k"), int64(900))

	w.behind.Do("SET", "n", headed("41"))
	require.Equal(t, ":42", w.proxy.do("INCR", "n"))
	require.Equal(t, "42", w.behind.Do("GET", "n"))

	w.behind.Do("SET", "m", headed(wire.Absent))
	require.Equal(t, ":10", w.proxy.do("APPEND", "m", "!"), "a value that looks like an absence")

	w.behind.Do("SET", "u", wire.HeaderPrefix+"what")
	require.Equal(t, ":1", w.proxy.do("APPEND", "u", "!"), "it cannot be read, so it is no value")
}
