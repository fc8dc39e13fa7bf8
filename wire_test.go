package aside

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatStoredBytesMean(t *testing.T) {
	for stored, want := range map[string]struct {
		value string
		c     content
	}{
		"":                          {"", contentValue},
		"plain":                     {"plain", contentValue},
		"\x00aside":                 {"\x00aside", contentValue},
		"\x00aside:":                {"", contentUnreadable},
		"\x00aside:1":               {"", contentUnreadable},
		"\x00aside:1n":              {"", contentAbsent},
		"\x00aside:1nx":             {"", contentUnreadable},
		"\x00aside:1e":              {"", contentUnreadable},
		"\x00aside:1eplain":         {"", contentUnreadable}, // nobody escapes what needs no escape
		"\x00aside:1e\x00aside:1n":  {"\x00aside:1n", contentValue},
		"\x00aside:1e\x00aside:1e":  {"\x00aside:1e", contentValue},
		"\x00aside:2n":              {"", contentUnreadable},
		"\x00aside:lock:":           {"", contentLock},
		"\x00aside:lock:id:1:00000": {"", contentLock},
	} {
		value, c := unpack(stored)
		require.Equal(t, want.c, c, "%q", stored)
		require.Equal(t, want.value, value, "%q", stored)
	}
}

// Whatever a user stores comes back, is never taken for a lock or an absence, and stays itself where it can.
func FuzzHeader(f *testing.F) {
	for _, seed := range []string{"", "v", wirePrefix, wireAbsent, wireEscape, lockPrefix, wireEscape + wireEscape, "\x00aside:9"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		stored := pack(value)
		got, c := unpack(stored)
		if c != contentValue || got != value {
			t.Fatalf("%q was stored as %q and read as %q, %v", value, stored, got, c)
		}
		if !strings.HasPrefix(value, wirePrefix) && stored != value {
			t.Fatalf("%q is not raw: %q", value, stored)
		}
		_, _ = unpack(value) // any bytes may be found in Redis
	})
}
