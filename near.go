package aside

import (
	"hash/maphash"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/redaside/aside/internal/shape"
)

// memoryNear is the memory of this process: what Redis said, for as long as Redis keeps us told of changes. Safe for
// concurrent use.
//
// An entry is used only while three things hold:
//
//	not expired   the ttl that Redis reported, counted from before the question was sent
//	same epoch    the connection it was read on still stands, so that a change would have been pushed
//	in the lease  a proof of that is younger than StaleLease (see probe.go)
//
// While its shard is degraded an entry is also used unverified, for DegradedTTL: what was read on the connection that was
// the last to be proven, and what was loaded or set in this very outage. Not what is left of an earlier one: between the
// two anybody may have deleted it unheard.
//
// A push can overtake the goroutine that stores the answer it belongs to:
//
//	reader: GET k is answered "old"   reader goroutine of rueidis: push "k changed"   reader: stores "old"  <- for ever
//
// So a reader reserves before it asks, and commits after; a push, an own write or a new epoch in between voids the
// reservation. The unit of that is a stripe, not a key: what is voided in vain costs one more read.
type memoryNear struct {
	now     func() int64
	awayTTL time.Duration           // Options.DegradedTTL
	home    func(key string) *shard // by the present topology; nil if there is never another
	maxTTL  int64                   // Options.MemoryTTL in ns; 0: no bound
	cache   *memory                 // nil: none
	early   func(*entry)            // is told of what is invalidated right after it was read; must not block; nil: nobody is
	seed    maphash.Seed
	stripes [1024]nearStripe
}

type nearStripe struct {
	mu      sync.Mutex
	gen     uint64             // grows with each change of a key of the stripe; guarded by mu
	waiters map[string]*waiter // keys that somebody waits for; guarded by mu, removed by the waker or the last to leave
	_       [32]byte           // a cache line each
}

// waiter wakes those who wait for a key to change.
type waiter struct {
	changed chan struct{}   // closed once, by whoever removes the waiter from its stripe
	waiting int             // guarded by the stripe's mu
	hints   []chan struct{} // of those who wait for several keys at once; guarded by the stripe's mu
}

// wakeUp is called once, by whoever has removed w from its stripe.
func (w *waiter) wakeUp() {
	if w == nil {
		return
	}
	close(w.changed)
	for _, hint := range w.hints {
		select {
		case hint <- struct{}{}:
		default: // it has a token already
		}
	}
}

// entry is what is remembered for a key. All but decoded and weight are immutable. It fills a size class of the allocator (80 bytes).
type entry struct {
	decoding sync.Mutex // held while somebody decodes, so that many waiters decode once

	raw     string // as its codec wrote it; empty for an absence
	expires int64  // in near.now's time
	ends    int64  // when the key does, which may be later; never: it does not
	at      int64  // when Redis was asked, or it was loaded or set
	shard   *shard
	span    uint64 // the shard's epoch in which Redis said so; if away, its outage in which it was loaded or set
	decoded atomic.Pointer[decoded]
	weight  atomic.Uint32
	absent  bool
	away    bool
	filled  bool // by a load of this process, not read
}

// decoded is the value of an entry in the form that one codec gave it.
type decoded struct {
	by    any // the codec's identity, compared with ==
	value any // *T
}

const (
	// entryOverhead is what an entry costs beside its key and value: the entry itself, its node in otter and its share
	// of the table. TestMemoryStaysWithinItsBytes compares it with the heap.
	entryOverhead = 248
	never         = math.MaxInt64
)

func newNear(cache *memory, awayTTL time.Duration, now func() int64) *memoryNear {
	return &memoryNear{now: now, awayTTL: awayTTL, cache: cache, seed: maphash.MakeSeed()}
}

// lookup returns the entry of key if it may be used, else nil. It takes no lock and allocates nothing.
func (n *memoryNear) lookup(key string) *entry {
	if n.cache == nil {
		return nil
	}
	e, ok := n.cache.get(key)
	if !ok || !n.usable(e) {
		return nil
	}
	return e
}

// peek returns the entry of key, usable or not; nil if there is none.
func (n *memoryNear) peek(key string) *entry {
	if n.cache == nil {
		return nil
	}
	e, _ := n.cache.get(key)
	return e
}

