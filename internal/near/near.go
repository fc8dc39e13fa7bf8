// Package near is the memory of this process: what Redis said about keys, for as long as Redis
// keeps us told of their changes. It knows no connection and no cluster, only the [Validity] of the
// server that a key is at, and speaks to nobody.
//
// # Entries
//
// An [Entry] is what is remembered for a key: the bytes that its codec wrote, or that the key is
// absent; when that was so; and, once somebody has decoded it, the decoded value. It is served
// while three things hold:
//
//	not expired   the ttl that Redis reported, counted from before Redis was asked
//	same epoch    the connection on which it was read still stands, so that a change would have been pushed
//	in the lease  a proof of that is young enough
//
// While its server is away, an entry is also served unverified: what was read on the connection
// that was the last to be proven, until the time that the Validity was told; and what was loaded or
// set in this very outage, for Options.AwayTTL. Entries of an earlier outage are not: the key may
// have been deleted in between without our being told. All of these rules but the first are the
// Validity's.
//
// # Reservations
//
// An invalidation can overtake the goroutine that stores the answer it belongs to:
//
//	1: reader asks Redis for k, which answers "old"
//	2: somebody changes k; Redis pushes that, and Memory.Invalidate drops k, which is not there yet
//	3: reader stores "old", which nothing will ever invalidate
//
// So each key has a generation, which grows whenever the key may have changed. A reader notes it
// with [Memory.Reserve] before it asks, and [Memory.Commit] stores the answer only if it is still
// the same: in between there was no invalidation, no own write and no new epoch. A reservation that
// is made after Redis was asked would not do: if it is made between 2 and 3, it has missed the
// change. Keys share generations (there are 1,024 stripes of them); a reservation that is void in
// vain costs one more read.
//
// What was loaded or set while the server is away has nobody to push its changes, and no connection
// of whose loss it would have to know. So it is stored by [Memory.CommitAway] if the outage is still
// the same, and no change of the key itself was told ([Memory.Changes]). WakeAll counts for
// reservations only: it comes right after an outage has begun, and with each connection that breaks
// while it lasts, and what was being loaded then would be lost for nothing.
//
// # Groups
//
// A value whose header names groups is served while, beside all that, none of them has changed since
// its value was loaded: see [Group].
//
// # Waiters
//
// A caller that finds a key locked by somebody else waits for its change: [Memory.Wait] returns a
// channel that is closed by the next Invalidate, Drop or Wake of the key, or by WakeAll. It takes
// the reservation under which the lock was read. If the key has changed since, the invalidation has
// been and gone, and nobody would close the channel; so Wait then refuses, and the caller asks
// again.
//
// # Locking
//
// A stripe's mutex guards its generation, its waiters, and the order of the two with storing: an
// entry is stored with the stripe locked, after its reservation was checked, and dropped with the
// stripe locked, after the generation has grown. Lookup does not take it. Entries are in otter,
// which reads without a lock; if Options.MaxKeys is set they are in a strict LRU, whose one mutex
// every lookup takes.
package near

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/wire"
)

// Options are what New needs to know.
type Options struct {
	MaxBytes int64         // of all entries together; 0 or less: none is kept, but generations and waiters work
	MaxKeys  int           // if not 0, entries are in a strict LRU of so many
	MaxTTL   time.Duration // of any entry, if not 0
	AwayTTL  time.Duration // of what was loaded or set while its server is away; -1: no bound

	// UntrackedTTL is for how long an entry of a server that tells of no changes is served; 0: none is
	// kept.
	UntrackedTTL time.Duration

	// Now is the time on a clock that never goes back, in nanoseconds; never 0. Validities are told
	// times of the same clock.
	Now func() int64

	// Home returns the Validity of the server that key is at now. nil: it is always the same one.
	Home func(key string) *Validity

	// Early, if not nil, is told of each entry that an invalidation concerns: before it is dropped,
	// or instead of its being stored. It must not block.
	Early func(*Entry)
}

