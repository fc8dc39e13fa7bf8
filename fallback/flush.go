package fallback

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/fallback/journal"
	"github.com/redaside/aside/internal/deferred"
)

// The flusher is the one goroutine that changes record files. A round of it brings them up to what
// the index knew when it began, and then drops the journal up to there:
//
//  1. Mark the end of the journal, and wait for those writers that began before: the index then has
//     all that the journal has up to the mark.
//  2. Expire.
//  3. In batches: put into quarantine what could not be read; remove files whose records are gone,
//     and folders that are empty then; write the dirty records beside their files, sync, rename;
//     sync each folder once.
//  4. After a crash in the middle of a round, sync all folders, once: the process before may have been killed between
//     a rename, or a removal, and its sync, and what we see then can still go, or come back, with a loss of power.
//  5. If all of that went well, and not before, drop the journal up to the mark. Removals are
//     durable by then, too: a settle marker is dropped only when there is nothing left for it to
//     cancel.
//
// A file that fails stays as it is in the index, and is tried again in the next round. A fill is
// written without any sync, unless its file holds something else: after a loss of power it may be
// missing or torn, and nobody was promised it.

const (
	// flushBatch is how many records are written before those who wait for room are told.
	flushBatch = 200

	// hurry is how many calls to the disk are made at once when somebody waits for the flusher.
	// Otherwise it makes one after the other: each fsync of its own delays those of the journal,
	// for which writers wait.
	hurry = 8
)

var errGivenUp = errors.New("the time for closing is over")

func (d *Dir) flusher() {
	defer close(d.done)
	interval := time.NewTicker(d.o.FlushInterval)
	defer interval.Stop()
	for {
		select {
		case <-d.stop:
			d.finish()
			return
		default: // Close goes before the rest
		}
		select {
		case <-d.stop:
		case <-d.kick:
			d.round()
		case <-interval.C:
			d.round()
		}
	}
}

// finish does the last round and gives up the directory.
func (d *Dir) finish() {
	d.round()
	if failed := d.fault(faultFiles); failed != nil {
		d.finalErr = fmt.Errorf("%w (%w)", failed, d.left(errors.New("they will get their files when it is opened again")))
	}
	// Close waits for it as long as its ctx allows, and this as long as the disk needs.
	if err := d.journal.Close(context.Background()); err != nil {
		d.finalErr = errors.Join(d.diskError(err), d.finalErr)
	}
	d.readers.Wait()
	_ = d.fs.Remove(journalDir) // if it is empty
	if err := d.lock.Close(); err != nil {
		d.finalErr = errors.Join(d.finalErr, d.diskError(err))
	}
	d.giveUp()
	if d.ownFS {
		_ = d.fs.Close() // of what was only read from
	}
}

func (d *Dir) gaveUp() bool { return d.patience.Err() != nil }

func (d *Dir) round() {
	d.x.mu.Lock()
	d.began++
	round := d.began
	d.x.mu.Unlock()
	start := time.Now()
	err := d.flush()
	if err != nil {
		err = d.diskError(err)
	}
	d.report(faultFiles, err)
	d.x.mu.Lock()
	d.ended, d.roundError = round, err
	d.rested = time.Now().Add(time.Since(start))
	d.advanceLocked()
	d.x.mu.Unlock()
}

func (d *Dir) flush() error {
	d.x.mu.RLock()
	idle := d.x.dirty.len+len(d.gone)+len(d.bad)+len(d.foreign)+len(d.foreignNotes)+len(d.untidy)+d.writers.n == 0 && d.journal.Mark() == d.dropped && !d.marked
	soon := d.x.due <= time.Now().UnixMilli()
	d.x.mu.RUnlock()
	if idle && !soon {
		return nil
	}
	d.drain()
	if err := d.journal.Rotate(); err != nil { // what comes from now on is not to keep what was before
		return err
	}
	mark := d.journal.Mark() // taken before we look who is writing: a later writer is behind the mark
	d.x.mu.Lock()
	before := d.writers
	d.writers = new(writers)
	if before.n > 0 {
		before.done = make(chan struct{})
	}
	d.x.mu.Unlock()
	if before.done != nil {
		select {
		case <-before.done:
		case <-d.patience.Done():
			return errGivenUp
		}
	}
	d.x.expire(time.Now().UnixMilli(), true)
	d.x.mu.RLock()
	dirty := d.x.dirty.len
	d.x.mu.RUnlock()
	moved := d.moveForeign()
	if err := d.writeDirty(dirty); err != nil {
		return err
	}
	if moved != nil {
		return moved
	}
	if d.unsure {
		if err := d.syncFolders(); err != nil {
			return err
		}
		d.unsure = false
	}
	if err := d.journal.Drop(mark); err != nil {
		return err
	}
	d.x.mu.Lock()
	d.dropped = mark
	d.x.mu.Unlock()
	return nil
}

