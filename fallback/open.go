package fallback

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redaside/aside/fallback/journal"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/vfs"
)

// The names in the directory.
const (
	lockName       = "lock"
	journalDir     = "journal"
	filesDir       = "db"
	quarantineDir  = "quarantine"
	reasonSuffix   = ".reason"
	dirMode        = 0o700
	fileMode       = 0o600
	hexDigitsLower = "0123456789abcdef"
)

// Open opens the directory dir and makes it if it is not there. It must be this store's own:
// another store on it, of this process or another one, gets ErrLocked. What Open does, and what it
// costs, is in the package's description.
func Open(dir string, o Options) (*Dir, error) {
	o.dir = dir
	if err := o.withDefaults().validate(); err != nil {
		return nil, err
	}
	fsys, err := vfs.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDisk, dir, err)
	}
	d, err := OpenFS(fsys, o)
	if err != nil {
		_ = fsys.Close() // it is the other error that counts
		return nil, err
	}
	d.ownFS = true
	return d, nil
}

// OpenFS is [Open] on a file system of this module, which it does not close. It is there for tests.
func OpenFS(fsys vfs.FS, o Options) (*Dir, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	// 1. Lock.
	lock, err := fsys.Lock(lockName)
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("%w: %s: %w: close the other one, or give each a directory of its own", ErrLocked, o.dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDisk, o.dir, err)
	}
	d := &Dir{
		o: o, fs: fsys, lock: lock, x: newIndex(), pinned: make(map[string]int),
		kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		gone: make(map[digest]goneFile), foreign: make(map[foreignKey]*foreign), foreignNotes: make(map[foreignHash]*foreign), untidy: make(map[string]bool),
		writers: new(writers), progress: make(chan struct{}), closed: make(chan struct{}),
	}
	d.patience, d.giveUp = context.WithCancel(context.Background())
	d.x.removed = d.leaveFileLocked
	if err := d.recover(); err != nil {
		_ = lock.Close() // it is the other error that counts
		return nil, err
	}
	go d.flusher() // ends when Close stops it, and the disk lets it
	return d, nil
}

// leaveFileLocked is called with an entry that was removed.
func (d *Dir) leaveFileLocked(e *entry) {
	if e.file > 0 {
		d.goneLocked(digestOf(e.record.Key), goneFile{e.record.Key, e.file})
	}
}

func (d *Dir) goneLocked(name digest, g goneFile) {
	d.notGoneLocked(name)
	d.gone[name] = g
	d.goneBytes += g.bytes
}

func (d *Dir) notGoneLocked(name digest) {
	d.goneBytes -= d.gone[name].bytes
	delete(d.gone, name)
}

// recover reads what is there. Nobody else knows d yet. The numbers are those of the package's
// description.
func (d *Dir) recover() error {
	began := time.Now()
	for _, name := range []string{filesDir, path.Join(filesDir, strconv.Itoa(d.o.DB)), journalDir, quarantineDir} {
		switch info, err := d.fs.Lstat(name); {
		case err == nil && !info.IsDir():
			return fmt.Errorf("%w: %s: %s is no directory (%v): move it away", ErrDisk, d.o.dir, name, info.Mode().Type())
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%w: %s: %w", ErrDisk, d.o.dir, err)
		}
	}
	if err := d.countQuarantined(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDisk, d.o.dir, err)
	}
	before := d.quarantined

	// 2. and 3. Files.
	if err := d.readFiles(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDisk, d.o.dir, err)
	}
	files := len(d.x.byKey)

	// 4. and 5. The journal.
	m := merger{d: d}
	log, report, err := journal.Open(d.fs, journalDir, journal.Options{Sync: d.o.Sync, Quarantine: quarantineDir, Logger: d.o.Logger.With("store", d.o.dir)}, m.merge)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDisk, d.o.dir, err)
	}
	d.journal = log

	// 6. Report.
	if err := d.countQuarantined(); err != nil {
		d.o.Logger.Warn("aside: cannot look into the fallback quarantine", "store", d.o.dir, "error", err)
	}
	if len(d.x.byKey) > 0 || len(d.foreign) > 0 || d.quarantined > 0 {
		d.o.Logger.Info("aside: the fallback directory was opened", "store", d.o.dir,
			"sets", d.x.sets, "deletes", d.x.deletes, "operations", d.x.operations, "fills", d.x.loaded, "files", files, "journaled", m.records, "otherDatabases", len(d.foreign),
			"quarantined", d.quarantined-before, "inQuarantine", d.quarantined, "torn", report.Torn != nil, "damages", len(report.Damages), "gaps", len(report.Gaps),
			"took", time.Since(began))
	}
	if d.x.dirty.len+len(d.gone)+len(d.bad)+len(d.foreign)+len(d.foreignNotes) > 0 || log.Size() > 0 {
		d.wake() // files for what is in the journal only, and leftovers are removed
	}
	return nil
}

