package fallback

import (
	"context"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redaside/aside/internal/vfs"
)

// readFS asks before a record file is read.
type readFS struct {
	vfs.FS
	mayRead func() error
}

func (r *readFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	if flag == os.O_RDONLY && strings.HasPrefix(name, filesDir) && r.mayRead != nil {
		if err := r.mayRead(); err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
	return r.FS.OpenFile(name, flag, perm)
}

// inItsFile is a Set of k, in second at, whose value a store has left to its file.
func inItsFile(t *testing.T, d *Dir, at int64) Record {
	t.Helper()
	r := Record{Op: OpSet, Key: "k", Value: "v", Expires: in(time.Hour), Stamp: madeAt(at), Slack: 5}
	mustPut(t, d, r)
	require.NoError(t, flush(d))
	require.Zero(t, valuesIn(d))
	return r
}

func forgetful() Options { return stores()["without memory"] }

// What is put where a Set's value is in its file only is what Merge makes of the two, in the store and
// when it is opened again. A relapse lacks the Set, which was acknowledged after Client.Apply had looked.
func TestOperationsComeBehindASetWhoseValueIsInItsFile(t *testing.T) {
	base := func(id, at int64, command string) Record {
		r := change("k", at, at, command)
		r.Value = strings.Replace(r.Value, madeAt(at), madeAt(id), 1)
		return r
	}
	for name, c := range map[string]struct {
		puts  []Record
		want  string // with V for the Set
		reads bool   // the file is needed
	}{
		"operations":                          {[]Record{change("k", 4, 4, "APPEND w")}, "V, APPEND w", true},
		"of a list that was there before":     {[]Record{change("k", 2, 4, "APPEND w")}, "V, APPEND w", true},
		"with the Set before it":              {[]Record{base(4, 2, "SET u"), change("k", 4, 4, "APPEND w")}, "V, APPEND w", true},
		"with the Del before it":              {[]Record{base(4, 2, "DEL"), change("k", 4, 4, "APPEND w")}, "V, APPEND w", true},
		"with the Set":                        {[]Record{base(4, 3, "SET v"), change("k", 4, 4, "APPEND w")}, "SET v, APPEND w", false},
		"which replace it":                    {[]Record{change("k", 4, 5, "DEL", "APPEND w"), change("k", 4, 6, "APPEND x")}, "DEL, APPEND w, APPEND x", false},
		"which were made before it":           {[]Record{change("k", 2, 2, "APPEND w")}, "", false},
		"with a later Set":                    {[]Record{{Op: OpSet, Key: "k", Value: "u", Expires: 1 << 50, Stamp: madeAt(4)}, change("k", 5, 5, "APPEND w")}, "SET u PXAT 1125899906842624, APPEND w", false},
		"with a later Del":                    {[]Record{{Op: OpDel, Key: "k", Stamp: madeAt(4)}, change("k", 5, 5, "APPEND w")}, "DEL, APPEND w", false},
		"with an earlier Set":                 {[]Record{{Op: OpSet, Key: "k", Value: "u", Expires: 1 << 50, Stamp: madeAt(2)}, change("k", 5, 5, "APPEND w")}, "V, APPEND w", true},
		"a note of a later list":              {[]Record{opened("k", 5)}, "", false},
		"a note of a later list, and another": {[]Record{opened("k", 5), change("k", 6, 6, "APPEND w"), opened("k", 6)}, "opened, V, APPEND w", true},
		"of another key":                      {[]Record{change("other", 4, 4, "APPEND w")}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			m := vfs.NewMem()
			reads := 0
			d := open(t, &readFS{FS: m, mayRead: func() error { reads++; return nil }}, forgetful())
			set := inItsFile(t, d, 3)
			reads = 0
			mustPut(t, d, c.puts...)
			require.Equal(t, c.reads, reads > 0, "%d reads", reads)
			check := func(when string) {
				t.Helper()
				got, ok, err := d.Get("k")
				require.NoError(t, err, when)
				require.True(t, ok, when)
				if c.want == "" {
					require.Equal(t, set, got, when)
					return
				}
				was := baseOf(set)
				require.Equal(t, strings.Replace(c.want, "V", strings.Join(was.Command, " "), 1), shape(got), when)
				require.Len(t, all(d), 0, when)
			}
			check("put")
			require.Empty(t, d.pinned)
			m = m.Kill() // the Set is in its file, and the operations are in the journal
			d = open(t, m, forgetful())
			check("opened")
			closeDir(t, d)
			d = open(t, m, forgetful())
			check("from files")
		})
	}
}

