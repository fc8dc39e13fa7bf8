package near

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/shape"
)

// Entry is what is remembered for a key. Safe for concurrent use. It fills a size class of the
// allocator (80 bytes).
type Entry struct {
	decoding sync.Mutex // held while somebody decodes, so that many waiters decode once

	// Immutable once the entry is stored.
	raw     string // as its codec wrote it; empty for an absence
	expires int64  // in the memory's time
	ends    int64  // when the key does, which may be later; never: it does not
	at      int64  // when Redis was asked, or its load began, or it was set
	valid   *Validity
	meta    *Meta // what its header says; nil: it has none

	decoded atomic.Pointer[Decoded]
	weight  atomic.Uint32 // of the LRU's entries changed under its mutex

	// span has, from its bit spanShift on, the epoch of valid in which Redis said so; if away, the
	// outage in which it was loaded or set. What is beyond its bits is never served. Below are the
	// flags. Immutable once the entry is stored.
	span uint32
}

// The flags of a span.
const (
	isAbsent uint32 = 1 << iota
	isAway
	isLoaded // by a load of this process, not read
	isOther  // raw is no value, see Memory.PutOther

	spanShift = iota
)

func spanOf(n uint64, flags uint32) uint32 { return uint32(n<<spanShift) | flags }

func (e *Entry) has(flag uint32) bool { return e.span&flag != 0 }

// Decoded is the value of an entry in the form that one codec gave it. Immutable.
type Decoded struct {
	By    any // the codec's identity, compared with ==
	Value any // *T
}

// Lasting is what a Decoded.Value is that the value of another codec does not displace, because it
// cannot be made from the entry once more.
type Lasting interface{ Lasting() }

func (d *Decoded) lasts() bool {
	if d == nil {
		return false
	}
	_, lasts := d.Value.(Lasting)
	return lasts
}

// Raw is the value as its codec wrote it; "" for an absence.
func (e *Entry) Raw() string { return e.raw }

// Absent reports whether it is remembered that the key does not exist.
func (e *Entry) Absent() bool { return e.has(isAbsent) }

// Meta is what the header of the value says; nil if it has none.
func (e *Entry) Meta() *Meta { return e.meta }

// At is when Redis was asked, or the load of the value began, or it was set.
func (e *Entry) At() int64 { return e.at }

// Ends is when the key expires; false if it does not.
func (e *Entry) Ends() (at int64, ok bool) { return e.ends, e.ends != never }

// Began is when the load of the value began, or it was set; false if that is not known.
func (e *Entry) Began() (at int64, ok bool) {
	if e.meta != nil && e.meta.Loaded != 0 {
		return e.meta.Loaded, true
	}
	if e.has(isAway | isLoaded) {
		return e.at, true
	}
	return 0, false
}

// beginsAt sets when the load of e began, or it was set, once it is known when it ends; 0: now.
func (e *Entry) beginsAt(began int64) {
	if began != 0 {
		e.at = began
	}
}

// Unverified reports whether the server of e is away now, so that nobody tells of changes.
func (e *Entry) Unverified() bool { return e.valid.degraded.Load() }

// Untracked reports whether nobody tells of changes of e, ever: it is served for
// Options.UntrackedTTL.
func (e *Entry) Untracked() bool { return !e.valid.tracked && !e.has(isAway) }

// FreshAt reports whether e is fresh at now, for a reader who gives it so much grace: its header
// knows better, if it says something.
func (e *Entry) FreshAt(now int64, grace time.Duration) bool {
	if e.meta == nil {
		return !freshness.Stale(now, e.ends, grace)
	}
	return !freshness.Stale(now, e.ends, e.meta.GraceOr(grace)) && e.meta.fresh(now)
}

// For is what e is at now for a call with such a ttl and such needs.
func (e *Entry) For(now int64, ttl time.Duration, need *freshness.Need) freshness.Verdict {
	v := freshness.Value{Ends: e.ends}
	if e.meta != nil {
		v.TTL, v.Grace, v.Took, v.Expired = e.meta.TTL, e.meta.Grace, e.meta.Took, e.Expired(now)
	}
	if need.MaxAge > 0 {
		v.Began, _ = e.Began()
	}
	return need.Judge(now, ttl, v, rand.ExpFloat64)
}

// Fresh reports whether e is freshness.Good for such a call for certain, see freshness.Need.Fresh.
func (e *Entry) Fresh(now int64, ttl time.Duration, need *freshness.Need) bool {
	grace := need.Grace
	if e.meta != nil && e.meta.TTL > 0 {
		ttl, grace = e.meta.TTL, e.meta.Grace
	}
	return !e.Expired(now) && need.Fresh(now, ttl, e.ends, grace)
}

