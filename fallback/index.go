package fallback

import (
	"iter"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/slot"
)

// index has one entry for each key that has a record, by the rules in Store's description. A
// Dir and a Memory are an index and what makes it last. Safe for concurrent use; methods whose
// names end in Locked expect mu to be held.
type index struct {
	pending atomic.Int64 // explicit records; written under mu, read without it by callers that mostly find 0
	known   atomic.Int64 // all records; likewise
	closed  atomic.Bool  // likewise; from then on nothing is returned and nothing accepted

	mu     sync.RWMutex // guards all below and all entries; never held while a disk is waited for, or while calling out
	byKey  map[string]*entry
	latest string // greatest stamp that was seen
	change uint64 // number of the last change of any entry

	due int64 // no record ends before this, in ms since 1970

	removed func(*entry) // called with an entry that was removed, with mu held; nil does nothing. Immutable

	fills entries // oldest first: they are what has to make room
	dirty entries // oldest first: records that are not in files of their own; not used by a Memory
	idle  entries // oldest first: records whose values are both here and in a file, so that they may go from here

	// All of these are sums over byKey, kept by countLocked.
	sets, deletes, loaded, operations int

	operationBytes int64 // of the values of operations
	cost           int64 // of the records as a Memory counts them
	values         int64 // bytes of values that are here
	dirtyValues    int64 // and of those the dirty ones
	dirtyFiles     int64 // the most bytes that the files of dirty records may take
}

// entry is the record of one key, and the state of its file. Guarded by index.mu.
type entry struct {
	record Record        // its Value is empty while it is in the file only, and where there is a log
	log    *deferred.Log // of OpOperations: its value, to which more is added
	at     int64         // when it was recorded, in ms since 1970 by this machine's clock
	size   int64         // of the value, wherever and in whatever form it is
	held   bool          // whether the value is here; always true of what is dirty
	dirty  bool          // whether the record is not in its file
	gone   bool          // it was removed: another entry may have its key
	change uint64        // the number of the last change of this entry; no two entries have the same
	file   int64         // bytes of its file on the disk, be that of this record or of an older one since the key was last forgotten; 0: none

	links [lists]link
}

func newIndex() *index {
	x := &index{byKey: make(map[string]*entry), due: math.MaxInt64}
	x.fills.init(listFills)
	x.dirty.init(listDirty)
	x.idle.init(listIdle)
	return x
}

// replaces reports whether next takes the place of now, which is of the same key. It makes the same
// winner of the same records whatever their order and repetition.
func replaces(next, now *Record) bool {
	switch {
	case (next.Op == OpFill) != (now.Op == OpFill):
		return now.Op == OpFill
	case next.Stamp != now.Stamp:
		return next.Stamp > now.Stamp
	default: // the same operation: a Set whose value has expired may have been made a delete; or either the first of a list
		return next.Op == OpDel && now.Op == OpSet || next.Op == OpOperations && now.Op != OpOperations
	}
}

// mergeLocked remembers a record if the rules say so. dirty reports whether the file is behind it.
// It returns the entry if the record is now the key's. What behindLocked returns is here: behind.go sees to it.
func (x *index) mergeLocked(r *Record, at int64, dirty bool) *entry {
	x.seenLocked(r.Stamp)
	e := x.byKey[r.Key]
	var log *deferred.Log
	switch {
	case e == nil && onlyNotes(r):
		return nil
	case e != nil && e.log != nil && r.Op == OpOperations:
		merged, more, ok := goOn(e.record, e.log, *r)
		if !ok {
			return nil
		}
		r, log = &merged, more
	case e != nil:
		merged, ok := Merge(e.found().whole(), *r)
		if !ok {
			return nil
		}
		r = &merged
	}
	if e == nil {
		e = new(entry)
		x.byKey[r.Key] = e
	} else {
		x.uncountLocked(e)
	}
	e.record, e.log, e.at, e.size, e.held, e.dirty = *r, log, at, int64(len(r.Value)), true, dirty
	if r.Op == OpOperations {
		if log == nil {
			e.log = newLog(r)
		}
		if e.log != nil {
			e.record.Value, e.size = "", int64(e.log.Len())
		}
	}
	x.countLocked(e)
	x.due = min(x.due, ends(r))
	return e
}

