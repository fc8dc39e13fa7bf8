package fallback

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/redaside/aside/fallback/journal"
)

// A directory may have been another database's before: a process that opens it for its own brings what
// the journal says of the others into their files, so that it can drop the journal. It does with each key
// what their own process would do: take the file, and then what the journal has, in its order.

// foreignKey is a key of another database.
type foreignKey struct {
	db  int
	key string
}

// foreignHash is what a note in the journal has of such a key.
type foreignHash struct {
	db   int
	hash journal.KeyHash
}

// foreign is what the journal says of a key of another database, in its order.
type foreign struct {
	steps  []foreignStep
	latest string // the greatest stamp among them
}

// foreignStep is a record, or that what is not newer than settled was settled.
type foreignStep struct {
	record  Record
	settled string
	at      int64
}

func (f *foreign) add(s foreignStep) {
	if by := s.record.Stamp; by > f.latest {
		if s.record.Op == OpSet || s.record.Op == OpDel {
			f.steps = nil // it replaces all of them, and what the file had then
		}
		f.latest = by
	}
	f.steps = append(f.steps, s)
}

// after returns what an index has of the key that has read its file, and then the journal; nil: nothing.
func (f *foreign) after(key string, file *Record, at int64) *entry {
	x := newIndex() // nobody else's
	if file != nil {
		x.mergeLocked(file, at, false)
	}
	for _, s := range f.steps {
		if s.settled != "" {
			x.settleUpToLocked(key, s.settled)
			continue
		}
		s.record.Key = key // a note has none
		x.mergeLocked(&s.record, s.at, true)
	}
	return x.byKey[key]
}

func (m *merger) mergeForeign(j *journal.Record) {
	if m.others == nil {
		m.others = make(map[foreignHash]*foreign)
	}
	s := foreignStep{at: time.Now().UnixMilli()}
	hash := foreignHash{j.DB, j.KeyHash}
	switch j.Op {
	case journal.Settle:
		s.settled = j.Stamp
	case journal.Opened:
		s.record = fromJournal(j)
	case journal.Set, journal.Del, journal.Operations:
		if s.record = fromJournal(j); s.record.validate() != nil {
			return
		}
		hash.hash = journal.HashKey(s.record.Key)
	case journal.Transaction: // merge has taken it apart
		return
	}
	f := m.others[hash]
	if f == nil {
		f = new(foreign)
		m.others[hash], m.d.foreignNotes[hash] = f, f
	}
	f.add(s)
	if s.record.Key != "" {
		m.d.foreign[foreignKey{j.DB, s.record.Key}] = f
		delete(m.d.foreignNotes, hash)
	}
}

// moveForeign brings what the journal says of other databases into their files, by the same rules,
// so that the journal can be dropped and a process that opens the directory for them finds it. Only the
// flusher calls it, and changes what it reads.
func (d *Dir) moveForeign() error {
	if err := d.nameForeign(); err != nil {
		return err
	}
	if len(d.foreign) == 0 {
		return nil
	}
	toSync := make(map[string]bool)
	pruned := make(map[string]bool)
	for k, f := range d.foreign {
		if d.gaveUp() {
			return errGivenUp
		}
		folder := digestOf(k.key).folder(k.db)
		removed, err := d.moveOne(k, f, folder)
		if err != nil {
			return err
		}
		if removed {
			pruned[folder] = true
		} else {
			toSync[folder] = true
		}
	}
	left, err := d.prune(pruned, 1)
	if err != nil {
		return err
	}
	maps.Copy(toSync, left)
	for _, err := range d.syncAll(slices.Sorted(maps.Keys(toSync)), 1) {
		if !errors.Is(err, fs.ErrNotExist) { // nothing was to be changed there
			return err
		}
	}
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	clear(d.foreign)
	return nil
}

// nameForeign finds, among the files of other databases, the keys of which the journal has notes only: a
// list that was opened before it got its file must not look as if it had not been, and what was settled
// must not come again.
func (d *Dir) nameForeign() error {
	dbs := make(map[int]bool)
	for hash := range d.foreignNotes {
		dbs[hash.db] = true
	}
	for db := range dbs {
		err := d.eachFile(path.Join(filesDir, strconv.Itoa(db)), 3, func(name string) error {
			r, _, _, err := readFile(d.fs, name)
			if err != nil && !damaged(err) {
				return err
			}
			if f := d.foreignNotes[foreignHash{db, journal.HashKey(r.Key)}]; err == nil && f != nil {
				d.x.mu.Lock()
				defer d.x.mu.Unlock()
				d.foreign[foreignKey{db, r.Key}] = f
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	clear(d.foreignNotes)
	return nil
}

// eachFile calls do with each record file in a folder with that many levels of folders below it.
func (d *Dir) eachFile(folder string, levels int, do func(name string) error) error {
	entries, err := d.fs.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		name := path.Join(folder, e.Name())
		switch {
		case d.gaveUp():
			return errGivenUp
		case err != nil:
		case levels > 0 && isHex(e.Name(), 2) && e.IsDir():
			err = d.eachFile(name, levels-1, do)
		case levels == 0 && isRecordName(e.Name()) && e.Type().IsRegular():
			err = do(name)
		}
	}
	return err
}

// moveOne brings one key's file up to what the journal says.
func (d *Dir) moveOne(k foreignKey, f *foreign, folder string) (removed bool, err error) {
	name := digestOf(k.key).path(k.db)
	there, at, _, err := readFile(d.fs, name)
	if err == nil && FileOf(k.db, there.Key) != name {
		err = otherKey(&there, k.db)
	}
	var file *Record
	switch {
	case err == nil && there.Key != k.key:
		return false, fmt.Errorf("%s: %w", name, ErrFileOtherKey)
	case err == nil:
		file = &there
	case errors.Is(err, errMissing), errors.Is(err, ErrFileTorn):
	case damaged(err):
		if err := d.putAside(name, err); err != nil {
			return false, err
		}
	default:
		return false, err
	}
	switch e := f.after(k.key, file, at); {
	case e != nil && e.dirty:
		if err := d.fs.MkdirAll(folder, dirMode); err != nil {
			return false, err
		}
		r := e.found().whole()
		left, err := d.replaceFile(name, encodeFile(&r, e.at), true)
		if left {
			d.untidy[name+tempSuffix] = true
		}
		return false, err
	case e == nil && file != nil:
		if err := d.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		return true, nil
	}
	return false, nil
}