// drain waits, when an outage is over, for the settle markers that are in the journal's queue: else
// they would come to lie there just after all the rest was dropped. If the disk refuses that, it is
// as well.
func (d *Dir) drain() {
	d.x.mu.Lock()
	wait := d.marked && d.x.pending.Load() == 0
	if wait {
		d.marked = false
	}
	d.x.mu.Unlock()
	if wait { // the queue goes in order; this is the marker of nothing
		_ = d.journal.Append(d.patience, journal.Record{Op: journal.Settle, DB: d.o.DB, Stamp: "!"})
	}
}

// writeDirty brings n dirty records into their files, the oldest first, and all that else is to be
// done there. Records that change meanwhile go to the end of the queue and need not be written:
// what they have become is in the journal behind the mark. What is settled meanwhile is either
// written all the same, or the next batch removes what older file it has. Only the flusher calls
// it, and recover, before there is one.
func (d *Dir) writeDirty(n int) (failed error) {
	for {
		if d.gaveUp() {
			return errGivenUp
		}
		if err := d.write(d.take(min(n, flushBatch))); failed == nil {
			failed = err
		}
		if n -= flushBatch; n <= 0 {
			return failed
		}
	}
}

// batch is what is done at once.
type batch struct {
	hands int // calls to the disk at once
	bad   []badFile
	gone  []removal
	items []item
}

// item is a record that is to get its file.
type item struct {
	e      *entry
	record Record        // without the Value of operations
	log    *deferred.Log // which is here
	change uint64        // as the entry's was when it was taken
	at     int64
	name   digest
	before int64 // bytes of the file that was there
	plain  bool  // a fill, over nothing or over a fill: no sync

	size int64 // what became of it
	put  bool  // the file is there
	left bool  // so is what was written beside it
	skip bool  // a fill for which there is no room
	err  error
}

// removal is a file that is to go.
type removal struct {
	goneFile
	name digest
	err  error
}

// take takes up to n dirty records, and the rest there is to do. The records go to the end of the
// queue.
func (d *Dir) take(n int) *batch {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	// The queue may have become shorter since n was counted. Without this bound the walk below
	// would come to what it has itself put at the end: the same record twice, and the second of
	// them "the record of another key".
	n = min(n, d.x.dirty.len)
	b := &batch{hands: 1, bad: d.bad, items: make([]item, 0, n)}
	if d.waiting > 0 || d.x.closed.Load() {
		b.hands = d.o.hurry
	}
	taken := make(map[digest]bool, n)
	d.bad = nil
	for name, g := range d.gone {
		b.gone = append(b.gone, removal{goneFile: g, name: name})
	}
	for range n {
		e := d.x.dirty.first()
		d.x.dirty.remove(e)
		d.x.dirty.push(e)
		it := item{e: e, record: e.record, log: e.log, change: e.change, at: e.at, name: digestOf(e.record.Key), before: e.file}
		_, gone := d.gone[it.name]
		it.plain = e.record.Op == OpFill && !gone
		if taken[it.name] {
			it.err = ErrFileOtherKey
		}
		taken[it.name] = true
		b.items = append(b.items, it)
	}
	return b
}

