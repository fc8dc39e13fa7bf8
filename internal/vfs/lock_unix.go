//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package vfs

import (
	"errors"
	"os"
	"syscall"
)

// lockFile locks file until it is unlocked, or closed by all who have it open: this process, and
// children that it is forking. A lock by flock belongs to the open file, so it also excludes this
// process; one by fcntl would not, and would end with the first close of any of our descriptors.
func lockFile(file *os.File) error {
	err := flock(file, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// unlockFile ends the lock, even if others have the file open. Should it fail, the close does it a
// little later.
func unlockFile(file *os.File) { _ = flock(file, syscall.LOCK_UN) }

func flock(file *os.File, how int) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	failed := conn.Control(func(fd uintptr) {
		for {
			err = syscall.Flock(int(fd), how)
			if !errors.Is(err, syscall.EINTR) {
				return
			}
		}
	})
	return errors.Join(failed, err)
}
