package fallback

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback/journal"
	"github.com/redaside/aside/internal/vfs"
)

func TestOptionsReportsEveryProblemAtOnce(t *testing.T) {
	_, err := Open(filepath.Join(t.TempDir(), "not made"), Options{DB: -1, Sync: 7, FlushInterval: -1, MaxQueue: -1, MaxBytes: -1, MemoryBytes: -1})
	for _, field := range []string{"DB", "Sync", "FlushInterval", "MaxQueue", "MaxBytes", "MemoryBytes"} {
		assert.ErrorContains(t, err, "aside: fallback.Options."+field+" is ")
	}
}

// The folder is somebody's data: the names in it are part of what we promise.
func TestTheFolderIsLaidOutAsPromised(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "store")
	d, err := Open(dir, Options{Logger: quiet(), FlushInterval: time.Hour, DB: 3})
	require.NoError(t, err)
	mustPut(t, d, set("user:42", "{}"))
	d.Fill(fill("user:43", "{}"))
	fsys := os.DirFS(dir)
	list := func() (names []string) {
		require.NoError(t, fs.WalkDir(fsys, ".", func(name string, e fs.DirEntry, err error) error {
			require.NoError(t, err)
			info, err := e.Info()
			require.NoError(t, err)
			if e.IsDir() {
				assert.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), name)
				return nil
			}
			assert.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), name)
			names = append(names, name)
			return nil
		}))
		return names
	}
	assert.Equal(t, []string{"journal/0000000000000001.aof", "lock"}, list())
	require.NoError(t, flush(d))
	assert.Equal(t, []string{
		"db/3/56/da/df/56dadf1868c3ba340467c942a86c29de.json",
		"db/3/98/b3/6b/98b36b7b9b831abd2ea51a6a489f3246.json",
		"lock",
	}, list())
	holder, err := os.ReadFile(filepath.Join(dir, "lock"))
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintln(os.Getpid()), string(holder))
	closeDir(t, d)
}

func TestASecondStoreOnADirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	d, err := Open(dir, Options{Logger: quiet()})
	require.NoError(t, err)
	_, err = Open(dir, Options{Logger: quiet()})
	require.ErrorIs(t, err, ErrLocked)
	for _, part := range []string{dir, fmt.Sprint("process ", os.Getpid()), "a directory of its own"} {
		require.ErrorContains(t, err, part)
	}
	closeDir(t, d)
	d, err = Open(dir, Options{Logger: quiet()})
	require.NoError(t, err, "it is free again")
	closeDir(t, d)
}

func TestARecordGetsItsFileAfterTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		d := open(t, m, Options{})
		defer closeDir(t, d)
		r := set("k", "v")
		mustPut(t, d, r)
		time.Sleep(3*time.Second - time.Millisecond)
		require.Equal(t, []string{"journal/0000000000000001.aof", "lock"}, files(t, m))
		require.Equal(t, 1, d.Stats().Dirty)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		require.Equal(t, []string{pathOf("k"), "journal/", "lock"}, files(t, m), "and the journal is not needed any more")
		require.Zero(t, d.Stats().Dirty)
		expect(t, d, r)
		before := m.Calls()
		time.Sleep(time.Minute)
		require.Equal(t, before, m.Calls(), "when there is nothing to do nothing is done")
	})
}

func TestManyRecordsDoNotWaitForTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		d := open(t, m, Options{MaxQueue: 10})
		defer closeDir(t, d)
		for i := range 9 {
			mustPut(t, d, set(fmt.Sprint(i), "v"))
		}
		synctest.Wait()
		require.Equal(t, 9, d.Stats().Dirty)
		mustPut(t, d, set("9", "v"))
		synctest.Wait()
		require.Zero(t, d.Stats().Dirty)
		require.Equal(t, 10, count(files(t, m), filesDir))
	})
}

func TestWhatTheDiskRefusesIsTriedAgainAfterTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m := vfs.NewMem()
		d := open(t, m, Options{MaxQueue: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		defer closeDir(t, d)
		m.FailAt(1, vfs.Fault{Err: syscall.EIO, On: vfs.CallRename, Sticky: true})
		records := []Record{set("a", "v"), set("b", "v"), set("c", "v")}
		for _, r := range records {
			mustPut(t, d, r)
		}
		for range 5 {
			time.Sleep(3 * time.Second)
			synctest.Wait()
			stats := d.Stats()
			require.ErrorIs(t, stats.Err, ErrDisk)
			require.ErrorIs(t, stats.Err, syscall.EIO)
			require.Equal(t, 3, stats.Dirty)
			expect(t, d, records...)
		}
		m.Heal()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.NoError(t, d.Stats().Err)
		require.Zero(t, d.Stats().Dirty)
		require.Equal(t, 1, strings.Count(log.String(), "the fallback directory fails"), "one line when it begins")
		require.Equal(t, 1, strings.Count(log.String(), "works again"), "and one when it is over")
		expect(t, d, records...)
	})
}

