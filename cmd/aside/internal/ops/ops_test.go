//go:build unix

package ops_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/redaside/aside/cmd/aside/internal/ops"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/stamp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// still is a store that keeps everything in the journal until it is closed.
func still(db int) fallback.Options {
	return fallback.Options{DB: db, Sync: fallback.OS, FlushInterval: time.Hour, MaxQueue: 1 << 30, Logger: slog.New(slog.DiscardHandler)}
}

func open(t *testing.T, dir string, o fallback.Options) *fallback.Dir {
	t.Helper()
	d, err := fallback.Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close(t.Context()) })
	return d
}

// snapshot copies a directory as a kill of its process might leave it. The journal goes first: what
// its flusher moves meanwhile is in a file then.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	for {
		to := filepath.Join(t.TempDir(), "copy")
		if copyTree(t, filepath.Join(dir, "journal"), filepath.Join(to, "journal")) {
			_ = copyTree(t, filepath.Join(dir, "db"), filepath.Join(to, "db")) // a file that goes has been settled, or is in the journal
			require.NoError(t, os.WriteFile(filepath.Join(to, "lock"), nil, 0o600))
			return to
		}
	}
}

// copyTree copies what stays there; whole says that all of it did.
func copyTree(t *testing.T, from, to string) (whole bool) {
	t.Helper()
	whole = true
	require.NoError(t, os.MkdirAll(to, 0o700))
	require.NoError(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if path == from && errors.Is(err, fs.ErrNotExist) {
			return nil // an empty journal leaves no folder
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			whole = false
			return nil
		case err != nil:
			return err
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			whole = false
			return nil
		}
		require.NoError(t, err)
		return os.WriteFile(target, content, 0o600)
	}))
	return whole
}

func read(t *testing.T, dir string) ([]ops.Record, ops.Findings) {
	t.Helper()
	var records []ops.Record
	found, err := ops.Read(dir, func(r ops.Record) error {
		records = append(records, r)
		return nil
	})
	require.NoError(t, err)
	slices.SortFunc(records, func(a, b ops.Record) int { return strings.Compare(a.Key, b.Key) })
	return records, found
}

func stampOf(n int) string {
	return stamp.Stamp{Micros: 1763719200000000 + int64(n), Client: "0000000000c0ffee", Number: int64(n)}.String()
}

// What is read must be what the next process would find, whatever was written, settled and flushed
// in whatever order.
func TestWhatIsReadIsWhatTheNextProcessWouldFind(t *testing.T) {
	for seed := range uint64(25) {
		random := rand.New(rand.NewPCG(seed, 0))
		dir := t.TempDir()
		store := open(t, dir, still(0))
		for step := range 60 {
			key := fmt.Sprint("key", random.IntN(8))
			at := step
			if random.IntN(4) == 0 {
				at = random.IntN(step + 1) // comes late
			}
			record := fallback.Record{Op: fallback.OpSet, Key: key, Value: fmt.Sprint("v", step), Expires: 4e12, Stamp: stampOf(at), Slack: 7}
			switch random.IntN(8) {
			case 0, 1, 2:
				require.NoError(t, store.Put(t.Context(), record))
			case 3:
				record.Op, record.Value, record.Expires = fallback.OpDel, "", 0
				require.NoError(t, store.Put(t.Context(), record))
			case 4:
				record.Op = fallback.OpFill
				store.Fill(record)
			case 5, 6:
				if r, ok, err := store.Get(key); err == nil && ok {
					store.Settle(r)
				}
			case 7:
				if random.IntN(4) == 0 {
					require.NoError(t, store.Close(t.Context()))
					store = open(t, dir, still(0))
				}
			}
		}
		killed := snapshot(t, dir)
		require.NoError(t, store.Close(t.Context()))

		got, found := read(t, killed)
		require.Empty(t, found.Problems)
		next := open(t, killed, still(0))
		var want []fallback.Record
		for _, op := range []fallback.Op{fallback.OpSet, fallback.OpDel, fallback.OpFill} {
			want = slices.AppendSeq(want, next.Records(op))
		}
		slices.SortFunc(want, func(a, b fallback.Record) int { return strings.Compare(a.Key, b.Key) })
		require.NoError(t, next.Close(t.Context()))
		plain := make([]fallback.Record, 0, len(got))
		for _, r := range got {
			plain = append(plain, r.Record)
		}
		require.ElementsMatch(t, want, plain, "seed %d", seed)
	}
}

