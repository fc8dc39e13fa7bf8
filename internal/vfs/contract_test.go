package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// contract is what an FS must do. Each case gets an empty one.
var contract = []struct {
	rule string
	test func(t *testing.T, fsys FS)
}{
	{"what is written can be read", func(t *testing.T, fsys FS) {
		put(t, fsys, "f", "hello")
		assert.Equal(t, "hello", get(t, fsys, "f"))
		info, err := fsys.Lstat("f")
		require.NoError(t, err)
		assert.Equal(t, "f", info.Name())
		assert.Equal(t, int64(5), info.Size())
		assert.Equal(t, fs.FileMode(0o600), info.Mode())
		assert.False(t, info.ModTime().IsZero())
	}},
	{"a file is made only if that is asked for", func(t *testing.T, fsys FS) {
		_, err := fsys.OpenFile("f", os.O_RDWR, 0)
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = fsys.Lstat("f")
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = fsys.OpenFile("d/f", os.O_RDWR|os.O_CREATE, 0o600)
		require.ErrorIs(t, err, fs.ErrNotExist)
	}},
	{"O_EXCL refuses what is there", func(t *testing.T, fsys FS) {
		f, err := fsys.OpenFile("f", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		_, err = fsys.OpenFile("f", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		require.ErrorIs(t, err, fs.ErrExist)
	}},
	{"O_APPEND writes at the end, wherever the position was", func(t *testing.T, fsys FS) {
		put(t, fsys, "f", "abc")
		f, err := fsys.OpenFile("f", os.O_RDWR|os.O_APPEND, 0)
		require.NoError(t, err)
		defer f.Close()
		_, err = f.Seek(1, io.SeekStart)
		require.NoError(t, err)
		_, err = io.WriteString(f, "de")
		require.NoError(t, err)
		assert.Equal(t, "abcde", get(t, fsys, "f"))
		require.NoError(t, f.Truncate(2))
		_, err = io.WriteString(f, "z")
		require.NoError(t, err)
		assert.Equal(t, "abz", get(t, fsys, "f"))
	}},
	{"O_TRUNC empties", func(t *testing.T, fsys FS) {
		put(t, fsys, "f", "abc")
		put(t, fsys, "f", "d")
		assert.Equal(t, "d", get(t, fsys, "f"))
	}},
	{"the position is that of Read and Write, and Seek moves it", func(t *testing.T, fsys FS) {
		f, err := fsys.OpenFile("f", os.O_RDWR|os.O_CREATE, 0o600)
		require.NoError(t, err)
		defer f.Close()
		_, err = io.WriteString(f, "hello")
		require.NoError(t, err)
		at, err := f.Seek(-4, io.SeekCurrent)
		require.NoError(t, err)
		assert.Equal(t, int64(1), at)
		two := make([]byte, 2)
		_, err = io.ReadFull(f, two)
		require.NoError(t, err)
		assert.Equal(t, "el", string(two))
		_, err = io.WriteString(f, "L")
		require.NoError(t, err)
		at, err = f.Seek(2, io.SeekEnd)
		require.NoError(t, err)
		assert.Equal(t, int64(7), at)
		_, err = f.Read(two)
		require.ErrorIs(t, err, io.EOF)
		_, err = io.WriteString(f, "!")
		require.NoError(t, err)
		assert.Equal(t, "helLo\x00\x00!", get(t, fsys, "f"))
		_, err = f.Seek(-1, io.SeekStart)
		require.Error(t, err)
	}},
	{"Truncate shortens and lengthens", func(t *testing.T, fsys FS) {
		put(t, fsys, "f", "hello")
		f, err := fsys.OpenFile("f", os.O_RDWR, 0)
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, f.Truncate(2))
		require.NoError(t, f.Truncate(4))
		assert.Equal(t, "he\x00\x00", get(t, fsys, "f"))
		info, err := f.Stat()
		require.NoError(t, err)
		assert.Equal(t, int64(4), info.Size())
		require.Error(t, f.Truncate(-1))
	}},
	{"a file that was opened for one thing does not do the other", func(t *testing.T, fsys FS) {
		put(t, fsys, "f", "x")
		r, err := fsys.OpenFile("f", os.O_RDONLY, 0)
		require.NoError(t, err)
		defer r.Close()
		_, err = io.WriteString(r, "y")
		require.Error(t, err)
		require.Error(t, r.Truncate(0))
		w, err := fsys.OpenFile("f", os.O_WRONLY, 0)
		require.NoError(t, err)
		defer w.Close()
		_, err = w.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotErrorIs(t, err, io.EOF)
		assert.Equal(t, "x", get(t, fsys, "f"))
	}},
	{"Rename replaces, and a handle of the old file keeps it", func(t *testing.T, fsys FS) {
		put(t, fsys, "a", "new")
		put(t, fsys, "b", "old")
		old, err := fsys.OpenFile("b", os.O_RDONLY, 0)
		require.NoError(t, err)
		defer old.Close()
		require.NoError(t, fsys.MkdirAll("d", 0o700))
		require.NoError(t, fsys.Rename("a", "b"))
		assert.Equal(t, "new", get(t, fsys, "b"))
		_, err = fsys.Lstat("a")
		require.ErrorIs(t, err, fs.ErrNotExist)
		bytes, err := io.ReadAll(old)
		require.NoError(t, err)
		assert.Equal(t, "old", string(bytes))

		require.NoError(t, fsys.Rename("b", "d/c"))
		assert.Equal(t, []string{"d/"}, list(t, fsys, "."))
		assert.Equal(t, []string{"c"}, list(t, fsys, "d"))
		require.NoError(t, fsys.Rename("d", "e"))
		assert.Equal(t, "new", get(t, fsys, "e/c"))
		require.NoError(t, fsys.Rename("e/c", "e/c"))
		assert.Equal(t, "new", get(t, fsys, "e/c"))
	}},
	{"Rename refuses what cannot be", func(t *testing.T, fsys FS) {
		put(t, fsys, "f", "x")
		require.NoError(t, fsys.MkdirAll("d/e", 0o700))
		require.ErrorIs(t, fsys.Rename("none", "g"), fs.ErrNotExist)
		require.ErrorIs(t, fsys.Rename("f", "none/g"), fs.ErrNotExist)
		for _, pair := range [][2]string{{"f", "d"}, {"d", "f"}, {"d", "d/e/f"}, {".", "g"}, {"d", "."}, {"f/g", "h"}} {
			require.Error(t, fsys.Rename(pair[0], pair[1]), pair)
		}
		require.NoError(t, fsys.MkdirAll("g", 0o700))
		require.Error(t, fsys.Rename("g", "d"), "not empty")
		require.Error(t, fsys.Rename("g", "d/e"), "empty")
		assert.Equal(t, []string{"d/", "f", "g/"}, list(t, fsys, "."))
	}},
	{"Remove removes files and empty directories", func(t *testing.T, fsys FS) {
		require.NoError(t, fsys.MkdirAll("d", 0o700))
		put(t, fsys, "d/f", "x")
		require.Error(t, fsys.Remove("d"))
		require.Error(t, fsys.Remove("."))
		require.NoError(t, fsys.Remove("d/f"))
		require.NoError(t, fsys.Remove("d"))
		require.ErrorIs(t, fsys.Remove("d"), fs.ErrNotExist)
		assert.Empty(t, list(t, fsys, "."))
	}},
	{"a handle of a removed file goes on working", func(t *testing.T, fsys FS) {
		f, err := fsys.OpenFile("f", os.O_RDWR|os.O_CREATE, 0o600)
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, fsys.Remove("f"))
		_, err = io.WriteString(f, "x")
		require.NoError(t, err)
		require.NoError(t, f.Sync())
		info, err := f.Stat()
		require.NoError(t, err)
		assert.Equal(t, int64(1), info.Size())
	}},
	{"ReadDir is sorted and knows directories", func(t *testing.T, fsys FS) {
		assert.Empty(t, list(t, fsys, "."))
		put(t, fsys, "c", "x")
		put(t, fsys, "a", "x")
		require.NoError(t, fsys.MkdirAll("b", 0o700))
		assert.Equal(t, []string{"a", "b/", "c"}, list(t, fsys, "."))
		_, err := fsys.ReadDir("none")
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = fsys.ReadDir("a")
		require.Error(t, err)
	}},
	{"MkdirAll makes parents, and does not mind what is there", func(t *testing.T, fsys FS) {
		require.NoError(t, fsys.MkdirAll("a/b/c", 0o700))
		require.NoError(t, fsys.MkdirAll("a/b/d", 0o700))
		require.NoError(t, fsys.MkdirAll("a/b", 0o700))
		require.NoError(t, fsys.MkdirAll(".", 0o700))
		assert.Equal(t, []string{"c/", "d/"}, list(t, fsys, "a/b"))
		info, err := fsys.Lstat("a/b")
		require.NoError(t, err)
		assert.Equal(t, fs.ModeDir|0o700, info.Mode())
		put(t, fsys, "a/f", "x")
		require.Error(t, fsys.MkdirAll("a/f", 0o700))
		require.Error(t, fsys.MkdirAll("a/f/g", 0o700))
	}},
	{"a directory is no file", func(t *testing.T, fsys FS) {
		require.NoError(t, fsys.MkdirAll("d", 0o700))
		for _, flag := range []int{os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREATE} {
			_, err := fsys.OpenFile("d", flag, 0o600)
			require.ErrorIs(t, err, ErrNotRegular)
		}
		_, err := fsys.OpenFile("d", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		require.ErrorIs(t, err, fs.ErrExist)
		_, err = fsys.Lock("d")
		require.ErrorIs(t, err, ErrNotRegular)
	}},
	{"directories can be synced", func(t *testing.T, fsys FS) {
		require.NoError(t, fsys.MkdirAll("d", 0o700))
		require.NoError(t, fsys.SyncDir("d"))
		require.NoError(t, fsys.SyncDir("."))
		require.ErrorIs(t, fsys.SyncDir("none"), fs.ErrNotExist)
	}},
	{"a lock excludes until it is closed, and names its holder", func(t *testing.T, fsys FS) {
		held, err := fsys.Lock("lock")
		require.NoError(t, err)
		_, err = fsys.Lock("lock")
		require.ErrorIs(t, err, ErrLocked)
		other, err := fsys.Lock("other")
		require.NoError(t, err)
		require.NoError(t, other.Close())
		require.NoError(t, held.Close())
		require.NoError(t, held.Close(), "twice is fine")
		held, err = fsys.Lock("lock")
		require.NoError(t, err)
		require.NoError(t, held.Close())
		assert.Equal(t, []string{"lock", "other"}, list(t, fsys, "."))
	}},
	{"names stay inside", func(t *testing.T, fsys FS) {
		require.NoError(t, fsys.MkdirAll("d", 0o700))
		put(t, fsys, "f", "x")
		for _, name := range []string{"..", "../f", "d/..", "d/../f", "/f", "", "./f", "d//f", "f/", "f\x00"} {
			_, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
			require.ErrorIs(t, err, fs.ErrInvalid, "%q", name)
			require.ErrorIs(t, fsys.MkdirAll(name, 0o700), fs.ErrInvalid, "%q", name)
			require.ErrorIs(t, fsys.Rename(name, "g"), fs.ErrInvalid, "%q", name)
			require.ErrorIs(t, fsys.Rename("f", name), fs.ErrInvalid, "%q", name)
			require.ErrorIs(t, fsys.Remove(name), fs.ErrInvalid, "%q", name)
			_, err = fsys.ReadDir(name)
			require.ErrorIs(t, err, fs.ErrInvalid, "%q", name)
			_, err = fsys.Lstat(name)
			require.ErrorIs(t, err, fs.ErrInvalid, "%q", name)
			require.ErrorIs(t, fsys.SyncDir(name), fs.ErrInvalid, "%q", name)
			_, err = fsys.Lock(name)
			require.ErrorIs(t, err, fs.ErrInvalid, "%q", name)
		}
		assert.Equal(t, []string{"d/", "f"}, list(t, fsys, "."))
	}},
	{"a closed file is closed", func(t *testing.T, fsys FS) {
		put(t, fsys, "f", "x")
		f, err := fsys.OpenFile("f", os.O_RDWR, 0)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.ErrorIs(t, f.Close(), fs.ErrClosed)
		_, err = f.Read(make([]byte, 1))
		require.ErrorIs(t, err, fs.ErrClosed)
		_, err = io.WriteString(f, "y")
		require.ErrorIs(t, err, fs.ErrClosed)
		_, err = f.Seek(0, io.SeekStart)
		require.ErrorIs(t, err, fs.ErrClosed)
		require.ErrorIs(t, f.Truncate(0), fs.ErrClosed)
		require.ErrorIs(t, f.Sync(), fs.ErrClosed)
		_, err = f.Stat()
		require.Error(t, err)
		assert.Equal(t, "x", get(t, fsys, "f"))
	}},
}

func TestContract(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) FS{
		"Open": func(t *testing.T) FS { return openDir(t, t.TempDir()) },
		"Mem":  func(*testing.T) FS { return NewMem() },
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range contract {
				t.Run(c.rule, func(t *testing.T) { c.test(t, open(t)) })
			}
		})
	}
}

func TestOpenMakesTheDirectoryForItsOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	openDir(t, dir)
	openDir(t, dir)
	for _, made := range []string{dir, filepath.Dir(dir)} {
		info, err := os.Stat(made)
		require.NoError(t, err)
		assert.Equal(t, fs.ModeDir|0o700, info.Mode())
	}
}

func TestOpenFailsWhereThereIsNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, dir := range []string{file, filepath.Join(file, "d")} {
		_, err := Open(dir)
		require.Error(t, err, dir)
	}
}

func TestTheDirectoryMayBeALinkButNothingInItLeadsOut(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "f"), []byte("secret"), 0o600))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, link))
	fsys := openDir(t, link)
	put(t, fsys, "f", "x")
	assert.FileExists(t, filepath.Join(dir, "f"))

	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "out")))
	require.NoError(t, os.Symlink(filepath.Join(outside, "f"), filepath.Join(dir, "file")))
	require.NoError(t, os.Symlink("../"+filepath.Base(outside)+"/made", filepath.Join(dir, "made")))
	for _, name := range []string{"out/f", "file", "made", "out/made"} {
		_, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		require.Error(t, err, name)
		_, err = fsys.Lock(name)
		require.Error(t, err, name)
	}
	require.Error(t, fsys.MkdirAll("out/d", 0o700))
	require.Error(t, fsys.Rename("f", "out/g"))
	require.Error(t, fsys.Remove("out/f"))
	require.Error(t, fsys.SyncDir("out"))
	_, err := fsys.ReadDir("out")
	require.Error(t, err)
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	assert.Len(t, entries, 1)
	secret, err := os.ReadFile(filepath.Join(outside, "f"))
	require.NoError(t, err)
	assert.Equal(t, "secret", string(secret))
}