// Read reports whether the value was read from Redis, not loaded or set by this process.
func (e *Entry) Read() bool { return !e.has(isAway | isLoaded) }

// servedAt reports whether e may be served now as a value.
func (e *Entry) servedAt(now int64) bool {
	return !e.has(isOther) && e.verifiedAt(now) && (!e.meta.grouped() || e.meta.holds(now, e.has(isAway)))
}

// verifiedAt is servedAt but for the groups.
func (e *Entry) verifiedAt(now int64) bool {
	switch {
	case now >= e.expires:
		return false
	case e.has(isAway):
		return e.valid.ServesAway(uint64(e.span >> spanShift))
	default:
		return e.valid.ServesRead(uint64(e.span>>spanShift), now)
	}
}

// DecodedBy returns the value that a codec has decoded from e; nil if that has not been, or another
// codec's value is kept.
func (e *Entry) DecodedBy(codec any) any {
	if d := e.decoded.Load(); d != nil && d.By == codec {
		return d.Value
	}
	return nil
}

// Taken reports whether another codec's value is kept in e.
func (e *Entry) Taken(codec any) bool {
	d := e.decoded.Load()
	return d != nil && d.By != codec
}

// LockDecoding is called before e is decoded, so that of many callers one decodes it, and
// UnlockDecoding afterwards.
func (e *Entry) LockDecoding() { e.decoding.Lock() }

// UnlockDecoding is the end of LockDecoding.
func (e *Entry) UnlockDecoding() { e.decoding.Unlock() }

// KeepDecoded attaches a decoded value of so many bytes to an entry, in place of any that is not
// Lasting, and has it weighed again if that was not foreseen. Whether the entry is still in memory does not matter.
func (m *Memory) KeepDecoded(key string, e *Entry, d *Decoded, bytes int) {
	for {
		was := e.decoded.Load()
		if was.lasts() && !d.lasts() {
			return
		}
		if e.decoded.CompareAndSwap(was, d) {
			break
		}
	}
	weight := weighDecoded(key, e.raw, bytes) + e.meta.weight()
	if e.weight.Load() >= weight {
		return
	}
	m.cache.reweigh(key, e, weight)
}

// KeepBeside is KeepDecoded for whichever entry memory has of key now, as long as that fits and
// nothing was heard of the key since its generation was gen: what was made for one reading of it is as
// good for the next. An entry that replaces another one with the same value and version takes over
// what is kept there, see Put.
func (m *Memory) KeepBeside(key string, gen uint64, d *Decoded, bytes int, fits func(*Entry) bool) {
	if m.cache == nil {
		return
	}
	s := m.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != gen {
		return
	}
	if e := m.cache.peek(key); e != nil && !e.has(isOther) && fits(e) {
		m.KeepDecoded(key, e, d, bytes)
	}
}

// takeOver gives e what is kept beside the entry that it replaces, if that has the same value and was
// read on the same connection. Only those with versions keep what has to last, see KeepBeside; others
// decode once more. Where no changes are told, the key may have changed in between, although its value
// is the same: only time ends what is kept there.
func (m *Memory) takeOver(key string, e *Entry) {
	if e.meta == nil || e.meta.Version == 0 || e.Untracked() {
		return
	}
	was := m.cache.peek(key)
	if was == nil || was.meta == nil || was.meta.Version != e.meta.Version || was.raw != e.raw || was.valid != e.valid || was.span != e.span {
		return
	}
	if d := was.decoded.Load(); d != nil {
		e.decoded.Store(d)
		e.weight.Store(max(e.weight.Load(), was.weight.Load()))
	}
}

// entryOverhead is what an entry costs beside its key and value: the entry itself, its node in
// otter and its share of the table. TestMemoryStaysWithinItsBytes compares it with the heap.
const entryOverhead = 248

const never = math.MaxInt64 // of times, and of epochs that are never reached

// weigh estimates the size of an entry. A decoded value, of which room is the fixed part, is taken
// to hold as many bytes as its encoding until it is there.
func weigh(key, raw string, room uintptr) uint32 {
	if room == 0 {
		return weighDecoded(key, raw, 0)
	}
	return weighDecoded(key, raw, shape.Rounded(len(raw))+shape.Rounded(int(room)))
}

// weighDecoded is weigh for a decoded value that takes so many bytes.
func weighDecoded(key, raw string, decoded int) uint32 {
	size := uint64(entryOverhead) + uint64(len(key)) + uint64(shape.Rounded(len(raw))) + uint64(decoded)
	if decoded > 0 {
		size += uint64(unsafe.Sizeof(Decoded{}))
	}
	return uint32(min(size, math.MaxUint32))
}
