package harness

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
)

// Durable gives a client a directory of its own.
func Durable(t testing.TB) (dir string, option func(*aside.Options)) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "fallback")
	return dir, func(o *aside.Options) { o.FallbackDir = dir }
}

// NewDurable makes a client that may start without Redis: it does not wait for one that refuses, and for
// one that hangs as long as a dial may take.
func NewDurable(t testing.TB, addr, dir string, change ...func(*aside.Options)) *aside.Client {
	t.Helper()
	return NewClient(t, addr, append([]func(*aside.Options){Hasty, func(o *aside.Options) {
		o.FallbackDir, o.RequireRedis, o.ConnectTimeout = dir, false, Patience
	}}, change...)...)
}

// Files are the names of the files below dir, but for the lock.
func Files(t testing.TB, dir string) (names []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // it is removed while we look
			return nil
		case err == nil && !d.IsDir() && d.Name() != "lock":
			names = append(names, path)
		}
		return err
	}))
	return names
}
