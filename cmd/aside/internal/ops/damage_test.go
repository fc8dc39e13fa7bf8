//go:build unix

package ops_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/ops"
	"github.com/redaside/aside/fallback"
)

// damaged makes a directory with acknowledged records in files of their own and in the journal, as
// a kill leaves it.
func damaged(t *testing.T) (dir string, acknowledged map[string]string) {
	t.Helper()
	acknowledged = make(map[string]string)
	source := t.TempDir()
	n := 0
	put := func(d *fallback.Dir, key string) {
		n++
		acknowledged[key] = fmt.Sprint("value ", n)
		require.NoError(t, d.Put(t.Context(), fallback.Record{Op: fallback.OpSet, Key: key, Value: acknowledged[key], Expires: 4e12, Stamp: stampOf(n)}))
	}
	d := open(t, source, still(0))
	put(d, "in a file")
	put(d, "in another file")
	require.NoError(t, d.Close(t.Context()))
	d = open(t, source, still(0))
	for i := range 3 {
		put(d, fmt.Sprint("in the journal ", i))
	}
	return snapshot(t, source), acknowledged
}

// Whatever has been done to a file by hand, or by a disk: what was acknowledged and cannot be read
// any more is missed, by those who only look and by those who open, and they name the file. What is
// read is what was written.
func TestWhatDamageHasTakenIsMissedAndTheFileIsNamed(t *testing.T) {
	source, acknowledged := damaged(t)
	record, other := fallback.FileOf(0, "in a file"), fallback.FileOf(0, "in another file")
	part, err := filepath.Rel(source, firstPart(t, source))
	require.NoError(t, err)
	content := func(dir, name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		return b
	}
	write := func(dir, name string, b []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}

	type damage struct {
		name  string
		file  string // that is to be named
		do    func(dir string)
		bytes bool // it changes no more than the file's bytes
	}
	var damages []damage
	add := func(file, name string, do func(dir string)) {
		damages = append(damages, damage{name + " " + file, file, do, false})
	}
	set := func(file, name string, b []byte) {
		damages = append(damages, damage{name + " " + file, file, func(dir string) { write(dir, file, b) }, true})
	}
	for _, file := range []string{record, part} {
		whole := content(source, file)
		ends := map[int]bool{} // where nobody can tell that something followed
		for i := range whole {
			if i > 0 && file == part && bytes.HasPrefix(whole[i:], []byte("#aside ")) {
				ends[i] = true
			}
		}
		for i := range whole {
			// A torn end of the journal is looked at for a tenth of a second, so not each; see
			// TestTornIsCutOff for all.
			if !ends[i] && (file == record || i%25 == 0) {
				set(file, fmt.Sprint("the first ", i, " bytes of"), whole[:i])
			}
			if i%17 == 0 {
				set(file, fmt.Sprint("zeros from byte ", i, " of"), append(bytes.Clone(whole[:i]), make([]byte, len(whole)-i)...))
				set(file, fmt.Sprint("zeros up to byte ", i, " of"), append(make([]byte, i), whole[i:]...))
				changed := bytes.Clone(whole)
				changed[i] ^= 0x11
				set(file, fmt.Sprint("a changed byte, ", i, " of"), changed)
			}
		}
		add(file, "LF for CR LF in", func(dir string) { write(dir, file, bytes.ReplaceAll(whole, []byte("\r\n"), []byte("\n"))) })
		add(file, "CR LF for LF in", func(dir string) { write(dir, file, bytes.ReplaceAll(whole, []byte("\n"), []byte("\r\n"))) })
		add(file, "a sparse file for", func(dir string) {
			write(dir, file, nil)
			require.NoError(t, os.Truncate(filepath.Join(dir, file), 900<<20))
		})
		for kind, put := range map[string]func(at string) error{
			"a folder for":  func(at string) error { return os.Mkdir(at, 0o700) },
			"a FIFO for":    func(at string) error { return syscall.Mkfifo(at, 0o600) },
			"a link for":    func(at string) error { return os.Symlink(filepath.Base(at), at) },
			"/dev/zero for": func(at string) error { return os.Symlink("/dev/zero", at) },
		} {
			add(file, kind, func(dir string) {
				require.NoError(t, os.Remove(filepath.Join(dir, file)))
				require.NoError(t, put(filepath.Join(dir, file)))
			})
		}
	}
	add(record, "another file swapped with", func(dir string) {
		a, b := content(dir, record), content(dir, other)
		write(dir, record, b)
		write(dir, other, a)
	})
	add(record, "a hard link to another for", func(dir string) {
		require.NoError(t, os.Remove(filepath.Join(dir, record)))
		require.NoError(t, os.Link(filepath.Join(dir, other), filepath.Join(dir, record)))
	})
	add(record, "the journal for", func(dir string) { write(dir, record, content(dir, part)) })
	add(part, "a record for", func(dir string) { write(dir, part, content(dir, record)) })

	dir := snapshot(t, source)
	for i, d := range damages {
		d.do(dir)
		miss := func(got map[string]string) (missing bool) {
			for key, value := range got {
				require.Equal(t, acknowledged[key], value, d.name)
			}
			return len(got) < len(acknowledged)
		}

		records, found := read(t, dir)
		got := make(map[string]string)
		for _, r := range records {
			got[r.Key] = r.Value
		}
		missing := miss(got)
		if missing {
			named := false
			for _, p := range found.Problems {
				named = named || p.Kind.MayMiss() && p.File == d.file
			}
			require.True(t, named, "%s: %+v", d.name, found.Problems)
		}
		if d.file == part && strings.HasPrefix(d.name, "LF for") {
			require.Equal(t, ops.Corrupt, found.Problems[0].Kind, "three records are not what was being written")
		}

		if d.bytes && i%20 > 0 { // to open takes the disk's time
			write(dir, d.file, content(source, d.file))
			continue
		}
		var log bytes.Buffer
		o := still(0)
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		store, err := fallback.Open(dir, o)
		if len(found.Problems) == 1 && found.Problems[0].Kind == ops.Newer { // a version that nobody knows may be a newer one
			require.ErrorContains(t, err, d.file, d.name)
			dir = snapshot(t, source)
			continue
		}
		require.NoError(t, err, d.name)
		got = make(map[string]string)
		for r := range store.Records(fallback.OpSet) {
			got[r.Key] = r.Value
		}
		require.Equal(t, missing, miss(got), "%s: opening finds what looking has found", d.name)
		if missing {
			require.Contains(t, log.String(), d.file, d.name)
		}
		require.NoError(t, store.Close(t.Context()), d.name)
		dir = snapshot(t, source)
	}
}