func TestTheGoldenFilesOfTheStoreAreRead(t *testing.T) {
	names, err := filepath.Glob("../../../../fallback/testdata/v1-*.json")
	require.NoError(t, err)
	require.NotEmpty(t, names)
	for _, name := range names {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		var f struct{ Key, KeyEncoding, Op string }
		require.NoError(t, json.Unmarshal(content, &f))
		key := f.Key
		if f.KeyEncoding != "" {
			raw := new([]byte)
			require.NoError(t, json.Unmarshal([]byte(`"`+f.Key+`"`), raw))
			key = string(*raw)
		}
		dir := t.TempDir()
		place(t, dir, key, content)
		records, found := read(t, dir)
		require.Empty(t, found.Problems, name)
		require.Len(t, records, 1, name)
		require.Equal(t, key, records[0].Key)
		require.Equal(t, fallback.Op(f.Op), records[0].Op)
		require.Equal(t, "1763719200123456", fmt.Sprint(records[0].Written().UnixMicro()))
	}
}

// place puts a record file where the record of key belongs.
func place(t *testing.T, dir, key string, content []byte) string {
	t.Helper()
	sum := md5.Sum([]byte(key))
	name := hex.EncodeToString(sum[:])
	path := filepath.Join("db", "0", name[:2], name[2:4], name[4:6], name+".json")
	require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, path), content, 0o600))
	return path
}

// Each change of a byte of a record file must be found, or change nothing that is meant.
func TestEachDamagedByteOfAFileIsFound(t *testing.T) {
	content, err := os.ReadFile("../../../../fallback/testdata/v1-set-utf8.json")
	require.NoError(t, err)
	dir := t.TempDir()
	path := place(t, dir, "greeting", content)
	whole, _ := read(t, dir)
	for i := range content {
		damaged := bytes.Clone(content)
		damaged[i] ^= 0x15
		require.NoError(t, os.WriteFile(filepath.Join(dir, path), damaged, 0o600))
		records, found := read(t, dir)
		if len(found.Problems) == 0 {
			require.Equal(t, whole, records, "byte %d", i)
		}
	}
}