// Memory is the memory of this process. Safe for concurrent use.
type Memory struct {
	opt   Options // immutable
	cache *cache  // nil: nothing is kept; immutable

	groups groups

	// untracked is the Validity of entries of servers that tell of no changes: only time ends them.
	// Immutable.
	untracked *Validity

	seed    maphash.Seed  // immutable
	stripes *[1024]stripe // immutable; of its own, as 32 KiB and a little more would take 40
}

// stripe is what keys with the same hash share.
type stripe struct {
	// Guards all below. Never held while calling out, but for Home and Early of Options and
	// Away.Then.
	mu      sync.Mutex         // two stripes share a cache line: an idle memory has all of them
	gen     uint64             // grows when a key of the stripe may have changed
	untold  uint64             // by how much WakeAll has raised gen
	waiters map[string]*waiter // keys that somebody waits for; removed by the waker or the last to leave
}

// New returns an empty memory.
func New(o Options) *Memory {
	return &Memory{opt: o, cache: newCache(o.MaxBytes, o.MaxKeys), untracked: newUntracked(), seed: maphash.MakeSeed(), stripes: new([1024]stripe)}
}

// Keeps reports whether entries are kept at all.
func (m *Memory) Keeps() bool { return m.cache != nil }

// Lookup returns the entry of key if it may be served, else nil. It allocates nothing, and takes no
// lock unless Options.MaxKeys is set.
func (m *Memory) Lookup(key string) *Entry {
	if m.cache == nil {
		return nil
	}
	e, ok := m.cache.get(key)
	if !ok || !e.servedAt(m.opt.Now()) {
		return nil
	}
	return e
}

// Hit is an entry that may be served, and what it is for the call that has asked. The zero Hit has
// none.
type Hit struct {
	*Entry
	Verdict freshness.Verdict
	Now     int64 // when it was that, in the memory's time
}

// Judge has h be what its entry is at now for a call with such a ttl and such needs.
func (h *Hit) Judge(now int64, ttl time.Duration, need *freshness.Need) {
	h.Verdict, h.Now = h.For(now, ttl, need), now
}

// LookupFor is Lookup for a call with such a ttl and such needs.
func (m *Memory) LookupFor(key string, ttl time.Duration, need *freshness.Need) (h Hit) {
	if m.cache == nil {
		return h
	}
	if e, ok := m.cache.get(key); ok {
		h.judged(e, m.opt.Now(), ttl, need)
	}
	return h
}

// LookupAt is LookupFor for one of many keys of a call: now is the memory's time when that began.
func (m *Memory) LookupAt(now int64, key string, ttl time.Duration, need *freshness.Need) (h Hit) {
	if m.cache == nil {
		return h
	}
	if e, ok := m.cache.get(key); ok {
		h.judged(e, now, ttl, need)
	}
	return h
}

// judged has h be e, if e may be served at now to a call with such a ttl and such needs.
func (h *Hit) judged(e *Entry, now int64, ttl time.Duration, need *freshness.Need) {
	if !e.servedAt(now) {
		return
	}
	// What a group has made stale and nobody would refresh is not served: its reader gives it no grace,
	// or it does not expire.
	if e.meta.grouped() && e.Expired(now) && (e.meta.GraceOr(need.Grace) == 0 || e.ends == never) {
		return
	}
	h.Entry, h.Now = e, now
	switch {
	case e.meta == nil && (need.Any() || need.Fresh(now, ttl, e.ends, need.Grace)):
	case e.meta != nil && !e.meta.grouped() && e.meta.TTL > 0 && need.Fresh(now, e.meta.TTL, e.ends, e.meta.Grace):
	default:
		h.Verdict = e.For(now, ttl, need)
	}
}

func (m *Memory) stripe(key string) *stripe {
	return &m.stripes[maphash.String(m.seed, key)%uint64(len(m.stripes))]
}

// Generation is the number of the state that key is in: if it is the same later, no change was
// heard of in between.
func (m *Memory) Generation(key string) uint64 {
	s := m.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gen
}

// Changes counts the changes of key that were told: by an invalidation, or by a write of this
// process. Unlike Generation, it does not grow when a connection is lost.
func (m *Memory) Changes(key string) uint64 {
	s := m.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changesLocked()
}

func (s *stripe) changesLocked() uint64 { return s.gen - s.untold }

