package ops

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/fallback/journal"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/vfs"
)

const (
	partSuffix = ".aof"
	partDigits = 16

	// A part that ends in the middle of a record is looked at again: the process that writes it may
	// be just there.
	tailLooks = 5
	tailPause = 20 * time.Millisecond

	// The parts are listed again if one goes before it is open.
	listTries = 100
)

// openPart is an open part; it stays readable for us when it is removed.
type openPart struct {
	name   string
	number uint64
	file   vfs.File
	first  uint64 // the least number in it; 0: none, or not known
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
	if err := inOrder(parts); err != nil {
		return err
	}
	damaged := false
	for i := range parts {
		damaged = r.part(&parts[i], i == len(parts)-1) || damaged
	}
	damaged = r.empties(parts) || damaged
	if damaged { // the missing records have been reported as damage
		return nil
	}
	return r.gaps(parts)
}

// openParts opens all parts of one moment.
func (r *reader) openParts() (parts []openPart, err error) {
	for range listTries {
		if info, err := r.fsys.Lstat(journalDir); err == nil && !info.IsDir() {
			return nil, nil // top has said so
		}
		entries, err := r.fsys.ReadDir(journalDir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the journal cannot be read: %w", err)
		}
		var problems []Problem
		unfinished, gone := 0, false
		for _, e := range entries {
			name := path.Join(journalDir, e.Name())
			switch {
			case isPartName(e.Name()) && e.Type().IsRegular():
				file, err := r.fsys.OpenFile(name, os.O_RDONLY, 0)
				if errors.Is(err, fs.ErrNotExist) {
					gone = true
					continue
				}
				if err != nil {
					return parts, fmt.Errorf("the journal cannot be read: %w", err)
				}
				number, _ := strconv.ParseUint(strings.TrimSuffix(e.Name(), partSuffix), 10, 64)
				parts = append(parts, openPart{name: name, number: number, file: file})
			case isPartName(e.Name()):
				problems = append(problems, Problem{Corrupt, name, "something else stands where a part of the journal belongs: " + kindOf(e)})
			case strings.HasSuffix(e.Name(), tempSuffix) && isPartName(strings.TrimSuffix(e.Name(), tempSuffix)):
				unfinished++
			default:
				problems = append(problems, Problem{Foreign, name, fmt.Sprintf("aside puts nothing of that name there (%v)", kindOf(e))})
			}
		}
		if !gone {
			r.f.Unfinished += unfinished
			r.f.Problems = append(r.f.Problems, problems...)
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

// inOrder puts parts into the order of the numbers of their first records, as the next process
// would: somebody may have renamed them.
func inOrder(parts []openPart) error {
	enough := errors.New("enough")
	place := func(p *openPart) uint64 { return cmp.Or(p.first, p.number) }
	for i := range parts {
		p := &parts[i]
		if err := rewind(p.file); err != nil {
			return fmt.Errorf("the journal cannot be read: %w", err)
		}
		_, err := journal.Scan(p.file, func(record journal.Record, offset int64) error {
			if offset == 0 {
				p.first = record.Seq
			}
			return enough
		})
		if !errors.Is(err, enough) {
			p.first = 0 // it cannot be read, which will be said
		}
	}
	slices.SortStableFunc(parts, func(a, b openPart) int { return cmp.Compare(place(&a), place(&b)) })
	return nil
}

// part reads one, and reports whether something in it, or all of it, could not be read.
func (r *reader) part(p *openPart, last bool) (damaged bool) {
	var found journal.Findings
	var records []journal.Record
	var err error
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
		unfinished := n > 0 && found.Damages[n-1].Tail || found.Bytes == 0
		if err != nil || !unfinished || look == tailLooks {
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
	p.first = found.First
	r.f.Journaled += found.Records
	r.f.JournalBytes += found.Bytes
	for _, d := range found.Damages {
		kind, more := Corrupt, ""
		if d.Begins > 0 {
			more = fmt.Sprintf("; %d more records seem to begin in it", d.Begins)
		} else if d.Tail && last {
			kind = Torn
		}
		r.problem(kind, p.name, "%d bytes from byte %d: %s%s", d.Length, d.Offset, d.Reason, more)
	}
	var version *journal.VersionError
	switch {
	case errors.As(err, &version):
		r.problem(Newer, p.name, "version %d at byte %d; what follows was not read", version.Version, version.Offset)
	case err != nil:
		r.problem(Unreadable, p.name, "%v", cause(err))
	}
	return len(found.Damages) > 0 || err != nil
}

// empties looks for parts in which nothing is, though something should be: the next opening tells
// them from others by the same rule.
func (r *reader) empties(parts []openPart) (damaged bool) {
	for i, p := range parts {
		if p.first != 0 || sizeOf(p.file) != 0 {
			continue
		}
		next := uint64(0)
		for _, later := range parts[i+1:] {
			if next = later.first; next != 0 {
				break
			}
		}
		switch {
		case next == 0 && p.number > r.last:
			r.problem(Torn, p.name, "nothing is in it")
			damaged = true
		case next > p.number:
			r.problem(Empty, p.name, "nothing is in it, and it was begun for record %d", p.number)
			damaged = true
		}
	}
	return damaged
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

// merge takes in a record of the journal, after all before it. One whose number came before was
// written a second time.
func (r *reader) merge(j *journal.Record, part string) {
	if j.Seq <= r.last {
		return
	}
	r.last = j.Seq
	if j.Op != journal.Transaction {
		r.mergeOne(j, part)
		return
	}
	for i := range j.Parts { // each key goes by itself
		r.mergeOne(&j.Parts[i], part)
	}
}

// mergeOne is merge of a record that is no transaction, or of a part of one.
func (r *reader) mergeOne(j *journal.Record, part string) {
	key := journalKey{j.DB, j.KeyHash}
	if j.Op != journal.Settle && j.Op != journal.Opened {
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
			s.best, s.log = Record{}, nil
		}
		return
	}
	if j.Op == journal.Opened { // it says of a record how far its replay is, and is none
		s.opened = j.List
		s.whole()
		s.best.Record = s.begun(s.best.Record)
		return
	}
	s.explicit = true
	record := fallback.Record{Op: fallback.OpSet, Key: j.Key, Value: j.Value, Expires: j.Expires, Stamp: j.Stamp, Slack: j.Slack}
	switch j.Op {
	case journal.Del:
		record.Op = fallback.OpDel
	case journal.Operations:
		record.Op, record.Value = fallback.OpOperations, deferred.Together(j.List, j.Stamp, j.Commands).String()
	case journal.Set, journal.Settle, journal.Opened, journal.Transaction:
	}
	if s.goOn(&record, part) {
		return
	}
	s.whole()
	merged, changed := record, true
	if s.best.Op != "" {
		merged, changed = fallback.Merge(s.best.Record, record)
	}
	if changed {
		s.best = Record{Record: merged, DB: j.DB, File: part}
	}
}

func sizeOf(f vfs.File) int64 {
	info, err := f.Stat()
	if err != nil {
		return -1
	}
	return info.Size()
}

func rewind(f vfs.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}
