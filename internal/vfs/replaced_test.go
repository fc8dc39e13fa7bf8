//go:build unix

package vfs_test

import (
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/vfs"
)

// A writer replaces a file by renaming a new one over it. A reader must get the old or the new
// file, and no error: a relapse would have `aside inspect` call the directory of a running process
// damaged.
func TestAFileThatIsBeingReplacedCanBeOpened(t *testing.T) {
	fsys, err := vfs.Open(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, fsys.Close()) })
	write := func(name, content string) error {
		file, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(file, content); err != nil {
			return err
		}
		return file.Close()
	}
	require.NoError(t, write("file", "content"))
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { // ends with stop, or an error
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			err := write("new", "content")
			if err == nil {
				err = fsys.Rename("new", "file")
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	for range 20_000 {
		file, err := fsys.OpenFile("file", os.O_RDONLY, 0)
		require.NoError(t, err)
		content, err := io.ReadAll(file)
		require.NoError(t, err)
		require.Equal(t, "content", string(content))
		require.NoError(t, file.Close())
	}
	close(stop)
	require.NoError(t, <-done)
}
