// Package vfs is the little that aside needs of a file system: one directory, which nothing can
// lead out of. [Open] gives a real one; [Mem] is one in memory that forgets what was not synced and
// fails when it is told to, for tests.
package vfs

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
)

// ErrLocked means that the lock is taken: another process, or another FS of this one. Test with
// [errors.Is]; the message names the holder's process where it is known.
var ErrLocked = errors.New("locked")

// ErrNotRegular says that a name stands for something else than a regular file: a directory, a
// symbolic link, a FIFO.
var ErrNotRegular = errors.New("no regular file")

// ErrLinked says that a file has other names, perhaps outside: what is written to it would change
// what they stand for.
var ErrLinked = errors.New("the file has another name (a hard link), and is not written to")

// FS is one directory. Names are slash-separated and relative to it, as package io/fs has them: "."
// is the directory itself, and a name that is not [fs.ValidPath], or that leads out by a symbolic
// link, is an error. Safe for concurrent use.
//
// OpenFile and Lock open regular files only (else [ErrNotRegular]): they follow no symbolic link,
// not even one that stays inside, and do not wait for somebody at the other end of a FIFO. They
// change nothing, and do not open for writing, what has another name (else [ErrLinked]).
//
// A loss of power leaves: of a file, what was there when its Sync returned; of a name (made,
// renamed or removed), what was there when SyncDir of its directory returned. Rename replaces
// atomically. What survives a kill of the process: everything that was written.
type FS interface {
	OpenFile(name string, flag int, perm fs.FileMode) (File, error) // flag as for os.OpenFile
	MkdirAll(name string, perm fs.FileMode) error                   // makes the names durable, also of what was there
	Rename(oldname, newname string) error                           // replaces a file, not a directory
	Remove(name string) error                                       // a file or an empty directory
	ReadDir(name string) ([]fs.DirEntry, error)
	Lstat(name string) (fs.FileInfo, error)
	SyncDir(name string) error
	Lock(name string) (io.Closer, error) // makes the file if need be; else ErrLocked. The file stays when the lock is closed
	Close() error                        // files and locks that are open stay so
}

// File is an open file. Its position is that of Read and Write. Safe for concurrent use, one call
// after the other.
type File interface {
	io.Reader
	io.Writer
	io.Seeker
	io.Closer
	Truncate(size int64) error
	Sync() error
	Stat() (fs.FileInfo, error)
}

// local is name as the operating system writes it. It refuses more than [os.Root] does, such as
// "a/../b": what one FS takes, all take.
func local(op, name string) (string, error) {
	path, err := filepath.Localize(name)
	if err != nil {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return path, nil
}