func (n *memoryNear) usable(e *entry) bool {
	now, valid := n.now(), e.shard.valid
	switch {
	case now >= e.expires:
		return false
	case e.away:
		return valid.ServesAway(e.span)
	default:
		return valid.ServesRead(e.span, now)
	}
}

// reservation is the right to store the answer to a question that is about to be asked.
type reservation struct {
	gen   uint64
	shard *shard
	epoch uint64
	at    int64 // when it was made: ttls count from here
}

func (n *memoryNear) stripe(key string) *nearStripe {
	return &n.stripes[maphash.String(n.seed, key)%uint64(len(n.stripes))]
}

// generation is what a reservation for key would have now.
func (n *memoryNear) generation(key string) uint64 {
	s := n.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gen
}

// reserve must be called before the question is sent.
func (n *memoryNear) reserve(key string, sh *shard) reservation {
	s := n.stripe(key)
	s.mu.Lock()
	gen := s.gen
	s.mu.Unlock()
	return reservation{gen: gen, shard: sh, epoch: sh.valid.Epoch(), at: n.now()}
}

// commit stores an answer and returns where; nil if the reservation is void. ttl < 0 means that the key does not expire.
// room is the size of a T whose decoded form will be kept beside, else 0.
func (n *memoryNear) commit(key string, r reservation, raw string, absent bool, ttl time.Duration, room uintptr) *entry {
	return n.put(key, r, n.newEntry(key, r, raw, absent, ttl, room))
}

// newEntry is the first half of commit: it makes what put stores, or nil where nothing can be. The entry holds on to raw as it is: what rueidis has read is a
// string of its own, what a user returned may be a short piece of a long one (see own).
func (n *memoryNear) newEntry(key string, r reservation, raw string, absent bool, ttl time.Duration, room uintptr) *entry {
	if n.cache == nil || !r.shard.valid.Pushes() {
		return nil
	}
	e := &entry{raw: raw, absent: absent, ends: never, shard: r.shard, span: r.epoch, at: r.at}
	if ttl >= 0 && int64(ttl) < never-r.at {
		e.ends = r.at + int64(ttl)
	}
	e.expires = n.bounded(e)
	e.weight.Store(weigh(key, raw, room))
	return e
}

// put is the second half: it stores what newEntry has made, and returns it; nil if the reservation is void.
func (n *memoryNear) put(key string, r reservation, e *entry) *entry {
	if e == nil {
		return nil
	}
	s := n.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != r.gen && r.epoch == r.shard.valid.Epoch() && n.early != nil {
		n.early(e) // it is changed before it was stored
	}
	if s.gen != r.gen || r.epoch != r.shard.valid.Epoch() || !n.livesAt(key, r.shard) {
		return nil
	}
	n.cache.set(strings.Clone(key), e) // it may be a piece of a whole request
	return e
}

// own returns what memory may hold on to for as long as it likes.
func (n *memoryNear) own(raw string) string {
	if n.cache == nil {
		return raw
	}
	return strings.Clone(raw)
}

// commitAway stores what was loaded or set in an outage of sh; nil if that is over, or key has changed since it had generation gen.
// and, if not nil, is called if it has not, with the stripe held.
func (n *memoryNear) commitAway(key string, gen uint64, sh *shard, outage uint64, raw string, absent bool, ttl time.Duration, room uintptr, and func()) *entry {
	now := n.now()
	e := &entry{raw: raw, absent: absent, ends: never, shard: sh, away: true, span: outage, at: now}
	if int64(ttl) < never-now {
		e.ends = now + int64(ttl)
	}
	e.expires = n.bounded(e)
	if n.awayTTL >= 0 {
		e.expires = min(e.expires, now+int64(n.awayTTL))
	}
	e.weight.Store(weigh(key, raw, room))

	s := n.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != gen || outage != sh.valid.Outage() || !n.livesAt(key, sh) {
		return nil
	}
	if and != nil {
		and()
	}
	if n.cache == nil {
		return nil
	}
	n.cache.set(strings.Clone(key), e)
	return e
}

