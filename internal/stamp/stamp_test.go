package stamp_test

import (
	"cmp"
	"slices"
	"strings"
	"sync"
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
	const raw = "\x01\x23\x45\x67\x89\xab\xcd\xef"
	const proposed = "\x06\x44\x17\xe0\x66\x48\x01" + raw + "\x00\x00\x00\x00\x2a"
	packed, ok := stamp.Packed(s.String())
	require.True(t, ok)
	require.Equal(t, proposed, packed)
	require.Equal(t, "\x10"+proposed, stamp.Left{Stamp: s}.String())
	require.Equal(t, "\x11"+proposed+"\x00\xea\x60", stamp.Left{Stamp: s, Ends: 1763719260000}.String())
	require.Equal(t, "\x12"+proposed+"\x00\x00\x01\x00\x00\x00", stamp.Left{Stamp: s, Ends: 1763719200000 + 1<<24}.String())
	require.Equal(t, "\x14"+proposed+"\x00\x00\x00\x00\x00\x00\x07", stamp.Left{Stamp: s, Other: 7}.String())
	require.Equal(t, "\x15"+proposed+"\x00\xea\x60\x00\x00\x00\x00\x00\x00\x07", stamp.Left{Stamp: s, Other: 7, Ends: 1763719260000}.String())
	require.Equal(t, "\x10"+proposed, stamp.Left{Stamp: s, Margin: stamp.LeastMargin.Microseconds()}.String(), "that is assumed of all")
	require.Equal(t, "\x30"+proposed+"\x00\x00\x01\x86\xa1", stamp.Left{Stamp: s, Margin: 100_001}.String())
	require.Equal(t, "\x3d"+proposed+"\x00\xea\x60"+"\x00\x00\x00\x00\x00\x00\x07"+"\x00\x00\x02\x00\x00",
		stamp.Left{Stamp: s, Other: 7, Ends: 1763719260000, Margin: 1 << 17, Changed: true}.String())
	deed, ok := stamp.AppendDeed(nil, 's', s, 100_000, 1763719260000)
	require.True(t, ok)
	require.Equal(t, "s"+proposed+"\x00\x00\x00\x00\x01\x86\xa0"+"\x01\x9a\xa5\xdc\x27\x60", string(deed))
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
		_, ok = stamp.Packed(s)
		require.False(t, ok, "%q", s)
	}
	_, ok := stamp.Packed(good[:16] + "of nobody we know"[:16] + good[32:])
	require.False(t, ok)
	for _, s := range []string{"", good, good + "00000000000000000", "\x10", "\x10" + good[:19], "\x10" + good[:21], "\x0f" + good[:20], "\x13" + good[:20], "\x14" + good[:20], "\x11" + good[:20], "\x12" + good[:23], "\x20" + good[:20], "\x20" + good[:25], "\x30" + good[:20], "\x33" + good[:25], "\x70" + good[:25]} {
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

func TestAKeyAndItsBucketShareASlot(t *testing.T) {
	require.Equal(t, "aside:stamps:{"+slot.Tag(slot.Of("k"))+"}", stamp.Bucket("k"))
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.OneOf(rapid.String(), rapid.StringMatching(`[{}ab]{0,6}`)).Draw(t, "key")
		if slot.Of(stamp.Bucket(key)) != slot.Of(key) {
			t.Fatalf("%q is in another slot than %q", stamp.Bucket(key), key)
		}
	})
}

