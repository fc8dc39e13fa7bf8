package ops

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/fallback/journal"
)

const (
	journalDir = "journal"
	partSuffix = ".aof"
	partDigits = 16

	// A part that ends in the middle of a record is looked at again: the process that writes it may be just there.
	tailLooks = 5
	tailPause = 20 * time.Millisecond

	// The parts are listed again if one goes before it is open.
	listTries = 100
)

// openPart is a part that stays there for us, whoever removes it.
type openPart struct {
	name string
	file fs.File
}

// journal reads all parts in order, and keeps what they say of each key.
func (r *reader) journal() error {
	r.journaled = make(map[journalKey]*journalState)
	parts, err := r.openParts()
	defer func() {
		for _, p := range parts {
			_ = p.file.Close() // was only read from
		}
	}()
	if err != nil {
		return err
	}
	damaged := false
	for i, p := range parts {
		bad, err := r.part(p, i == len(parts)-1)
		if err != nil {
			return err
		}
		damaged = damaged || bad
	}
	if damaged { // what is missing then has been reported as damage
		return nil
	}
	return r.gaps(parts)
}

// openParts opens all parts of one moment.
func (r *reader) openParts() (parts []openPart, err error) {
	for range listTries {
		entries, err := fs.ReadDir(r.fsys, journalDir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the journal cannot be read: %w", err)
		}
		var foreign []Problem
		unfinished, gone := 0, false
		for _, e := range entries {
			name := path.Join(journalDir, e.Name())
			switch {
			case isPartName(e.Name()) && e.Type().IsRegular():
				file, err := r.fsys.Open(name)
				if errors.Is(err, fs.ErrNotExist) {
					gone = true
					continue
				}
				if err != nil {
					return parts, fmt.Errorf("the journal cannot be read: %w", err)
				}
				parts = append(parts, openPart{name, file})
			case strings.HasSuffix(e.Name(), tempSuffix) && isPartName(strings.TrimSuffix(e.Name(), tempSuffix)):
				unfinished++
			default:
				foreign = append(foreign, Problem{Foreign, name, fmt.Sprintf("aside puts nothing of that name there (%v)", kindOf(e))})
			}
		}
		if !gone {
			r.f.Unfinished += unfinished
			r.f.Problems = append(r.f.Problems, foreign...)
			r.f.Parts = len(parts)
			return parts, nil
		}
		for _, p := range parts {
			_ = p.file.Close()
		}
		parts = nil
	}
	return nil, errors.New("the journal changes faster than it can be read: try again")
}

func isPartName(name string) bool {
	digits, ok := strings.CutSuffix(name, partSuffix)
	return ok && len(digits) == partDigits && strings.Trim(digits, "0123456789") == ""
}

// part reads one. damaged says that something in it, or all of it, could not be read.
func (r *reader) part(p openPart, last bool) (damaged bool, err error) {
	var found journal.Findings
	var records []journal.Record
	for look := 0; ; look++ {
		records = records[:0]
		before := sizeOf(p.file)
		if err = rewind(p.file); err == nil {
			found, err = journal.Scan(p.file, func(record journal.Record, _ int64) error {
				records = append(records, record)
				return nil
			})
		}
		n := len(found.Damages)
		if err != nil || n == 0 || !found.Damages[n-1].Tail || look == tailLooks {
			break
		}
		if look > 0 && sizeOf(p.file) == before && !last { // only the last is written to
			break
		}
		time.Sleep(tailPause)
	}
	for i := range records {
		r.merge(&records[i], p.name)
	}
	r.f.Journaled += found.Records
	r.f.JournalBytes += found.Bytes
	for _, d := range found.Damages {
		kind := Corrupt
		if d.Tail && last {
			kind = Torn
		}
		r.problem(kind, p.name, "%d bytes from byte %d: %s", d.Length, d.Offset, d.Reason)
	}
	var version *journal.VersionError
	switch {
	case errors.As(err, &version):
		r.problem(Newer, p.name, "version %d at byte %d; what follows was not read", version.Version, version.Offset)
	case err != nil:
		r.problem(Unreadable, p.name, "%v", cause(err))
	}
	return len(found.Damages) > 0 || err != nil, nil
}

// gaps looks for numbers that are missing in the journal as a whole.
func (r *reader) gaps(parts []openPart) error {
	readers := make([]io.Reader, len(parts))
	for i, p := range parts {
		if err := rewind(p.file); err != nil {
			return fmt.Errorf("the journal cannot be read: %w", err)
		}
		readers[i] = p.file
	}
	found, err := journal.Scan(io.MultiReader(readers...), func(journal.Record, int64) error { return nil })
	if err != nil {
		return fmt.Errorf("the journal cannot be read: %w", err)
	}
	for _, gap := range found.Gaps {
		r.problem(Missing, journalDir, "records %d to %d", gap.From, gap.To)
	}
	return nil
}

// merge takes in a record of the journal, after all before it. One whose number came before was written a second time.
func (r *reader) merge(j *journal.Record, part string) {
	if j.Seq <= r.last {
		return
	}
	r.last = j.Seq
	key := journalKey{j.DB, j.KeyHash}
	if j.Op != journal.Settle {
		key.hash = journal.HashKey(j.Key)
	}
	s := r.journaled[key]
	if s == nil {
		s = new(journalState)
		r.journaled[key] = s
	}
	if j.Op == journal.Settle {
		s.settled = max(s.settled, j.Stamp)
		if s.best.Stamp <= j.Stamp {
			s.best = Record{}
		}
		return
	}
	s.explicit = true
	record := fallback.Record{Op: fallback.OpSet, Key: j.Key, Value: j.Value, Expires: j.Expires, Stamp: j.Stamp, Slack: j.Slack}
	if j.Op == journal.Del {
		record.Op = fallback.OpDel
	}
	if s.best.Op == "" || replaces(&record, &s.best.Record) {
		s.best = Record{Record: record, DB: j.DB, File: part}
	}
}

func sizeOf(f fs.File) int64 {
	info, err := f.Stat()
	if err != nil {
		return -1
	}
	return info.Size()
}

func rewind(f fs.File) error {
	_, err := f.(io.Seeker).Seek(0, io.SeekStart) // a file of the system is one
	return err
}