// livesAt says whether sh is the home of key. Who has chosen sh by a topology that is replaced since, and has looked at its epoch and
// outage after they were given up for that, must not store anything.
func (n *memoryNear) livesAt(key string, sh *shard) bool { return n.home == nil || n.home(key) == sh }

// bounded is when an entry is used last: when its key ends, or MemoryTTL is over.
func (n *memoryNear) bounded(e *entry) int64 {
	if n.maxTTL > 0 && n.maxTTL < never-e.at {
		return min(e.ends, e.at+n.maxTTL)
	}
	return e.ends
}

// weigh estimates the size of an entry. A decoded value, of which room is the fixed part, is taken to hold as many bytes as its encoding until it is there.
func weigh(key, raw string, room uintptr) uint32 {
	if room == 0 {
		return weighKept(key, raw, 0)
	}
	return weighKept(key, raw, shape.Rounded(len(raw))+shape.Rounded(int(room)))
}

// weighKept is weigh for a decoded value that takes so many bytes.
func weighKept(key, raw string, kept int) uint32 {
	size := uint64(entryOverhead) + uint64(len(key)) + uint64(shape.Rounded(len(raw))) + uint64(kept)
	if kept > 0 {
		size += uint64(unsafe.Sizeof(decoded{}))
	}
	return uint32(min(size, math.MaxUint32))
}

// keep attaches a decoded value of so many bytes to an entry, and has it weighed again if that was not foreseen. Whether the entry is
// still in memory does not matter.
func (n *memoryNear) keep(key string, e *entry, d *decoded, bytes int) {
	e.decoded.Store(d)
	weight := weighKept(key, e.raw, bytes)
	if e.weight.Load() >= weight {
		return
	}
	n.cache.reweigh(key, e, weight)
}

// drop forgets a key because it has changed, voids the reservations for it and wakes who waits for it. It returns the
// generation that begins.
func (n *memoryNear) drop(key string) (gen uint64) {
	s := n.stripe(key)
	s.mu.Lock()
	s.gen++
	gen = s.gen
	if n.cache != nil {
		n.cache.drop(key)
	}
	w := s.waiters[key]
	delete(s.waiters, key)
	s.mu.Unlock()
	w.wakeUp()
	return gen
}

// wake wakes who waits for a key that this process has filled or released itself, without waiting for the push. (Who has
// asked and does not wait yet gets the push, so reservations stay good.)
func (n *memoryNear) wake(key string) {
	s := n.stripe(key)
	s.mu.Lock()
	w := s.waiters[key]
	delete(s.waiters, key)
	s.mu.Unlock()
	w.wakeUp()
}

// wakeAll wakes everybody: a connection is lost, so no push can be relied upon. Entries and reservations are voided by
// the epoch, which the caller has raised.
func (n *memoryNear) wakeAll() {
	for i := range n.stripes {
		s := &n.stripes[i]
		s.mu.Lock()
		s.gen++
		woken := s.waiters
		s.waiters = nil
		s.mu.Unlock()
		for _, w := range woken {
			w.wakeUp()
		}
	}
}

// wait returns a channel that is closed when key changes, and a function to call when one no longer waits; hint, if not
// nil, gets a token then. ok is false if it may have changed since the reservation: ask again.
func (n *memoryNear) wait(key string, r reservation, hint chan struct{}) (changed <-chan struct{}, leave func(), ok bool) {
	s := n.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != r.gen {
		return nil, nil, false
	}
	w := s.waiters[key]
	if w == nil {
		w = &waiter{changed: make(chan struct{})}
		if s.waiters == nil {
			s.waiters = make(map[string]*waiter)
		}
		s.waiters[key] = w
	}
	w.waiting++
	if hint != nil {
		w.hints = append(w.hints, hint)
	}
	return w.changed, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if w.waiting--; w.waiting == 0 && s.waiters[key] == w {
			delete(s.waiters, key)
		}
	}, true
}

// forget drops every entry, for Close.
func (n *memoryNear) forget() {
	if n.cache != nil {
		n.cache.close()
	}
}

func (n *memoryNear) size() (entries int, bytes int64) {
	if n.cache == nil {
		return 0, 0
	}
	return n.cache.size()
}