// seenLocked takes note of a stamp.
func (x *index) seenLocked(stamp string) {
	if stamp > x.latest {
		x.latest = stamp
	}
}

// removeLocked forgets an entry.
func (x *index) removeLocked(e *entry) {
	x.uncountLocked(e)
	e.gone = true
	delete(x.byKey, e.record.Key)
	x.publishLocked()
	if len(x.byKey) == 0 {
		x.byKey = make(map[string]*entry) // a map keeps the room of the most that it ever held
		x.due = math.MaxInt64
	}
	if x.removed != nil {
		x.removed(e)
	}
}

// settleLocked forgets the record of r's key if its stamp still is r's, and returns its entry.
func (x *index) settleLocked(r *Record) *entry {
	e := x.byKey[r.Key]
	if e == nil || e.record.Stamp != r.Stamp || (e.record.Op == OpFill) != (r.Op == OpFill) {
		return nil
	}
	x.removeLocked(e)
	return e
}

// settleUpToLocked forgets the record of a key, unless it is a fill, if it is not newer than a stamp: what
// is older than what was settled was superseded.
func (x *index) settleUpToLocked(key, stamp string) {
	if e := x.byKey[key]; e != nil && e.record.Op != OpFill && e.record.Stamp <= stamp {
		x.removeLocked(e)
	}
}

// cleanLocked takes note that the record is in its file.
func (x *index) cleanLocked(e *entry) {
	x.uncountLocked(e)
	e.dirty = false
	x.countLocked(e)
}

// forgetValueLocked leaves the value to the file.
func (x *index) forgetValueLocked(e *entry) {
	x.uncountLocked(e)
	e.record.Value, e.held = "", false
	x.countLocked(e)
}

// holdLocked has a value here again that was left to the file.
func (x *index) holdLocked(e *entry, value string) {
	x.uncountLocked(e)
	e.record.Value, e.held = value, true
	x.countLocked(e)
}

// expire forgets the fills that have expired, and makes deletes of the sets that have expired for
// long enough. now is this machine's clock, in ms since 1970; dirty what mergeLocked wants to know.
func (x *index) expire(now int64, dirty bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if now < x.due {
		return
	}
	x.due = math.MaxInt64 // what is remembered from here on lowers it again
	n := 0
	for _, e := range x.byKey {
		switch end := ends(&e.record); {
		case end > now:
			x.due = min(x.due, end)
		case e.record.Op == OpFill:
			x.removeLocked(e)
		default:
			x.mergeLocked(&Record{Op: OpDel, Key: e.record.Key, Stamp: e.record.Stamp, Slack: e.record.Slack}, now, dirty)
		}
		if n++; n%1024 == 0 { // let others in
			x.mu.Unlock()
			x.mu.Lock()
		}
	}
}

// ends says when expire does something about a record.
func ends(r *Record) int64 {
	switch r.Op {
	case OpFill:
		return r.Expires
	case OpSet:
		if r.Expires < math.MaxInt64-setGrace {
			return r.Expires + setGrace
		}
	case OpDel, OpOperations:
	}
	return math.MaxInt64
}

// setGrace is for how long, in ms, the value of a Set is kept when this machine's clock says that
// it has expired: the server's may be behind.
const setGrace = int64(time.Minute / time.Millisecond)

// countLocked adds an entry to the sums and lists, as it is now; uncountLocked takes it out before
// it is changed. Between the two pending stays as it is: a caller that reads it without the lock
// must not see a key vanish for a moment.
func (x *index) countLocked(e *entry) {
	x.change++
	e.change = x.change
	x.addLocked(e, 1)
	if e.record.Op == OpFill {
		x.fills.push(e)
	}
	switch {
	case e.dirty:
		x.dirty.push(e)
	case e.held && e.size > 0 && e.record.Op != OpOperations: // more may come to these
		x.idle.push(e)
	}
	x.publishLocked()
}

func (x *index) publishLocked() {
	x.pending.Store(int64(x.sets + x.deletes + x.operations))
	x.known.Store(int64(x.sets + x.deletes + x.operations + x.loaded))
}