func TestProblemsAreToldApart(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir, still(0))
	for i := range 3 {
		require.NoError(t, store.Put(t.Context(), fallback.Record{Op: fallback.OpSet, Key: fmt.Sprint("k", i), Value: "v", Expires: 4e12, Stamp: stampOf(i)}))
	}
	dir = snapshot(t, dir)
	part := firstPart(t, dir)
	whole, err := os.ReadFile(part)
	require.NoError(t, err)
	golden, err := os.ReadFile("../../../../fallback/testdata/v1-set-utf8.json")
	require.NoError(t, err)

	for _, row := range []struct {
		name    string
		do      func(t *testing.T, dir string)
		kind    ops.Kind
		detail  string
		records int
	}{
		{"a journal cut off", func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(firstPart(t, dir), whole[:len(whole)-5], 0o600))
		}, ops.Torn, "bytes from byte", 2},
		{"a changed byte in the journal", func(t *testing.T, dir string) {
			b := bytes.Clone(whole)
			b[bytes.Index(b, []byte("k1"))] = 'x'
			require.NoError(t, os.WriteFile(firstPart(t, dir), b, 0o600))
		}, ops.Corrupt, "bytes from byte", 2},
		{"a journal of a newer version", func(t *testing.T, dir string) {
			v4, err := os.ReadFile("../../../../fallback/journal/testdata/v4.aof")
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "journal", "9999999999999999.aof"), v4, 0o600))
		}, ops.Newer, "version 4 at byte 0", 3},
		{"a part that is missing", func(t *testing.T, dir string) {
			lines := bytes.SplitAfter(whole, []byte("#aside "))
			// Without its second record the part is whole, and its numbers are not.
			require.NoError(t, os.WriteFile(firstPart(t, dir), bytes.Join([][]byte{lines[0], lines[1], lines[3]}, nil), 0o600))
		}, ops.Missing, "records 2 to 2", 2},
		{"a file of something else", func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("x"), 0o600))
		}, ops.Foreign, "aside puts nothing of that name there", 3},
		{"a link in the place of a record", func(t *testing.T, dir string) {
			path := place(t, dir, "greeting", golden)
			require.NoError(t, os.Remove(filepath.Join(dir, path)))
			require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(dir, path)))
		}, ops.Corrupt, "something else stands there", 3},
		{"a record under the name of another key", func(t *testing.T, dir string) { place(t, dir, "other", golden) },
			ops.Renamed, "it belongs at " + fallback.FileOf(0, "greeting"), 3},
		{"an emptied record", func(t *testing.T, dir string) { place(t, dir, "greeting", nil) }, ops.Empty, "nothing is left of it", 3},
		{"a zeroed record", func(t *testing.T, dir string) { place(t, dir, "greeting", make([]byte, len(golden))) }, ops.Empty, "nothing is left of it", 3},
		{"a journal whose line ends were converted", func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(firstPart(t, dir), bytes.ReplaceAll(whole, []byte("\r\n"), []byte("\n")), 0o600))
		}, ops.Corrupt, "2 more records seem to begin in it", 0},
		{"an emptied journal", func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(firstPart(t, dir), nil, 0o600))
		}, ops.Torn, "nothing is in it", 0},
		{"an emptied part that others follow", func(t *testing.T, dir string) {
			require.NoError(t, os.Rename(firstPart(t, dir), filepath.Join(dir, "journal", "0000000000000002.aof")))
			lines := bytes.SplitAfter(whole, []byte("#aside "))
			require.NoError(t, os.WriteFile(firstPart(t, dir), append([]byte("#aside "), bytes.TrimSuffix(bytes.Join(lines[2:], nil), []byte("#aside "))...), 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "journal", "0000000000000001.aof"), nil, 0o600))
		}, ops.Empty, "it was begun for record 1", 2},
		{"a folder in the place of a part", func(t *testing.T, dir string) {
			require.NoError(t, os.Mkdir(filepath.Join(dir, "journal", "0000000000000009.aof"), 0o700))
		}, ops.Corrupt, "something else stands where a part of the journal belongs: a folder", 3},
		{"a FIFO in the place of a part", func(t *testing.T, dir string) {
			require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "journal", "0000000000000009.aof"), 0o600))
		}, ops.Corrupt, "something else stands where a part of the journal belongs: a FIFO", 3},
		{"a file in the place of a folder", func(t *testing.T, dir string) {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "db")))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "db"), golden, 0o600))
		}, ops.Corrupt, "it should be a folder, and is a file", 3},
		{"a record that is too large", func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, place(t, dir, "greeting", golden)), 900<<20))
		}, ops.Corrupt, "a record has", 3},
		{"a lock that is a link", func(t *testing.T, dir string) {
			require.NoError(t, os.Link(filepath.Join(dir, "lock"), filepath.Join(t.TempDir(), "another")))
		}, ops.Foreign, "no process can lock it", 3},
		{"a changed value", func(t *testing.T, dir string) {
			place(t, dir, "greeting", bytes.Replace(golden, []byte("Gott"), []byte("Gutt"), 1))
		}, ops.Corrupt, "its checksum does not fit", 3},
		{"a record of a newer version", func(t *testing.T, dir string) {
			place(t, dir, "greeting", bytes.Replace(golden, []byte(`"version": 1`), []byte(`"version": 3`), 1))
		}, ops.Newer, "version 3, and this program knows version 2", 3},
		{"half a fill", func(t *testing.T, dir string) {
			fill, err := os.ReadFile("../../../../fallback/testdata/v1-fill.json")
			require.NoError(t, err)
			place(t, dir, "user:43", fill[:60])
		}, ops.Partial, "a loaded value that was not written to its end", 3},
		{"half a set", func(t *testing.T, dir string) { place(t, dir, "greeting", golden[:60]) }, ops.Corrupt, "it is not JSON", 3},
		{"a database that is none", func(t *testing.T, dir string) {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "db", "01"), 0o700))
		}, ops.Foreign, "not the number of a database", 3},
		{"a part that has another's name", func(t *testing.T, dir string) {
			// Its numbers tell where it belongs: only the file of notes is found.
			lines := bytes.SplitAfter(whole, []byte("#aside "))
			first := append(bytes.Clone(lines[0]), bytes.TrimSuffix(lines[1], []byte("#aside "))...)
			rest := append([]byte("#aside "), bytes.Join(lines[2:], nil)...)
			require.NoError(t, os.WriteFile(firstPart(t, dir), rest, 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "journal", "0000000000000002.aof"), first, 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("x"), 0o600))
		}, ops.Foreign, "aside puts nothing of that name there", 3},
		{"something in quarantine", func(t *testing.T, dir string) {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "quarantine"), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "quarantine", "x.json"), nil, 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "quarantine", "x.json.reason"), []byte("because\nof that"), 0o600))
		}, ops.Quarantined, "because; of that", 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := snapshot(t, dir)
			row.do(t, dir)
			before := tree(t, dir)
			records, found := read(t, dir)
			require.Len(t, found.Problems, 1, "%v", found.Problems)
			require.Equal(t, row.kind, found.Problems[0].Kind)
			require.Contains(t, found.Problems[0].Detail, row.detail)
			require.NotEmpty(t, row.kind.Remedy())
			require.Len(t, records, row.records)
			require.Equal(t, before, tree(t, dir), "reading changes nothing")
			may := row.kind != ops.Foreign && row.kind != ops.Partial
			require.Equal(t, may, found.Missing() == 1, "whether something that was acknowledged may be missing")
		})
	}
}

