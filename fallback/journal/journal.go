package journal

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/redaside/aside/internal/vfs"
)

// ErrClosed means that the Journal was closed before the call.
var ErrClosed = errors.New("journal: closed")

// Journal is a journal that grows. [Open] returns it. Safe for concurrent use.
//
// An Append puts its records into the queue and waits. One committer at a time, a goroutine that
// exists while there is a queue, takes the whole queue, writes it, syncs it, and wakes the callers.
// Records that arrive meanwhile are the next batch: the slower the disk, the larger the batches.
type Journal struct {
	o Options // immutable

	mu         sync.Mutex // guards what follows, up to pen; never held while the disk is asked
	queue      []*entry   // the oldest first
	spare      []*entry   // memory for the next queue
	lazyBytes  int64      // of the entries in queue that nobody waits for
	committing bool       // there is a committer
	closed     bool       // nothing is added to queue any more, and no goroutine is started but by another

	pen     sync.Mutex // guards writer and syncing; held while the disk is asked. Not taken while mu is held
	writer  writer
	syncing bool // there is a goroutine that syncs what EverySecond has written

	goroutines sync.WaitGroup // the committer and that one
	closing    chan struct{}  // closed by the first Close
	ended      chan struct{}  // closed when there is no goroutine any more and the last part is closed
	closeErr   error          // immutable once ended is closed
}

// entry is what one Append waits for. While it is in the queue, it is guarded by mu; then it is the
// committer's until it sends to done.
type entry struct {
	records []Record
	room    *[]Record // where records are; of rooms
	bytes   int64
	wait    bool
	done    chan error // has room for the one answer
}

// rooms has memory for the records of entries: many at once, as a replay settles them, are too large for
// what the allocator has at hand.
var rooms = sync.Pool{New: func() any { return new([]Record) }}

// mostRoom is for how many records memory is kept.
const mostRoom = 1024

// leave has the next entry use the memory of e. Nobody may look at its records any more.
func (e *entry) leave() {
	if e.room == nil || cap(e.records) > mostRoom {
		return
	}
	clear(e.records)
	*e.room = e.records[:0]
	rooms.Put(e.room)
}

const (
	// maxBatch is how much is written at once; a single Append may be larger.
	maxBatch = 8 << 20

	// maxLazy bounds the records of AppendLazily that wait for a disk that is too slow for them.
	maxLazy = 16 << 20

	// syncInterval is what EverySecond means.
	syncInterval = time.Second
)

func newJournal(fsys vfs.FS, dir string, o Options) *Journal {
	return &Journal{
		o:       o,
		writer:  writer{fsys: fsys, dir: dir, log: o.Logger, sync: o.Sync, partBytes: o.PartBytes},
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
	}
}

// Append adds records, in order. When it returns nil, they are as durable as Options.Sync says.
// Passed as a slice, they have their Seq then.
//
// On an error some of them may be in the journal all the same, each whole or not at all. The error
// wraps ctx's if that ended while Append waited, the disk's error (such as syscall.ENOSPC),
// ErrInvalid, ErrTooLarge or ErrClosed. The journal can be used again after each of them but the
// last.
func (j *Journal) Append(ctx context.Context, records ...Record) error {
	for i := range records {
		if err := records[i].validate(j.o.MaxRecordBytes); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return notWritten(err)
	}
	if len(records) == 0 {
		return nil
	}
	e := newEntry(records, true)
	if !j.enqueue(e) {
		return ErrClosed
	}
	defer e.leave()
	var err error
	select {
	case err = <-e.done:
	case <-ctx.Done():
		if j.withdraw(e) {
			return notWritten(ctx.Err())
		}
		select {
		case err = <-e.done:
		default:
			e.room = nil // it is being written from there
			return fmt.Errorf("journal: the disk has not answered, the record may or may not become durable: %w", ctx.Err())
		}
	}
	if err == nil {
		for i := range records {
			records[i].Seq = e.records[i].Seq
		}
	}
	return err
}

func notWritten(err error) error { return fmt.Errorf("journal: nothing was written: %w", err) }

// AppendLazily adds records that may be lost without harm, such as Settles: it returns at once,
// they are written soon, and become durable with what Append adds later, or by Close. On a disk
// that is too slow or refuses, they are left out.
func (j *Journal) AppendLazily(records ...Record) {
	for i := range records {
		if err := records[i].validate(j.o.MaxRecordBytes); err != nil {
			j.o.Logger.Error("the journal: a record is left out", "error", err)
			return
		}
	}
	if len(records) > 0 {
		j.enqueue(newEntry(records, false))
	}
}

// Mark is the number of the last record that is in the journal. Those of Appends that have returned
// nil have that or a lesser one; those of Appends that begin later will have a greater one.
func (j *Journal) Mark() uint64 {
	return j.writer.mark.Load()
}

// Rotate makes the next Append begin a new part.
func (j *Journal) Rotate() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	j.writer.full.Store(true)
	return nil
}

// Drop removes the parts in which no record has a number greater than upTo, the oldest first and
// durably, the one that is being written included. It waits for the disk for as long as that takes.
// After an error it may be called again.
func (j *Journal) Drop(upTo uint64) error {
	j.pen.Lock()
	defer j.pen.Unlock()
	select {
	case <-j.ended:
		return ErrClosed
	default:
	}
	if err := j.writer.drop(upTo); err != nil {
		return fmt.Errorf("journal: dropping what is not needed any more: %w", err)
	}
	return nil
}

