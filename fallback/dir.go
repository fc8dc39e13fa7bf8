package fallback

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redaside/aside/fallback/journal"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/vfs"
)

// Dir is a [Store] in a directory of its own, see the package's description. Make one with [Open].
// Safe for concurrent use.
type Dir struct {
	o       Options // immutable, as are the next ones
	fs      vfs.FS
	ownFS   bool // Close closes it
	lock    io.Closer
	journal *journal.Journal

	kick     chan struct{}   // has room for one: the flusher is to do a round
	stop     chan struct{}   // closed by Close: the flusher is to do its last one
	patience context.Context // ends when Close's ctx has ended: what is not in files then stays in the journal
	giveUp   context.CancelFunc
	done     chan struct{} // closed by the flusher when the directory is given up

	x *index // its mutex guards all below, too

	pinned  map[string]int // keys whose values stay in memory, and for how many Puts of operations; see behind.go
	readers sync.WaitGroup // those who read for them; nobody joins once x is closed

	gone         map[digest]goneFile      // files whose records are gone: the flusher removes them
	goneBytes    int64                    // of them
	bad          []badFile                // files that cannot be read: the flusher puts them into quarantine
	foreign      map[foreignKey]*foreign  // what the journal says of other databases: the flusher moves it to their files
	foreignNotes map[foreignHash]*foreign // and what it says of keys that it does not name; the flusher looks for their files
	fileBytes    int64                    // of the record files that are there, those in gone included
	quarantined  int
	reserved     int64    // bytes on disk that the Puts under way may add
	incoming     int64    // bytes of values that they hold
	writers      *writers // those that began since the flusher last asked
	faults       [faultKinds]error
	waiting      int // callers that wait for the flusher
	began        int // rounds of the flusher
	ended        int
	rested       time.Time     // when the flusher has rested from the last for as long as that took: MaxQueue does not wake it before, as writers need the disk, too
	roundError   error         // what the last that ended said
	progress     chan struct{} // closed, and replaced, when the flusher has made room
	dropped      uint64        // the journal has nothing up to this number that is not in files
	marked       bool          // there may be settle markers in the journal's queue

	rejecting sync.Mutex // held while a place in the quarantine is taken

	unsure bool            // who was there before may have been killed between a rename, or a removal, and its sync; used by the flusher only, and recover before it
	untidy map[string]bool // what could not be removed yet: files half written, and names in folders that may be empty; used by the flusher only, and recover before it

	closing  sync.Once
	closed   chan struct{} // closed when closeErr is set
	closeErr error
	finalErr error // what the flusher said at its end; set before done is closed
}

var _ Transactor = (*Dir)(nil)

// goneFile is a file that is to be removed.
type goneFile struct {
	key   string
	bytes int64
}

// badFile is a file that is to be put into quarantine.
type badFile struct {
	path   string
	reason error
}

// writers are the callers of Put and Settle between their first look at the index and what they then tell it.
// Guarded by index.mu.
type writers struct {
	n    int
	done chan struct{} // closed when n is 0 and nobody joins any more; nil until somebody waits
}

func (w *writers) enterLocked() *writers {
	w.n++
	return w
}

func (w *writers) leaveLocked() {
	w.n--
	if w.n == 0 && w.done != nil {
		close(w.done)
	}
}

// fault is a kind of work that a disk may refuse.
type fault int

const (
	faultJournal fault = iota
	faultFiles
	faultReads
	faultKinds
)

// Put implements [Store].
func (d *Dir) Put(ctx context.Context, records ...Record) error {
	return d.putRecords(ctx, records, false)
}

// PutAll implements [Transactor]. In the journal the records are one. Whoever left while the disk writes it would leave
// them in the index, and some of them maybe in their files, though the disk may still refuse it: so it is waited for.
func (d *Dir) PutAll(ctx context.Context, records ...Record) error {
	if err := noNotes(records); err != nil {
		return err
	}
	return d.putRecords(ctx, records, true)
}