func TestAnExpiredFillGoesFromMemoryAndDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		d := open(t, m, Options{})
		defer closeDir(t, d)
		for i := range 3000 {
			r := fill(fmt.Sprint(i), "v")
			r.Expires = in(10 * time.Second)
			d.Fill(r)
		}
		keep := fill("keep", "v")
		d.Fill(keep)
		time.Sleep(4 * time.Second)
		require.Equal(t, 3001, count(files(t, m), filesDir))
		time.Sleep(6 * time.Second)
		expectNone(t, d, "0")
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{pathOf("keep"), "journal/", "lock"}, files(t, m))
		require.Equal(t, 1, d.Stats().Fills)
		expect(t, d, keep)
	})
}

func TestAnExpiredSetBecomesADelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		d := open(t, m, Options{})
		defer closeDir(t, d)
		r := set("k", strings.Repeat("v", 10_000))
		r.Expires = in(10 * time.Second)
		mustPut(t, d, r)
		time.Sleep(69 * time.Second)
		expect(t, d, r) // the server's clock may be behind ours
		time.Sleep(5 * time.Second)
		synctest.Wait()
		expired := Record{Op: OpDel, Key: "k", Stamp: r.Stamp, Slack: r.Slack}
		expect(t, d, expired)
		require.True(t, d.Pending("k"))
		require.Less(t, d.Stats().Bytes, int64(1000))
		mustPut(t, d, r) // late
		expect(t, d, expired)
		closeDir(t, d)

		d = open(t, m, Options{})
		expect(t, d, expired)
		d.Settle(r)
		expectNone(t, d, "k")
		closeDir(t, d)
		require.Equal(t, []string{lockName}, files(t, m))
	})
}

func TestAfterAnOutageNothingIsLeftButTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		d := open(t, m, Options{})
		defer closeDir(t, d)
		for cycle := range 3 {
			var records []Record
			for i := range 500 {
				records = append(records, set(fmt.Sprint("set", i), "v"), del(fmt.Sprint("del", i)))
				d.Fill(fill(fmt.Sprint("fill", i), "v"))
			}
			mustPut(t, d, records...)
			if cycle > 0 {
				time.Sleep(4 * time.Second)
				synctest.Wait()
				require.Equal(t, 1500, count(files(t, m), filesDir))
			}
			if cycle > 1 { // some are in files and in the journal
				mustPut(t, d, set("set1", "again"), del("set2"), set("new", "v"))
			}
			for _, op := range []Op{OpDel, OpSet, OpFill} {
				for r := range d.Records(op) {
					d.Settle(r)
				}
			}
			synctest.Wait()
			require.Equal(t, []string{"journal/", "lock"}, files(t, m), "at once, not after the interval")
			require.Equal(t, Stats{MaxBytes: d.o.MaxBytes}, d.Stats())
		}
	})
}

func TestAKeyThatIsSettledBeforeItsFlushGetsNoFile(t *testing.T) {
	m := vfs.NewMem()
	d := open(t, m, byHand())
	stays, goes := set("stays", "v"), set("goes", "v")
	mustPut(t, d, stays, goes)
	d.Settle(goes)
	require.NoError(t, flush(d))
	require.Equal(t, 1, count(files(t, m), filesDir))
	require.True(t, exists(t, m, pathOf("stays")))
}

// What the marker in the journal is for: without it a record that was in the journal only would be
// replayed again.
func TestASettledRecordIsUsuallyNotThereAfterAKill(t *testing.T) {
	m := vfs.NewMem()
	d := open(t, m, byHand())
	a, b, c := set("a", "v"), set("b", "v"), set("c", "v")
	mustPut(t, d, a, b)
	d.Settle(a)
	mustPut(t, d, c) // the marker was written before
	d = open(t, m.Kill(), byHand())
	expectNone(t, d, "a")
	expect(t, d, b, c)
}

// In the journal an older record may come after the newer one that it has lost against, and the
// newer one may be in a part that is gone.
func TestAMarkerCancelsOlderRecordsToo(t *testing.T) {
	m := vfs.NewMem()
	log, _, err := journal.Open(m, journalDir, journal.Options{}, func(journal.Record) error { return nil })
	require.NoError(t, err)
	require.NoError(t, log.Append(t.Context(),
		journal.Record{Op: journal.Set, Key: "k", Value: "old", Expires: in(time.Hour), Stamp: "1"},
		journal.Record{Op: journal.Settle, Key: "k", Stamp: "2"},
		journal.Record{Op: journal.Set, Key: "other", Value: "v", Expires: in(time.Hour), Stamp: "1"},
		journal.Record{Op: journal.Settle, Key: "other", Stamp: "0"},
	))
	require.NoError(t, log.Close(t.Context()))
	d := open(t, m, byHand())
	expectNone(t, d, "k")
	require.True(t, d.Pending("other"))
	require.Equal(t, "2", d.Latest())
}

