package wire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// golden are headers whose bytes must never change: other processes, and later versions, read them.
var golden = []struct {
	name  string
	h     Header
	value string
}{
	{"nothing", Header{}, "v"},
	{"absent", Header{Absent: true}, ""},
	{"began", Header{Began: 1795000000000000}, "v"},
	{"life", Header{Began: 1795000000000000, TTL: time.Minute, Grace: time.Hour}, "v"},
	{"life-without-grace", Header{TTL: 1500 * time.Microsecond}, ""},
	{"took", Header{Took: 250 * time.Millisecond}, "v"},
	{"version", Header{Version: 300}, "v"},
	{"prefix", Header{Began: 1, Prefix: Prefixed{Length: 5, Seen: 1795000000000001}}, "\x00aside:1n"},
	{"tags", Header{Tags: []Tag{{"a", 7, 0}, {"news:é", 0, 128}}}, "rueidisid:1"},
	{"all", Header{
		Began: 1795000000000000, TTL: time.Second, Grace: time.Second, Took: time.Second, Version: 1,
		Prefix: Prefixed{Length: 200, Seen: 3}, Tags: []Tag{{"t", 1, 2}},
	}, "a\nvalue"},
	{"all-absent", Header{
		Began: 1795000000000000, TTL: time.Second, Took: time.Second, Version: 1,
		Prefix: Prefixed{Length: 200}, Tags: []Tag{{"t", 1, 2}}, Absent: true,
	}, ""},
}

func TestTheBytesOfHeadersStayTheSame(t *testing.T) {
	var all strings.Builder
	for _, g := range golden {
		stored := PackHeader(g.h, g.value)
		fmt.Fprintf(&all, "%s %q\n", g.name, stored)
		value, h, c := Unpack(stored)
		want := Value
		if g.h.Absent {
			want = Absence
		}
		require.Equal(t, want, c, g.name)
		require.Equal(t, g.value, value, g.name)
		if g.h.Says() {
			rounded := g.h
			rounded.TTL = (rounded.TTL + time.Millisecond - 1).Truncate(time.Millisecond)
			require.Equal(t, &rounded, h, g.name)
		} else {
			require.Nil(t, h, g.name)
		}
	}
	file := filepath.Join("testdata", "headers.golden")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(all.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), all.String(), "what was written once must be read for ever: a new form needs a new version")
}

// Whatever has another form is unreadable, and never a value.
func TestAHeaderHasOneForm(t *testing.T) {
	long := strings.Repeat("x", LongestTag+1)
	for name, stored := range map[string]string{
		"nothing behind the kind":    HeaderPrefix,
		"half a length":              HeaderPrefix + "\x00",
		"fields that are cut off":    HeaderPrefix + "\x00\x02b",
		"no field":                   HeaderPrefix + "\x00\x00v",
		"an unknown field":           HeaderPrefix + "\x00\x02x\x01v",
		"a field too many":           HeaderPrefix + "\x00\x04b\x01b\x02v",
		"another order":              HeaderPrefix + "\x00\x04v\x01b\x01v",
		"a field of zero":            HeaderPrefix + "\x00\x02b\x00v",
		"a number in a longer form":  HeaderPrefix + "\x00\x03b\x81\x00v",
		"a number that is cut off":   HeaderPrefix + "\x00\x02b\x81v",
		"a number that is too great": HeaderPrefix + "\x00\x0bv\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01v",
		"a longer number":            HeaderPrefix + "\x00\x0cv\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01v",
		"a time that is too great":   HeaderPrefix + "\x00\x09b\x80\x80\x80\x80\x80\x80\x80\x10v",
		"no tag":                     HeaderPrefix + "\x00\x02t\x00v",
		"too many tags":              HeaderPrefix + "\x00\x02t\x65v",
		"a tag without a name":       HeaderPrefix + "\x00\x05t\x01\x00\x00\x00v",
		"a tag that is cut off":      HeaderPrefix + "\x00\x04t\x01\x05av",
		"a tag twice":                HeaderPrefix + "\x00\x0at\x02\x01a\x00\x00\x01a\x00\x00v",
		"tags in another order":      HeaderPrefix + "\x00\x0at\x02\x01b\x00\x00\x01a\x00\x00v",
		"a tag that is too long":     HeaderPrefix + "\x02\x07t\x01\x81\x04" + long + "\x00\x00v",
		"an absence with a value":    AbsentHeaderPrefix + "\x00\x02b\x01v",
		"an absence of nothing":      AbsentHeaderPrefix + "\x00\x00",
	} {
		value, h, c := Unpack(stored)
		require.Equal(t, Unreadable, c, name)
		require.Empty(t, value, name)
		require.Nil(t, h, name)
	}
	_, _, c := Unpack(HeaderPrefix + "\x00\x02b\x01v")
	require.Equal(t, Value, c, "what the others differ from is read")
}