// putRecords is Put; together: as one record of the journal.
func (d *Dir) putRecords(ctx context.Context, records []Record, together bool) error {
	if err := validateAll(records); err != nil {
		return err
	}
	unpin, err := d.pin(ctx, records)
	if err != nil {
		return err
	}
	defer unpin()
	p, err := d.admit(ctx, records)
	if err != nil || len(p.records) == 0 {
		return err
	}
	all := d.forJournal(p.records)
	if together {
		ctx = context.WithoutCancel(ctx)
		if len(all) > 1 {
			all = []journal.Record{{Op: journal.Transaction, DB: d.o.DB, Parts: all}}
		}
	}
	failed := d.journal.Append(ctx, all...)
	// When ctx has ended, nobody knows whether the journal has them. Then the index has them too:
	// what may be found after a restart must not be missing before.
	unknown := failed != nil && ctx.Err() != nil && errors.Is(failed, ctx.Err())
	now := time.Now()

	d.x.mu.Lock()
	if failed == nil || unknown {
		for i := range p.records {
			d.x.mergeLocked(&p.records[i], now.UnixMilli(), true)
		}
		d.trimLocked()
	}
	d.leaveLocked(p)
	full := d.queueFullLocked(now)
	wasFailing := d.faults[faultJournal] != nil
	d.x.mu.Unlock()

	if full {
		d.wake()
	}
	switch {
	case failed == nil:
		if wasFailing {
			d.report(faultJournal, nil)
		}
		return nil
	case unknown:
		return failed
	case errors.Is(failed, journal.ErrClosed):
		return ErrClosed
	}
	err = d.diskError(failed)
	d.report(faultJournal, err)
	return err
}

// put is a Put that was let in.
type put struct {
	records      []Record // those that are not superseded already
	disk, values int64    // what it has reserved
	operations   int64    // bytes of operations among values
	notes        bool     // all of them only note that lists were opened
	writers      *writers
}

// admit waits until there is room for records, and lets them in.
func (d *Dir) admit(ctx context.Context, records []Record) (put, error) {
	const compact, evict, give = 0, 1, 2 // what is tried to make room on disk, one after the other
	round := 0                           // of the flusher, that we wait for
	for try := compact; ; {
		if err := ctx.Err(); err != nil {
			return put{}, err
		}
		d.x.mu.Lock()
		if d.x.closed.Load() {
			d.x.mu.Unlock()
			return put{}, ErrClosed
		}
		p, limit := d.needLocked(records)
		if len(p.records) == 0 {
			d.x.mu.Unlock()
			return p, nil
		}
		if p.notes { // without them nothing that fills the store could be replayed, and leave
			d.enterLocked(&p)
			d.x.mu.Unlock()
			return p, nil
		}
		over := d.usedLocked() + p.disk - limit
		if p.operations > 0 && d.x.operationBytes+p.operations > d.o.MemoryBytes {
			d.x.mu.Unlock()
			return put{}, fmt.Errorf("%w: operations are kept in memory, and Options.MemoryBytes (%d) of %s would be exceeded: raise it, or write less while Redis is away", ErrFull, d.o.MemoryBytes, d.o.dir)
		}
		waiting := d.x.dirtyValues + d.incoming
		switch {
		case over > 0 && try == give:
			err := fmt.Errorf("%w: Options.MaxBytes (%d) of %s would be exceeded: raise it, or write less while Redis is away", ErrFull, d.o.MaxBytes, d.o.dir)
			if d.faults[faultFiles] != nil {
				err = fmt.Errorf("%w (and the disk fails: %w)", err, d.faults[faultFiles])
			}
			d.x.mu.Unlock()
			return put{}, err
		case over > 0 && try == evict:
			for e := d.x.fills.first(); e != nil && over > 0; e = d.x.fills.first() {
				over -= max(fileBound(&e.record), e.file)
				d.x.removeLocked(e)
			}
		case over > 0: // the journal may be full of what is superseded
		case waiting > 0 && waiting+p.values > d.o.MemoryBytes:
		default:
			d.enterLocked(&p)
			d.x.mu.Unlock()
			return p, nil
		}
		if round == 0 {
			round = d.began + 1 // one that is under way began before we asked
		}
		d.x.mu.Unlock()
		ended, failed, err := d.awaitRound(ctx, round, over <= 0)
		switch {
		case err != nil:
			return put{}, err
		case over > 0:
			try++
		case ended && failed != nil:
			return put{}, failed
		}
		if ended {
			round = 0
		}
	}
}

