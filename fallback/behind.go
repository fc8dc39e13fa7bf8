package fallback

import (
	"context"
	"errors"

	"github.com/redaside/aside/internal/deferred"
)

// Operations that are put without the Set that waits come behind it (Merge), so its value has to be in
// memory when the two are merged. It may be in its file only:
//
//	Apply k looks: nothing waits    Set k, acknowledged    its value is left to its file    Apply k puts its operations    <- the Set would be lost
//
//  1. Put pins the keys of its operations: from now on their values stay in memory. What is set meanwhile comes there anyway.
//  2. It reads those values that are in their files. Nothing was promised yet: if the disk fails, Put fails, and if ctx ends, it returns.
//  3. It is let in, writes to the journal, and merges.
//  4. It lets go of the keys.
//
// When the directory is opened nobody else uses it, and merger reads such a value when it needs it.

// pin begins 1 and 2. unpin is 4, to be called if there is no error.
func (d *Dir) pin(ctx context.Context, records []Record) (unpin func(), err error) {
	var keys []string
	for i := range records {
		if records[i].Op == OpOperations {
			keys = append(keys, records[i].Key)
		}
	}
	if len(keys) == 0 {
		return func() {}, nil
	}
	unpin = func() { d.unpin(keys) }
	d.x.mu.Lock()
	var away []found
	for _, key := range keys {
		d.pinned[key]++
		if e := d.x.behindLocked(key, records); e != nil && !e.held {
			away = append(away, e.found())
		}
	}
	if len(away) == 0 || d.x.closed.Load() {
		d.x.mu.Unlock()
		return unpin, nil
	}
	read := make(chan error, 1)
	d.readers.Go(func() { read <- d.readAgain(away) }) // ends with the disk; not after Close, which waits for it
	d.x.mu.Unlock()
	select {
	case err = <-read:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		unpin()
		return nil, err
	}
	return unpin, nil
}

func (d *Dir) unpin(keys []string) {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	for _, key := range keys {
		if d.pinned[key]--; d.pinned[key] == 0 {
			delete(d.pinned, key)
		}
	}
	d.trimLocked()
}

// readAgain brings values into memory that were in their files. Where one is lost, it is in quarantine and
// the key has no record: what is put then stands alone. The error is ErrDisk.
func (d *Dir) readAgain(away []found) error {
	for _, f := range away {
		r, ok, err := d.load(f)
		if errors.Is(err, ErrDisk) {
			return err
		}
		d.x.mu.Lock()
		if e := d.x.byKey[f.Key]; ok && err == nil && e != nil && !e.held && e.record.Op == r.Op && e.record.Stamp == r.Stamp {
			d.x.holdLocked(e, r.Value)
		}
		d.x.mu.Unlock()
	}
	return nil
}

// behindLocked returns the Set of a key behind which records, put one after the other, would come without
// bringing it along; nil if there is none.
func (x *index) behindLocked(key string, records []Record) *entry {
	e := x.byKey[key]
	if e == nil || e.record.Op != OpSet {
		return nil
	}
	for i := range records {
		r := &records[i]
		if r.Key != key {
			continue
		}
		if r.Op != OpOperations {
			if replaces(r, &e.record) {
				return nil
			}
			continue
		}
		l, err := deferred.Parse(r.Value)
		switch {
		case err != nil || len(l.Ops) == 0 || r.Stamp < e.record.Stamp:
		case l.Base():
			return nil
		case r.Stamp > e.record.Stamp:
			return e
		}
	}
	return nil
}