// A value that is needed stays in memory from the moment at which that is known, also one that comes later, and no longer.
func TestAValueStaysWhileOperationsMayComeBehindIt(t *testing.T) {
	d := open(t, vfs.NewMem(), forgetful())
	more := change("k", 4, 4, "APPEND w")
	one, err := d.pin(t.Context(), []Record{more})
	require.NoError(t, err)
	two, err := d.pin(t.Context(), []Record{more, more, change("other", 5, 5, "APPEND w")})
	require.NoError(t, err)
	mustPut(t, d, Record{Op: OpSet, Key: "k", Value: "value", Expires: in(time.Hour), Stamp: madeAt(1)})
	mustPut(t, d, Record{Op: OpSet, Key: "m", Value: "v", Expires: in(time.Hour), Stamp: madeAt(1)})
	require.NoError(t, flush(d))
	require.EqualValues(t, 5, valuesIn(d), "k's, and no other")
	one()
	require.EqualValues(t, 5, valuesIn(d))
	two()
	require.Zero(t, valuesIn(d))
	require.Empty(t, d.pinned)
}

// The disk hangs where it should read the Set: Put returns when its context ends, and nothing of it is kept.
// Close waits for who reads.
func TestADiskThatHangsOverASetHoldsNoPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &readFS{FS: vfs.NewMem()}
		d := open(t, m, forgetful())
		set := inItsFile(t, d, 1)
		hung := make(chan struct{})
		m.mayRead = func() error { <-hung; return nil }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, d.Put(ctx, change("k", 2, 2, "APPEND w")), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		require.Empty(t, d.pinned)
		mustPut(t, d, change("other", 2, 2, "APPEND w")) // which needs no reading

		closed := make(chan error, 1)
		go func() { closed <- d.Close(t.Context()) }() // ends with the disk
		synctest.Wait()
		require.Empty(t, closed)
		require.ErrorIs(t, d.Put(t.Context(), change("k", 2, 2, "APPEND w")), ErrClosed)
		close(hung)
		require.NoError(t, <-closed)
		m.mayRead = nil
		d = open(t, m, forgetful())
		expect(t, d, set)
		mustPut(t, d, change("k", 3, 3, "APPEND w"))
		r, _, err := d.Get("k")
		require.NoError(t, err)
		require.Contains(t, shape(r), "SET v")
		closeDir(t, d)
	})
}

// A disk that cannot read the Set: the operations are refused, and the Set stays. The directory is not opened without it either.
func TestOperationsAreRefusedWhereTheSetCannotBeRead(t *testing.T) {
	mem := vfs.NewMem()
	m := &readFS{FS: mem}
	d := open(t, m, forgetful())
	set := inItsFile(t, d, 1)
	m.mayRead = func() error { return syscall.EMFILE }
	more := change("k", 2, 2, "APPEND w")
	err := d.Put(t.Context(), more)
	require.ErrorIs(t, err, ErrDisk)
	require.ErrorIs(t, err, syscall.EMFILE)
	m.mayRead = nil
	expect(t, d, set)
	require.Empty(t, d.pinned)
	mustPut(t, d, more)

	again := &readFS{FS: mem.Kill()}
	reads := 0
	again.mayRead = func() error {
		if reads++; reads == 2 { // the first is for the index
			return syscall.EMFILE
		}
		return nil
	}
	_, err = OpenFS(again, forgetful())
	require.ErrorIs(t, err, ErrDisk)
	require.ErrorIs(t, err, syscall.EMFILE)
	d = open(t, again, forgetful())
	r, _, err := d.Get("k")
	require.NoError(t, err)
	require.Contains(t, shape(r), "SET v PXAT ")
	require.Contains(t, shape(r), ", APPEND w")
}