func (x *index) uncountLocked(e *entry) {
	x.addLocked(e, -1)
	x.fills.remove(e)
	x.dirty.remove(e)
	x.idle.remove(e)
}

func (x *index) addLocked(e *entry, n int) {
	switch e.record.Op {
	case OpSet:
		x.sets += n
	case OpDel:
		x.deletes += n
	case OpFill:
		x.loaded += n
	case OpOperations:
		x.operations += n
		x.operationBytes += int64(n) * (e.size + e.beside())
	}
	sign := int64(n)
	x.cost += sign * e.cost()
	if e.held {
		x.values += sign * (e.size + e.beside())
	}
	if e.dirty {
		x.dirtyValues += sign * e.size
		x.dirtyFiles += sign * e.fileBound()
	}
}

// beside is how many bytes are kept beside the value.
func (e *entry) beside() int64 {
	if e.log == nil {
		return 0
	}
	return int64(e.log.Beside())
}

func (e *entry) cost() int64 {
	if e.log == nil {
		return cost(&e.record)
	}
	return cost(&e.record) + e.size + e.beside()
}

// fileBound is the most bytes that the file of what is here takes.
func (e *entry) fileBound() int64 {
	if e.log == nil {
		return fileBound(&e.record)
	}
	return fileBoundOf(len(e.record.Key), int(e.size), len(e.record.Stamp))
}

// cost is what a record is taken to need in memory: its bytes, and what keeps them.
func cost(r *Record) int64 { return entryBytes + int64(len(r.Key)+len(r.Value)+len(r.Stamp)) }

const entryBytes = 300 // an entry and its share of the map

// found is what was known of a key at some time.
type found struct {
	Record               // without the Value of operations
	log    *deferred.Log // which is here
	held   bool          // whether the value is in it
	change uint64        // the number that the entry's last change had then
}

// find returns the entry of a key.
func (x *index) find(key string) (f found, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	e := x.byKey[key]
	if e == nil {
		return found{}, false
	}
	return e.found(), true
}

func (e *entry) found() found { return found{e.record, e.log, e.held, e.change} }

// whole is the record with the Value of operations. To make that takes time, and no lock.
func (f found) whole() Record {
	r := f.Record
	if f.log != nil {
		r.Value = f.log.String()
	}
	return r
}

// newLog is the value of operations as a log; nil if it cannot be read, which validate rules out.
func newLog(r *Record) *deferred.Log {
	l, err := deferred.Parse(r.Value)
	if err != nil || len(l.Ops) == 0 {
		return nil
	}
	return deferred.LogOf(l)
}

// logOf is what Dir and Memory have for Client.Apply.
func (x *index) logOf(key string) (*deferred.Log, Record, bool) {
	if x.closed.Load() {
		return nil, Record{}, false
	}
	f, ok := x.find(key)
	return f.log, f.Record, ok && f.log != nil
}

