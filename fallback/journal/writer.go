package journal

import (
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/redaside/aside/internal/vfs"
)

// writer is the end of the journal at which it grows. Not safe for concurrent use.
//
// A batch of records goes this way:
//
//	number     each gets the next number. A number is given once, whatever becomes of its record (see skip)
//	open       a part to write to: the one that is there, or the next. A part is synced before the next one is begun
//	write      if that fails, what was written is cut off, and the batch has failed. Should even that fail, nothing is
//	           ever written to that part again
//	fsync      if the mode asks for it, or if the part is new: file, then directory. If that fails, see rewrite
//
// Rewrite: the kernel may have thrown away what it could not write, and would say of it that it is
// clean. So a part whose fsync has failed is never written to or synced again. What it holds behind
// its last good fsync is still in memory (unsynced) and is written to a new part, with the same
// numbers. If that is durable, the doubtful part is cut back to what is good; that is only tidy, as
// readers take a number once. If not, the batch has failed, and the rest of unsynced waits for the
// next part.
type writer struct {
	fsys      vfs.FS
	dir       string
	log       *slog.Logger
	sync      Sync
	partBytes int64

	old      []*part // closed, the oldest first
	part     *part   // being written; nil: the next batch begins one
	doubtful *part   // one of old, still open, to be cut back when the next fsync has succeeded; nil: none

	given  uint64 // the last number that was given to a record
	number uint64 // of the last part

	unsynced      []Record // written, not known to be durable, in order; not kept by mode OS
	unsyncedBytes int64

	buf       []byte
	records   []Record
	lost      error // of an fsync in mode OS, after which nothing was rewritten: Close says so
	undurable bool  // a part was removed and may be there again after a loss of power
	refusing  bool  // the last thing that the disk said was no

	// These may be used by anyone:
	full atomic.Bool   // begin a new part with the next batch
	mark atomic.Uint64 // the last number that is in the journal; set by the writer only
	size atomic.Int64  // of all parts; set by the writer only
}

const (
	// maxUnsynced bounds what is kept in memory between two fsyncs: beyond it an append waits for
	// one.
	maxUnsynced = 64 << 20

	maxBuf = 4 << 20 // memory for writing that is kept for the next batch
)

// commit writes what some entries hold.
func (w *writer) commit(entries []*entry) error {
	records, wait := w.records[:0], false
	if mark := w.mark.Load(); w.given != mark {
		records = append(records, Record{Op: skip, Seq: w.given, Slack: int64(mark + 1), Stamp: noStamp})
	}
	for _, e := range entries {
		wait = wait || e.wait
		for i := range e.records {
			w.given++
			e.records[i].Seq = w.given
		}
		records = append(records, e.records...)
	}
	err := w.put(records, wait)
	if err == nil {
		w.mark.Store(w.given)
	}
	w.tell(err)
	clear(records)
	if w.records = records; cap(records) > 1<<14 {
		w.records = nil
	}
	return err
}

func (w *writer) put(records []Record, wait bool) error {
	p, err := w.open()
	if err != nil {
		return err
	}
	size, db, last, kept := p.size, p.db, p.last, len(w.unsynced)
	if err := w.append(p, records); err != nil {
		switch {
		case p.broken:
			w.retire(p)
		case p.size == 0: // an empty file is of no use to anybody
			w.discard(p)
		}
		return err
	}
	w.keep(records)
	switch {
	case wait && (w.sync == Always || !p.named):
	case w.unsyncedBytes > maxUnsynced:
	default:
		if w.sync == OS {
			w.forget(w.given)
		}
		return nil
	}
	if err := w.fsync(); err != nil {
		w.unkeep(kept)
		if !p.closed { // it holds more than this batch
			if cut := p.file.Truncate(size); cut == nil {
				w.resize(p, size)
				p.db, p.last = db, last
			}
		}
		return err
	}
	return nil
}

// open returns the part to write to.
func (w *writer) open() (*part, error) {
	full := w.full.Swap(false)
	if p := w.part; p != nil {
		if !full && p.size < w.partBytes {
			return p, nil
		}
		// Later records are synced together with a new part's name. Earlier ones must not be less
		// durable.
		if err := w.settle(p); err != nil {
			w.log.Error("the journal: fsync failed, beginning a new part", "part", p.name, "error", err)
			w.retire(p)
		} else {
			p.close()
			w.old, w.part = append(w.old, p), nil
		}
	}
	p, err := w.begin()
	if err != nil {
		return nil, err
	}
	w.part = p
	return p, nil
}

// begin makes the next part and writes to it what no other part has for certain.
func (w *writer) begin() (*part, error) {
	first := w.mark.Load() + 1
	if len(w.unsynced) > 0 {
		first = w.unsynced[0].Seq
	}
	w.number = max(w.number+1, first)
	p, err := create(w.fsys, w.dir, w.number)
	if err != nil {
		return nil, err
	}
	if err := w.append(p, w.unsynced); err != nil {
		w.discard(p)
		return nil, err
	}
	return p, nil
}

// fsync makes durable what is unsynced: in its part, or in a new one.
func (w *writer) fsync() error {
	var failed error
	if p := w.part; p != nil {
		if failed = w.settle(p); failed == nil {
			return nil
		}
		w.log.Error("the journal: fsync failed, rewriting to a new part what it was to cover", "part", p.name, "error", failed)
		w.retire(p)
	}
	if len(w.unsynced) == 0 {
		return failed // nil, or mode OS, which has promised nothing
	}
	p, err := w.begin()
	if err == nil {
		if err = w.settle(p); err != nil {
			w.discard(p)
		}
	}
	if err != nil {
		return errors.Join(failed, err)
	}
	w.part = p
	return nil
}

