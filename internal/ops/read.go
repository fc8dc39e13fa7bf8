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
)

// Record is what a directory has of a key.
type Record struct {
	fallback.Record
	DB   int
	File string // where it stands, relative to the directory: a record file, or a part of the journal
}

// Written is when it was written, by Redis's clock as it was known then; the zero time if its stamp does not say so.
func (r *Record) Written() time.Time {
	const digits = 16
	if len(r.Stamp) < digits {
		return time.Time{}
	}
	µs, err := strconv.ParseInt(r.Stamp[:digits], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMicro(µs).UTC()
}

// Ends is when its value ends; the zero time for a delete.
func (r *Record) Ends() time.Time {
	if r.Op == fallback.OpDel {
		return time.Time{}
	}
	return time.UnixMilli(r.Expires).UTC()
}

// Expired says whether it is a value that has ended by this machine's clock: a set will be replayed as a delete, a fill not at all.
func (r *Record) Expired(now time.Time) bool {
	return r.Op != fallback.OpDel && r.Expires <= now.UnixMilli()
}

// Kind is a kind of Problem. The values are the words that are shown.
type Kind string

// What can be wrong.
const (
	Torn        Kind = "torn"        // its end is missing
	Corrupt     Kind = "corrupt"     // its bytes have changed
	Foreign     Kind = "foreign"     // it does not belong there
	Newer       Kind = "newer"       // a newer version of aside wrote it
	Missing     Kind = "missing"     // records that should be there
	Unreadable  Kind = "unreadable"  // the system does not let us read it
	Quarantined Kind = "quarantined" // put aside by an earlier opening
)

// Remedy says what to do about a Problem of this kind.
func (k Kind) Remedy() string {
	switch k {
	case Torn:
		return "nothing: it was not acknowledged, or its loss was allowed; the next opening cuts it off"
	case Corrupt:
		return "look at the disk; the next opening puts it into quarantine. Then delete the key through the proxy, so that no cache goes on serving it"
	case Foreign:
		return "move it out of the directory; aside leaves it alone, or puts it into quarantine where a record belongs"
	case Newer:
		return "run that version until nothing is pending; this one does not open the directory. To start this one at once: move the directory away, keep it, and replay it with that version later"
	case Missing:
		return "look at the disk: what these records held is lost. What they were of is not known"
	case Unreadable:
		return "run this as the user of the proxy, and look at the disk"
	case Quarantined:
		return "read the .reason beside it, delete its key through the proxy, then remove both files"
	default:
		return ""
	}
}

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

// ErrNotADirectory says that what was named is no fallback directory.
var ErrNotADirectory = errors.New("no fallback directory of aside")

// Read hands over what is known of each key of every database in a fallback directory: one record for each, in no particular order, merged from
// journal and files as the next process would. It needs memory for what the journal holds, which is what has been written since the last flush;
// files are read one by one. An error is each's, or says that the directory could not be read at all.
func Read(dir string, each func(Record) error) (Findings, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Findings{}, fmt.Errorf("the fallback directory cannot be read: %w", err)
	}
	defer func() { _ = root.Close() }() // was only read from
	r := &reader{fsys: root.FS(), each: each}
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
		if s.best.Op != "" {
			if err := each(s.best); err != nil {
				return r.f, err
			}
		}
	}
	return r.f, nil
}

type reader struct {
	fsys fs.FS
	each func(Record) error
	f    Findings

	journaled map[journalKey]*journalState
	last      uint64 // number of the latest record of the journal
}

type journalKey struct {
	db   int
	hash journal.KeyHash
}

// journalState is what the journal says of a key.
type journalState struct {
	explicit bool   // there was a set or a delete: a fill has gone with it
	best     Record // without an Op if what there was is settled
	settled  string // the greatest stamp that was
}

func (r *reader) problem(kind Kind, file, detail string, args ...any) {
	r.f.Problems = append(r.f.Problems, Problem{kind, file, fmt.Sprintf(detail, args...)})
}

// readDir lists a folder. What is not there, or goes while we look, is empty.
func (r *reader) readDir(name string) []fs.DirEntry {
	entries, err := fs.ReadDir(r.fsys, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.problem(Unreadable, name, "%v", cause(err))
	}
	return entries
}

// top looks at the directory itself.
func (r *reader) top() error {
	entries, err := fs.ReadDir(r.fsys, ".")
	if err != nil {
		return err
	}
	ours := 0
	var others []string
	for _, e := range entries {
		switch name := e.Name(); {
		case name == "lock" && e.Type().IsRegular():
			ours++
			r.lock()
		case (name == "journal" || name == "db" || name == "quarantine") && e.IsDir():
			ours++
			if name == "quarantine" {
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

func (r *reader) lock() {
	content, err := fs.ReadFile(r.fsys, "lock")
	if err != nil {
		return // it says only who has it
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || pid <= 0 {
		return
	}
	r.f.Holder = pid
	if process, err := os.FindProcess(pid); err == nil {
		err = process.Signal(syscall.Signal(0))
		r.f.Running = err == nil || errors.Is(err, os.ErrPermission)
	}
}

func (r *reader) quarantine() {
	for _, e := range r.readDir("quarantine") {
		if name := e.Name(); !strings.HasSuffix(name, ".reason") {
			reason, err := fs.ReadFile(r.fsys, path.Join("quarantine", strings.TrimSuffix(name, path.Ext(name))+".reason"))
			if err != nil {
				reason, err = fs.ReadFile(r.fsys, path.Join("quarantine", name+".reason"))
			}
			detail := "nothing says why"
			if err == nil {
				detail, _, _ = strings.Cut(strings.TrimSpace(string(reason)), "\n")
			}
			r.problem(Quarantined, path.Join("quarantine", name), "%s", detail)
		}
	}
}

// files reads the record files of all databases, and hands over what is known of their keys.
func (r *reader) files() error {
	for _, e := range r.readDir("db") {
		name := path.Join("db", e.Name())
		db, err := strconv.Atoi(e.Name())
		if err != nil || db < 0 || strconv.Itoa(db) != e.Name() || !e.IsDir() {
			r.problem(Foreign, name, "it is not the number of a database")
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
	default:
		return "a " + e.Type().String()
	}
}

func (r *reader) file(db int, name string) error {
	file, err := r.fsys.Open(name)
	var content []byte
	if err == nil {
		content, err = io.ReadAll(io.LimitReader(file, maxFile+1))
		_ = file.Close() // was only read from
	}
	switch {
	case errors.Is(err, fs.ErrNotExist): // Redis has answered for it meanwhile
		return nil
	case err != nil:
		r.problem(Unreadable, name, "%v", cause(err))
		return nil
	case len(content) > maxFile:
		r.problem(Corrupt, name, "it is larger than any record")
		return nil
	}
	record, err := fallback.DecodeFile(path.Base(name), content)
	if err != nil {
		kind, detail := damageOf(err)
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
	case s.best.Op != "" && !replaces(&record, &s.best.Record):
		found = s.best
		delete(r.journaled, key)
	default:
		delete(r.journaled, key)
	}
	return r.each(found)
}

// replaces says which of two explicit records of a key stays, as fallback.Store has it.
func replaces(next, now *fallback.Record) bool {
	if next.Stamp != now.Stamp {
		return next.Stamp > now.Stamp
	}
	return next.Op == fallback.OpDel && now.Op == fallback.OpSet // a set that had expired was made a delete
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
