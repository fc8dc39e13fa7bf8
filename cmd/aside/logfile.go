package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
)

// logFile is a file to which lines are appended. It begins anew when it is full, or when somebody
// has moved it away and says so; what was in it is then in a file beside it:
//
//	aside.log
//	aside-2006-01-02T15-04-05.000-size.log      the local time when it was full
//
// Somebody else may also empty it (copytruncate): it is always open for appending, so the next line
// stands at its beginning. It belongs to one goroutine but for moved.
type logFile struct {
	c     config.Log  // immutable
	moved atomic.Bool // it is to be opened by its name again
	now   *os.File    // nil: it is to be opened
}

const logTime = "2006-01-02T15-04-05.000"

// openLogFile opens the file, to hear of it now rather than with the first line.
func openLogFile(c config.Log) (*logFile, error) {
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
		return nil, err
	}
	if info, err := os.Stat(c.Path); err == nil && !info.Mode().IsRegular() { // opening a pipe would wait for its reader
		return nil, errors.New("it is not a regular file; log.stdout writes to standard output")
	}
	f := &logFile{c: c}
	if err := f.open(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *logFile) open() (err error) {
	f.now, err = os.OpenFile(f.c.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	return err
}

// write appends a line; with nil it only opens the file again, if need be.
func (f *logFile) write(line []byte) error {
	if f.moved.Swap(false) && f.now != nil {
		_ = f.now.Close() // what was written is with the operating system
		f.now = nil
	}
	if f.now == nil {
		if err := f.open(); err != nil {
			return err
		}
	}
	if info, err := f.now.Stat(); err == nil && info.Size() > 0 && info.Size()+int64(len(line)) > f.c.MaxSize {
		f.rotate()
	}
	_, err := f.now.Write(line)
	return err
}

// rotate begins a new file, if it can; else the old one grows on.
func (f *logFile) rotate() {
	if err := os.Rename(f.c.Path, f.backup()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return
	}
	old := f.now
	if err := f.open(); err != nil {
		f.now = old
		return
	}
	_ = old.Close() // what was written is with the operating system
	f.prune()
}

// parts are what stands before and after the time in the name of an older file.
func (f *logFile) parts() (before, after string) {
	name := filepath.Base(f.c.Path)
	ext := filepath.Ext(name)
	return strings.TrimSuffix(name, ext) + "-", ext
}

// backup is a free name for the file that is full.
func (f *logFile) backup() string {
	before, after := f.parts()
	stem := filepath.Join(filepath.Dir(f.c.Path), before+time.Now().Format(logTime)+"-size")
	path := stem + after
	for i := 1; ; i++ {
		if _, err := os.Lstat(path); err != nil {
			return path
		}
		path = fmt.Sprintf("%s_%d%s", stem, i, after)
	}
}

// prune removes the oldest of the older files, so that MaxBackups are left.
func (f *logFile) prune() {
	if f.c.MaxBackups == 0 {
		return
	}
	dir := filepath.Dir(f.c.Path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // the next time
	}
	type older struct {
		name string
		at   time.Time
	}
	var all []older
	before, after := f.parts()
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), before)
		if !ok || !strings.HasSuffix(rest, after) || len(rest) < len(logTime) || !e.Type().IsRegular() {
			continue
		}
		if at, err := time.ParseInLocation(logTime, rest[:len(logTime)], time.Local); err == nil {
			all = append(all, older{e.Name(), at})
		}
	}
	slices.SortFunc(all, func(a, b older) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(b.name, a.name)) })
	for _, o := range all[min(f.c.MaxBackups, len(all)):] {
		_ = os.Remove(filepath.Join(dir, o.name)) // the next time
	}
}
