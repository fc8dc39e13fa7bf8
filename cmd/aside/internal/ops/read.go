package ops

import (
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

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/fallback/journal"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/vfs"
)

const (
	journalDir    = "journal"
	filesDir      = "db"
	quarantineDir = "quarantine"
	reasonSuffix  = ".reason"
)

// Record is what a directory has of a key.
type Record struct {
	fallback.Record
	DB   int
	File string // where it stands, relative to the directory: a record file, or a part of the journal
}

// Written is when it was written, by Redis's clock as it was known then; the zero time if its stamp
// does not say so.
func (r *Record) Written() time.Time {
	µs, ok := stamp.Micros(r.Stamp)
	if !ok {
		return time.Time{}
	}
	return time.UnixMicro(µs).UTC()
}

// Ends is when its value ends; the zero time for a delete and for operations.
func (r *Record) Ends() time.Time {
	if r.Op == fallback.OpDel || r.Op == fallback.OpOperations {
		return time.Time{}
	}
	return time.UnixMilli(r.Expires).UTC()
}

// Expired reports whether it is a value that has ended by this machine's clock: a set will be
// replayed as a delete, a fill not at all.
func (r *Record) Expired(now time.Time) bool {
	return r.Op != fallback.OpDel && r.Op != fallback.OpOperations && r.Expires <= now.UnixMilli()
}

// Kind is a kind of Problem. The values are the words that are shown.
type Kind string

// The kinds of damage.
const (
	Torn        Kind = "torn"        // the end of the journal is missing
	Partial     Kind = "partial"     // so is that of a loaded value
	Corrupt     Kind = "corrupt"     // its bytes have changed, or something else stands in its place
	Empty       Kind = "empty"       // nothing is left of it
	Renamed     Kind = "renamed"     // it is the record of another key than its name says
	Foreign     Kind = "foreign"     // it does not belong there
	Newer       Kind = "newer"       // a newer version of aside wrote it
	Missing     Kind = "missing"     // records that should be there
	Unreadable  Kind = "unreadable"  // the system does not let us read it
	Quarantined Kind = "quarantined" // put aside by an earlier opening
	Rejected    Kind = "rejected"    // operations that a replay has put aside: Redis has refused them, or nobody knows whether they were done
)

// Remedy says what to do about a Problem of this kind.
func (k Kind) Remedy() string {
	switch k {
	case Torn:
		return "nothing, if a process or the machine ended while this was written: it was not acknowledged then. Otherwise check the disk, and delete through the proxy the keys that were written last. The next opening cuts it off"
	case Partial:
		return "nothing: it was not acknowledged, and the next opening removes it"
	case Corrupt:
		return "check the disk; the next opening puts it into quarantine. Then delete the key through the proxy, so that no cache goes on serving it"
	case Empty:
		return "check the disk: if it held an acknowledged write, that is lost, and so is its key (a record file's name is the MD5 of it). After a loss of power it may have held a loaded value, for which nothing is promised"
	case Renamed:
		return "the record is whole: while no process has the directory, move the file to where its detail says that it belongs; if a file is there already, keep that. The record of its present name is missing, unless it is under another one"
	case Foreign:
		return "move it out of the directory; aside leaves it alone"
	case Newer:
		return "run that version until nothing is pending; this one does not open the directory. To start this one at once: move the directory away, keep it, and replay it with that version later"
	case Missing:
		return "check the disk: these records are lost, and their keys are not known"
	case Unreadable:
		return "run this as the user of the proxy, and check the disk"
	case Quarantined:
		return "read the .reason beside it, delete its key through the proxy, then remove both files"
	case Rejected:
		return "look at its commands, and at what the key holds now; do by hand, through the proxy, those that are wanted; then remove the file and the .reason beside it. Do not delete the key: the rest of it is right"
	default:
		return ""
	}
}

// MayMiss reports whether something that was acknowledged may be missing in what can be read,
// because of a Problem of this kind.
func (k Kind) MayMiss() bool { return k != Foreign && k != Partial }

// Problem is something that should not be as it is.
type Problem struct {
	Kind   Kind   `json:"kind"`
	File   string `json:"file"` // relative to the directory
	Detail string `json:"detail"`
}

