package journal

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/redaside/aside/internal/vfs"
)

// Report says what Open has found and done.
type Report struct {
	Parts      int      // files with records in them
	Records    int      // handed over, Settles included
	Duplicates int      // records that were there again and were not handed over
	Last       uint64   // the greatest number; 0: none
	Torn       *Damage  // what was cut off the end of the last part, of no bytes if that was empty; nil: nothing
	Damages    []Damage // what was damaged elsewhere, or more than one record; of no bytes: a part was empty
	Gaps       []Gap    // records that are missing
	Problems   []error  // what could not be mended, say on a disk that is read-only: it will be tried again. Nothing is lost by it
}

// Open reads the journal in a directory of fsys, which it makes if need be, and passes each record
// to each, in order and once. The caller ensures that nothing else has it open. The numbered steps
// are those of the package comment.
//
// An error means that the journal cannot be used, because each or the disk said so, or a
// [*VersionError]. Damage is no error.
func Open(fsys vfs.FS, dir string, o Options, each func(Record) error) (*Journal, Report, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, Report{}, err
	}
	r := recovery{fsys: fsys, dir: dir, o: o}
	for _, step := range []func() error{r.list, r.checkVersions, func() error { return r.read(each) }} {
		if err := step(); err != nil {
			return nil, r.report, err
		}
	}
	r.mend()
	r.sync()

	// 8. Numbers go on where they ended, or from where the caller says; the next append begins a
	//    new part.
	j := newJournal(fsys, dir, o)
	w := &j.writer
	w.number = r.greatest
	w.given = max(r.numbers.last, o.FirstSeq-1)
	w.mark.Store(w.given)
	if r.numbers.last > 0 {
		w.mark.Store(r.numbers.last)
	}
	for _, p := range r.parts {
		w.old = append(w.old, &p.part)
		w.size.Add(p.size)
	}
	return j, r.report, nil
}

// recovery is one Open.
type recovery struct {
	fsys vfs.FS
	dir  string
	o    Options

	parts    []*foundPart
	greatest uint64 // part number that was ever seen
	numbers  order
	report   Report
}

// foundPart is a part that was there.
type foundPart struct {
	part
	begins  uint64 // the number that its first record accounts for; 0: that cannot be read
	first   uint64 // the least number in it; 0: none
	damages []Damage
	records bool // there are valid ones
}

// list finds the parts.
func (r *recovery) list() error {
	// 1. Make the directory, durably; list the parts in the order of their numbers; remove what a
	//    mending has left.
	made := r.fsys.MkdirAll(r.dir, 0o700)
	entries, err := r.fsys.ReadDir(r.dir)
	if err != nil {
		return fmt.Errorf("journal: %w", errors.Join(made, err))
	}
	if made != nil {
		r.problem("making the directory durable", made)
	}
	for _, e := range entries { // sorted, and numbers have a fixed length
		name := path.Join(r.dir, e.Name())
		number, ok := partNumber(strings.TrimSuffix(e.Name(), temporary))
		switch {
		case !ok:
		case !e.Type().IsRegular():
			r.problem("reading "+name, fmt.Errorf("something else stands where a part belongs (%v): if there was one, what it held is missing", e.Type()))
			r.greatest = max(r.greatest, number)
		case strings.HasSuffix(e.Name(), temporary):
			if err := r.fsys.Remove(name); err != nil {
				r.problem("removing "+name, err)
			}
		default:
			r.greatest = max(r.greatest, number)
			r.parts = append(r.parts, &foundPart{part: part{number: number, name: name, closed: true}})
		}
	}
	return nil
}