// tree is all that is in a directory.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() {
			files[path] = ""
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() > 1<<20 {
			files[path] = "large"
			return err
		}
		content, err := os.ReadFile(path)
		files[path] = string(content)
		return err
	}))
	return files
}

func firstPart(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "journal", "*.aof"))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	return names[0]
}

func TestWhatIsNoFallbackDirectoryIsRefused(t *testing.T) {
	_, err := ops.Read(t.TempDir(), nil)
	require.ErrorIs(t, err, ops.ErrNotADirectory)
	_, err = ops.Read(filepath.Join(t.TempDir(), "absent"), nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// A relapse would call a journal torn, or miss a record, that a process is just writing.
func TestReadingBesideAWriterMissesNothingThatWasAcknowledgedBefore(t *testing.T) {
	const keys, reads = 200, 20
	dir := t.TempDir()
	o := still(0)
	o.FlushInterval = time.Millisecond // moves records from the journal to files all the time
	store := open(t, dir, o)
	var acknowledged atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		for i := 0; ; i++ {
			record := fallback.Record{Op: fallback.OpSet, Key: fmt.Sprint("k", i%keys), Value: strings.Repeat("v", 3000), Expires: 4e12, Stamp: stampOf(i)}
			if err := store.Put(context.Background(), record); err != nil {
				t.Errorf("put: %v", err)
				return
			}
			acknowledged.Store(int64(i + 1))
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for n := 0; n < reads || acknowledged.Load() < 3*keys; n++ {
		select {
		case <-done:
			t.Fatal("the writer has ended")
		default:
		}
		before := int(acknowledged.Load())
		records, found := read(t, dir)
		require.Empty(t, found.Problems)
		stamps := map[string]string{}
		for _, r := range records {
			stamps[r.Key] = r.Stamp
		}
		for i := max(0, before-keys); i < before; i++ {
			require.GreaterOrEqual(t, stamps[fmt.Sprint("k", i%keys)], stampOf(i), "write %d of %d", i, before)
		}
		require.Equal(t, os.Getpid(), found.Holder)
		require.True(t, found.Running)
	}
	close(stop)
	<-done
	require.NoError(t, store.Close(t.Context()))
}