// Findings are what Read has seen beside the records.
type Findings struct {
	Holder       int  // process that has written its id into the lock; 0 if none has
	Running      bool // and it runs, as far as can be seen
	Parts        int  // of the journal
	Journaled    int  // records in them, those that were superseded or settled included
	JournalBytes int64
	Files        int // record files that can be read
	FileBytes    int64
	Unfinished   int // files that were being written, by the process that runs or one that was killed
	Problems     []Problem
}

// Missing counts the problems that may hide the loss of an acknowledged write.
func (f *Findings) Missing() int {
	n := 0
	for _, p := range f.Problems {
		if p.Kind.MayMiss() {
			n++
		}
	}
	return n
}

// ErrNotADirectory says that what was named is no fallback directory.
var ErrNotADirectory = errors.New("no fallback directory of aside")

// Read passes on the record of each key of every database in a fallback directory: one record
// for each, in no particular order, merged from journal and files as the next process would. It
// needs memory for what the journal holds, which is what has been written since the last flush;
// files are read one by one. An error is each's, or says that the directory could not be read at
// all.
func Read(dir string, each func(Record) error) (Findings, error) {
	fsys, err := vfs.OpenExisting(dir)
	if err != nil {
		return Findings{}, fmt.Errorf("the fallback directory cannot be read: %w", err)
	}
	defer func() { _ = fsys.Close() }() // was only read from
	r := &reader{fsys: fsys, each: each}
	if err := r.top(); err != nil {
		return r.f, fmt.Errorf("%s: %w", dir, err)
	}
	// The journal before the files: see the package comment.
	if err := r.journal(); err != nil {
		return r.f, err
	}
	if err := r.files(); err != nil {
		return r.f, err
	}
	for _, s := range r.journaled {
		if s.whole(); s.best.Op != "" {
			if err := each(s.best); err != nil {
				return r.f, err
			}
		}
	}
	return r.f, nil
}

type reader struct {
	fsys vfs.FS
	each func(Record) error
	f    Findings

	journaled map[journalKey]*journalState
	last      uint64 // number of the latest record of the journal
}

type journalKey struct {
	db   int
	hash journal.KeyHash
}

func (r *reader) problem(kind Kind, file, detail string, args ...any) {
	r.f.Problems = append(r.f.Problems, Problem{kind, file, fmt.Sprintf(detail, args...)})
}

// readDir lists a folder. What is not there, or goes while we look, is empty.
func (r *reader) readDir(name string) []fs.DirEntry {
	entries, err := r.fsys.ReadDir(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.problem(Unreadable, name, "%v", cause(err))
	}
	return entries
}

// top looks at the directory itself.
func (r *reader) top() error {
	entries, err := r.fsys.ReadDir(".")
	if err != nil {
		return err
	}
	ours := 0
	var others []string
	for _, e := range entries {
		switch name := e.Name(); name {
		case "lock":
			ours++
			r.lock()
		case journalDir, filesDir, quarantineDir:
			ours++
			switch {
			case !e.IsDir():
				r.problem(Corrupt, name, "it should be a folder, and is %s", kindOf(e))
			case name == quarantineDir:
				r.quarantine()
			}
		default:
			others = append(others, name)
		}
	}
	if ours == 0 {
		return fmt.Errorf("%w: it has neither lock nor journal nor db in it: name the one that the log of aside names", ErrNotADirectory)
	}
	for _, name := range others {
		r.problem(Foreign, name, "aside puts nothing of that name there")
	}
	return nil
}

// lock finds out which process has the directory.
func (r *reader) lock() {
	file, err := r.fsys.OpenFile("lock", os.O_RDONLY, 0)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.problem(Foreign, "lock", "no process can lock it: %v", cause(err))
		}
		return
	}
	defer func() { _ = file.Close() }() // was only read from
	if again, err := r.fsys.OpenFile("lock", os.O_WRONLY, 0); err == nil {
		_ = again.Close() // nothing was written
	} else if errors.Is(err, vfs.ErrLinked) {
		r.problem(Foreign, "lock", "no process can lock it: %v", cause(err))
	}
	content, err := io.ReadAll(io.LimitReader(file, 20))
	if err != nil {
		return // it says only which process has it
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || pid <= 0 {
		return
	}
	r.f.Holder = pid
	if info, err := file.Stat(); err == nil {
		r.f.Holder, r.f.Running = holder(pid, info)
	}
}

