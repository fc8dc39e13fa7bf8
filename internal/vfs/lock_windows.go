package vfs

import (
	"errors"
	"os"
	"syscall"
	"unsafe"
)

var lockFileEx = syscall.NewLazyDLL("kernel32.dll").NewProc("LockFileEx")

const (
	lockfileFailImmediately = 1
	lockfileExclusiveLock   = 2
	errorLockViolation      = syscall.Errno(33)
)

// lockFile locks file until it is closed. A locked byte cannot be read by others, so it is one far
// behind the holder's pid.
func lockFile(file *os.File) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	failed := conn.Control(func(fd uintptr) {
		far := syscall.Overlapped{OffsetHigh: 1}
		ok, _, errno := lockFileEx.Call(fd, lockfileFailImmediately|lockfileExclusiveLock, 0, 1, 0, uintptr(unsafe.Pointer(&far)))
		if ok == 0 {
			err = errno
		}
	})
	if failed != nil {
		return failed
	}
	if errors.Is(err, errorLockViolation) {
		return ErrLocked
	}
	return err
}

// unlockFile leaves it to the close: children do not inherit the handle.
func unlockFile(*os.File) {}