// checkVersions looks at the first record of each part, and puts the parts in order.
func (r *recovery) checkVersions() error {
	// 2. If a part is of a newer version, stop before anything was handed over or changed.
	for _, p := range r.parts {
		err := r.withFile(p.name, func(f vfs.File) error {
			s := scanner{r: f, max: r.maxRecord()}
			if !s.fill(1) {
				return s.err
			}
			found := s.record()
			if found.newer != 0 && s.err == nil {
				return &VersionError{Part: p.name, Version: found.newer}
			}
			if found.bad == "" {
				p.begins = found.record.from()
			}
			return s.err
		})
		if _, ok := errors.AsType[*VersionError](err); ok {
			return err
		}
		if err != nil {
			return fmt.Errorf("journal: reading %s: %w", p.name, err)
		}
	}
	// Parts that were renamed are read in the order of what they hold: a record that came too early
	// would make all before it look like repetitions.
	place := func(p *foundPart) uint64 { return cmp.Or(p.begins, p.number) }
	inOrder := func(a, b *foundPart) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a.number, b.number))
	}
	if !slices.IsSortedFunc(r.parts, inOrder) {
		for _, p := range r.parts {
			if p.begins > p.number {
				r.o.Logger.Warn("the journal: a part was renamed, and is read where it belongs", "part", p.name, "begins", p.begins)
			}
		}
		slices.SortFunc(r.parts, inOrder)
	}
	return nil
}

// read reads all parts.
func (r *recovery) read(each func(Record) error) error {
	// 3. Hand over each record when its number comes for the first time. Note damage, and numbers
	//    that are missing.
	for _, p := range r.parts {
		var theirs error
		err := r.withFile(p.name, func(f vfs.File) error {
			found, err := scan(f, r.maxRecord(), func(record *Record, _ string, _ int64) error {
				p.records = true
				isNew, missing := r.numbers.next(record)
				switch {
				case missing != nil:
					r.report.Gaps = append(r.report.Gaps, *missing)
					r.o.Logger.Error("the journal: records are missing", "from", missing.From, "to", missing.To, "before", p.name)
				case !isNew:
					r.report.Duplicates++
				}
				if !isNew || record.Op == skip {
					return nil
				}
				r.report.Records++
				theirs = each(*record)
				return theirs
			})
			p.size, p.first, p.last, p.damages = found.Bytes, found.First, found.Last, found.Damages
			return err
		})
		if theirs != nil {
			return theirs // as it is
		}
		if newer, ok := errors.AsType[*VersionError](err); ok {
			newer.Part = p.name
			return newer
		}
		if err != nil {
			return fmt.Errorf("journal: reading %s: %w", p.name, err)
		}
		for i := range p.damages {
			p.damages[i].Part = p.name
		}
		if p.size > 0 {
			r.report.Parts++
		}
	}
	r.report.Last = r.numbers.last
	return nil
}

// mend leaves parts that are whole, so that the next Open does not find the same again. What it
// cannot do is a problem, not an error: the records are handed over already.
func (r *recovery) mend() {
	last := len(r.parts) - 1
	for last >= 0 && r.parts[last].size == 0 {
		last--
	}
	kept := r.parts[:0]
	for i, p := range r.parts {
		switch {
		case p.size == 0:
			r.empty(p, r.parts[i+1:])
		case i == last:
			r.cutTail(p)
		}
		r.quarantine(p)
		if r.removeEmpty(p) {
			continue
		}
		kept = append(kept, p)
	}
	r.parts = kept
}

// empty reports a part in which nothing is, if that is not as it should be. It was begun for the
// record with its number, or an earlier one. If that is elsewhere, or was given up, the disk had
// refused the part, and would not have it removed. If there is only what came later, it has lost
// what it held. If nothing came later, nobody knows: it may also have been begun just when the
// process or the machine ended.
func (r *recovery) empty(p *foundPart, later []*foundPart) {
	d := Damage{Part: p.name, Reason: nothing, Tail: true}
	for _, next := range later {
		if next.first == 0 {
			continue
		}
		if next.first > p.number {
			r.report.Damages = append(r.report.Damages, d)
			r.o.Logger.Error("the journal: damaged", "part", p.name, "offset", 0, "bytes", 0, "reason", d.Reason, "saved", "")
		}
		return
	}
	if p.number <= r.numbers.last {
		return
	}
	if r.report.Torn == nil {
		r.report.Torn = &d
	}
	r.o.Logger.Warn("the journal: its end is torn", "part", p.name, "offset", 0, "bytes", 0, "reason", d.Reason)
}

