package fallback

import (
	"bytes"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/vfs"
)

func TestWhatCannotBeReadIsPutIntoQuarantine(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, m *vfs.Mem, path string){
		"a changed byte": func(t *testing.T, m *vfs.Mem, path string) {
			overwrite(t, m, path, bytes.Replace(content(t, m, path), []byte("value"), []byte("falue"), 1))
		},
		"another key's record": func(t *testing.T, m *vfs.Mem, path string) {
			r := set("another", "value")
			overwrite(t, m, path, encodeFile(&r, in(0)))
		},
		"nothing": func(t *testing.T, m *vfs.Mem, path string) {
			overwrite(t, m, path, nil)
		},
		"zeros": func(t *testing.T, m *vfs.Mem, path string) {
			overwrite(t, m, path, make([]byte, len(content(t, m, path))))
		},
		"so little that nobody knows what it was": func(t *testing.T, m *vfs.Mem, path string) {
			overwrite(t, m, path, content(t, m, path)[:25])
		},
		"half a file": func(t *testing.T, m *vfs.Mem, path string) {
			overwrite(t, m, path, content(t, m, path)[:80])
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			o := byHand()
			o.forget = true
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			m := vfs.NewMem()
			d := open(t, m, o)
			secret, other := set("k", "value: a secret"), set("other", "value")
			mustPut(t, d, secret, other)
			require.NoError(t, flush(d))
			path := pathOf("k")
			damage(t, m, path)
			bad := content(t, m, path)
			inQuarantine := quarantineDir + path[strings.LastIndex(path, "/"):]

			_, ok, err := d.Get("k")
			require.Error(t, err)
			require.False(t, ok)
			expectNone(t, d, "k")
			require.Equal(t, 1, d.Stats().Quarantined)
			require.NoError(t, flush(d))
			require.Equal(t, sorted(pathOf("other"), inQuarantine, inQuarantine+reasonSuffix, "journal/", "lock"), files(t, m))
			require.Equal(t, bad, content(t, m, inQuarantine))
			reason := string(content(t, m, inQuarantine+reasonSuffix))
			require.Contains(t, reason, "file: "+path)

			// Once more, as another process finds it.
			again := set("k", "value: a secret")
			mustPut(t, d, again)
			require.NoError(t, flush(d))
			closeDir(t, d)
			damage(t, m, path)
			d = open(t, m, o)
			expectNone(t, d, "k")
			expect(t, d, other)
			require.Equal(t, 2, d.Stats().Quarantined)
			require.Equal(t, 1, d.Stats().Sets)
			require.NoError(t, flush(d))
			require.Equal(t, 4, count(files(t, m), quarantineDir))
			mustPut(t, d, again) // goes on
			require.NoError(t, flush(d))
			expect(t, d, again, other)
			closeDir(t, d)

			d = open(t, m, o)
			require.Equal(t, 2, d.Stats().Quarantined, "those of before are counted")
			require.NotContains(t, log.String()+reason, "secret", "no values in the log")
			require.Equal(t, 2, strings.Count(log.String(), "file="+path), "each loss is said, with the file's name")
		})
	}
}

// A rollback at night: whoever opens is told what to do, in the same words whatever the newer
// version wrote, and all of it is there for that version afterwards.
func TestWhatANewerVersionWroteStopsTheOpeningAndStays(t *testing.T) {
	v4, err := os.ReadFile("journal/testdata/v4.aof")
	require.NoError(t, err)
	newer := set("newer", "v")
	for name, what := range map[string][]byte{
		"journal/0000000000000009.aof": v4,
		pathOf("newer"):                bytes.Replace(encodeFile(&newer, in(0)), []byte(`"version": 1`), []byte(`"version": 3, "more": {}`), 1),
	} {
		m := vfs.NewMem()
		d := open(t, m, byHand())
		r := set("k", "v")
		mustPut(t, d, r)
		require.NoError(t, flush(d))
		mustPut(t, d, set("in the journal", "v"))
		m = m.Kill()
		overwrite(t, m, pathOf("damaged"), []byte("{"))
		overwrite(t, m, name, what)
		before := make(map[string]string)
		for _, file := range files(t, m) {
			if !strings.HasSuffix(file, "/") && file != lockName {
				before[file] = string(content(t, m, file))
			}
		}
		for range 2 {
			_, err := OpenFS(m, byHand())
			require.ErrorIs(t, err, ErrDisk)
			for _, said := range []string{name, "newer aside wrote it", "Nothing is lost", "run that until nothing is pending", "move the directory away"} {
				require.ErrorContains(t, err, said)
			}
			for file, was := range before {
				require.Equal(t, was, string(content(t, m, file)), file)
			}
		}
		require.NoError(t, m.Remove(name))
		d = open(t, m, byHand())
		expect(t, d, r)
	}
}

// To put it aside would be to forget what somebody was promised, and a newer aside can read it.
func TestARecordOfALaterVersionStopsOpening(t *testing.T) {
	m := vfs.NewMem()
	d := open(t, m, byHand())
	r := set("k", "v")
	mustPut(t, d, r)
	closeDir(t, d)
	path := pathOf("k")
	before := content(t, m, path)
	overwrite(t, m, path, bytes.Replace(before, []byte(`"version": 1`), []byte(`"version": 9`), 1))
	_, err := OpenFS(m, byHand())
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "Nothing is lost")
	require.ErrorContains(t, err, "version 9")
	overwrite(t, m, path, before)
	d = open(t, m, byHand())
	expect(t, d, r)
}