// needLocked says which of records are news, what they need, and how much of the disk may be in use
// with them.
func (d *Dir) needLocked(records []Record) (p put, limit int64) {
	old := 0
	superseded := func(r *Record) bool {
		e := d.x.byKey[r.Key]
		return e != nil && r.Op != OpOperations && !replaces(r, &e.record)
	}
	for i := range records {
		if superseded(&records[i]) {
			old++
		}
	}
	p.records = records
	if old > 0 { // what supersedes them is remembered as well as they would be
		p.records = make([]Record, 0, len(records)-old)
		for i := range records {
			if !superseded(&records[i]) {
				p.records = append(p.records, records[i])
			}
		}
	}
	limit = d.o.MaxBytes
	p.notes = true
	for i := range p.records {
		r := &p.records[i]
		p.notes = p.notes && onlyNotes(r)
		p.disk += journalBound(r) + fileBound(r)
		p.values += int64(len(r.Value))
		if r.Op == OpOperations {
			p.operations += int64(len(r.Value))
			if e := d.x.behindLocked(r.Key, p.records[:i+1]); e != nil {
				p.operations += e.size
				p.disk += 4 * e.size / 3
			}
		}
		if r.Op != OpDel {
			limit = d.o.MaxBytes - reserve(d.o.MaxBytes)
		}
	}
	return p, limit
}

// usedLocked is how much of MaxBytes is in use, or will be when all that is known is in files and
// they are beside those they replace.
func (d *Dir) usedLocked() int64 {
	return d.journal.Size() + d.fileBytes + d.x.dirtyFiles + d.reserved
}

// journalBound is the most bytes that a record takes in the journal.
func journalBound(r *Record) int64 {
	if r.Op == OpOperations { // each has a line in the value of 70 bytes and more, and the key and 60 bytes around in the journal
		lines := 1 + int64(strings.Count(r.Value, "\n"))
		return 420 + lines*(int64(len(r.Key))+100) + 2*int64(len(r.Value))
	}
	return 320 + int64(len(r.Key)+len(r.Value)+len(r.Stamp))
}

func (d *Dir) enterLocked(p *put) {
	d.reserved += p.disk
	d.incoming += p.values
	p.writers = d.writers.enterLocked()
}

func (d *Dir) leaveLocked(p put) {
	d.reserved -= p.disk
	d.incoming -= p.values
	p.writers.leaveLocked()
}

// awaitRound returns when a round of the flusher has ended, that or a later one, with what it said;
// or, if any progress will do, when something has got its file.
func (d *Dir) awaitRound(ctx context.Context, round int, anyProgress bool) (ended bool, failed, err error) {
	d.x.mu.Lock()
	d.waiting++
	d.x.mu.Unlock()
	defer func() {
		d.x.mu.Lock()
		defer d.x.mu.Unlock()
		d.waiting--
	}()
	d.wake()
	for moved := false; ; moved = true {
		d.x.mu.RLock()
		ended, failed, next := d.ended >= round, d.roundError, d.progress
		d.x.mu.RUnlock()
		switch {
		case d.x.closed.Load():
			return false, nil, ErrClosed
		case ended:
			return true, failed, nil
		case moved && anyProgress:
			return false, nil, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return false, nil, ctx.Err()
		}
	}
}

// Fill implements [Store].
func (d *Dir) Fill(r Record) {
	now := time.Now()
	if r.Op != OpFill || r.validate() != nil || r.Expires <= now.UnixMilli() {
		return
	}
	d.x.mu.Lock()
	full := d.fillLocked(&r, now)
	d.x.mu.Unlock()
	if full {
		d.wake()
	}
}