// countQuarantined counts what is in quarantine, and what is on its way there.
func (d *Dir) countQuarantined() error {
	entries, err := d.fs.ReadDir(quarantineDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d.quarantined = len(d.bad)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), reasonSuffix) {
			d.quarantined++
		}
	}
	return nil
}

// readFiles reads the record files of our database into the index, folder by folder, so that it
// never has more in memory than the names in one folder, one file, and the index.
func (d *Dir) readFiles() error {
	return d.readFolder(path.Join(filesDir, strconv.Itoa(d.o.DB)), folderLevels-1)
}

// readFolder reads a folder with that many levels of folders below it. What it does not know it
// leaves alone, unless it stands where something of ours belongs. It removes a folder that holds
// nothing any more; without a sync, as that means nothing.
func (d *Dir) readFolder(folder string, levels int) error {
	entries, err := d.fs.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	left := len(entries)
	for _, e := range entries {
		name := path.Join(folder, e.Name())
		switch {
		case levels > 0 && isHex(e.Name(), 2) && e.IsDir():
			if err := d.readFolder(name, levels-1); err != nil {
				return err
			}
			if _, err := d.fs.Lstat(name); errors.Is(err, fs.ErrNotExist) {
				left--
			}
		case levels > 0 && isHex(e.Name(), 2), levels == 0 && isRecordName(e.Name()) && !e.Type().IsRegular():
			d.lost(name, fmt.Errorf("%w: something else stands there (%v)", ErrFileCorrupt, e.Type()))
		case levels == 0 && isRecordName(e.Name()):
			removed, err := d.readRecord(name)
			if err != nil {
				return err
			}
			if removed {
				left--
			}
		case levels == 0 && isRecordName(strings.TrimSuffix(e.Name(), tempSuffix)):
			// Written halfway when the process or the machine ended. The journal still has what it
			// was to hold.
			if err := d.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			left--
		}
	}
	if left == 0 {
		_ = d.fs.Remove(folder) // an empty folder is only untidy
	}
	return nil
}

// readRecord reads a record file into the index.
func (d *Dir) readRecord(name string) (removed bool, err error) {
	r, at, size, err := readFile(d.fs, name)
	if err == nil && digestOf(r.Key).base() != path.Base(name) {
		err = otherKey(&r, d.o.DB)
	}
	switch {
	case errors.Is(err, errMissing):
		return true, nil
	case errors.Is(err, ErrFileTorn):
		d.o.Logger.Info("aside: a loaded value was not written to its end", "store", d.o.dir, "file", name)
		if err := d.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		return true, nil
	case damaged(err):
		d.lost(name, err)
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%s: %w", name, err)
	}
	e := d.x.mergeLocked(&r, at, false)
	if e == nil {
		return false, fmt.Errorf("%s: a second file for its key", name) // names are unique
	}
	e.file = size
	d.fileBytes += size
	if e.size > 0 && r.Op != OpOperations && (d.x.values > d.o.MemoryBytes || d.o.forget) {
		d.x.forgetValueLocked(e)
	}
	return false, nil
}

// lost has what stands where a record belongs put into quarantine, and says so.
func (d *Dir) lost(name string, reason error) {
	d.bad = append(d.bad, badFile{name, reason})
	d.o.Logger.Warn("aside: a fallback record is lost", "store", d.o.dir, "file", name, "reason", reason)
}

// merger takes in the journal.
type merger struct {
	d       *Dir
	records int
	full    bool                       // the disk did not take what does not fit into memory
	keys    map[journal.KeyHash]string // of our database; nil until a settle marker asks
	others  map[foreignHash]*foreign
}

// merge is called with each record of the journal, in order.
func (m *merger) merge(j journal.Record) error {
	if j.Op == journal.Transaction { // all of it is there; from here on each key goes by itself
		for i := range j.Parts {
			if err := m.merge(j.Parts[i]); err != nil {
				return err
			}
		}
		return nil
	}
	m.records++
	m.d.x.seenLocked(j.Stamp)
	if j.DB != m.d.o.DB {
		m.d.unsure = true
		m.mergeForeign(&j)
		return nil
	}
	switch j.Op {
	case journal.Settle: // what is older may come first, if what superseded it was in a part that has been dropped since
		key, ok := m.keyOf(j.KeyHash)
		if e := m.d.x.byKey[key]; !ok || e == nil || e.file == 0 {
			m.d.unsure = true // its file may just have been removed
		}
		if ok {
			m.d.x.settleUpToLocked(key, j.Stamp)
		}
		return nil
	case journal.Opened:
		if key, ok := m.keyOf(j.KeyHash); ok {
			note := fromJournal(&j)
			note.Key = key
			m.d.x.mergeLocked(&note, time.Now().UnixMilli(), true)
		}
		return nil
	case journal.Set, journal.Del, journal.Operations, journal.Transaction:
	}
	r := fromJournal(&j)
	if err := r.validate(); err != nil {
		return nil //nolint:nilerr // a record that Put would have refused was not ours, and must not keep us from the others
	}
	d := m.d
	if e := d.x.behindLocked(r.Key, []Record{r}); e != nil && !e.held {
		if err := d.readAgain([]found{e.found()}); err != nil {
			return err
		}
	}
	if d.x.mergeLocked(&r, time.Now().UnixMilli(), true) == nil {
		if e := d.x.byKey[r.Key]; e != nil && e.file > 0 {
			d.unsure = true // its file may just have got its name
		}
	}
	if m.keys != nil {
		m.keys[journal.HashKey(r.Key)] = r.Key
	}
	if d.x.dirtyValues > d.o.MemoryBytes && !m.full {
		m.full = d.writeDirty(d.x.dirty.len) != nil // it can wait, and costs memory until then
	}
	d.trimLocked()
	return nil
}