// write does a batch and takes note of what became of it.
func (d *Dir) write(b *batch) error {
	var failed error
	fail := func(err error) {
		if err != nil && failed == nil {
			failed = err
		}
	}

	pruned := make(map[string]bool) // folders from which something was removed
	var stillBad []badFile
	for _, bad := range b.bad {
		if err := d.quarantine(bad); err != nil {
			fail(err)
			stillBad = append(stillBad, bad)
			for i := range b.items { // what is put there now would be taken for what is bad
				if it := &b.items[i]; it.name.path(d.o.DB) == bad.path {
					it.err = err
				}
			}
			continue
		}
		pruned[path.Dir(bad.path)] = true
	}
	parallel(len(b.gone), b.hands, func(i int) {
		if d.gaveUp() {
			b.gone[i].err = errGivenUp
			return
		}
		if err := d.fs.Remove(b.gone[i].name.path(d.o.DB)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			b.gone[i].err = err
		}
	})
	for i := range b.gone {
		fail(b.gone[i].err)
		if b.gone[i].err == nil {
			pruned[b.gone[i].name.folder(d.o.DB)] = true
		}
	}
	for name := range d.untidy {
		if path.Ext(name) == tempSuffix {
			if err := d.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				fail(err)
				continue
			}
		}
		pruned[path.Dir(name)] = true
		delete(d.untidy, name)
	}
	toSync, err := d.prune(pruned, b.hands)
	if fail(err); err != nil {
		for folder := range pruned {
			d.untidy[path.Join(folder, "anything")] = true
		}
	}

	var made sync.Map // folders that are there
	parallel(len(b.items), b.hands, func(i int) {
		if d.gaveUp() {
			b.items[i].err = errGivenUp
		} else if b.items[i].err == nil {
			d.writeItem(&b.items[i], &made)
		}
	})
	for i := range b.items {
		switch it := &b.items[i]; {
		case it.left:
			d.untidy[it.name.path(d.o.DB)+tempSuffix] = true
		case !it.put && it.before == 0: // the folder may have been made for it
			d.untidy[it.name.path(d.o.DB)] = true
		case it.put && !it.plain:
			toSync[it.name.folder(d.o.DB)] = true
		}
	}
	unsynced := d.syncAll(slices.Sorted(maps.Keys(toSync)), b.hands)
	for _, err := range unsynced {
		fail(err)
	}

	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	d.bad = append(d.bad, stillBad...)
	for i := range b.gone {
		// A removal is durable only when the folder was synced, or the one above it if that went,
		// too. Which one that was we need not know: if any failed, all are tried again.
		if b.gone[i].err == nil && err == nil && len(unsynced) == 0 {
			d.fileBytes -= d.gone[b.gone[i].name].bytes
			d.notGoneLocked(b.gone[i].name)
		}
	}
	for i := range b.items {
		it := &b.items[i]
		if it.err == nil && !it.plain {
			it.err = unsynced[it.name.folder(d.o.DB)]
		}
		fail(it.err)
		d.writtenLocked(it)
	}
	d.trimLocked()
	d.advanceLocked()
	return failed
}

// writtenLocked takes note of what became of an item.
func (d *Dir) writtenLocked(it *item) {
	e := d.x.byKey[it.record.Key]
	if it.put {
		// What was there was overwritten. It may have been taken down as gone: since the item was
		// taken, or before, if it could not be removed.
		before := max(it.before, d.gone[it.name].bytes)
		d.notGoneLocked(it.name)
		d.fileBytes += it.size - before
		if e == it.e {
			e.file = it.size
		} else { // it was settled meanwhile, and whatever came then owes nothing to this file
			d.goneLocked(it.name, goneFile{it.record.Key, it.size})
		}
	}
	if e != it.e || e.change != it.change {
		return // what it has become is dirty in its own right
	}
	switch {
	case it.put && it.err == nil:
		d.x.cleanLocked(e)
	case it.record.Op == OpFill: // there is no second try; its file, if there is one, has to go
		d.x.removeLocked(e)
	}
}

// trimLocked leaves values to the files where they are too many for memory, but for those that are pinned.
func (d *Dir) trimLocked() {
	for e := d.x.idle.first(); e != nil && (d.x.values > d.o.MemoryBytes || d.o.forget); {
		next := d.x.idle.next(e)
		if d.pinned[e.record.Key] == 0 {
			d.x.forgetValueLocked(e)
		}
		e = next
	}
}

// writeItem puts a record into its file.
func (d *Dir) writeItem(it *item, made *sync.Map) {
	name := it.name.path(d.o.DB)
	if it.before == 0 {
		if occupied, err := d.vacant(name, it.record.Key); err != nil {
			it.err = err
			return
		} else if occupied {
			it.plain = false
		}
		folder := it.name.folder(d.o.DB)
		if _, ok := made.Load(folder); !ok {
			if it.err = d.fs.MkdirAll(folder, dirMode); it.err != nil {
				return
			}
			made.Store(folder, true)
		}
	}
	r := it.record
	if it.log != nil {
		r.Value = it.log.String()
	}
	b := encodeFile(&r, it.at)
	it.size = int64(len(b))
	if it.record.Op == OpFill && !d.roomForFill(it.size) {
		it.skip = true
		return
	}
	it.left, it.err = d.replaceFile(name, b, !it.plain)
	it.put = it.err == nil
}

