package fallback

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/vfs"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// byHand is a store that does a round only when it is told to, one call to the disk after the
// other.
func byHand() Options {
	return Options{Logger: quiet(), FlushInterval: time.Hour, MaxQueue: 1 << 30, hurry: 1}
}

// open opens a store, and when the test is over closes it and looks through its folder: every test
// is also one for corruption.
func open(t *testing.T, fsys vfs.FS, o Options) *Dir {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet()
	}
	d, err := OpenFS(fsys, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = d.Close(ctx) // the test has looked, if it matters
		select {
		case <-d.done:
			if err := checkFolder(fsys); err != nil && !errors.Is(err, vfs.ErrStopped) {
				t.Errorf("the folder after the test: %v", err)
			}
		default: // it hangs
		}
	})
	return d
}

func closeDir(t *testing.T, d *Dir) {
	t.Helper()
	require.NoError(t, d.Close(t.Context()))
}

// flush does a round and returns what it says.
func flush(d *Dir) error {
	d.x.mu.RLock()
	round := d.began + 1
	d.x.mu.RUnlock()
	_, failed, err := d.awaitRound(context.Background(), round, false)
	return errors.Join(failed, err)
}

// files returns the paths of all files, and of folders that are empty, with a slash at the end.
func files(t *testing.T, fsys vfs.FS) []string {
	t.Helper()
	names, err := walk(fsys, ".")
	require.NoError(t, err)
	return names
}

func walk(fsys vfs.FS, folder string) (names []string, err error) {
	entries, err := fsys.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := path.Join(folder, e.Name())
		if !e.IsDir() {
			names = append(names, name)
			continue
		}
		below, err := walk(fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the flusher was here
		}
		if err != nil {
			return nil, err
		}
		if len(below) == 0 {
			below = []string{name + "/"}
		}
		names = append(names, below...)
	}
	return names, nil
}

// count returns how many names there are with a prefix.
func count(names []string, prefix string) int {
	n := 0
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && !strings.HasSuffix(name, "/") {
			n++
		}
	}
	return n
}

func content(t *testing.T, fsys vfs.FS, name string) []byte {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	return b
}

func overwrite(t *testing.T, fsys vfs.FS, name string, b []byte) {
	t.Helper()
	require.NoError(t, fsys.MkdirAll(path.Dir(name), 0o700))
	f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Write(b)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, fsys.SyncDir(path.Dir(name)))
}

// checkFolder says what is wrong in a folder that nobody has open: every record file is one, under
// the name of its key; nothing half done lies about; nobody else may look.
func checkFolder(fsys vfs.FS) error {
	names, err := walk(fsys, ".")
	if err != nil {
		return err
	}
	var errs []error
	bad := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{name}, args...)...))
	}
	for _, name := range names {
		info, err := fsys.Lstat(strings.TrimSuffix(name, "/"))
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && info.Mode().Perm() != 0o600 || info.IsDir() && info.Mode().Perm() != 0o700 {
			bad(name, "has mode %v", info.Mode())
		}
		switch room, _, _ := strings.Cut(name, "/"); room {
		case filesDir:
			if strings.HasSuffix(name, "/") {
				bad(name, "an empty folder")
				continue
			}
			r, _, _, err := readFile(fsys, name)
			if err != nil {
				bad(name, "%w", err)
			} else if !strings.HasSuffix(name, strings.TrimPrefix(digestOf(r.Key).path(0), "db/0")) {
				bad(name, "has the key %q", r.Key)
			}
		case lockName, quarantineDir:
		case journalDir:
			if !strings.HasSuffix(name, ".aof") {
				bad(name, "should not be there")
			}
		default:
			bad(name, "should not be there")
		}
	}
	return errors.Join(errs...)
}

var lastStamp int

// stamp returns a greater one each time.
func stamp() string {
	lastStamp++
	return fmt.Sprintf("%08d-test", lastStamp)
}

func in(d time.Duration) int64 { return time.Now().Add(d).UnixMilli() }

func set(key, value string) Record {
	return Record{Op: OpSet, Key: key, Value: value, Expires: in(time.Hour), Stamp: stamp(), Slack: 100}
}

func del(key string) Record { return Record{Op: OpDel, Key: key, Stamp: stamp(), Slack: 100} }

func fill(key, value string) Record {
	r := set(key, value)
	r.Op = OpFill
	return r
}

func mustPut(t *testing.T, s Store, records ...Record) {
	t.Helper()
	require.NoError(t, s.Put(t.Context(), records...))
}

func expect(t *testing.T, s Store, want ...Record) {
	t.Helper()
	for _, r := range want {
		got, ok, err := s.Get(r.Key)
		require.NoError(t, err)
		require.True(t, ok, "%q is not there", r.Key)
		require.Equal(t, r, got)
	}
}

func expectNone(t *testing.T, s Store, keys ...string) {
	t.Helper()
	for _, key := range keys {
		got, ok, err := s.Get(key)
		require.NoError(t, err)
		require.False(t, ok, "%+v is there", got)
		require.False(t, s.Pending(key))
	}
}

// valuesIn is how many bytes of values a store has in memory.
func valuesIn(d *Dir) int64 {
	d.x.mu.RLock()
	defer d.x.mu.RUnlock()
	return d.x.values
}

// all returns what a store has.
func all(s Store) map[string]Record {
	m := make(map[string]Record)
	for _, op := range []Op{OpSet, OpDel, OpFill} {
		for r := range s.Records(op) {
			m[r.Key] = r
		}
	}
	return m
}

func exists(t *testing.T, fsys vfs.FS, name string) bool {
	t.Helper()
	_, err := fsys.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	require.NoError(t, err)
	return true
}

func pathOf(key string) string { return digestOf(key).path(0) }

func sorted(names ...string) []string {
	slices.Sort(names)
	return names
}
