package aside

import (
	"context"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/events"
	"github.com/redaside/aside/internal/stamp"
)

// maxReaders read the store at once.
const maxReaders = 64

// outbox is what this process has of writes and loads that Redis cannot be told of: the fallback
// store, and what must be known of writes under way to use it. Safe for concurrent use.
type outbox struct {
	fallback.Store               // immutable
	life           *lifecycle    // immutable
	says           *reports      // immutable
	client         string        // of this client's stamps; immutable
	readers        chan struct{} // has one for each reader of the store; immutable

	writing    atomic.Int64 // writes under way
	overtaking overtakings  // which of these Redis has acknowledged
	recent     recents      // the latest that it has acknowledged, see takeover.go
	claims     claims       // keys whose records are being replayed, see replay.go
	operated   atomic.Bool  // operations were kept, by this process or before it
	underWay   underWay     // operations that are being put into the store
	unanswered unanswered   // keys of which a server may still do a step of a replay
	replays    replays      // how far that is
}

// open has the outbox use store. client is this client's in its stamps.
func (o *outbox) open(store fallback.Store, client string, says *reports) {
	o.Store, o.client, o.says, o.life, o.readers = store, client, says, says.life, make(chan struct{}, maxReaders)
	o.operated.Store(store.Stats().Operations > 0)
}

// keepsOperations reports whether the store takes operations.
func (o *outbox) keepsOperations() bool {
	if guarded, ok := o.Store.(guardedStore); ok {
		_, ok := guarded.user.(fallback.Keeper)
		return ok
	}
	_, ok := o.Store.(fallback.Keeper)
	return ok
}

// transactor is the store as one that can keep records of several keys as one; nil: it cannot.
func (o *outbox) transactor() fallback.Transactor {
	if guarded, ok := o.Store.(guardedStore); ok {
		if _, ok := guarded.user.(fallback.Transactor); !ok {
			return nil
		}
	}
	t, _ := o.Store.(fallback.Transactor)
	return t
}

// keys yields the keys of the records that are no OpDel.
func (o *outbox) keys() iter.Seq[string] {
	store := o.Store
	guarded, ok := store.(guardedStore)
	if ok {
		store = guarded.user
	}
	lists, ok := store.(interface{ Keys() iter.Seq[string] })
	switch {
	case !ok:
		return func(yield func(string) bool) {
			for _, op := range []fallback.Op{fallback.OpSet, fallback.OpOperations, fallback.OpFill} {
				for record := range o.Records(op) {
					if !yield(record.Key) {
						return
					}
				}
			}
		}
	case guarded.user != nil:
		var all []string
		_ = guarded.guard(func() { all = slices.Collect(lists.Keys()) })
		return slices.Values(all)
	}
	return lists.Keys()
}

// reject puts aside operations that cannot be done.
func (o *outbox) reject(record fallback.Record, why error) error {
	if keeper, ok := o.Store.(fallback.Keeper); ok {
		return keeper.Reject(record, why)
	}
	return nil // nobody has put them
}

// begin begins a write of keys, end ends it.
func (o *outbox) begin(keys []string) {
	o.writing.Add(1)
	o.overtaking.begin(keys)
}

func (o *outbox) end(keys []string) {
	o.overtaking.end(keys)
	o.writing.Add(-1)
}

// pendingStamp is the stamp of what waits for key; "": nothing does.
func (o *outbox) pendingStamp(key string) string {
	if stamp, ok := o.Stamp(key); ok && o.Pending(key) {
		return stamp
	}
	return ""
}

// read returns the store's record of key. A disk that hangs must not hold up a caller whose time is
// over, so another goroutine reads it, of which there are maxReaders at most.
func (o *outbox) read(ctx context.Context, key string) (fallback.Record, bool, error) {
	if _, ok := o.Stamp(key); !ok {
		return fallback.Record{}, false, nil
	}
	type answer struct {
		record fallback.Record
		ok     bool
		err    error
	}
	answers := make(chan answer, 1)
	select {
	case o.readers <- struct{}{}:
	case <-ctx.Done():
		return fallback.Record{}, false, ctx.Err()
	case <-o.life.ctx.Done():
		return fallback.Record{}, false, ErrClosed
	}
	reading := o.life.inBackground(func() { // ends with the disk
		defer func() { <-o.readers }()
		record, ok, err := o.Get(key)
		if err != nil {
			o.says.warn(&o.says.seldomDisk, "the fallback store cannot be read", keyAttr(key), "error", err)
		}
		answers <- answer{record, ok && err == nil, err}
	})
	if !reading {
		<-o.readers
		return fallback.Record{}, false, ErrClosed
	}
	select {
	case a := <-answers:
		return a.record, a.ok, a.err
	case <-ctx.Done():
		return fallback.Record{}, false, ctx.Err()
	case <-o.life.ctx.Done():
		return fallback.Record{}, false, ErrClosed
	}
}

