package stamp_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/slot"
	"github.com/redaside/aside/internal/stamp"
)

const client = "0123456789abcdef"

func TestLayout(t *testing.T) {
	s := stamp.Stamp{Micros: 1763719200000001, Client: client, Number: 42}
	require.Equal(t, "1763719200000001"+client+"000000000042", s.String())
	left := stamp.Left{Stamp: s, Other: 7, Ends: 1763719260000}
	require.Equal(t, s.String()+"0000000000000007"+"1763719260000", left.String())
	require.Equal(t, s.String()+"00000000000000000", stamp.Left{Stamp: s}.String())
	require.Equal(t, "0000000000000000"+client+"000000000000", stamp.Stamp{Micros: -5, Client: client}.String(), "before 1970 counts as 1970")
	require.Equal(t, "x:0000000000000012", string(stamp.AppendMicros([]byte("x:"), 12)))
}

func TestWhatIsNoStampIsNotRead(t *testing.T) {
	const good = "1763719200000001" + client + "000000000042"
	for _, s := range []string{
		"", good[:43], good + "0", "+763719200000001" + good[16:], "-763719200000001" + good[16:], " 763719200000001" + good[16:], "176371920000000x" + good[16:],
		good[:32] + "+00000000042", good[:32] + "0x0000000042",
	} {
		_, ok := stamp.Parse(s)
		require.False(t, ok, "%q", s)
	}
	for _, s := range []string{"", good, good + "0000000000000000", good + "000000000000000x0", good + "0000000000000000-1", good + "0000000000000000" + strings.Repeat("9", 20), good + "0000000000000000" + strings.Repeat("9", 19)} {
		_, ok := stamp.ParseLeft(s)
		require.False(t, ok, "%q", s)
	}
	for _, s := range []string{"", "1763719200000001", good[:43], "x" + good[1:]} {
		_, ok := stamp.Micros(s)
		require.False(t, ok, "%q", s)
	}
	for _, s := range []string{good, good + "00000000000000000", good + "?"} {
		at, ok := stamp.Micros(s)
		require.True(t, ok, "%q", s)
		require.EqualValues(t, 1763719200000001, at)
	}
}

func TestAKeyAndItsStampShareASlot(t *testing.T) {
	require.Equal(t, "aside:stamp:{"+slot.Tag(slot.Of("k"))+"}k", stamp.Key("k"))
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.OneOf(rapid.String(), rapid.StringMatching(`[{}ab]{0,6}`)).Draw(t, "key")
		at := stamp.Key(key)
		if slot.Of(at) != slot.Of(key) {
			t.Fatalf("%q is in another slot than %q", at, key)
		}
		if !strings.HasPrefix(at, stamp.KeyPrefix+"{") || !strings.HasSuffix(at, "}"+key) {
			t.Fatalf("%q is the stamp of %q", at, key)
		}
	})
}

// Numbers of one client are exact, times of different clients are what there is.
func TestLater(t *testing.T) {
	at := func(micros int64, client string, number int64) stamp.Stamp {
		return stamp.Stamp{Micros: micros, Client: client, Number: number}
	}
	require.True(t, at(1, "a", 2).Later(at(9, "a", 1)))
	require.False(t, at(9, "a", 1).Later(at(1, "a", 2)))
	require.False(t, at(9, "a", 1).Later(at(1, "a", 1)), "the same operation")
	require.True(t, at(9, "a", 1).Later(at(1, "b", 2)))
	require.False(t, at(1, "a", 2).Later(at(1, "b", 1)))
}

// The stamps of one client grow, whatever its clock does, and those of the next client of the same
// directory are greater.
func TestStampsGrow(t *testing.T) {
	never, always := func() bool { return false }, func() bool { return true }
	rapid.Check(t, func(t *rapid.T) {
		newStamper := func() *stamp.Stamper {
			st, err := stamp.New(time.Second)
			if err != nil {
				t.Fatal(err)
			}
			return st
		}
		st, last := newStamper(), ""
		for i, now := range rapid.SliceOf(rapid.Int64Range(-10, 1<<50)).Draw(t, "clock") {
			s := st.Next(now, 7, never)
			got, ok := stamp.Parse(s.Text)
			if !ok || got.Client != st.Client() || got.Number != int64(i+1) || s.Text <= last {
				t.Fatalf("%q after %q", s.Text, last)
			}
			if now > 0 && s.Slack != 7+got.Micros-now {
				t.Fatalf("slack %d for a stamp that is %d ahead", s.Slack, got.Micros-now)
			}
			last = s.Text
		}
		next := newStamper()
		next.After(last)
		if s := next.Next(0, 0, never); s.Text <= last {
			t.Fatalf("%q after %q of the process before", s.Text, last)
		}
		s := next.Next(5, 0, always)
		was, _ := stamp.Micros(last)
		if got, _ := stamp.Micros(s.Text); was > 1_000_010 && got != 6 {
			t.Fatalf("%q: nothing is left that it must be greater than", s.Text)
		}
	})
}