// isPending implements Store.Pending.
func (x *index) isPending(key string) bool {
	if x.pending.Load() == 0 || x.closed.Load() {
		return false
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	e := x.byKey[key]
	return e != nil && e.record.Op != OpFill
}

// stamp implements Store.Stamp.
func (x *index) stamp(key string) (string, bool) {
	if x.known.Load() == 0 || x.closed.Load() {
		return "", false
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	e := x.byKey[key]
	if e == nil {
		return "", false
	}
	return e.record.Stamp, true
}

// keys yields the keys of the records that are no OpDel, without reading a file. The lock is held only from
// one to the next: Go's maps may change while they are ranged over, if only not at the same moment.
func (x *index) keys() iter.Seq[string] {
	return func(yield func(string) bool) {
		x.mu.RLock()
		locked := true
		defer func() {
			if locked { // not if yield panics, or its goroutine ends
				x.mu.RUnlock()
			}
		}()
		for key, e := range x.byKey {
			if e.record.Op == OpDel {
				continue
			}
			x.mu.RUnlock()
			locked = false
			if x.closed.Load() || !yield(key) {
				return
			}
			x.mu.RLock()
			locked = true
		}
	}
}

// bySlot yields the records with op, those of one slot behind each other: their stamps stand together,
// and a replay reads and leaves together what comes together. A record is yielded as it is when it
// comes to it; what is remembered meanwhile may be missed.
func (x *index) bySlot(op Op) iter.Seq[found] {
	return func(yield func(found) bool) {
		all := x.sorted(op)
		for i, e := range all {
			f, ok := x.now(e)
			all[i] = nil // what was settled must not stay in memory until all are
			if ok && f.Op == op && !yield(f) {
				return
			}
		}
	}
}

// sorted returns the entries whose records have op, by the slots of their keys.
func (x *index) sorted(op Op) []*entry {
	x.mu.RLock()
	room := x.ofLocked(op)
	x.mu.RUnlock()
	if room == 0 { // most often, for most of the kinds
		return nil
	}
	all, slots := make([]*entry, 0, room), make([]uint16, 0, room)
	x.gather(op, func(e *entry) { all, slots = append(all, e), append(slots, slot.Of(e.record.Key)) })
	places := make([]int32, slot.Count+1) // where the next entry of a slot goes; at first how many the slot before has
	for _, s := range slots {
		places[s+1]++
	}
	for s := range slot.Count {
		places[s+1] += places[s]
	}
	sorted := make([]*entry, len(all))
	for i, s := range slots {
		sorted[places[s]] = all[i]
		places[s]++
	}
	return sorted
}

// gather calls add, with mu held, with each entry whose record has op.
func (x *index) gather(op Op, add func(e *entry)) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.ofLocked(op) == 0 {
		return
	}
	n := 0
	for _, e := range x.byKey {
		if e.record.Op == op {
			add(e)
		}
		if n++; n%1024 == 0 { // let others in
			x.mu.RUnlock()
			x.mu.RLock()
		}
	}
}

// ofLocked is how many records with op there are.
func (x *index) ofLocked(op Op) int {
	switch op {
	case OpSet:
		return x.sets
	case OpDel:
		return x.deletes
	case OpFill:
		return x.loaded
	case OpOperations:
		return x.operations
	}
	return 0
}

// now is what e is, unless it was removed.
func (x *index) now(e *entry) (f found, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if e.gone {
		return found{}, false
	}
	return e.found(), true
}

// count says how many records there are to replay, of those that belong; nil: all do. Fills that have
// expired are none. now is this machine's clock, in ms since 1970.
func (x *index) count(belongs func(key string) bool, now int64) int {
	n := 0
	for _, op := range []Op{OpDel, OpSet, OpOperations, OpFill} {
		if belongs == nil && op != OpFill {
			x.mu.RLock()
			n += x.ofLocked(op)
			x.mu.RUnlock()
			continue
		}
		var keys []string
		x.gather(op, func(e *entry) {
			if op != OpFill || e.record.Expires > now {
				keys = append(keys, e.record.Key)
			}
		})
		for _, key := range keys { // not with the lock held
			if belongs == nil || belongs(key) {
				n++
			}
		}
	}
	return n
}

// latestStamp implements Store.Latest.
func (x *index) latestStamp() string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.latest
}

// entries is a list of entries, each linked to its neighbours, so that one is removed in constant
// time.
type entries struct {
	kind list
	ends entry // its links are the list's first and last
	len  int
}

// list names a list that an entry may be in.
type list int

const (
	listFills list = iota
	listDirty
	listIdle
	lists
)

type link struct{ before, after *entry }

func (l *entries) init(kind list) {
	l.kind = kind
	l.ends.links[kind] = link{&l.ends, &l.ends}
}

// push puts e behind all others. It must not be in the list.
func (l *entries) push(e *entry) {
	last := l.ends.links[l.kind].before
	e.links[l.kind] = link{last, &l.ends}
	last.links[l.kind].after = e
	l.ends.links[l.kind].before = e
	l.len++
}

// remove takes e out, if it is in.
func (l *entries) remove(e *entry) {
	at := &e.links[l.kind]
	if at.after == nil {
		return
	}
	at.before.links[l.kind].after = at.after
	at.after.links[l.kind].before = at.before
	*at = link{}
	l.len--
}

// first returns the oldest, or nil.
func (l *entries) first() *entry { return l.next(&l.ends) }

// next returns the one behind e, or nil.
func (l *entries) next(e *entry) *entry {
	if e = e.links[l.kind].after; e == &l.ends {
		return nil
	}
	return e
}