// Reservation is the right to store the answer to a command that is about to be sent. The zero
// Reservation stores nothing.
type Reservation struct {
	valid *Validity // nil: the answer must not be stored
	gen   uint64
	epoch uint64
	at    int64
}

// Reserve must be called before the command is sent to the server whose Validity is given.
func (m *Memory) Reserve(key string, valid *Validity) Reservation {
	return Reservation{gen: m.Generation(key), valid: valid, epoch: valid.Epoch(), at: m.opt.Now()}
}

// Generation is the key's when r was made.
func (r *Reservation) Generation() uint64 { return r.gen }

// At is when r was made: the ttl of the answer counts from there.
func (r *Reservation) At() int64 { return r.at }

// Pushes reports whether changes of the key are told to us.
func (r *Reservation) Pushes() bool { return r.valid != nil && r.valid.Pushes() }

// Void has r store nothing: the answer came from another server than the one it was made for.
func (r *Reservation) Void() { r.valid = nil }

// Value is what is to be remembered for a key.
type Value struct {
	Raw    string // as its codec wrote it; "" for an absence
	Absent bool
	TTL    time.Duration // counts from the reservation; negative: the key does not expire
	Began  int64         // of Prepare and CommitAway: when its load began, or it was set; 0: now
	Room   uintptr       // the size of a T whose decoded form will be kept beside, else 0
	Meta   *Meta         // what its header says; nil: it has none

	Decoded      *Decoded // nil: it will be decoded when it is asked for
	DecodedBytes int      // that it takes
}

func (v *Value) flags() uint32 {
	if v.Absent {
		return isAbsent
	}
	return 0
}

// Commit stores what Redis answered and returns where; nil if r is void, or nothing is kept. It
// copies neither key nor v.Raw: they must be strings of their own, as what rueidis reads is, and
// not pieces of something long.
func (m *Memory) Commit(key string, r Reservation, v Value) *Entry {
	if !m.storable(r) {
		return nil
	}
	return m.Put(key, r, m.newEntry(key, r, v))
}

// Prepare makes an entry of what this process has loaded, for Put to store once Redis has accepted
// it; nil if nothing is kept. It does not copy v.Raw, as Commit.
func (m *Memory) Prepare(key string, r Reservation, v Value) *Entry {
	if !m.storable(r) {
		return nil
	}
	e := m.newEntry(key, r, v)
	e.span |= isLoaded
	e.beginsAt(v.Began)
	return e
}

// storable reports whether an answer under r may be stored, if nothing happens before it is.
func (m *Memory) storable(r Reservation) bool {
	return m.cache != nil && (r.Pushes() || m.opt.UntrackedTTL > 0 && r.valid != nil && !r.valid.Tracked())
}

func (m *Memory) newEntry(key string, r Reservation, v Value) *Entry {
	e := &Entry{raw: v.Raw, ends: never, valid: r.valid, meta: v.Meta, span: spanOf(r.epoch, v.flags()), at: r.at}
	if v.TTL >= 0 && int64(v.TTL) < never-r.at {
		e.ends = r.at + int64(v.TTL)
	}
	e.expires = m.bounded(e)
	if !r.valid.Tracked() {
		e.valid, e.span = m.untracked, spanOf(m.untracked.Epoch(), v.flags())
		e.expires = min(e.expires, r.at+int64(m.opt.UntrackedTTL))
	}
	weight := weigh(key, v.Raw, v.Room)
	if v.Decoded != nil {
		e.decoded.Store(v.Decoded)
		weight = max(weight, weighDecoded(key, v.Raw, v.DecodedBytes))
	}
	e.weight.Store(weight + v.Meta.weight())
	return e
}

// Put stores what Prepare has made, and returns it; nil if r is void, or e is nil. It does not copy
// key, as Commit.
func (m *Memory) Put(key string, r Reservation, e *Entry) *Entry {
	if e == nil {
		return nil
	}
	s := m.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != r.gen && r.epoch == r.valid.Epoch() && m.opt.Early != nil && !e.has(isOther) {
		m.opt.Early(e) // it is changed before it was stored
	}
	if s.gen != r.gen || r.epoch != r.valid.Epoch() || !m.livesAt(key, r.valid) {
		return nil
	}
	m.takeOver(key, e)
	m.cache.set(key, e)
	return e
}