// dropLoad drops what keepLoad has put into the store for key: Redis has something newer now.
func (o *outbox) dropLoad(key string) {
	if was, ok := o.Stamp(key); ok && !o.Pending(key) {
		o.Settle(fallback.Record{Op: fallback.OpFill, Key: key, Stamp: was})
	}
}

// overtakings know, of the keys that are being written, which write Redis has acknowledged last. A
// write without an answer, which is then kept for replay, may be older than that:
//
//	Set k, no answer     Del k, done     the Set is kept     Redis goes     Get k    <- would be what was deleted
//
// Its replay would find that out, but until then this process would believe the record. Safe for
// concurrent use.
type overtakings struct{ stripes [32]overtakingStripe }

// overtakingStripe is what keys with the same hash share: else all writers would wait for each other here.
type overtakingStripe struct {
	mu    sync.Mutex
	byKey map[string]overtaking // of keys with a write under way; guarded by mu
}

type overtaking struct {
	writes int
	done   string // the greatest stamp that Redis has acknowledged
	whole  string // and of a Set or Del: an Update leaves operations as they are
}

// overtakingSeed is that of the hashes of keys.
var overtakingSeed = maphash.MakeSeed()

func (o *overtakings) stripe(key string) *overtakingStripe {
	return &o.stripes[maphash.String(overtakingSeed, key)%uint64(len(o.stripes))]
}

func (o *overtakings) begin(keys []string) {
	for _, key := range keys {
		s := o.stripe(key)
		s.mu.Lock()
		if s.byKey == nil {
			s.byKey = make(map[string]overtaking)
		}
		of := s.byKey[key]
		of.writes++
		s.byKey[key] = of
		s.mu.Unlock()
	}
}

func (o *overtakings) end(keys []string) {
	for _, key := range keys {
		s := o.stripe(key)
		s.mu.Lock()
		if of := s.byKey[key]; of.writes > 1 {
			of.writes--
			s.byKey[key] = of
		} else {
			delete(s.byKey, key)
		}
		s.mu.Unlock()
	}
}

// acknowledged notes that Redis has done a write of key with that stamp.
func (o *overtakings) acknowledged(key, done string, whole bool) {
	s := o.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.byKey[key]
	if of.done = max(of.done, done); whole {
		of.whole = max(of.whole, done)
	}
	s.byKey[key] = of
}

func (o *overtakings) of(key string) overtaking {
	s := o.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byKey[key]
}

// acknowledged notes that Redis has done a write, a Set or Del if it is whole, and settleOvertaken looks at that once a write is
// in the store. Whichever comes later for two writes of a key settles the older.
func (o *outbox) acknowledged(keys []string, done string, whole bool) {
	for _, key := range keys {
		o.overtaking.acknowledged(key, done, whole)
		o.settleOlder(key)
	}
}

func (o *outbox) settleOvertaken(records []fallback.Record) {
	for i := range records {
		o.settleOlder(records[i].Key)
	}
}

// settleOlder settles the pending record of key if this client made it before a write that Redis has
// done, and that is still under way.
func (o *outbox) settleOlder(key string) {
	was, ok := o.Stamp(key)
	if !ok { // as a rule
		return
	}
	of := o.overtaking.of(key)
	by, ok := stamp.Parse(was)
	if !ok || by.Client != o.client || was >= of.done {
		return
	}
	if was >= of.whole {
		if r, ok, err := o.Get(key); !ok || err != nil || r.Op == fallback.OpOperations {
			return
		}
	}
	o.Settle(fallback.Record{Op: fallback.OpDel, Key: key, Stamp: was})
}

// claims are the keys whose records are being replayed. Safe for concurrent use.
type claims struct {
	mu    sync.Mutex
	byKey map[string]chan struct{} // closed when the key is free again; guarded by mu
}

