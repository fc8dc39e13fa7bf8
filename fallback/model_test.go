package fallback

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redaside/aside/internal/vfs"
)

// model is the Store's description in ten lines.
type model map[string]Record

func (m model) put(r Record) {
	now, ok := m[r.Key]
	explicit, was := r.Op != OpFill, now.Op != OpFill
	if !ok || explicit && !was || explicit == was && r.Stamp > now.Stamp {
		m[r.Key] = r
	}
}

func (m model) settle(r Record) {
	if m[r.Key].Stamp == r.Stamp {
		delete(m, r.Key)
	}
}

func give(t *rapid.T, s Store, r Record) {
	if r.Op == OpFill {
		s.Fill(r)
		return
	}
	require.NoError(t, s.Put(t.Context(), r))
}

// history draws records of few keys, each with a stamp of its own.
func drawRecords(t *rapid.T) []Record {
	n := rapid.IntRange(1, 30).Draw(t, "n")
	stamps := rapid.Permutation(rangeOf(n)).Draw(t, "stamps")
	records := make([]Record, n)
	for i := range records {
		r := Record{
			Op:    rapid.SampledFrom([]Op{OpSet, OpDel, OpFill}).Draw(t, "op"),
			Key:   rapid.SampledFrom([]string{"a", "b", "\xff"}).Draw(t, "key"),
			Stamp: fmt.Sprintf("%03d", stamps[i]),
			Slack: int64(i),
		}
		if r.Op != OpDel {
			r.Value = rapid.SampledFrom([]string{"", "v", `{"a":1}`, strings.Repeat("\xff", 700)}).Draw(t, "value")
			r.Expires = time.Now().Add(time.Hour).UnixMilli()
		}
		records[i] = r
	}
	return records
}

func rangeOf(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// Whatever the order and however often: what stays is the same. In between the store is flushed,
// closed and opened, or killed.
func TestTheSameRecordsInAnyOrderEndTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := drawRecords(t)
		want := make(model)
		for _, r := range records {
			want.put(r)
		}
		order := rapid.Permutation(rangeOf(len(records))).Draw(t, "order")
		order = append(order, rapid.SliceOfN(rapid.IntRange(0, len(records)-1), 0, 10).Draw(t, "repeated")...)

		memory := NewMemory(0)
		for _, i := range order {
			give(t, memory, records[i])
		}
		require.Equal(t, map[string]Record(want), all(memory))

		m := vfs.NewMem()
		o := rapid.SampledFrom([]Options{stores()["with memory"], stores()["without memory"]}).Draw(t, "options")
		d, err := OpenFS(m, o)
		require.NoError(t, err)
		reopen := func() {
			d, err = OpenFS(m, o)
			require.NoError(t, err)
		}
		for _, i := range order {
			give(t, d, records[i])
			switch rapid.SampledFrom([]string{"", "", "", "flush", "close", "kill", "crash"}).Draw(t, "then") {
			case "flush":
				require.NoError(t, flush(d))
			case "close":
				require.NoError(t, d.Close(t.Context()))
				reopen()
			case "kill": // of fills those may be lost that have no file yet
				require.NoError(t, flush(d))
				m = m.Kill()
				_ = d.Close(t.Context()) // the dead are buried
				reopen()
			case "crash":
				if !anyFill(all(d)) { // a fill may be lost, and then an older one that comes again stays
					m = m.Crash(rapid.Uint64().Draw(t, "seed"))
					_ = d.Close(t.Context())
					reopen()
				}
			}
		}
		require.Equal(t, map[string]Record(want), all(d))
		require.NoError(t, d.Close(t.Context()))
		require.NoError(t, checkFolder(m))
		reopen()
		require.Equal(t, map[string]Record(want), all(d))
		require.NoError(t, d.Close(t.Context()))
	})
}

func anyFill(records map[string]Record) bool {
	for _, r := range records {
		if r.Op == OpFill {
			return true
		}
	}
	return false
}

// Everything that may be done, in any order, with what came of it compared each time.
func TestAStoreDoesWhatTheModelDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := vfs.NewMem()
		o := rapid.SampledFrom([]Options{stores()["with memory"], stores()["without memory"]}).Draw(t, "options")
		var s Store = NewMemory(0)
		if rapid.Bool().Draw(t, "on disk") {
			d, err := OpenFS(m, o)
			require.NoError(t, err)
			s = d
		}
		want := make(model)
		records := drawRecords(t)
		pick := func(t *rapid.T) Record { return records[rapid.IntRange(0, len(records)-1).Draw(t, "record")] }
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				r := pick(t)
				give(t, s, r)
				want.put(r)
			},
			"settle": func(t *rapid.T) {
				r := pick(t)
				s.Settle(r)
				want.settle(r)
			},
			"flush": func(t *rapid.T) {
				if d, ok := s.(*Dir); ok {
					require.NoError(t, flush(d))
				}
			},
			"close and open": func(t *rapid.T) {
				if d, ok := s.(*Dir); ok {
					require.NoError(t, d.Close(t.Context()))
					require.NoError(t, checkFolder(m))
					var err error
					s, err = OpenFS(m, o)
					require.NoError(t, err)
				}
			},
			"": func(t *rapid.T) {
				require.Equal(t, map[string]Record(want), all(s))
				stats := s.Stats()
				require.Equal(t, len(want), stats.Sets+stats.Deletes+stats.Fills)
				for _, key := range []string{"a", "b", "\xff"} {
					r, ok := want[key]
					require.Equal(t, ok && r.Op != OpFill, s.Pending(key))
					stamp, known := s.Stamp(key)
					require.Equal(t, ok, known)
					require.Equal(t, r.Stamp, stamp)
				}
			},
		})
		_ = s.Close(t.Context())
	})
}