func TestRecordsOfAnotherDatabaseAreKeptForIt(t *testing.T) {
	m := vfs.NewMem()
	one, two := byHand(), byHand()
	one.DB, two.DB = 1, 2
	d := open(t, m, one)
	inFile, both, fileSettled := set("in a file", "v"), set("in both", "old"), set("settled", "old")
	mustPut(t, d, inFile, both, fileSettled)
	require.NoError(t, flush(d))
	both2, del2, settled, fileSettled2 := set("in both", "new"), del("in the journal"), set("settled 2", "v"), set("settled", "new")
	mustPut(t, d, both2, del2, settled, fileSettled2)
	d.Settle(settled, fileSettled2)
	mustPut(t, d, set("last", "v"))
	want := all(d)
	m = m.Kill() // the journal stays

	d = open(t, m, two)
	require.Empty(t, all(d))
	require.False(t, d.Pending("in both"))
	own := set("in both", "of the second database")
	mustPut(t, d, own)
	require.NoError(t, flush(d))
	require.Equal(t, 1, count(files(t, m), "db/2/"))
	require.Zero(t, count(files(t, m), journalDir), "what was in it is in files now")
	d.Settle(own)
	closeDir(t, d)
	require.Zero(t, count(files(t, m), "db/2"))
	require.Equal(t, len(want), count(files(t, m), "db/1/"))

	d = open(t, m, one)
	require.Equal(t, want, all(d))
}

func TestTroubleWithAnotherDatabaseIsNotOurs(t *testing.T) {
	m := vfs.NewMem()
	one := byHand()
	one.DB = 1
	d := open(t, m, one)
	foreign := set("k", "v")
	mustPut(t, d, foreign)
	m = m.Kill()
	overwrite(t, m, "db/1", nil)
	d = open(t, m, byHand())
	own := set("k", "own")
	mustPut(t, d, own)
	require.Error(t, flush(d))
	require.Zero(t, d.Stats().Dirty)
	require.True(t, exists(t, m, pathOf("k")))
	require.NoError(t, m.Remove("db/1"))
	require.NoError(t, flush(d))
	closeDir(t, d)
	d = open(t, m, one)
	expect(t, d, foreign)
}

// Two keys with the same MD5 are only found on purpose, and then by whoever wants to harm one of
// them.
func TestKeysWithTheSameMD5DoNotHarmEachOther(t *testing.T) {
	const a = "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f89" +
		"55ad340609f4b30283e488832571415a085125e8f7cdc99fd91dbdf280373c5b" +
		"d8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0" +
		"e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70"
	const b = "d131dd02c5e6eec4693d9a0698aff95c2fcab50712467eab4004583eb8fb7f89" +
		"55ad340609f4b30283e4888325f1415a085125e8f7cdc99fd91dbd7280373c5b" +
		"d8823e3156348f5bae6dacd436c919c6dd53e23487da03fd02396306d248cda0" +
		"e99f33420f577ee8ce54b67080280d1ec69821bcb6a8839396f965ab6ff72a70"
	var key1, key2 string
	_, err := fmt.Sscanf(a+" "+b, "%x %x", &key1, &key2)
	require.NoError(t, err)
	require.NotEqual(t, key1, key2)
	require.Equal(t, digestOf(key1), digestOf(key2))
	for _, o := range stores() {
		m := vfs.NewMem()
		d := open(t, m, o)
		first, second := set(key1, "first"), set(key2, "second")
		check := func(want ...Record) {
			t.Helper()
			expect(t, d, want...)
			require.Len(t, all(d), len(want))
			m = m.Kill()
			d = open(t, m, o)
			expect(t, d, want...)
			require.Len(t, all(d), len(want))
			require.Zero(t, d.Stats().Quarantined)
		}
		mustPut(t, d, first)
		require.NoError(t, flush(d))
		mustPut(t, d, second)
		require.Error(t, flush(d), "one file cannot hold both")
		check(first, second)
		first = set(key1, "first again")
		mustPut(t, d, first)
		_ = flush(d)
		check(first, second)
		d.Settle(first)
		_ = flush(d)
		require.NoError(t, flush(d))
		check(second)
		d.Settle(second)
		closeDir(t, d)
		require.Equal(t, []string{lockName}, files(t, m))
	}
}

