package near

import (
	"math"
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
	at      int64  // when Redis was asked, or it was loaded or set
	valid   *Validity
	span    uint64 // the epoch of valid in which Redis said so; if away, the outage in which it was loaded or set

	decoded atomic.Pointer[Decoded]
	weight  atomic.Uint32 // of the LRU's entries changed under its mutex

	// Immutable once the entry is stored.
	absent bool
	away   bool
	loaded bool // by a load of this process, not read
}

// Decoded is the value of an entry in the form that one codec gave it. Immutable.
type Decoded struct {
	By    any // the codec's identity, compared with ==
	Value any // *T
}

// Raw is the value as its codec wrote it; "" for an absence.
func (e *Entry) Raw() string { return e.raw }

// Absent reports whether it is remembered that the key does not exist.
func (e *Entry) Absent() bool { return e.absent }

// At is when Redis was asked, or the value was loaded or set.
func (e *Entry) At() int64 { return e.at }

// Ends is when the key expires; false if it does not.
func (e *Entry) Ends() (at int64, ok bool) { return e.ends, e.ends != never }

// FreshAt reports whether e is fresh at now, for a reader who gives it so much grace.
func (e *Entry) FreshAt(now int64, grace time.Duration) bool {
	return !freshness.Stale(now, e.ends, grace)
}

// Read reports whether the value was read from Redis, not loaded or set by this process.
func (e *Entry) Read() bool { return !e.away && !e.loaded }

// servedAt reports whether e may be served now.
func (e *Entry) servedAt(now int64) bool {
	switch {
	case now >= e.expires:
		return false
	case e.away:
		return e.valid.ServesAway(e.span)
	default:
		return e.valid.ServesRead(e.span, now)
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

// KeepDecoded attaches a decoded value of so many bytes to an entry, and has it weighed again if
// that was not foreseen. Whether the entry is still in memory does not matter.
func (m *Memory) KeepDecoded(key string, e *Entry, d *Decoded, bytes int) {
	e.decoded.Store(d)
	weight := weighDecoded(key, e.raw, bytes)
	if e.weight.Load() >= weight {
		return
	}
	m.cache.reweigh(key, e, weight)
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