// A Set whose file is damaged is lost, and said to be. What comes behind it is not.
func TestOperationsStandAloneWhereTheSetIsDamaged(t *testing.T) {
	for name, put := range map[string]bool{"put": true, "opened": false} {
		t.Run(name, func(t *testing.T) {
			m := vfs.NewMem()
			d := open(t, m, forgetful())
			inItsFile(t, d, 1)
			more := change("k", 2, 2, "APPEND w")
			if !put {
				mustPut(t, d, more)
				m = m.Kill()
				overwrite(t, m, pathOf("k"), []byte("{}"))
				d = open(t, m, forgetful())
			} else {
				overwrite(t, m, pathOf("k"), []byte("{}"))
				mustPut(t, d, more)
			}
			expect(t, d, more)
			require.NoError(t, flush(d))
			require.Equal(t, 1, d.Stats().Quarantined)
			closeDir(t, d)
			d = open(t, m, forgetful())
			expect(t, d, more)
			require.Equal(t, 1, d.Stats().Quarantined)
		})
	}
}

// The Set becomes a part of the operations, which are kept in memory: so there has to be room for it.
func TestASetThatIsTooLargeForMemoryTakesNoOperations(t *testing.T) {
	o := byHand()
	o.MemoryBytes = 10_000
	d := open(t, vfs.NewMem(), o)
	large := Record{Op: OpSet, Key: "k", Value: strings.Repeat("v", 20_000), Expires: in(time.Hour), Stamp: madeAt(1)}
	mustPut(t, d, large)
	require.NoError(t, flush(d))
	require.Zero(t, valuesIn(d))
	err := d.Put(t.Context(), change("k", 2, 2, "APPEND w"))
	require.ErrorIs(t, err, ErrFull)
	require.ErrorContains(t, err, "MemoryBytes")
	require.Zero(t, valuesIn(d))
	expect(t, d, large)
}

// Whatever is put for a key, and wherever its value is: the store has what Merge makes of all of it, also after a kill.
func TestAStoreDoesWhatMergeDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := vfs.NewMem()
		o := rapid.SampledFrom([]Options{stores()["with memory"], forgetful()}).Draw(t, "options")
		d, err := OpenFS(m, o)
		require.NoError(t, err)
		defer func() { _ = d.Close(context.Background()) }()
		var want *Record
		merge := func(r Record) {
			if want != nil {
				now, _ := Merge(*want, r)
				want = &now
			} else if !onlyNotes(&r) {
				want = &r
			}
		}
		draw := func() Record {
			at := rapid.Int64Range(2, 12).Draw(t, "at")
			switch rapid.SampledFrom([]string{"set", "del", "operation", "operation", "based", "note"}).Draw(t, "kind") {
			case "set":
				return Record{Op: OpSet, Key: "k", Value: madeAt(at), Expires: 1 << 50, Stamp: madeAt(at), Slack: at}
			case "del":
				return Record{Op: OpDel, Key: "k", Stamp: madeAt(at)}
			case "based":
				return change("k", rapid.Int64Range(1, at).Draw(t, "list"), at, "DEL", "SADD m")
			case "note":
				return opened("k", at)
			}
			return change("k", rapid.Int64Range(1, at).Draw(t, "list"), at, "APPEND w")
		}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"put", "put", "put", "flush", "kill", "close"}).Draw(t, "step") {
			case "put":
				records := make([]Record, rapid.IntRange(1, 3).Draw(t, "n"))
				for i := range records {
					records[i] = draw()
				}
				require.NoError(t, d.Put(context.Background(), records...))
				for _, r := range records {
					merge(r)
				}
			case "flush":
				require.NoError(t, flush(d))
			case "kill":
				m = m.Kill()
				_ = d.Close(context.Background())
				d, err = OpenFS(m, o)
				require.NoError(t, err)
			case "close":
				require.NoError(t, d.Close(context.Background()))
				d, err = OpenFS(m, o)
				require.NoError(t, err)
			}
			got, ok, err := d.Get("k")
			require.NoError(t, err)
			require.Equal(t, want != nil, ok)
			if ok {
				require.Equal(t, *want, got)
			}
		}
	})
}