// cutTail mends a torn part.
func (r *recovery) cutTail(p *foundPart) {
	// 4. Torn: bad bytes at the end of the last part are what a loss of power or a kill has left of
	//    a record whose Append had not returned. They are cut off.
	// Should another annotation be among them, they are more than that, or may be: then they are
	// corrupt.
	if len(p.damages) == 0 {
		return
	}
	torn := p.damages[len(p.damages)-1]
	if !torn.Tail || torn.Begins > 0 || torn.Offset == 0 && torn.Reason == noAnnotation { // the last is a file that was never ours
		return
	}
	p.damages = p.damages[:len(p.damages)-1]
	r.report.Torn = &torn
	r.o.Logger.Warn("the journal: its end is torn", "part", p.name, "offset", torn.Offset, "bytes", torn.Length, "reason", torn.Reason)
	p.size = torn.Offset
	if torn.Offset == 0 { // see step 6
		return
	}
	err := r.truncate(p.name, torn.Offset)
	if errors.Is(err, vfs.ErrLinked) { // what has another name, such as a backup's, is not changed
		err = r.rewrite(p)
	}
	if err != nil {
		r.problem("cutting the end off "+p.name, err)
		p.size += torn.Length
	}
}

func (r *recovery) truncate(name string, size int64) error {
	file, err := r.fsys.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(file.Truncate(size), file.Sync(), file.Close())
}

// quarantine mends a part that is damaged elsewhere.
func (r *recovery) quarantine(p *foundPart) {
	// 5. Corrupt: bad bytes anywhere else are copied to the quarantine, with the reason beside
	//    them. When all of a part's
	// are durable there, the part is written anew without them, and replaced.
	if len(p.damages) == 0 {
		return
	}
	saved := true
	for i := range p.damages {
		d := &p.damages[i]
		name, err := r.save(p, d)
		if err != nil {
			saved = false
			r.problem(fmt.Sprintf("copying bytes %d to %d of %s to the quarantine", d.Offset, d.Offset+d.Length, p.name), err)
		}
		d.Saved = name
		r.o.Logger.Error("the journal: damaged", "part", p.name, "offset", d.Offset, "bytes", d.Length, "reason", d.Reason,
			"saved", d.Saved)
	}
	r.report.Damages = append(r.report.Damages, p.damages...)
	if !saved {
		return
	}
	if !p.records {
		p.size = 0 // see step 6
		return
	}
	if err := r.rewrite(p); err != nil {
		r.problem("writing "+p.name+" anew without its damage", err)
		_ = r.fsys.Remove(p.name + temporary) // or the next Open does
	}
}

// save copies damage to the quarantine, durably, and returns the file's name.
func (r *recovery) save(p *foundPart, d *Damage) (string, error) {
	if err := r.fsys.MkdirAll(r.o.Quarantine, 0o700); err != nil {
		return "", err
	}
	stem := fmt.Sprintf("%0*d-%d", numberLen, p.number, d.Offset)
	var name string
	err := r.withFile(p.name, func(from vfs.File) error {
		for try := 1; ; try++ {
			name = path.Join(r.o.Quarantine, stem)
			if try > 1 { // a part that was mended may be damaged again at the same place
				name = fmt.Sprintf("%s-%d", name, try)
			}
			if _, err := from.Seek(d.Offset, io.SeekStart); err != nil {
				return err
			}
			same, err := r.holds(name+extension, io.LimitReader(from, d.Length))
			switch {
			case errors.Is(err, fs.ErrNotExist):
				if _, err := from.Seek(d.Offset, io.SeekStart); err != nil {
					return err
				}
				return r.put(name+extension, io.LimitReader(from, d.Length))
			case err != nil:
				return err
			case same: // saved before, by an Open that could not mend the part
				return nil
			}
		}
	})
	if err != nil {
		return "", err
	}
	reason := fmt.Sprintf("%s, bytes %d to %d (%d bytes): %s.\nThe records before and after them were kept.\n",
		p.name, d.Offset, d.Offset+d.Length, d.Length, d.Reason)
	if err := r.put(name+".reason", strings.NewReader(reason)); err != nil {
		return "", err
	}
	if err := r.fsys.SyncDir(r.o.Quarantine); err != nil {
		return "", err
	}
	return name + extension, nil
}