// vacant reports whether a file name that the index does not have may be written to. There may be
// something all the same: of the same key, if a call that failed was done; of another one with the
// same MD5, which must wait until that is settled.
func (d *Dir) vacant(name, key string) (occupied bool, err error) {
	switch _, err := d.fs.Lstat(name); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	there, _, _, err := readFile(d.fs, name)
	switch {
	case errors.Is(err, errMissing), errors.Is(err, ErrFileTorn):
		return true, nil
	case damaged(err):
		return true, d.putAside(name, err)
	case err != nil:
		return true, err
	case there.Key != key && FileOf(d.o.DB, there.Key) != name:
		return true, d.putAside(name, otherKey(&there, d.o.DB))
	case there.Key != key:
		return true, fmt.Errorf("%s: %w", name, ErrFileOtherKey)
	}
	return true, nil
}

// putAside puts into quarantine what the index knows nothing of, and says so.
func (d *Dir) putAside(name string, reason error) error {
	if err := d.quarantine(badFile{name, reason}); err != nil {
		return err
	}
	d.o.Logger.Warn("aside: a fallback record is lost", "store", d.o.dir, "file", name, "reason", reason)
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	d.quarantined++
	return nil
}

// roomForFill reports whether a fill's file fits. What is not a fill was let in with its file.
func (d *Dir) roomForFill(size int64) bool {
	d.x.mu.RLock()
	defer d.x.mu.RUnlock()
	return d.journalSize()+d.fileBytes+d.reserved+size <= d.o.MaxBytes-reserve(d.o.MaxBytes)
}

// replaceFile puts b under a name, at once: a reader of the name finds all of what was there
// before, or all of b. If it is to be durable the caller syncs the folder. left says that on an
// error half of it may lie beside the name.
func (d *Dir) replaceFile(name string, b []byte, durable bool) (left bool, err error) {
	temp := name + tempSuffix
	if err = d.writeFile(temp, b, durable); err == nil {
		if err = d.fs.Rename(temp, name); err == nil {
			return false, nil
		}
	}
	removed := d.fs.Remove(temp)
	return removed != nil && !errors.Is(removed, fs.ErrNotExist), err
}

