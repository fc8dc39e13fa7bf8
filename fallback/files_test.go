//go:build unix

package fallback

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What stands where a record belongs may be anything. It must neither hold up the opening nor be
// written to, and the log must name it.
func TestWhateverStandsWhereARecordBelongsIsPutAside(t *testing.T) {
	for kind, put := range map[string]func(at string) error{
		"a FIFO":             func(at string) error { return syscall.Mkfifo(at, 0o600) },
		"a directory":        func(at string) error { return os.MkdirAll(filepath.Join(at, "with something in it"), 0o700) },
		"a link":             func(at string) error { return os.Symlink("elsewhere", at) },
		"a device":           func(at string) error { return os.Symlink("/dev/zero", at) },
		"an empty file":      func(at string) error { return os.WriteFile(at, nil, 0o600) },
		"more than a record": func(at string) error { return sparse(at, 900<<20) },
		"zeros":              func(at string) error { return sparse(at, 600<<20) },
	} {
		for _, when := range []string{"when it is opened", "when it is read", "when it is written"} {
			t.Run(kind+" "+when, func(t *testing.T) {
				var log bytes.Buffer
				dir := t.TempDir()
				o := byHand()
				o.forget = true
				o.Logger = slog.New(slog.NewTextHandler(&log, nil))
				path := filepath.Join(dir, pathOf("k"))
				place := func() {
					require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
					require.NoError(t, os.RemoveAll(path))
					require.NoError(t, put(path))
				}
				if when == "when it is opened" {
					place()
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				d, err := Open(dir, o)
				require.NoError(t, err)
				switch when {
				case "when it is read":
					mustPut(t, d, set("k", "v"))
					require.NoError(t, flush(d))
					place()
					_, _, err = d.Get("k")
					require.Error(t, err)
				case "when it is written":
					place()
					mustPut(t, d, set("k", "v"))
				}
				require.NoError(t, flush(d))
				runtime.ReadMemStats(&after)
				require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20), "it was read")
				require.Equal(t, 1, d.Stats().Quarantined)
				require.Contains(t, log.String(), "file="+pathOf("k"))
				r := set("k", "new")
				mustPut(t, d, r)
				require.NoError(t, flush(d))
				closeDir(t, d)
				d, err = Open(dir, o)
				require.NoError(t, err)
				expect(t, d, r)
				closeDir(t, d)
			})
		}
	}
}

func sparse(at string, size int64) error {
	if err := os.WriteFile(at, nil, 0o600); err != nil {
		return err
	}
	return os.Truncate(at, size)
}

// cp -al, or a snapshot of that kind, gives each file a second name. Nothing that is then done to
// the directory may change what the copy holds.
func TestACopyOfHardLinksIsNotChanged(t *testing.T) {
	dir, backup := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	d, err := Open(dir, byHand())
	require.NoError(t, err)
	mustPut(t, d, set("a", "1"))
	require.NoError(t, flush(d))
	mustPut(t, d, set("b", "2"))
	torn := filepath.Join(dir, "journal", "0000000000000002.aof")
	copied := filepath.Join(t.TempDir(), "killed")
	require.NoError(t, os.CopyFS(copied, os.DirFS(dir)))
	closeDir(t, d)
	torn = filepath.Join(copied, strings.TrimPrefix(torn, dir))
	whole, err := os.ReadFile(torn)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(torn, append(whole, "#aside 1"...), 0o600))
	want := make(map[string]string)
	require.NoError(t, filepath.Walk(copied, func(name string, info os.FileInfo, err error) error {
		at := filepath.Join(backup, strings.TrimPrefix(name, copied))
		switch {
		case err != nil || info.Name() == lockName:
			return err
		case info.IsDir():
			return os.MkdirAll(at, 0o700)
		}
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		want[at] = string(content)
		return os.Link(name, at)
	}))
	require.Len(t, want, 2)

	d, err = Open(copied, Options{Logger: quiet(), FlushInterval: time.Hour})
	require.NoError(t, err)
	require.Equal(t, 2, d.Stats().Sets)
	mustPut(t, d, set("a", "3"), set("b", "4"), set("c", "5"))
	require.NoError(t, flush(d))
	closeDir(t, d)
	for at, content := range want {
		now, err := os.ReadFile(at)
		require.NoError(t, err)
		require.Equal(t, content, string(now), at)
	}
}