func TestTheLongestHeaderFits(t *testing.T) {
	h := Header{Began: maxMicros, TTL: LongestTTL, Grace: LongestTTL, Took: LongestTTL, Version: maxVersion, Prefix: Prefixed{maxPrefix, maxMicros}}
	for i := range MostTags {
		h.Tags = append(h.Tags, Tag{fmt.Sprintf("%0*d", LongestTag, i), maxMicros, maxMicros})
	}
	_, got, c := Unpack(PackHeader(h, "v"))
	require.Equal(t, Value, c)
	require.Equal(t, &h, got)
}

// What can be read is what would be written, and what is written can be read.
func FuzzUnpackHeader(f *testing.F) {
	for _, g := range golden {
		f.Add([]byte(PackHeader(g.h, g.value)), uint64(0))
	}
	f.Fuzz(func(t *testing.T, stored []byte, seed uint64) {
		value, h, c := Unpack(string(stored))
		if h != nil {
			if again := PackHeader(*h, value); again != string(stored) {
				t.Fatalf("%q was read as %+v, which is written as %q", stored, *h, again)
			}
			if h.Absent != (c == Absence) {
				t.Fatalf("%q: %+v is %v", stored, *h, c)
			}
		}
		r := rand.New(rand.NewPCG(seed, 1))
		number := func(most int64) int64 { return r.Int64N(most+1) * int64(r.IntN(2)) }
		made := Header{
			Began: number(maxMicros), Took: time.Duration(number(1e9)) * time.Millisecond, Version: number(maxVersion - 1), Absent: r.IntN(4) == 0,
			Prefix: Prefixed{Length: int(number(1000))},
		}
		if made.TTL = time.Duration(number(1e9)) * time.Millisecond; made.TTL > 0 {
			made.Grace = time.Duration(number(1e9)) * time.Millisecond
		}
		if made.Prefix.Length > 0 {
			made.Prefix.Seen = number(maxMicros)
		}
		for i := range r.IntN(4) {
			made.Tags = append(made.Tags, Tag{string(rune('a'+i)) + string(bytes.Repeat([]byte{byte(seed)}, r.IntN(9))), number(maxMicros), number(maxMicros)})
		}
		made.Tags = slices.Clip(made.Tags)
		want := string(stored)
		if made.Absent {
			want = ""
		}
		got, h, _ := Unpack(PackHeader(made, string(stored)))
		if got != want || made.Says() && fmt.Sprint(*h) != fmt.Sprint(made) {
			t.Fatalf("%+v and %q were read as %+v and %q", made, want, h, got)
		}
	})
}

func TestAGroupsKeySaysWhatItIsMadeOf(t *testing.T) {
	for _, name := range []string{"user:", "}:tag", "a{b}:expired", "\x00\xff"} {
		for key, want := range map[string]string{PrefixGroup(name): "prefix", TagGroup(name): "tag", ExpiredGroup(name): "tag"} {
			kind, of, ok := GroupOf(key)
			require.True(t, ok, key)
			require.Equal(t, []string{want, name}, []string{kind, of}, key)
		}
	}
	for _, key := range []string{"", "k", "aside:group:", "aside:group:{x}", "aside:group:{x}:other", "aside:groups:{x}:tag"} {
		_, _, ok := GroupOf(key)
		require.False(t, ok, key)
	}
}