// take claims the keys of those records that are in of, as far as they are free; for the others it
// also returns what is closed when one of them is free again. Who has claimed any must release them.
func (cl *claims) take(records []fallback.Record, of []int) (mine, others []int, busy <-chan struct{}) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.byKey == nil {
		cl.byKey = make(map[string]chan struct{})
	}
	done := make(chan struct{}) // one for all: they are released together
	mine = make([]int, 0, len(of))
	for _, i := range of {
		switch taken := cl.byKey[records[i].Key]; taken {
		case nil:
			cl.byKey[records[i].Key] = done
			mine = append(mine, i)
		default: // another's; or ours, if a key comes twice
			others, busy = append(others, i), taken
		}
	}
	return mine, others, busy
}

// hold claims all of keys, each of which is named once, as soon as they are free together: who waits
// for one holds none, so that no two wait for each other. release frees them.
func (cl *claims) hold(ctx context.Context, keys []string) (release func(), err error) {
	records, all := make([]fallback.Record, len(keys)), make([]int, len(keys))
	for i, key := range keys {
		records[i].Key, all[i] = key, i
	}
	for {
		mine, others, busy := cl.take(records, all)
		if len(others) == 0 {
			return func() { cl.release(records, mine) }, nil
		}
		cl.release(records, mine)
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lease is keys that are held, by a call and by what goes on behind it. Whoever lets go last releases them.
type lease struct {
	holders atomic.Int32
	release func()
}

func newLease(release func()) *lease {
	l := &lease{release: release}
	l.share()
	return l
}

func (l *lease) share() { l.holders.Add(1) }

func (l *lease) letGo() {
	if l.holders.Add(-1) == 0 {
		l.release()
	}
}

// release frees the keys that one take has claimed.
func (cl *claims) release(records []fallback.Record, mine []int) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for n, i := range mine {
		if n == 0 {
			close(cl.byKey[records[i].Key])
		}
		delete(cl.byKey, records[i].Key)
	}
}

// unanswered knows the keys of which a server may still do a step of a replay of operations that has had no answer. What
// comes next for such a key waits until it is too late for that. Else the step could come behind a Set or Del that has
// replaced the operations since, or begin a list anew that was done and evicted. (internal/sim/ledger found both.)
type unanswered struct {
	mu    sync.Mutex
	until map[string]int64 // as Link.Now has it; guarded by mu
}

// note says that until then a server may do a step for keys. What was noted and is over is forgotten.
func (u *unanswered) note(keys []string, until, now int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until == nil {
		u.until = make(map[string]int64)
	}
	maps.DeleteFunc(u.until, func(_ string, until int64) bool { return until <= now })
	for _, key := range keys {
		u.until[key] = max(u.until[key], until)
	}
}

// waits reports whether a step of key's may still be done.
func (u *unanswered) waits(key string, now int64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.until[key] > now
}

// underWay knows the stamps of operations that are being put into the store.
type underWay struct {
	mu    sync.Mutex
	byKey map[string]string // of the last of those that are put for a key; guarded by mu
	last  []string          // of the last that were put for keys whose hash has that place; guarded by mu; nil: none were
}

// lastPlaces is how many keys' worth underWay remembers. Two keys that share a place cost a Set, now and then, a second Put.
const lastPlaces = 1024

// enter notes that operations of a key are put; who does that has claimed the key.
func (u *underWay) enter(key, stamp string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.byKey == nil {
		u.byKey, u.last = make(map[string]string), make([]string, lastPlaces)
	}
	u.byKey[key] = stamp
	last := &u.last[u.place(key)]
	*last = max(*last, stamp)
}

func (u *underWay) place(key string) uint64 { return maphash.String(placeSeed, key) % lastPlaces }

var placeSeed = maphash.MakeSeed()

// leave notes that Put has returned: the store has them, if it ever will.
func (u *underWay) leave(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.byKey, key)
}

// later reports whether operations of a key that come after a write with such a stamp are on their way.
func (u *underWay) later(key, stamp string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.byKey[key] > stamp
}

// passed reports whether operations of a key that come after a write with such a stamp were put since, or are
// being put: they may have left the store already.
func (u *underWay) passed(key, stamp string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.last) > 0 && u.last[u.place(key)] > stamp
}

// replays keeps the latest, and tells.
type replays struct {
	*events.Bus[Replay] // immutable after New

	mu   sync.Mutex
	last Replay // guarded by mu
}

func (rs *replays) latest() Replay {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.last
}

// tell keeps a pass as the latest, and tells of it.
func (rs *replays) tell(r Replay) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.last = r
	rs.Announce(r, func(queued Replay) bool { return queued.Running && queued.Shard == r.Shard }) // it has been overtaken
}
