package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// Open returns the directory dir, which may be a symbolic link, and makes it with mode 0700, and
// its parents, where they are missing.
func Open(dir string) (FS, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	return OpenExisting(dir)
}

// OpenExisting is [Open] of a directory that is there, else an error.
func OpenExisting(dir string) (FS, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &disk{root: root}, nil
}

// makeDir is os.MkdirAll with names that survive a loss of power. Without that, all that is ever
// synced inside could go with the name of the directory.
func makeDir(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	made := []string{} // the parents of what is made, the nearest first
	for at := dir; ; at = filepath.Dir(at) {
		_, err := os.Stat(at)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		made = append(made, filepath.Dir(at))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, parent := range made {
		if err := syncDir(os.Open(parent)); err != nil {
			return err
		}
	}
	if len(made) == 0 {
		// Whoever made it may have been killed before the sync. We may lack the right to open a
		// parent that was always there.
		_ = syncDir(os.Open(filepath.Dir(dir)))
	}
	return nil
}

// disk is a real directory. Immutable.
type disk struct{ root *os.Root }

func (d *disk) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	path, err := local("open", name)
	if err != nil {
		return nil, err
	}
	file, err := d.open(path, flag, perm)
	if err != nil {
		return nil, d.failed("open", path, err)
	}
	return file, nil
}

// failed names the file in an error that does not.
func (d *disk) failed(op, path string, err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return err
	}
	return &fs.PathError{Op: op, Path: filepath.Join(d.root.Name(), path), Err: err}
}

// open opens a regular file, or makes it if flag says so, and changes nothing before it knows that
// it may.
func (d *disk) open(path string, flag int, perm fs.FileMode) (*os.File, error) {
	const anew = os.O_CREATE | os.O_EXCL
	if flag&anew == anew {
		return d.root.OpenFile(path, flag, perm)
	}
	for try := 1; ; try++ {
		// Look before: the root would follow a link that stays inside, and a mere open may do
		// something to a device.
		before, err := d.root.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && flag&os.O_CREATE != 0:
			file, err := d.root.OpenFile(path, flag|os.O_EXCL, perm)
			if errors.Is(err, fs.ErrExist) && try < openTries { // somebody was faster
				continue
			}
			return file, err
		case err != nil:
			return nil, err
		case !before.Mode().IsRegular():
			return nil, notRegular(before)
		}
		file, err := d.root.OpenFile(path, flag&^(os.O_CREATE|os.O_TRUNC)|nonblock, perm)
		if errors.Is(err, fs.ErrNotExist) && flag&os.O_CREATE != 0 && try < openTries {
			continue
		}
		if err != nil {
			return nil, err
		}
		err = check(file, before, flag)
		if err == nil {
			return file, nil
		}
		_ = file.Close() // nothing was done to it
		if !errors.Is(err, errReplaced) || try == openTries {
			return nil, err
		}
	}
}

// openTries bounds how often others may make, remove or replace a file while we open it.
const openTries = 100

// errReplaced reports that a name stands for another file than a moment before. A writer that
// renames a new file over the old one does that.
var errReplaced = errors.New("the name came to stand for another file just now")

// check looks again at a file that is open, as its name may have come to stand for another one, and
// empties it if flag says so.
func check(file *os.File, before fs.FileInfo, flag int) error {
	info, err := file.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return notRegular(info)
	case !os.SameFile(before, info):
		return errReplaced
	case flag&(os.O_WRONLY|os.O_RDWR) == 0:
		return nil
	}
	switch names, err := namesOf(file, info); {
	case err != nil:
		return err
	case names > 1:
		return ErrLinked
	case flag&os.O_TRUNC != 0:
		return file.Truncate(0)
	}
	return nil
}

func notRegular(info fs.FileInfo) error {
	kind := "a device"
	switch mode := info.Mode(); {
	case mode.IsDir():
		kind = "a directory"
	case mode&fs.ModeSymlink != 0:
		kind = "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		kind = "a FIFO"
	case mode&fs.ModeSocket != 0:
		kind = "a socket"
	}
	return fmt.Errorf("%w but %s", ErrNotRegular, kind)
}

func (d *disk) MkdirAll(name string, perm fs.FileMode) error {
	dir, err := local("mkdir", name)
	if err != nil {
		return err
	}
	if err := d.root.MkdirAll(dir, perm); err != nil {
		return err
	}
	// Not only what is new: a process that was killed between the two steps has left a name that
	// only looks durable.
	for name != "." {
		name = path.Dir(name)
		if err := d.SyncDir(name); err != nil {
			return err
		}
	}
	return nil
}

func (d *disk) Rename(oldname, newname string) error {
	from, err := local("rename", oldname)
	if err != nil {
		return err
	}
	to, err := local("rename", newname)
	if err != nil {
		return err
	}
	return d.root.Rename(from, to)
}

func (d *disk) Remove(name string) error {
	path, err := local("remove", name)
	if err != nil {
		return err
	}
	return d.root.Remove(path)
}

func (d *disk) ReadDir(name string) ([]fs.DirEntry, error) {
	if _, err := local("readdir", name); err != nil {
		return nil, err
	}
	return fs.ReadDir(d.root.FS(), name)
}

func (d *disk) Lstat(name string) (fs.FileInfo, error) {
	path, err := local("lstat", name)
	if err != nil {
		return nil, err
	}
	return d.root.Lstat(path)
}

func (d *disk) SyncDir(name string) error {
	path, err := local("sync", name)
	if err != nil {
		return err
	}
	return syncDir(d.root.Open(path))
}

// Lock locks the file, not its name: the lock ends with the process, whatever ends it.
func (d *disk) Lock(name string) (io.Closer, error) {
	path, err := local("lock", name)
	if err != nil {
		return nil, err
	}
	file, err := d.open(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, ErrLinked) || errors.Is(err, ErrNotRegular) {
		err = fmt.Errorf("%w: remove this name, it is only there to be locked", err)
	}
	if err != nil {
		return nil, d.failed("lock", path, err)
	}
	if err := lockFile(file); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(file, 20))
		_ = file.Close()
		if pid := strings.TrimSpace(string(holder)); errors.Is(err, ErrLocked) && pid != "" {
			err = fmt.Errorf("%w by process %s", err, pid)
		}
		return nil, &fs.PathError{Op: "lock", Path: filepath.Join(d.root.Name(), path), Err: err}
	}
	// Its text is for people, so it need be neither whole nor durable.
	if err := file.Truncate(0); err == nil {
		_, _ = io.WriteString(file, strconv.Itoa(os.Getpid())+"\n")
	}
	return &lock{release: sync.OnceValue(func() error {
		// The name stays: another process may have opened it already, and would lock a file that
		// nobody finds any more.
		_ = file.Truncate(0)
		// Not by the close alone: a child that is just being forked has the file open, too, until
		// it becomes another program.
		unlockFile(file)
		return file.Close()
	})}, nil
}

func (d *disk) Close() error { return d.root.Close() }

// lock is a lock that is held until it is closed, once or more often.
type lock struct{ release func() error }

func (l *lock) Close() error { return l.release() }

// syncDir syncs and closes a directory.
func syncDir(dir *os.File, err error) error {
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // it was only read
	return syncOpenDir(dir)
}