// holds reports whether a file has just these bytes.
func (r *recovery) holds(name string, want io.Reader) (same bool, err error) {
	err = r.withFile(name, func(f vfs.File) error {
		for a, b := make([]byte, 32<<10), make([]byte, 32<<10); ; {
			n, err := io.ReadFull(want, a)
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
			m, err := io.ReadFull(f, b[:min(n+1, len(b))])
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
			if same = bytes.Equal(a[:n], b[:m]); !same || n < len(a) {
				return nil
			}
		}
	})
	return same, err
}

// put writes a file, whole and durably but for its name.
func (r *recovery) put(name string, content io.Reader) error {
	file, err := r.anew(name+temporary, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(onlyWriter{file}, content)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		_ = r.fsys.Remove(name + temporary) // or the next try overwrites it
		return err
	}
	return r.fsys.Rename(name+temporary, name)
}

// anew makes a file of ours. What stands under its name was left by an earlier try, or is nothing
// that may be written to.
func (r *recovery) anew(name string, flag int) (vfs.File, error) {
	flag |= os.O_WRONLY | os.O_CREATE | os.O_EXCL
	file, err := r.fsys.OpenFile(name, flag, 0o600)
	if !errors.Is(err, fs.ErrExist) {
		return file, err
	}
	if err := r.fsys.Remove(name); err != nil {
		return nil, err
	}
	return r.fsys.OpenFile(name, flag, 0o600)
}

// onlyWriter keeps io.Copy from asking a file for more than Write.
type onlyWriter struct{ io.Writer }

// rewrite replaces a part by one that holds its valid records.
func (r *recovery) rewrite(p *foundPart) error {
	name := p.name + temporary
	file, err := r.anew(name, os.O_APPEND)
	if err != nil {
		return err
	}
	anew := part{file: file, salt: newSalt(), db: noDB}
	var buf []byte
	err = r.withFile(p.name, func(f vfs.File) error {
		_, err := scan(io.LimitReader(f, p.size), r.maxRecord(), func(record *Record, _ string, _ int64) error {
			buf, err = anew.append([]Record{*record}, buf[:0])
			return err
		})
		return err
	})
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := r.fsys.Rename(name, p.name); err != nil {
		return err
	}
	p.size = anew.size
	return nil // step 7 syncs the directory; until then, the old part is as good
}

// removeEmpty removes a part in which nothing is left.
func (r *recovery) removeEmpty(p *foundPart) bool {
	// 6. Parts without a record are removed. That need not be durable: they would be removed again.
	if p.size > 0 {
		return false
	}
	if err := r.fsys.Remove(p.name); err != nil {
		r.problem("removing "+p.name, err)
		return false
	}
	return true
}

// sync makes durable what was handed over.
func (r *recovery) sync() {
	// 7. Whoever wrote this may have been killed between write and fsync. What has been handed over
	//    should not be gone after
	// the next loss of power. (What an fsync had failed on before the kill may be: the kernel takes
	// it for written.)
	for _, p := range r.parts {
		file, err := r.fsys.OpenFile(p.name, os.O_WRONLY, 0)
		if errors.Is(err, vfs.ErrLinked) {
			file, err = r.fsys.OpenFile(p.name, os.O_RDONLY, 0) // most systems sync that as well
		}
		if err == nil {
			err = errors.Join(file.Sync(), file.Close())
		}
		if err != nil {
			r.problem("syncing "+p.name, err)
		}
	}
	if len(r.parts) > 0 {
		if err := r.fsys.SyncDir(r.dir); err != nil {
			r.problem("syncing "+r.dir, err)
		}
	}
}

func (r *recovery) problem(doing string, err error) {
	err = fmt.Errorf("journal: %s: %w", doing, err)
	r.report.Problems = append(r.report.Problems, err)
	r.o.Logger.Error("the journal: it could not be mended", "error", err)
}

// maxRecord bounds what is read. Options.MaxRecordBytes may be less than what was written under
// earlier ones.
func (r *recovery) maxRecord() int64 { return max(r.o.MaxRecordBytes, defaultMaxRecordBytes) }

func (r *recovery) withFile(name string, read func(vfs.File) error) error {
	file, err := r.fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	return read(file)
}