func TestAClockThatNobodyKnowsLetsNoStampFall(t *testing.T) {
	st, err := stamp.New(time.Second)
	require.NoError(t, err)
	st.After("1763719200000001" + client + "000000000042")
	s := st.Next(5, -1, func() bool { return true })
	require.EqualValues(t, -1, s.Slack)
	at, _ := stamp.Micros(s.Text)
	require.EqualValues(t, 1763719200000002, at)
}

func TestALoadHasNoNumber(t *testing.T) {
	st, err := stamp.New(time.Second)
	require.NoError(t, err)
	s, ok := stamp.Parse(st.Load(12))
	require.True(t, ok)
	require.Equal(t, stamp.Stamp{Micros: 12, Client: st.Client()}, s)
}

// The scripts know the layout by themselves. What they leave must be what is read here, and they
// must read what is written here.
func TestScriptsHaveTheSameLayout(t *testing.T) {
	server := redistest.Start(t)
	run := func(by stamp.Stamp) any {
		return server.Do("EVAL", script.Stamp.Text(), 1, stamp.Key("k"), "0-9007199254740991", by.String(), "60000", "30000")
	}
	ahead := time.Now().Add(time.Hour).UnixMicro()
	require.EqualValues(t, 1, run(stamp.Stamp{Micros: ahead, Client: client, Number: 2}))
	left, ok := stamp.ParseLeft(server.Do("GET", stamp.Key("k")).(string))
	require.True(t, ok)
	require.Equal(t, stamp.Stamp{Micros: ahead, Client: client, Number: 2}, left.Stamp)
	require.Zero(t, left.Other)
	require.InDelta(t, time.Now().UnixMilli()+30_000, left.Ends, 60_000)

	server.Do("SET", stamp.Key("k"), stamp.Left{Stamp: stamp.Stamp{Micros: ahead + 5, Client: client, Number: 7}, Other: ahead, Ends: 1}.String())
	require.EqualValues(t, 2, run(stamp.Stamp{Micros: ahead, Client: client, Number: 7}), "its own")
	require.EqualValues(t, 1, run(stamp.Stamp{Micros: ahead, Client: client, Number: 8}))
	left, ok = stamp.ParseLeft(server.Do("GET", stamp.Key("k")).(string))
	require.True(t, ok)
	require.Equal(t, stamp.Stamp{Micros: ahead + 6, Client: client, Number: 8}, left.Stamp, "greater than what was there")

	server.Do("SET", stamp.Key("k"), "of somebody else")
	require.EqualValues(t, 1, run(stamp.Stamp{Micros: ahead, Client: client, Number: 3}), "what is no stamp is overwritten")
}

// Whatever is read is written as it was read, and nothing breaks the reader: stamps come from
// disks, and from a Redis that others write to.
func FuzzParse(f *testing.F) {
	proposed := "1763719200000001" + client + "000000000042"
	for _, s := range []string{"", proposed, proposed + "00000000000000000", proposed + "00000000000000071763719260000", strings.Repeat("9", 79), strings.Repeat("0", 61)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, timed := stamp.Micros(s)
		p, isStamp := stamp.Parse(s)
		left, isLeft := stamp.ParseLeft(s)
		if isStamp && isLeft {
			t.Fatalf("%q is of both forms", s)
		}
		if isStamp && (p.String() != s || !timed || at != p.Micros) {
			t.Fatalf("%q was read as %+v at %d", s, p, at)
		}
		if isLeft {
			again, ok := stamp.ParseLeft(left.String())
			if !ok || again != left || !timed || at != left.Micros || left.Micros < 0 || left.Other < 0 || left.Ends < 0 {
				t.Fatalf("%q was read as %+v, and that as %+v", s, left, again)
			}
			if ends := s[60:]; (ends == "0" || ends[0] != '0') && left.String() != s {
				t.Fatalf("%q was read as %+v", s, left)
			}
		}
	})
}