// What cannot be moved there must not be overwritten either, nor what comes after it be taken for
// it.
func TestADamagedFileIsKeptUntilItIsInQuarantine(t *testing.T) {
	for _, sticky := range []bool{true, false} {
		o := byHand()
		o.forget = true
		m := vfs.NewMem()
		d := open(t, m, o)
		mustPut(t, d, set("k", "v"))
		require.NoError(t, flush(d))
		overwrite(t, m, pathOf("k"), []byte("damage"))
		r := set("k", "new")
		m.FailAt(1, vfs.Fault{Err: syscall.EIO, On: vfs.CallMkdir, Sticky: sticky})
		m.Hang() // so that the flusher finds both at once
		_, _, err := d.Get("k")
		require.Error(t, err)
		m.Unhang()
		mustPut(t, d, r)
		_ = flush(d)
		m.Heal()
		expect(t, d, r)
		for range 3 {
			require.NoError(t, flush(d))
			expect(t, d, r)
		}
		require.Equal(t, "damage", string(content(t, m, quarantineDir+"/"+digestOf("k").base())))
		require.Equal(t, 2, count(files(t, m), quarantineDir))
		require.Equal(t, 1, d.Stats().Quarantined)
	}
}

func TestAFileThatVanishesIsNoRecordAnyMore(t *testing.T) {
	o := byHand()
	o.forget = true
	m := vfs.NewMem()
	d := open(t, m, o)
	mustPut(t, d, set("k", "v"), set("other", "v"))
	require.NoError(t, flush(d))
	require.NoError(t, m.Remove(pathOf("k")))
	require.Len(t, all(d), 1)
	expectNone(t, d, "k")
	require.Zero(t, d.Stats().Quarantined)
}

func TestAnErrorOfReadingIsNoDamage(t *testing.T) {
	o := byHand()
	o.forget = true
	m := &unreadable{Mem: vfs.NewMem()}
	d := open(t, m, o)
	r := set("k", "v")
	mustPut(t, d, r)
	require.NoError(t, flush(d))
	m.err = syscall.EMFILE
	_, ok, err := d.Get("k")
	require.ErrorIs(t, err, ErrDisk)
	require.ErrorIs(t, err, syscall.EMFILE)
	require.False(t, ok)
	require.Empty(t, all(d))
	require.True(t, d.Pending("k"), "it is there all the same")
	require.ErrorIs(t, d.Stats().Err, syscall.EMFILE)
	m.err = nil
	expect(t, d, r)
	require.NoError(t, d.Stats().Err)
	require.Zero(t, d.Stats().Quarantined)
}

// unreadable is a disk that has an error to say when a record file is read.
type unreadable struct {
	*vfs.Mem
	err error
}

func (u *unreadable) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	if u.err != nil && flag == os.O_RDONLY && strings.HasSuffix(name, fileSuffix) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: u.err}
	}
	return u.Mem.OpenFile(name, flag, perm)
}

func TestNoSymbolicLinkLeadsOut(t *testing.T) {
	outside := t.TempDir()
	for _, place := range []string{"db", "journal", "db/0", "quarantine"} {
		t.Run(place, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(place)), 0o700))
			require.NoError(t, os.Symlink(outside, filepath.Join(dir, place)))
			_, err := Open(dir, Options{Logger: quiet()})
			require.ErrorIs(t, err, ErrDisk)
			require.ErrorContains(t, err, place+" is no directory")
			require.ErrorContains(t, err, dir)
		})
	}
	t.Run("lock", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.Symlink(filepath.Join(outside, "lock"), filepath.Join(dir, "lock")))
		_, err := Open(dir, Options{Logger: quiet()})
		require.ErrorIs(t, err, ErrDisk)
	})
	another := set("k", "of another service")
	secret := encodeFile(&another, in(0))
	for _, place := range []string{pathOf("k"), pathOf("k")[:len("db/0/ab")], pathOf("k")[:len("db/0/ab/cd")]} {
		t.Run(place, func(t *testing.T) {
			dir := t.TempDir()
			at := filepath.Join(dir, place)
			target := filepath.Join(outside, filepath.Base(place))
			require.NoError(t, os.WriteFile(target, secret, 0o600))
			require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o700))
			require.NoError(t, os.Symlink(target, at))
			d, err := Open(dir, Options{Logger: quiet(), FlushInterval: time.Hour})
			require.NoError(t, err)
			expectNone(t, d, "k")
			require.NoError(t, flush(d))
			require.Equal(t, 1, d.Stats().Quarantined)
			r := set("k", "v")
			mustPut(t, d, r)
			require.NoError(t, flush(d))
			closeDir(t, d)
			d, err = Open(dir, Options{Logger: quiet()})
			require.NoError(t, err)
			expect(t, d, r)
			closeDir(t, d)
			got, err := os.ReadFile(target)
			require.NoError(t, err)
			require.Equal(t, secret, got, "what it led to was not touched")
		})
	}
	t.Run("made while the store is open", func(t *testing.T) {
		dir := t.TempDir()
		d, err := Open(dir, Options{Logger: quiet(), FlushInterval: time.Hour})
		require.NoError(t, err)
		require.NoError(t, os.Symlink(outside, filepath.Join(dir, "db")))
		r := set("k", "v")
		mustPut(t, d, r)
		require.ErrorIs(t, flush(d), ErrDisk)
		expect(t, d, r)
		require.NoError(t, os.Remove(filepath.Join(dir, "db")))
		require.NoError(t, flush(d))
		closeDir(t, d)
	})
	left, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Len(t, left, 3, "nothing was written there but by this test")
}