// Two keys have two fields, and none has that of the head.
func TestEachKeyHasAFieldOfItsOwn(t *testing.T) {
	require.Equal(t, "k", stamp.Field("k"))
	of := map[string]string{"": "of the head"}
	for _, key := range []string{"", "\x00", "\x00\x00", "\x00k", "k", "k\x00", "\x00\x00k"} {
		field := stamp.Field(key)
		require.NotContains(t, of, field, "%q", key)
		of[field] = key
	}
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

// The stamps of one call's operations are told by the last one: none of them may be another call's.
func TestNothingComesAmongTheStampsOfACall(t *testing.T) {
	st, err := stamp.New(time.Second)
	require.NoError(t, err)
	type span struct{ first, last stamp.Stamp }
	const callers, calls = 4, 500
	var all [callers][]span
	var done sync.WaitGroup
	for c := range callers {
		done.Go(func() {
			for i := range calls {
				n := int64(1 + (c+i)%3)
				last, ok := stamp.Parse(st.NextOf(int(n), 1_700_000_000_000_000, 0, func() bool { return true }).Text)
				if !ok {
					t.Error("no stamp")
				}
				first := last
				first.Micros, first.Number = last.Micros-(n-1), last.Number-(n-1)
				all[c] = append(all[c], span{first, last})
			}
		})
	}
	done.Wait()
	spans := slices.Concat(all[:]...)
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.last.Number, b.last.Number) })
	for i, s := range spans[1:] {
		before := spans[i].last
		require.Equal(t, before.Number+1, s.first.Number)
		require.Less(t, before.Micros, s.first.Micros)
	}
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
	for _, key := range []string{"k", "", "\x00", "\x00k"} {
		run := func(by stamp.Stamp, ttl int64) any {
			mine, ok := stamp.Packed(by.String())
			require.True(t, ok)
			return server.Do("EVAL", script.Stamp.Text(), 1, stamp.Bucket(key), "0-9007199254740991", mine, "60000", ttl, key)
		}
		there := func() stamp.Left {
			left, ok := stamp.ParseLeft(server.Do("HGET", stamp.Bucket(key), stamp.Field(key)).(string))
			require.True(t, ok)
			return left
		}
		put := func(s string) { server.Do("HSET", stamp.Bucket(key), stamp.Field(key), s) }
		ahead := time.Now().Add(time.Hour).UnixMicro()
		for number, ttl := range []int64{0, 3_700_000, 300_000_000, 6_307_200_000_000} {
			require.EqualValues(t, 1, run(stamp.Stamp{Micros: ahead, Client: client, Number: int64(number + 2)}, ttl))
			require.Equal(t, client, there().Client)
			require.EqualValues(t, number+2, there().Number)
			require.InDelta(t, time.Now().UnixMicro(), there().Micros, 60e6, "the server's time, not what was proposed")
			require.Zero(t, there().Other)
			require.Zero(t, there().Margin)
			if ttl == 0 {
				require.Zero(t, there().Ends)
			} else {
				require.InDelta(t, time.Now().UnixMilli()+ttl, there().Ends, 60_000)
			}
		}

		for _, ends := range []int64{0, 1, ahead/1000 + 5, ahead/1000 + 1<<30} {
			for _, other := range []int64{0, 3, ahead} {
				for i, margin := range []int64{0, stamp.LeastMargin.Microseconds() + 1, 1<<40 - 1, 0} {
					changed := i > 1
					left := stamp.Left{Stamp: stamp.Stamp{Micros: ahead + 50, Client: client, Number: 7}, Ends: ends, Other: other, Margin: margin, Changed: changed}
					put(left.String())
					require.EqualValues(t, 2, run(stamp.Stamp{Micros: ahead, Client: client, Number: 7}, 30_000), "its own: %+v", left)
					require.EqualValues(t, 1, run(stamp.Stamp{Micros: ahead, Client: client, Number: 8}, 30_000))
					require.Equal(t, stamp.Stamp{Micros: ahead + 51, Client: client, Number: 8}, there().Stamp, "greater than what was there")
					require.InDelta(t, 2*time.Hour.Microseconds(), there().Margin, 120e6, "nobody knows by how much the clock was ahead")
				}
			}
		}

		for _, unknown := range []string{"of somebody else", "", "\x10", "\x33\x00\x00\x00\x00", "\x20" + stamp.Left{Stamp: stamp.Stamp{Client: client}}.String()[1:]} {
			put(unknown)
			require.EqualValues(t, 1, run(stamp.Stamp{Micros: ahead, Client: client, Number: 3}, 0), "what is no stamp is overwritten")
			require.EqualValues(t, 3, there().Number)
		}
		server.Do("DEL", stamp.Bucket(key))
		server.Do("SET", stamp.Bucket(key), "a string")
		require.EqualValues(t, 1, run(stamp.Stamp{Micros: ahead, Client: client, Number: 3}, 0), "what is no bucket is replaced")
		require.EqualValues(t, 3, there().Number)
	}
}

// Whatever is read is written as it was read, and nothing breaks the reader: stamps come from
// disks, and from a Redis that others write to.
func FuzzParse(f *testing.F) {
	proposed := "1763719200000001" + client + "000000000042"
	for _, s := range []string{"", proposed, proposed + "0", "\x10" + proposed[:20], "\x11" + proposed[:23], "\x16" + proposed[:33], "\x36" + proposed[:38], "\x30" + proposed[:20] + "\x00\x00\x00\x00\x07", strings.Repeat("9", 79), strings.Repeat("0", 61)} {
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
			if left.Ends == left.Micros/1000 {
				left.Ends = 0 // it has ended at once
			}
			if !ok || again != left || left.Micros < 0 || left.Other < 0 || left.Margin < 0 || left.Ends < 0 {
				t.Fatalf("%q was read as %+v, and that as %+v", s, left, again)
			}
		}
	})
}
