//go:build unix

package vfs

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What lies under a name may be something else than was put there. None of it may be changed by
// opening it, and none may hold us up.
func TestOnlyRegularFilesAreOpenedAndNoneOfAnotherNameIsChanged(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	for kind, c := range map[string]struct {
		make func(t *testing.T, at string)
		want error
		read bool // it may be read
	}{
		"a hard link to what is outside": {func(t *testing.T, at string) { require.NoError(t, os.Link(outside, at)) }, ErrLinked, true},
		"a hard link to what is inside": {func(t *testing.T, at string) {
			require.NoError(t, os.Link(filepath.Join(filepath.Dir(at), "inside"), at))
		}, ErrLinked, true},
		"a link to what is inside":    {func(t *testing.T, at string) { require.NoError(t, os.Symlink("inside", at)) }, ErrNotRegular, false},
		"a link to what is outside":   {func(t *testing.T, at string) { require.NoError(t, os.Symlink(outside, at)) }, ErrNotRegular, false},
		"a link to what is not there": {func(t *testing.T, at string) { require.NoError(t, os.Symlink("nothing", at)) }, ErrNotRegular, false},
		"a FIFO":                      {func(t *testing.T, at string) { require.NoError(t, syscall.Mkfifo(at, 0o600)) }, ErrNotRegular, false},
		"a directory":                 {func(t *testing.T, at string) { require.NoError(t, os.Mkdir(at, 0o700)) }, ErrNotRegular, false},
	} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			fsys := openDir(t, dir)
			require.NoError(t, os.WriteFile(outside, []byte("outside"), 0o600))
			put(t, fsys, "inside", "inside")
			at := filepath.Join(dir, "lock")
			c.make(t, at)

			for _, flag := range []int{os.O_WRONLY, os.O_RDWR | os.O_CREATE, os.O_WRONLY | os.O_CREATE | os.O_TRUNC, os.O_WRONLY | os.O_APPEND} {
				_, err := fsys.OpenFile("lock", flag, 0o600)
				require.ErrorIs(t, err, c.want)
				require.ErrorContains(t, err, at)
			}
			f, err := fsys.OpenFile("lock", os.O_RDONLY, 0)
			if c.read {
				require.NoError(t, err)
				require.NoError(t, f.Close())
			} else {
				require.ErrorIs(t, err, c.want)
			}
			_, err = fsys.OpenFile("lock", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			require.ErrorIs(t, err, fs.ErrExist)
			_, err = fsys.Lock("lock")
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, at)
			require.ErrorContains(t, err, "remove this name")

			for name, want := range map[string]string{outside: "outside", filepath.Join(dir, "inside"): "inside"} {
				content, err := os.ReadFile(name)
				require.NoError(t, err)
				assert.Equal(t, want, string(content), name)
			}
			require.NoError(t, os.Remove(at))
			held, err := fsys.Lock("lock")
			require.NoError(t, err, "and then it can be locked")
			require.NoError(t, held.Close())
		})
	}
}

// A child has our files open from when it is forked until it becomes another program. A lock that
// is closed meanwhile must be free all the same: else a process that opens the directory next finds
// it locked by nobody.
func TestALockIsFreeWhenItIsClosedThoughAChildIsBeingForked(t *testing.T) {
	fsys := openDir(t, t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	var forking sync.WaitGroup
	for range 2 {
		forking.Go(func() { // ends with ctx
			for ctx.Err() == nil {
				assert.NoError(t, exec.CommandContext(t.Context(), "true").Run())
			}
		})
	}
	for range 5000 {
		held, err := fsys.Lock("lock")
		if !assert.NoError(t, err) {
			break
		}
		require.NoError(t, held.Close())
	}
	stop()
	forking.Wait()
}