// fillLocked remembers a fill if there is room, and reports whether the flusher has enough to do.
func (d *Dir) fillLocked(r *Record, now time.Time) (full bool) {
	if d.x.closed.Load() {
		return false
	}
	if e := d.x.byKey[r.Key]; e != nil && !replaces(r, &e.record) {
		return false
	}
	over := d.usedLocked() - d.goneBytes + fileBound(r) - fillLimit(d.o.MaxBytes)
	if over > 0 && over < d.o.MaxBytes/4 { // else it is not for fills to go that there is no room
		for e := d.x.fills.first(); e != nil && over > 0; e = d.x.fills.first() {
			over -= max(fileBound(&e.record), e.file)
			d.x.removeLocked(e)
		}
	}
	// Values that wait for the disk are bounded, and Puts come first.
	crowded := d.x.dirtyValues+d.incoming+int64(len(r.Value)) > d.o.MemoryBytes/2
	if over > 0 || crowded {
		if e := d.x.byKey[r.Key]; e != nil {
			d.x.removeLocked(e) // it is out of date all the same
		}
		return crowded && d.faults[faultFiles] == nil
	}
	d.x.mergeLocked(r, now.UnixMilli(), true)
	d.trimLocked()
	return d.queueFullLocked(now)
}

// queueFullLocked reports whether the flusher is to be woken before the interval is over.
func (d *Dir) queueFullLocked(now time.Time) bool {
	return d.x.dirty.len >= d.o.MaxQueue && d.faults[faultFiles] == nil && !now.Before(d.rested)
}

// Get implements [Store]. A set whose value has expired more than a minute ago is returned as a
// delete. The error says that the record is on the disk and cannot be read: if it is damaged it is
// put into quarantine, and the next Get does not find it.
func (d *Dir) Get(key string) (Record, bool, error) {
	if d.x.closed.Load() {
		return Record{}, false, ErrClosed
	}
	f, ok := d.x.find(key)
	if !ok {
		return Record{}, false, nil
	}
	r := f.whole()
	if !f.held {
		var err error
		if r, ok, err = d.load(f); !ok || err != nil {
			return Record{}, false, err
		}
	}
	if r.Op == OpFill && r.Expires <= time.Now().UnixMilli() {
		return Record{}, false, nil
	}
	return r, true, nil
}

// Operations returns what waits for a key that has operations, without reading all of them, and its
// record without Value. It is for Client.Apply, which is called for each of many.
func (d *Dir) Operations(key string) (*deferred.Log, Record, bool) { return d.x.logOf(key) }

// Pending implements [Store].
func (d *Dir) Pending(key string) bool { return d.x.isPending(key) }

// Stamp implements [Store].
func (d *Dir) Stamp(key string) (stamp string, ok bool) { return d.x.stamp(key) }

// Records implements [Store].
func (d *Dir) Records(op Op) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for f := range d.x.bySlot(op) {
			if d.x.closed.Load() {
				return
			}
			r := f.whole()
			if !f.held {
				var ok bool
				var err error
				if r, ok, err = d.load(f); !ok || err != nil || r.Op != op {
					continue
				}
			}
			if op == OpFill && r.Expires <= time.Now().UnixMilli() {
				continue
			}
			if !yield(r) {
				return
			}
		}
	}
}

// Keys yields the keys of all records but those of OpDel, in no order, without blocking other calls and
// without reading a file. A key that has such a record all the time is yielded once; one whose record comes
// or goes meanwhile may be.
func (d *Dir) Keys() iter.Seq[string] { return d.x.keys() }

// load returns the record of f's key with its value, which was in a file when f was found; false if
// there is none any more.
func (d *Dir) load(f found) (Record, bool, error) {
	for {
		path := digestOf(f.Key).path(d.o.DB)
		r, _, _, err := readFile(d.fs, path)
		if err == nil && r.Key == f.Key && r.Stamp == f.Stamp && r.Op == f.Op {
			if d.fault(faultReads) != nil {
				d.report(faultReads, nil)
			}
			return r, true, nil
		}
		// If the entry is as it was, nobody has touched the file, and it is as bad as it looks.
		d.x.mu.Lock()
		e := d.x.byKey[f.Key]
		if e == nil || e.change != f.change {
			if e != nil {
				f = e.found()
			}
			d.x.mu.Unlock()
			if e == nil || f.held {
				return f.whole(), e != nil, nil
			}
			continue
		}
		if err == nil {
			if err = otherKey(&r, d.o.DB); r.Key == f.Key {
				err = fmt.Errorf("%w: it holds another record of its key than was written", ErrFileCorrupt)
			}
		}
		if !damaged(err) {
			d.x.mu.Unlock()
			err = fmt.Errorf("%w: %s: %w", ErrDisk, d.o.dir, err)
			d.report(faultReads, err)
			return Record{}, false, err
		}
		if !errors.Is(err, errMissing) { // else the flusher finds out that there is nothing to remove
			d.fileBytes -= e.file
			e.file = 0
			d.bad = append(d.bad, badFile{path, err})
			d.quarantined++
		}
		d.x.removeLocked(e)
		d.x.mu.Unlock()
		d.o.Logger.Warn("aside: a fallback record is lost", "store", d.o.dir, "file", path, "reason", err)
		d.wake()
		return Record{}, false, fmt.Errorf("aside: a fallback record is lost: %s in %s: %w", path, d.o.dir, err)
	}
}

