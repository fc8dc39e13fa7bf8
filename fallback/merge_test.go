package fallback

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/vfs"
)

func madeAt(second int64) string {
	return fmt.Sprintf("%016d00000000000000aa%012d", 1_763_719_200_000_000+second*1_000_000, second+100)
}

// change is a record of operations of the list that began in second id, which were made in second at.
func change(key string, id, at int64, commands ...string) Record {
	var all [][]string
	for _, c := range commands {
		all = append(all, strings.Fields(c))
	}
	return Record{Op: OpOperations, Key: key, Stamp: madeAt(at), Slack: 5, Value: deferred.Together(madeAt(id), madeAt(at), all).String()}
}

func opened(key string, id int64) Record {
	return Record{Op: OpOperations, Key: key, Stamp: madeAt(id), Value: deferred.List{ID: madeAt(id), Opened: true}.String()}
}

// shape is a record on one line.
func shape(r Record) string {
	if r.Op != OpOperations {
		return string(r.Op)
	}
	l, err := deferred.Parse(r.Value)
	if err != nil {
		return err.Error()
	}
	var all []string
	if l.Opened {
		all = append(all, "opened")
	}
	for _, op := range l.Ops {
		all = append(all, strings.Join(op.Command, " "))
	}
	return strings.Join(all, ", ")
}

func TestMergeDoesWhatTheTableSays(t *testing.T) {
	wrote := func(at int64) Record {
		return Record{Op: OpSet, Key: "k", Value: "v", Expires: 1_900_000_000_000, Stamp: madeAt(at)}
	}
	deleted := func(at int64) Record { return Record{Op: OpDel, Key: "k", Stamp: madeAt(at)} }
	loaded := wrote(9)
	loaded.Op = OpFill
	two := change("k", 1, 2, "SADD a", "SADD b")
	for _, c := range []struct {
		now, next Record
		want      string // "": it stays as it is
	}{
		{two, change("k", 1, 3, "SADD c"), "SADD a, SADD b, SADD c"},
		{two, change("k", 1, 2, "SADD b"), ""},
		{two, change("k", 3, 3, "SADD c"), "SADD c"}, // of another list: this one was done
		{two, change("k", 0, 1, "SADD c"), ""},
		{two, opened("k", 1), "opened, SADD a, SADD b"},
		{two, opened("k", 9), ""},
		{wrote(1), opened("k", 1), ""},
		{wrote(1), change("k", 2, 2, "APPEND w"), "SET v PXAT 1900000000000, APPEND w"},
		{deleted(1), change("k", 2, 2, "SADD a"), "DEL, SADD a"},
		{wrote(3), change("k", 2, 2, "APPEND w"), ""},
		{loaded, two, "SADD a, SADD b"},
		{two, loaded, ""},
		{two, wrote(3), "set"},
		{two, deleted(3), "del"},
		{change("k", 1, 5, "SADD a"), wrote(3), ""}, // which may have been replayed before they were made
		{change("k", 1, 5, "SADD a"), deleted(3), ""},
		{change("k", 1, 5, "DEL", "SADD a"), wrote(3), ""},
		{wrote(1), change("k", 2, 1, "SET v PXAT 1900000000000"), "SET v PXAT 1900000000000"},
		{wrote(1), wrote(2), "set"},
		{wrote(2), deleted(1), ""},
	} {
		got, changed := Merge(c.now, c.next)
		require.Equal(t, c.want != "", changed, "%s and %s", shape(c.now), shape(c.next))
		if !changed {
			require.Equal(t, c.now, got)
		} else {
			require.Equal(t, c.want, shape(got))
			again, changed := Merge(got, c.next)
			require.False(t, changed, "%s and %s once more: %s", shape(got), shape(c.next), shape(again))
		}
	}
}

