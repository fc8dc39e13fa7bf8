package wire

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatStoredBytesMean(t *testing.T) {
	for stored, want := range map[string]struct {
		value string
		c     Content
	}{
		"":                          {"", Value},
		"plain":                     {"plain", Value},
		"\x00aside":                 {"\x00aside", Value},
		"\x00aside:":                {"", Unreadable},
		"\x00aside:1":               {"", Unreadable},
		"\x00aside:1n":              {"", Absence},
		"\x00aside:1nx":             {"", Unreadable},
		"\x00aside:1e":              {"", Unreadable},
		"\x00aside:1eplain":         {"", Unreadable}, // nobody escapes what needs no escape
		"\x00aside:1e\x00aside:1n":  {"\x00aside:1n", Value},
		"\x00aside:1e\x00aside:1e":  {"\x00aside:1e", Value},
		"\x00aside:2n":              {"", Unreadable},
		"\x00aside:lock:":           {"", Lock},
		"\x00aside:lock:id:1:00000": {"", Lock},

		"rueidisid:01HZXK3V9Q8Y6T5R4E3W2Q1AZS":                   {"", Lock},
		"valkeyid:01HZXK3V9Q8Y6T5R4E3W2Q1AZS":                    {"", Lock},
		"__redcache:lock:0190f8a4-7b1c-7c3e-9d55-0242ac120002:7": {"", Lock},
		"rueidisid:":                           {"rueidisid:", Value},
		"rueidisid: what it is":                {"rueidisid: what it is", Value},
		"\x00aside:1erueidisid:1":              {"rueidisid:1", Value},
		"rueidisid:" + strings.Repeat("x", 65): {"rueidisid:" + strings.Repeat("x", 65), Value},
		"{\"lock\":\"__redcache:lock:1\"}":     {"{\"lock\":\"__redcache:lock:1\"}", Value},
	} {
		value, _, c := Unpack(stored)
		require.Equal(t, want.c, c, "%q", stored)
		require.Equal(t, want.value, value, "%q", stored)
	}
}

// Whatever a user stores comes back, is never taken for a lock or an absence, and stays itself
// where it can.
func FuzzHeader(f *testing.F) {
	for _, seed := range []string{"", "v", Prefix, Absent, Escape, LockPrefix, Escape + Escape, "\x00aside:9", "rueidisid:1", Escape + "valkeyid:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		stored := Pack(value)
		got, h, c := Unpack(stored)
		if c != Value || got != value || h != nil {
			t.Fatalf("%q was stored as %q and read as %q, %v", value, stored, got, c)
		}
		if !strings.HasPrefix(value, Prefix) && !PeerLock(value) && stored != value {
			t.Fatalf("%q is not raw: %q", value, stored)
		}
		_, _, _ = Unpack(value) // any bytes may be found in Redis
	})
}
