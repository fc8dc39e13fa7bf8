//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package vfs

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// lockFile fails: a file whose mere existence is the lock would outlive a process that is killed.
func lockFile(*os.File) error {
	return fmt.Errorf("locking files on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func unlockFile(*os.File) {}