// Settle implements [Store]. The marker is in the journal, as durably as a Put, before the key
// counts as not pending:
//
//	Settle k (set 1)    Del k, in Redis    kill -9 or loss of power    Open    Redis is away: Get k    <- would be set 1
func (d *Dir) Settle(records ...Record) {
	if w, unsure := d.mark(records); w != nil {
		d.forget(records, w, unsure)
	}
}

// forget removes from the index what is marked. Also once d is closed: the last round waits for it.
func (d *Dir) forget(records []Record, w *writers, unsure bool) {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	for i := range records {
		d.x.settleLocked(&records[i])
	}
	w.leaveLocked()
	d.marked = d.marked || unsure // it may be on its way
	if d.x.pending.Load() == 0 {
		d.wake()
	}
}

// mark puts the markers of a Settle into the journal; nil: the Dir is closed. Unsure reports whether they may
// still come there. A round of the flusher that finds them waits until the index has forgotten the records,
// too: else it would write these to their files, and drop the markers.
func (d *Dir) mark(records []Record) (w *writers, unsure bool) {
	room := markerRooms.Get().(*[]journal.Record)
	markers := *room
	defer func() {
		if clear(markers); cap(markers) <= mostMarkers {
			*room = markers[:0]
			markerRooms.Put(room)
		}
	}()
	d.x.mu.Lock()
	if d.x.closed.Load() {
		d.x.mu.Unlock()
		return nil, false
	}
	for i := range records {
		if e := d.x.byKey[records[i].Key]; e != nil && e.record.Op != OpFill && records[i].Op != OpFill && e.record.Stamp == records[i].Stamp {
			markers = append(markers, journal.Record{Op: journal.Settle, DB: d.o.DB, Key: e.record.Key, Stamp: e.record.Stamp})
		}
	}
	w = d.writers.enterLocked()
	d.x.mu.Unlock()
	if len(markers) == 0 {
		return w, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), settlePatience)
	defer cancel()
	return w, d.journal.Append(ctx, markers...) != nil
}

// markerRooms has memory for the markers of a Settle, which are many in a replay.
var markerRooms = sync.Pool{New: func() any { return new([]journal.Record) }}

// mostMarkers is for how many memory is kept.
const mostMarkers = 1024

// settlePatience is how long Settle waits for a disk that hangs. After that the key counts as
// settled all the same, as Redis has its record; it may come back after a crash.
const settlePatience = time.Second

// Durable implements [Store]: it says true.
func (d *Dir) Durable() bool { return true }

// Latest implements [Store].
func (d *Dir) Latest() string { return d.x.latestStamp() }

// Stats implements [Store].
func (d *Dir) Stats() Stats {
	d.x.mu.RLock()
	defer d.x.mu.RUnlock()
	return Stats{
		Sets: d.x.sets, Deletes: d.x.deletes, Operations: d.x.operations, Fills: d.x.loaded,
		Bytes: d.journal.Size() + d.fileBytes, MaxBytes: d.o.MaxBytes, Dirty: d.x.dirty.len, Quarantined: d.quarantined,
		Err: errors.Join(d.faults[:]...),
	}
}

func (d *Dir) count(belongs func(key string) bool) int {
	return d.x.count(belongs, time.Now().UnixMilli())
}

