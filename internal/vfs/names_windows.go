package vfs

import (
	"io/fs"
	"os"
	"syscall"
)

const nonblock = 0

// namesOf returns under how many names a file is known.
func namesOf(file *os.File, _ fs.FileInfo) (names uint64, err error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info syscall.ByHandleFileInformation
	failed := conn.Control(func(fd uintptr) { err = syscall.GetFileInformationByHandle(syscall.Handle(fd), &info) })
	if failed != nil {
		err = failed
	}
	return uint64(info.NumberOfLinks), err
}