// Away is what was loaded or set while its server is away.
type Away struct {
	Value
	Valid   *Validity
	Outage  uint64        // of Valid when it was loaded or set: the entry is served in this one only
	Changes uint64        // of the key before it was loaded, or after it was set
	Use     time.Duration // for how long it is served at most, if not 0; its key may live longer
	Then    func()        // called if the key has not changed since, with its stripe locked; nil: nothing
}

// CommitAway stores a and returns where; nil if its outage is over, its key has changed since, or
// nothing is kept. It copies the key and not a.Raw.
func (m *Memory) CommitAway(key string, a Away) *Entry {
	now := m.opt.Now()
	e := &Entry{raw: a.Raw, ends: never, valid: a.Valid, meta: a.Meta, span: spanOf(a.Outage, a.flags()|isAway), at: now}
	if a.TTL >= 0 && int64(a.TTL) < never-now {
		e.ends = now + int64(a.TTL)
	}
	e.expires = m.bounded(e)
	if m.opt.AwayTTL >= 0 {
		e.expires = min(e.expires, now+int64(m.opt.AwayTTL))
	}
	if most := int64(a.Use); most > 0 && most < never-now {
		e.expires = min(e.expires, now+most)
	}
	e.beginsAt(a.Began)
	e.weight.Store(weigh(key, a.Raw, a.Room) + a.Meta.weight())

	s := m.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changesLocked() != a.Changes || a.Outage != a.Valid.Outage() || !m.livesAt(key, a.Valid) {
		return nil
	}
	if a.Then != nil {
		a.Then()
	}
	if m.cache == nil {
		return nil
	}
	m.cache.set(strings.Clone(key), e)
	return e
}

// livesAt reports whether key is at the server of valid. A caller that has chosen the server by a
// topology that is replaced since, and has looked at its epoch and outage after they were given up
// for that, must not store anything.
func (m *Memory) livesAt(key string, valid *Validity) bool {
	return m.opt.Home == nil || m.opt.Home(key) == valid
}

// bounded is when an entry is served last: when its key ends, or MaxTTL is over.
func (m *Memory) bounded(e *Entry) int64 {
	if most := int64(m.opt.MaxTTL); most > 0 && most < never-e.at {
		return min(e.ends, e.at+most)
	}
	return e.ends
}

// Invalidate drops a key because Redis has pushed that it has changed, and wakes the callers that
// wait for it.
func (m *Memory) Invalidate(key string) {
	if m.cache != nil && m.opt.Early != nil {
		if e, ok := m.cache.get(key); ok && !e.has(isOther) {
			m.opt.Early(e)
		}
	}
	m.Drop(key)
}

// Drop drops a key because this process writes it, voids the reservations for it and wakes the
// callers that wait for it. It returns how many changes there were, this one included.
func (m *Memory) Drop(key string) (changes uint64) {
	s := m.stripe(key)
	s.mu.Lock()
	s.gen++
	changes = s.changesLocked()
	if m.cache != nil {
		m.cache.drop(key)
	}
	if strings.HasPrefix(key, wire.GroupPrefix) {
		m.dropGroupLocked(key)
	}
	w := s.takeLocked(key)
	s.mu.Unlock()
	w.wake()
	return changes
}

// home is the Validity of the server that key is at; nil: nobody has said so.
func (m *Memory) home(key string) *Validity {
	if m.opt.Home == nil {
		return nil
	}
	return m.opt.Home(key)
}

// Close drops every entry and ends the goroutines of the memory.
func (m *Memory) Close() {
	if m.cache != nil {
		m.cache.close()
	}
}

// CleanUp drops at once what there is no room for, which is otherwise done in the background. For
// tests that measure.
func (m *Memory) CleanUp() {
	if m.cache != nil {
		m.cache.cleanUp()
	}
}

// Size is how many entries there are, and what they take.
func (m *Memory) Size() (entries int, bytes int64) {
	if m.cache == nil {
		return 0, 0
	}
	return m.cache.size()
}