// keyOf returns the key of our database that has a hash.
func (m *merger) keyOf(hash journal.KeyHash) (string, bool) {
	d := m.d
	if m.keys == nil {
		m.keys = make(map[journal.KeyHash]string, len(d.x.byKey))
		for key := range d.x.byKey {
			m.keys[journal.HashKey(key)] = key
		}
	}
	key, ok := m.keys[hash]
	return key, ok
}

// fromJournal is a record of the journal. A note that a list was opened does not name its key.
func fromJournal(j *journal.Record) Record {
	r := Record{Op: OpSet, Key: j.Key, Value: j.Value, Expires: j.Expires, Stamp: j.Stamp, Slack: j.Slack}
	switch j.Op {
	case journal.Del:
		r.Op, r.Value, r.Expires = OpDel, "", 0
	case journal.Operations:
		r.Op, r.Value, r.Expires = OpOperations, deferred.Together(j.List, j.Stamp, j.Commands).String(), 0
	case journal.Opened:
		r = Record{Op: OpOperations, Stamp: j.List, Value: deferred.List{ID: j.List, Opened: true}.String()}
	case journal.Set, journal.Settle, journal.Transaction:
	}
	return r
}

// Why a file is not read.
var (
	errMissing = errors.New("the file is not there")
	errIO      = errors.New("the disk cannot read it")
)

// damaged reports whether a file cannot be read because of what it is, rather than for a reason
// that may pass.
func damaged(err error) bool {
	for _, reason := range []error{errMissing, errIO, ErrFileTorn, ErrFileEmpty, ErrFileCorrupt, ErrFileOtherKey} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// readFile reads a record file, and says how large it is. What can be none, because of its kind,
// size or beginning, it does not read.
func readFile(fsys vfs.FS, name string) (r Record, at, size int64, err error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r, 0, 0, errMissing
	case errors.Is(err, vfs.ErrNotRegular):
		return r, 0, 0, fmt.Errorf("%w: %w", ErrFileCorrupt, err)
	case err != nil:
		return r, 0, 0, err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return r, 0, 0, err
	}
	size = info.Size()
	b, err := ReadFile(f, size)
	switch {
	case errors.Is(err, ErrFileCorrupt):
		return r, 0, size, err
	case errors.Is(err, syscall.EIO):
		return r, 0, size, fmt.Errorf("%w: %w", errIO, err)
	case err != nil:
		return r, 0, size, err
	}
	r, at, err = decodeFile(b)
	return r, at, size, err
}

// ReadFile reads what [DecodeFile] decodes, from a file that has size bytes. It takes no memory for
// what can be no record: what is larger than any, or does not begin like one (a file of which the
// disk knows the length only reads as zeros). The error is ErrFileCorrupt, or the reader's.
func ReadFile(file io.Reader, size int64) ([]byte, error) {
	if size > MaxFileBytes {
		return nil, fmt.Errorf("%w: it has %d bytes, and a record has %d at most", ErrFileCorrupt, size, int64(MaxFileBytes))
	}
	b := make([]byte, min(size, fileHead))
	if err := readFull(file, b); err != nil || size <= fileHead {
		return b, err
	}
	if !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{")) {
		return nil, fmt.Errorf("%w: it does not begin like one", ErrFileCorrupt)
	}
	b = append(make([]byte, 0, size), b...)[:size]
	return b, readFull(file, b[fileHead:])
}

// fileHead is how much of a file is read before it is known that it begins like a record.
const fileHead = 4 << 10

func readFull(file io.Reader, b []byte) error {
	_, err := io.ReadFull(file, b)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it is shorter than it says", ErrFileCorrupt)
	}
	return err
}

// isRecordName reports whether a file is named like a record's.
func isRecordName(name string) bool {
	base, ok := strings.CutSuffix(name, fileSuffix)
	return ok && isHex(base, 2*len(digest{}))
}

func isHex(s string, length int) bool {
	return len(s) == length && strings.Trim(s, hexDigitsLower) == ""
}