// runs reports whether there is a process with this id, which need not be the one that wrote it
// down.
func runs(pid int) bool {
	process, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	err = process.Signal(syscall.Signal(0))
	return err == nil || errors.Is(err, os.ErrPermission)
}

// files reads the record files of all databases, and passes their records on.
func (r *reader) files() error {
	if info, err := r.fsys.Lstat(filesDir); err == nil && !info.IsDir() {
		return nil // top has said so
	}
	for _, e := range r.readDir(filesDir) {
		name := path.Join(filesDir, e.Name())
		db, err := strconv.Atoi(e.Name())
		if err != nil || db < 0 || strconv.Itoa(db) != e.Name() {
			r.problem(Foreign, name, "it is not the number of a database")
			continue
		}
		if !e.IsDir() {
			r.problem(Corrupt, name, "it should be a folder, and is %s", kindOf(e))
			continue
		}
		if err := r.folder(db, name, 3); err != nil {
			return err
		}
	}
	return nil
}

// folder reads one with that many levels of folders below it.
func (r *reader) folder(db int, folder string, levels int) error {
	for _, e := range r.readDir(folder) {
		name := path.Join(folder, e.Name())
		switch {
		case levels > 0 && isHex(e.Name(), 2) && e.IsDir():
			if err := r.folder(db, name, levels-1); err != nil {
				return err
			}
		case levels == 0 && isRecordName(e.Name()) && e.Type().IsRegular():
			if err := r.file(db, name); err != nil {
				return err
			}
		case levels == 0 && strings.HasSuffix(e.Name(), tempSuffix) && isRecordName(strings.TrimSuffix(e.Name(), tempSuffix)):
			r.f.Unfinished++
		case levels == 0 && isRecordName(e.Name()), levels > 0 && isHex(e.Name(), 2):
			r.problem(Corrupt, name, "something else stands there: %s", kindOf(e))
		default:
			r.problem(Foreign, name, "aside puts nothing of that name there (%v)", kindOf(e))
		}
	}
	return nil
}

func kindOf(e fs.DirEntry) string {
	switch {
	case e.IsDir():
		return "a folder"
	case e.Type().IsRegular():
		return "a file"
	case e.Type()&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case e.Type()&fs.ModeSymlink != 0:
		return "a symbolic link"
	default:
		return "a " + e.Type().String()
	}
}

func (r *reader) file(db int, name string) error {
	content, err := r.content(name)
	switch {
	case errors.Is(err, fs.ErrNotExist): // Redis has answered for it meanwhile
		return nil
	case errors.Is(err, fallback.ErrFileCorrupt):
		r.problem(Corrupt, name, "%v", err)
		return nil
	case err != nil:
		r.problem(Unreadable, name, "%v", cause(err))
		return nil
	}
	record, err := fallback.DecodeFile(path.Base(name), content)
	if err != nil {
		kind, detail := damageOf(err)
		if kind == Renamed {
			detail += "; it belongs at " + fallback.FileOf(db, record.Key)
		}
		r.problem(kind, name, "%s", detail)
		return nil
	}
	r.f.Files++
	r.f.FileBytes += int64(len(content))
	found := Record{Record: record, DB: db, File: name}
	key := journalKey{db, journal.HashKey(record.Key)}
	s := r.journaled[key]
	switch {
	case s == nil:
	case record.Op == fallback.OpFill && s.explicit: // it had gone when the journal was written
		return nil
	case record.Op != fallback.OpFill && record.Stamp <= s.settled:
		return nil
	default:
		if s.whole(); s.best.Op != "" {
			if merged, changed := fallback.Merge(record, s.best.Record); changed {
				found = s.best
				found.Record = merged
			}
		}
		found.Record = s.begun(found.Record)
		delete(r.journaled, key)
	}
	return r.each(found)
}

func (r *reader) content(name string) ([]byte, error) {
	file, err := r.fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // was only read from
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return fallback.ReadFile(file, info.Size())
}

func isHex(s string, length int) bool {
	return len(s) == length && strings.Trim(s, "0123456789abcdef") == ""
}

func isRecordName(name string) bool {
	base, ok := strings.CutSuffix(name, fileSuffix)
	return ok && isHex(base, 32)
}

// cause is an error of the system without the path, which the problem names already.
func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