// Close implements [Store]. When ctx ends before the disk has done its part, a goroutine stays
// behind that gives up the directory as soon as the disk lets it; until then nobody else can open
// it.
func (d *Dir) Close(ctx context.Context) error {
	first := false
	d.closing.Do(func() { first = true })
	if !first {
		select {
		case <-d.closed:
			return d.closeErr
		case <-ctx.Done():
			return d.left(ctx.Err())
		}
	}
	d.x.mu.Lock()
	d.x.closed.Store(true)
	d.advanceLocked()
	d.x.mu.Unlock()
	close(d.stop)
	select {
	case <-d.done:
		d.closeErr = d.finalErr
	case <-ctx.Done():
		d.giveUp()
		d.closeErr = d.left(ctx.Err())
	}
	close(d.closed)
	return d.closeErr
}

// left says what Close has left undone.
func (d *Dir) left(why error) error {
	d.x.mu.RLock()
	defer d.x.mu.RUnlock()
	explicit, fills, removals := 0, 0, len(d.gone)
	for e := d.x.dirty.first(); e != nil; e = d.x.dirty.next(e) {
		if e.record.Op == OpFill {
			fills++
		} else {
			explicit++
		}
	}
	return fmt.Errorf("aside: the fallback directory %s is not closed yet, the disk has not done its part in time: %d writes and deletes are in its journal only, %d loaded values are not written, %d files of what is settled are not removed: %w", d.o.dir, explicit, fills, removals, why)
}

// wake makes the flusher do a round soon.
func (d *Dir) wake() {
	select {
	case d.kick <- struct{}{}:
	default: // it will anyway
	}
}

// advanceLocked wakes those who wait for the flusher.
func (d *Dir) advanceLocked() {
	close(d.progress)
	d.progress = make(chan struct{})
}

// report takes note of what the disk said, and logs it when that is news.
func (d *Dir) report(kind fault, err error) {
	d.x.mu.Lock()
	before := d.faults[kind]
	d.faults[kind] = err
	d.x.mu.Unlock()
	what := "its record files"
	switch kind {
	case faultJournal: // which says so itself
		return
	case faultReads:
		what = "reading"
	case faultFiles, faultKinds:
	}
	switch {
	case before == nil && err != nil:
		d.o.Logger.Warn("aside: the fallback directory fails", "store", d.o.dir, "with", what, "error", err)
	case before != nil && err == nil:
		d.o.Logger.Info("aside: the fallback directory works again", "store", d.o.dir, "with", what)
	}
}

func (d *Dir) fault(kind fault) error {
	d.x.mu.RLock()
	defer d.x.mu.RUnlock()
	return d.faults[kind]
}

// diskError says what an error of the disk means to a caller.
func (d *Dir) diskError(err error) error {
	if noSpace(err) {
		return fmt.Errorf("%w: no space is left on the disk of %s: %w", ErrFull, d.o.dir, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrDisk, d.o.dir, err)
}

func noSpace(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	const handleDiskFull, diskFull = syscall.Errno(39), syscall.Errno(112) // what Windows says
	return runtime.GOOS == "windows" && (errors.Is(err, handleDiskFull) || errors.Is(err, diskFull))
}

// forJournal is records as the journal has them.
func (d *Dir) forJournal(records []Record) []journal.Record {
	out := make([]journal.Record, len(records))
	for i := range records {
		r := &records[i]
		out[i] = journal.Record{Op: journal.Set, DB: d.o.DB, Key: r.Key, Value: r.Value, Expires: r.Expires, Stamp: r.Stamp, Slack: r.Slack}
		switch r.Op {
		case OpDel:
			out[i].Op = journal.Del
		case OpOperations:
			l, _ := deferred.Parse(r.Value) // was looked at before
			out[i].Value, out[i].List = "", l.ID
			if len(l.Ops) == 0 {
				out[i].Op, out[i].Slack = journal.Opened, 0
				continue
			}
			out[i].Op = journal.Operations
			for _, op := range l.Ops {
				out[i].Commands = append(out[i].Commands, op.Command)
			}
		case OpSet, OpFill:
		}
	}
	return out
}
