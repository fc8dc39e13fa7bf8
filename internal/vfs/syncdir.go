//go:build !windows

package vfs

import (
	"errors"
	"os"
	"syscall"
)

func syncOpenDir(dir *os.File) error {
	err := dir.Sync()
	// Some file systems (FUSE, network) know no sync of a directory, and say so like this. There is
	// nothing we could do.
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}
