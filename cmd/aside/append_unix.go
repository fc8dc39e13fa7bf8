//go:build linux || darwin || freebsd || netbsd

package main

import (
	"os"
	"syscall"
)

// appendTo has what is written to a file go to its end, wherever that is by then: else a file that
// somebody has emptied begins with zeros, as long as it was.
func appendTo(file *os.File) {
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if flags, _, failed := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFL, 0); failed == 0 {
			_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_SETFL, flags|syscall.O_APPEND)
		}
	})
}