// settle makes p durable.
func (w *writer) settle(p *part) error {
	if p.synced == p.size {
		return nil
	}
	size, last := p.size, p.last
	if err := p.fsync(); err != nil {
		return err
	}
	if !p.named {
		if err := w.fsys.SyncDir(w.dir); err != nil {
			return err
		}
		p.named = true
	}
	w.settled(p, size, last)
	return nil
}

// settled takes note that so much of p is durable, and that nothing before it is needed in memory
// any more.
func (w *writer) settled(p *part, size int64, last uint64) {
	// An fsync that went without the pen may be told of last, though a later one has covered more.
	// To go back would be to cut off, should p become doubtful, what is forgotten already.
	p.synced = max(p.synced, size)
	w.forget(last)
	if d := w.doubtful; d != nil && d != p { // p is a later part, and begins with what d lacks
		if err := d.file.Truncate(d.synced); err == nil {
			w.resize(d, d.synced)
		}
		d.close()
		w.doubtful = nil
	}
}

// retire gives up writing to p. What it holds behind synced is still in unsynced, except in mode
// OS.
func (w *writer) retire(p *part) {
	if w.part == p {
		w.part = nil
	}
	if p.synced == 0 {
		w.discard(p)
		return
	}
	w.old = append(w.old, p)
	if w.sync == OS {
		if err := w.settle(p); err != nil {
			w.lost = err
			p.close()
			return
		}
	}
	w.doubtful = p // there is no other: something was durable in p, so the one before is cut back already
}

// discard removes a part that holds nothing that is not elsewhere, or nothing that anybody was
// promised. That need not be durable.
func (w *writer) discard(p *part) {
	if w.part == p {
		w.part = nil
	}
	if err := p.remove(w.fsys); err != nil {
		w.log.Warn("the journal: a useless part stays until Drop", "part", p.name, "error", err)
		w.old = append(w.old, p)
		return
	}
	w.resize(p, 0)
}

// drop removes the parts whose records have numbers up to upTo.
func (w *writer) drop(upTo uint64) error {
	if w.undurable {
		if err := w.fsys.SyncDir(w.dir); err != nil {
			return err
		}
		w.undurable = false
	}
	for {
		if p := w.part; p != nil && len(w.old) == 0 && p.last <= upTo {
			p.close()
			w.old, w.part = append(w.old, p), nil
		}
		if len(w.old) == 0 || w.old[0].last > upTo {
			break
		}
		if err := w.dropOldest(); err != nil {
			return err
		}
	}
	if w.part == nil && len(w.old) == 0 { // otherwise what is rewritten would begin with a hole
		w.forget(upTo)
	}
	return nil
}

// dropOldest syncs the directory each time, so that a loss of power leaves no gap
// in it.
func (w *writer) dropOldest() error {
	p := w.old[0]
	if w.doubtful == p {
		w.doubtful = nil
	}
	if err := p.remove(w.fsys); err != nil {
		return err
	}
	w.resize(p, 0)
	w.old = w.old[1:]
	w.undurable = true
	if err := w.fsys.SyncDir(w.dir); err != nil {
		return err
	}
	w.undurable = false
	return nil
}

// dirty is whether there is something for fsync to do.
func (w *writer) dirty() bool {
	return len(w.unsynced) > 0 || w.part != nil && w.part.synced < w.part.size
}

func (w *writer) close() error {
	err := errors.Join(w.fsync(), w.lost)
	if w.part != nil {
		w.part.close()
	}
	if w.doubtful != nil {
		w.doubtful.close()
	}
	return err
}

func (w *writer) append(p *part, records []Record) (err error) {
	before := p.size
	if w.buf, err = p.append(records, w.buf[:0]); cap(w.buf) > maxBuf {
		w.buf = nil
	}
	w.size.Add(p.size - before)
	return err
}

func (w *writer) resize(p *part, size int64) {
	w.size.Add(size - p.size)
	p.size = size
}

func (w *writer) keep(records []Record) {
	w.unsynced = append(w.unsynced, records...)
	for i := range records {
		w.unsyncedBytes += records[i].bytes()
	}
}

// unkeep forgets all but the first n.
func (w *writer) unkeep(n int) {
	for i := n; i < len(w.unsynced); i++ {
		w.unsyncedBytes -= w.unsynced[i].bytes()
	}
	clear(w.unsynced[n:])
	w.unsynced = w.unsynced[:n]
}

// forget forgets the records up to a number.
func (w *writer) forget(last uint64) {
	n := 0
	for n < len(w.unsynced) && w.unsynced[n].Seq <= last {
		w.unsyncedBytes -= w.unsynced[n].bytes()
		n++
	}
	if n == 0 {
		return
	}
	if n == len(w.unsynced) && cap(w.unsynced) <= 1<<14 {
		clear(w.unsynced)
		w.unsynced = w.unsynced[:0]
		return
	}
	w.unsynced = append([]Record(nil), w.unsynced[n:]...)
}

// tell logs when the disk begins to refuse and when it no longer does; what it says in between is
// with those who wrote.
func (w *writer) tell(err error) {
	switch {
	case err != nil && !w.refusing:
		w.log.Error("the journal: the disk refuses what is written", "dir", w.dir, "error", err)
	case err == nil && w.refusing:
		w.log.Info("the journal: the disk accepts again", "dir", w.dir)
	}
	w.refusing = err != nil
}