// Size is how many bytes the journal has on disk.
func (j *Journal) Size() int64 { return j.writer.size.Load() }

// Close writes and syncs the queue, in every mode, and ends. It returns when ctx ends at the
// latest, with ctx's error; a disk that hangs keeps a goroutine until it answers. Closing again
// waits for the same and returns the same error.
func (j *Journal) Close(ctx context.Context) error {
	j.mu.Lock()
	if !j.closed {
		j.closed = true
		close(j.closing)
		go j.end() // ends when the disk has answered what it was asked
	}
	j.mu.Unlock()
	select {
	case <-j.ended:
		return j.closeErr
	default:
	}
	select {
	case <-j.ended:
		return j.closeErr
	case <-ctx.Done():
		return fmt.Errorf("journal: the disk has not answered, so what was written since the last fsync may be lost: %w", ctx.Err())
	}
}

func (j *Journal) end() {
	defer close(j.ended)
	j.goroutines.Wait()
	j.pen.Lock()
	defer j.pen.Unlock()
	if err := j.writer.close(); err != nil {
		j.closeErr = fmt.Errorf("journal: closing: %w", err)
	}
}

func newEntry(records []Record, wait bool) *entry {
	e := &entry{room: rooms.Get().(*[]Record), wait: wait} // not from a pool itself: a channel made in a synctest bubble stays there
	e.records = append(*e.room, records...)
	if wait {
		e.done = make(chan error, 1)
	}
	for i := range e.records {
		r := &e.records[i]
		if r.onlyHash() { // so that the key need not be kept
			if r.KeyHash == (KeyHash{}) {
				r.KeyHash = HashKey(r.Key)
			}
			r.Key, r.Value = "", ""
		}
		e.bytes += r.bytes()
	}
	return e
}

// enqueue reports whether e will be written, or at least be tried.
func (j *Journal) enqueue(e *entry) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.closed:
		return false
	case e.wait:
	case j.lazyBytes+e.bytes > maxLazy:
		return false
	default:
		j.lazyBytes += e.bytes
	}
	j.queue = append(j.queue, e)
	if !j.committing {
		j.committing = true
		j.goroutines.Go(j.commit) // ends when the queue is empty
	}
	return true
}

// withdraw takes e out of the queue. False: it is being written already.
func (j *Journal) withdraw(e *entry) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := slices.Index(j.queue, e)
	if i < 0 {
		return false
	}
	j.queue = slices.Delete(j.queue, i, i+1)
	return true
}

// commit is the committer.
func (j *Journal) commit() {
	for {
		j.gather()
		batch := j.take()
		if batch == nil {
			return
		}
		j.pen.Lock()
		err := j.writer.commit(batch)
		if j.o.Sync == EverySecond && !j.syncing && j.writer.dirty() {
			j.syncing = true
			j.goroutines.Go(j.syncLater) // ends when all is synced, or with Close
		}
		j.pen.Unlock()
		for _, e := range batch {
			if e.wait {
				e.done <- err
			}
		}
		clear(batch)
	}
}

// gather lets those run first who have just been told that their records are durable, as long as
// that makes the queue longer: the next records of most of them will be in this batch, rather than
// one here and the others in the next. Nobody waits for long: goroutines that are not ready to run
// are not waited for.
func (j *Journal) gather() {
	for n, before, rounds := j.queued(), -1, 0; n > before && rounds < 8; rounds++ {
		runtime.Gosched()
		n, before = j.queued(), n
	}
}

func (j *Journal) queued() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.queue)
}

// take takes a batch from the queue; nil: it is empty, and the committer has to end.
func (j *Journal) take() []*entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.queue) == 0 {
		j.committing = false
		return nil
	}
	var bytes int64
	n := 0
	for _, e := range j.queue {
		if bytes += e.bytes; n > 0 && bytes > maxBatch {
			break
		}
		if n++; !e.wait {
			j.lazyBytes -= e.bytes
		}
	}
	batch := j.queue[:n:n]
	j.queue, j.spare = append(j.spare[:0], j.queue[n:]...), j.queue[:0]
	return batch
}

// syncLater syncs once a second for as long as there is something to sync.
func (j *Journal) syncLater() {
	timer := time.NewTimer(syncInterval)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-j.closing: // Close syncs
			return
		}
		if !j.syncNow() {
			return
		}
		timer.Reset(syncInterval)
	}
}

// syncNow syncs what has been written so far, without keeping others from writing more. It reports
// whether there is more to do, or else that syncing is over.
func (j *Journal) syncNow() (more bool) {
	j.pen.Lock()
	defer j.pen.Unlock()
	w := &j.writer
	if p := w.part; p != nil && p.named {
		size, last := p.size, p.last
		j.pen.Unlock()
		err := p.fsync()
		j.pen.Lock()
		if err == nil && w.part == p {
			w.settled(p, size, last)
		}
	}
	// Now there is more to sync only if it came meanwhile, which has time, or if fsync has failed.
	if p := w.part; w.dirty() && (p == nil || !p.named || p.doubtful()) {
		w.tell(w.fsync())
	}
	j.syncing = w.dirty()
	return j.syncing
}