func TestALockExcludesOtherFSsOfThisProcessAndNamesIt(t *testing.T) {
	dir := t.TempDir()
	a, b := openDir(t, dir), openDir(t, dir)
	held, err := a.Lock("lock")
	require.NoError(t, err)
	_, err = b.Lock("lock")
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, dir)
	require.ErrorContains(t, err, "by process ")
	require.NoError(t, held.Close())
	bytes, err := os.ReadFile(filepath.Join(dir, "lock"))
	require.NoError(t, err)
	assert.Empty(t, bytes, "nobody holds it")
	held, err = b.Lock("lock")
	require.NoError(t, err)
	require.NoError(t, held.Close())
}

func TestAClosedFSRefusesButWhatIsOpenStaysOpen(t *testing.T) {
	dir := t.TempDir()
	fsys, err := Open(dir)
	require.NoError(t, err)
	f, err := fsys.OpenFile("f", os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	defer f.Close()
	held, err := fsys.Lock("lock")
	require.NoError(t, err)
	require.NoError(t, fsys.Close())
	_, err = fsys.Lstat("f")
	require.ErrorIs(t, err, fs.ErrClosed)
	_, err = io.WriteString(f, "x")
	require.NoError(t, err)
	_, err = openDir(t, dir).Lock("lock")
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, held.Close())
}

func openDir(t *testing.T, dir string) FS {
	t.Helper()
	fsys, err := Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, fsys.Close()) })
	return fsys
}

func put(t *testing.T, fsys FS, name, content string) {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	require.NoError(t, err)
	_, err = io.WriteString(f, content)
	require.NoError(t, errors.Join(err, f.Close()))
}

func get(t *testing.T, fsys FS, name string) string {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	require.NoError(t, err)
	content, err := io.ReadAll(f)
	require.NoError(t, errors.Join(err, f.Close()))
	return string(content)
}

// list returns the names in a directory, those of directories with a slash behind.
func list(t *testing.T, fsys FS, dir string) []string {
	t.Helper()
	entries, err := fsys.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name()+"/", map[bool]string{false: "/"}[e.IsDir()]))
	}
	return names
}