func TestCloseEndsByItsDeadlineWhenTheDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		d := open(t, m, Options{})
		a, b := set("a", "v"), set("b", "v")
		mustPut(t, d, a, b)
		d.Fill(fill("c", "v"))
		m.Hang()
		late := make(chan error, 1)
		go func() { late <- d.Put(context.Background(), set("late", "v")) }() // ends when the disk answers
		synctest.Wait()

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := d.Close(ctx)
		require.Equal(t, time.Second, time.Since(began))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "2 writes and deletes are in its journal only, 1 loaded values are not written")
		require.Equal(t, err, d.Close(t.Context()), "the same again")
		_, err = OpenFS(m, Options{Logger: quiet()})
		require.ErrorIs(t, err, ErrLocked, "the disk may still write")

		m.Unhang()
		synctest.Wait()
		require.NoError(t, <-late, "it was accepted before Close")
		d = open(t, m, Options{})
		expect(t, d, a, b)
		require.True(t, d.Pending("late"))
		closeDir(t, d)
	})
}

func TestCloseSaysThatTheDiskRefuses(t *testing.T) {
	m := vfs.NewMem()
	d := open(t, m, byHand())
	r := set("k", "v")
	mustPut(t, d, r)
	m.FailAt(1, vfs.Fault{Err: syscall.EIO, On: vfs.CallMkdir, Sticky: true})
	err := d.Close(t.Context())
	require.ErrorIs(t, err, ErrDisk)
	require.ErrorContains(t, err, "1 writes and deletes are in its journal only")
	require.Equal(t, err, d.Close(t.Context()))
	m.Heal()
	d = open(t, m, byHand())
	expect(t, d, r)
}

func TestPutSaysWhatTheDiskSays(t *testing.T) {
	m := vfs.NewMem()
	d := open(t, m, byHand())
	there := set("there", "v")
	mustPut(t, d, there)
	m.FailAt(1, vfs.Fault{Err: syscall.ENOSPC, Sticky: true})
	err := d.Put(t.Context(), set("k", "v"))
	require.ErrorIs(t, err, ErrFull)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorIs(t, d.Stats().Err, ErrFull)
	expectNone(t, d, "k")
	expect(t, d, there)
	m.Heal()
	m.FailAt(1, vfs.Fault{Err: syscall.EROFS, Sticky: true})
	err = d.Put(t.Context(), set("k", "v"))
	require.ErrorIs(t, err, ErrDisk)
	require.NotErrorIs(t, err, ErrFull)
	m.Heal()
	mustPut(t, d, set("k", "v"))
	require.NoError(t, d.Stats().Err)
}

// A Put whose context ends while the disk hangs is unknown: what may be found after a restart is
// there before it, too.
func TestAPutThatGivesUpIsWholeOrAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		d := open(t, m, Options{})
		m.Hang()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := set("k", "v")
		require.ErrorIs(t, d.Put(ctx, r), context.DeadlineExceeded)
		expect(t, d, r)
		m.Unhang()
		synctest.Wait()
		require.NoError(t, flush(d))
		expect(t, d, r)
		closeDir(t, d)
		d = open(t, m, Options{})
		expect(t, d, r)
		closeDir(t, d)
	})
}

// 64 writers, readers and a replay, with flushes all the time: for the race detector, and whatever
// else does not fit together.
func TestEverythingAtOnce(t *testing.T) {
	m := vfs.NewMem()
	d := open(t, m, Options{MaxQueue: 5, FlushInterval: time.Millisecond, MemoryBytes: 3000, MaxBytes: 100_000})
	var mu sync.Mutex
	greatest := make(map[string]Record)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() { // ends after its rounds
			for i := range 60 {
				key := fmt.Sprint("k", (g*7+i)%20)
				mu.Lock()
				r := set(key, strings.Repeat("v", 10*i))
				if i%3 == 0 {
					r = del(key)
				}
				mu.Unlock()
				if err := d.Put(context.Background(), r); err != nil {
					if !errors.Is(err, ErrFull) {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				if r.Stamp > greatest[key].Stamp {
					greatest[key] = r
				}
				mu.Unlock()
				d.Fill(Record{Op: OpFill, Key: fmt.Sprint("fill", i), Value: "v", Expires: in(time.Hour), Stamp: r.Stamp})
				if got, ok, err := d.Get(key); err != nil || !ok || got.Stamp < r.Stamp {
					t.Errorf("after Put of %+v Get returns %+v, %v, %v", r, got, ok, err)
				}
				if i%10 == 0 {
					all(d)
					d.Settle(Record{Op: OpFill, Key: fmt.Sprint("fill", i), Stamp: r.Stamp})
					d.Stats()
				}
			}
		})
	}
	wg.Wait()
	for _, want := range greatest {
		expect(t, d, want)
	}
	require.NoError(t, flush(d))
	require.Zero(t, d.Stats().Dirty)
	bytes := d.Stats().Bytes
	closeDir(t, d)
	d = open(t, m, Options{})
	for _, want := range greatest {
		expect(t, d, want)
	}
	require.Equal(t, bytes, d.Stats().Bytes, "what was counted is what is there")
}