// Whatever was in files and whatever in the journal when the process was killed, the list is what it
// was, and so is that its replay had begun.
func TestOperationsComeBackAsTheyWere(t *testing.T) {
	steps := []Record{
		{Op: OpSet, Key: "k", Value: "5", Expires: in(1 << 40), Stamp: madeAt(1), Slack: 5},
		change("k", 2, 2, "INCRBY 1"), change("k", 2, 3, "INCRBY 2", "APPEND \xff"), opened("k", 2), change("k", 2, 4, "INCRBY 3"), change("other", 5, 5, "SADD a"),
	}
	for flushed := range len(steps) + 1 {
		m := vfs.NewMem()
		d := open(t, m, byHand())
		for i, r := range steps {
			if i == flushed {
				require.NoError(t, flush(d))
			}
			mustPut(t, d, r)
		}
		want, ok, err := d.Get("k")
		require.NoError(t, err)
		require.True(t, ok)
		require.Contains(t, shape(want), "opened, SET 5 PXAT ")
		require.Contains(t, shape(want), ", INCRBY 3, APPEND \xff, INCRBY 3")
		require.Equal(t, 2, d.Stats().Operations)
		require.True(t, d.Pending("k"))
		for range 2 {
			m = m.Kill()
			d = open(t, m, byHand())
			got, ok, err := d.Get("k")
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, want, got, "flushed before step %d", flushed)
			require.NoError(t, flush(d))
		}
		d.Settle(want)
		require.False(t, d.Pending("k"))
		require.Equal(t, Stats{Operations: 1}.Pending(), d.Stats().Pending())
		d = open(t, m.Kill(), byHand())
		require.False(t, d.Pending("k"))
		require.True(t, d.Pending("other"))
	}
}

func TestRejectedOperationsAreInQuarantine(t *testing.T) {
	m := vfs.NewMem()
	d := open(t, m, byHand())
	for range 2 {
		require.NoError(t, d.Reject(change("k", 1, 1, "SADD a"), errors.New("WRONGTYPE it is")))
	}
	require.Equal(t, 2, d.Stats().Quarantined)
	m = m.Kill()
	d = open(t, m, byHand())
	require.Equal(t, 2, d.Stats().Quarantined)
	name := strings.TrimPrefix(pathOf("k"), pathOf("k")[:len(pathOf("k"))-len("00000000000000000000000000000000.json")])
	r, err := DecodeFile(name, content(t, m, "quarantine/"+name))
	require.NoError(t, err)
	require.Equal(t, "SADD a", shape(r))
	require.Contains(t, string(content(t, m, "quarantine/"+name+".reason")), "WRONGTYPE it is")
}

// What is in memory whatever MemoryBytes says must not grow beyond it.
func TestOperationsStayWithinMemoryBytes(t *testing.T) {
	o := byHand()
	o.MemoryBytes = 2000
	d := open(t, vfs.NewMem(), o)
	var full error
	for i := int64(1); i < 100 && full == nil; i++ {
		full = d.Put(t.Context(), change(fmt.Sprint("k", i), i, i, "SADD "+strings.Repeat("m", 100)))
		require.NoError(t, flush(d))
	}
	require.ErrorIs(t, full, ErrFull)
	require.ErrorContains(t, full, "MemoryBytes")
}

// The file as it stands in testdata is what this version writes, and reads.
func TestGoldenFileOfOperations(t *testing.T) {
	r := change("user:42", 1, 2, "HSET name Ann", "INCRBY 5", "APPEND \xff")
	path := "testdata/v2-operations.json"
	made := encodeFile(&r, 1_763_719_200_123)
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(made))
	got, at, err := decodeFile(want)
	require.NoError(t, err)
	require.Equal(t, r, got)
	require.EqualValues(t, 1_763_719_200_123, at)
	require.Contains(t, string(want), "\"version\": 2,\n  \"op\": \"operations\",")
	require.Contains(t, string(want), "\"type\": \"operations\",\n  \"encoding\": \"json\",")
}