// writeFile makes a file. It follows no symbolic link, and overwrites nothing but what it has
// itself left.
func (d *Dir) writeFile(name string, b []byte, durable bool) error {
	const flag = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := d.fs.OpenFile(name, flag, fileMode)
	if errors.Is(err, fs.ErrExist) {
		if err := d.fs.Remove(name); err != nil {
			return err
		}
		f, err = d.fs.OpenFile(name, flag, fileMode)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && durable {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

// prune removes those folders that are empty, and the ones above them. It returns those that are
// left and have lost something.
func (d *Dir) prune(folders map[string]bool, hands int) (left map[string]bool, failed error) {
	left = make(map[string]bool)
	for level := slices.Sorted(maps.Keys(folders)); len(level) > 0; {
		errs := make([]error, len(level))
		parallel(len(level), hands, func(i int) {
			if level[i] == "." {
				errs[i] = fs.ErrExist
				return
			}
			if errs[i] = d.fs.Remove(level[i]); errs[i] == nil || errors.Is(errs[i], fs.ErrNotExist) {
				errs[i] = nil
			}
		})
		above := make(map[string]bool)
		for i, folder := range level {
			if errs[i] == nil {
				delete(left, folder)
				above[path.Dir(folder)] = true
				continue
			}
			left[folder] = true
			if entries, err := d.fs.ReadDir(folder); err != nil || len(entries) == 0 {
				failed = errs[i] // it is not that there is something in it
			}
		}
		level = slices.Sorted(maps.Keys(above))
	}
	return left, failed
}

// folderLevels is how many levels of folders there are from that of all files on: of databases, and three of each.
const folderLevels = 4

// syncFolders syncs all folders of record files, of every database, and those above.
func (d *Dir) syncFolders() error {
	folders := []string{"."}
	var add func(folder string, levels int) error
	add = func(folder string, levels int) error {
		var entries []fs.DirEntry
		if levels > 0 {
			var err error
			if entries, err = d.fs.ReadDir(folder); err != nil {
				return err
			}
		}
		folders = append(folders, folder)
		for _, e := range entries {
			ours := isHex(e.Name(), 2)
			if levels == folderLevels { // a database
				_, err := strconv.Atoi(e.Name())
				ours = err == nil
			}
			if !ours || !e.IsDir() { // somebody else's
				continue
			}
			if err := add(path.Join(folder, e.Name()), levels-1); err != nil {
				return err
			}
		}
		return nil
	}
	if err := add(filesDir, folderLevels); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for some := range slices.Chunk(folders, flushBatch) {
		if d.gaveUp() {
			return errGivenUp
		}
		if failed := d.syncAll(some, d.o.hurry); len(failed) > 0 {
			return errors.Join(slices.Collect(maps.Values(failed))...)
		}
	}
	return nil
}

// syncAll syncs folders and returns the errors of those where there was one.
func (d *Dir) syncAll(folders []string, hands int) map[string]error {
	errs := make([]error, len(folders))
	parallel(len(folders), hands, func(i int) { errs[i] = d.fs.SyncDir(folders[i]) })
	failed := make(map[string]error)
	for i, err := range errs {
		if err != nil {
			failed[folders[i]] = err
		}
	}
	return failed
}

// quarantinePlace is where something goes in the quarantine that stood, or would stand, at name.
func (d *Dir) quarantinePlace(name string) (string, error) {
	if err := d.fs.MkdirAll(quarantineDir, dirMode); err != nil {
		return "", err
	}
	target := path.Join(quarantineDir, path.Base(name))
	for n := 2; ; n++ {
		if _, err := d.fs.Lstat(target); errors.Is(err, fs.ErrNotExist) {
			return target, nil
		} else if err != nil {
			return "", err
		}
		target = path.Join(quarantineDir, strconv.Itoa(n)+"-"+path.Base(name))
	}
}

// quarantine moves a file to where a person may look at it, with the reason. The caller syncs the
// folder that it was in.
func (d *Dir) quarantine(bad badFile) error {
	d.rejecting.Lock()
	defer d.rejecting.Unlock()
	target, err := d.quarantinePlace(bad.path)
	if err != nil {
		return err
	}
	reason := fmt.Sprintf("file: %s\nreason: %v\nmoved: %s\n", bad.path, bad.reason, time.Now().UTC().Format(time.RFC3339))
	if err := d.writeFile(target+reasonSuffix, []byte(reason), true); err != nil {
		return err
	}
	if err := d.fs.Rename(bad.path, target); err != nil {
		_ = d.fs.Remove(target + reasonSuffix) // else it is only untidy
		if errors.Is(err, fs.ErrNotExist) {
			return nil // somebody was faster
		}
		return err
	}
	return d.fs.SyncDir(quarantineDir)
}

// Reject implements [Keeper]: the record's file goes to the quarantine, with the reason beside it.
func (d *Dir) Reject(r Record, why error) error {
	d.rejecting.Lock()
	defer d.rejecting.Unlock()
	name := digestOf(r.Key).path(d.o.DB)
	target, err := d.quarantinePlace(name)
	if err == nil {
		reason := fmt.Sprintf("key: %q\nreason: %v\nrejected: %s\n", r.Key, why, time.Now().UTC().Format(time.RFC3339))
		err = d.writeFile(target+reasonSuffix, []byte(reason), true)
	}
	if err == nil {
		_, err = d.replaceFile(target, encodeFile(&r, time.Now().UnixMilli()), true)
	}
	if err == nil {
		err = d.fs.SyncDir(quarantineDir)
	}
	if err != nil {
		return d.diskError(err)
	}
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	d.quarantined++
	return nil
}

// journalSize is how large the journal is, also while it is being opened.
func (d *Dir) journalSize() int64 {
	if d.journal == nil {
		return 0
	}
	return d.journal.Size()
}

// parallel calls do for 0 to n-1, by several goroutines at once, and waits for them.
func parallel(n, workers int, do func(i int)) {
	if workers = min(workers, n); workers <= 1 {
		for i := range n {
			do(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { // ends when all are done
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	wg.Wait()
}
