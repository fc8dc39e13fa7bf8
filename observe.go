package aside

import (
	"log/slog"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/redaside/aside/internal/events"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/logqueue"
)

// Source says which tier answered.
type Source uint8

// The tiers, nearest first.
const (
	SourceNone   Source = iota
	SourceMemory        // this process's memory
	SourceRedis         // Redis
	SourceLoader        // a loader, of this call or of one that it waited for
	SourceDisk          // the fallback store
)

func (s Source) String() string {
	switch s {
	case SourceMemory:
		return "memory"
	case SourceRedis:
		return "redis"
	case SourceLoader:
		return "loader"
	case SourceDisk:
		return "disk"
	default:
		return "none"
	}
}

// EventKind says what happened.
type EventKind uint8

// The kinds of event.
const (
	EventHit          EventKind = iota // a key was answered from Source: SourceMemory, SourceRedis or SourceDisk
	EventLoad                          // a loader returned after Duration; Err is what it returned
	EventFillRefused                   // a loaded value was not stored: the key was set or deleted during the load
	EventStoreFailed                   // a loaded value was not stored: Err says why
	EventDecodeFailed                  // a stored value could not be read and is loaded again; Err says why
	EventRedisError                    // a command to Redis failed after Duration; Err says how
	EventRedisAway                     // Redis, or the shard named by Key, is away; Err says why
	EventRedisBack                     // Redis, or the shard named by Key, answers again
	EventJournaled                     // a Set or Del is kept for replay; Err says why Redis did not do it
	EventFailover                      // another server answers for Redis, or the shard named by Key, than before; there need not have been an outage
	EventShared                        // a call waits for another call of this process, or takes what that has just loaded, instead of asking itself
	EventLockWait                      // a call waits for another process to fill a key
)

func (k EventKind) String() string {
	names := [...]string{"hit", "load", "fill-refused", "store-failed", "decode-failed", "redis-error", "redis-away", "redis-back", "journaled", "failover", "shared", "lock-wait"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Event is one thing that happened. Fields that do not apply are zero.
type Event struct {
	Kind     EventKind
	Key      string // the data key, or a server's address for EventRedisAway, EventRedisBack and EventFailover
	Source   Source
	Duration time.Duration
	Err      error
	At       time.Time // when it happened, of the kinds that are told by a goroutine of their own; else zero: just now
}

// Observer is told what happens. It must be safe for concurrent use, and quick: it runs on the
// caller's path; in the caller's goroutine for a hit from memory, else in another, so that one that
// panics or ends its goroutine is logged and harms nobody.
//
// EventRedisError, EventRedisAway, EventRedisBack, EventFailover and EventLockWait come one after
// the other from a goroutine of their own, for which only Close waits. If 1,024 of them wait,
// further ones are left out, and the log says so.
//
// It may ask the Client, with a context that ends: what it asks for may wait for the call that told
// it.
type Observer interface {
	Observe(Event)
}

// ObserverFunc makes an Observer of a function.
type ObserverFunc func(Event)

// Observe calls f.
func (f ObserverFunc) Observe(e Event) { f(e) }

// Stats is a snapshot of what a Client has done since New. Counts only grow.
type Stats struct {
	MemoryHits     int64 // keys answered from this process's memory
	RedisHits      int64 // keys answered from Redis
	Loads          int64 // loader calls that returned, a batch counted once
	LoadErrors     int64 // of these, with an error other than ErrNotFound, panics and timeouts included
	NotFound       int64 // of the loaded keys, those that the loader did not find
	Shared         int64 // calls that waited for another call of this process instead of asking themselves
	LockWaits      int64 // times that a call waited for another process to fill a key
	FillsRefused   int64 // loaded values not stored because the key was set or deleted during the load
	TooLarge       int64 // loaded values not stored because of MaxValueBytes
	EncodeErrors   int64 // loaded values that their codec could not encode
	DecodeErrors   int64 // stored values that could not be read, and were loaded again
	RedisErrors    int64 // commands to Redis that failed
	Invalidations  int64 // keys that Redis said have changed
	GoneEarly      int64 // of these, keys that had been read less than a second before: many, if Redis's tracking table is full
	Flushes        int64 // times that all of the memory was given up: a connection lost, FLUSHALL
	DiskHits       int64 // keys answered from the fallback store
	Journaled      int64 // Sets and Dels kept for replay, by key
	Outages        int64 // times that a shard became degraded
	Failovers      int64 // times that another server answered than before: a failover, a restart, an address that leads elsewhere now
	Overloaded     int64 // loads not begun because of MaxLoaders, MaxLoads or WithMaxLoads
	Pending        int   // Sets and Dels that wait to be replayed right now
	RedisConnected bool  // every shard answers: none is degraded
	MemoryEntries  int   // entries in the local memory
	MemoryBytes    int64 // their size, as estimated
	StaleHits      int64 // keys answered with a stale value, while somebody refreshed it or was to, see WithGrace
	Waiting        int   // keys for which a call waits, a load runs, or what was loaded is being stored right now
}

// counters are the live form of Stats. Safe for concurrent use.
type counters struct {
	memoryHits striped // the only one on the hot path

	redisHits, loads, loadErrors, notFound, shared, lockWaits, fillsRefused          atomic.Int64
	tooLarge, encodeErrors, decodeErrors, diskHits, journaled, overloaded, goneEarly atomic.Int64
	staleHits                                                                        atomic.Int64
}

// striped is a counter for a path on which a single contended word would be the slowest part.
type striped struct {
	cells [64]struct {
		n atomic.Int64
		_ [56]byte // a cache line each
	}
}

// add picks a cell by where the goroutine's stack lies: cheaper than a random number, and as well
// spread.
func (s *striped) add() {
	var here byte
	const golden = 0x9e3779b97f4a7c15 // spreads neighbours
	s.cells[uint64(uintptr(unsafe.Pointer(&here)))>>11*golden>>58].n.Add(1)
}

func (s *striped) sum() (n int64) {
	for i := range s.cells {
		n += s.cells[i].n.Load()
	}
	return n
}

// reports are what a client says of itself: to the Observer, in the log, and in its counters. Safe
// for concurrent use.
type reports struct {
	life     *lifecycle         // immutable
	clock    func() int64       // Link.Now; immutable
	observer Observer           // Options.Observer; immutable
	logger   *slog.Logger       // Options.Logger, behind log; immutable
	log      *logqueue.Handler  // see log.go; immutable
	aside    *events.Bus[Event] // the Observer is its watcher; immutable
	counted  counters

	seldomRedis, seldomStore, seldomDecode, seldomObserver, seldomDisk, seldomReplay, seldomRead seldom
}

// observe tells the observer. What keeps it from returning is logged.
func (r *reports) observe(e Event) {
	if r.observer == nil {
		return
	}
	if err := r.life.contained("Options.Observer", func() { r.observer.Observe(e) }); err != nil {
		r.warn(&r.seldomObserver, "Options.Observer did not return", "error", err, "event", e.Kind.String())
	}
}

// observeAside is observe where others wait for what the caller does next, and must not wait for an
// Observer that asks for their keys: these events are told in order, by one goroutine.
func (r *reports) observeAside(e Event) {
	if r.observer == nil {
		return
	}
	e.At = time.Now()
	switch {
	case r.life.ctx.Err() != nil: // closing: the Client answers the Observer at once
		r.observe(e)
	case !r.aside.Announce(e, nil):
		r.warn(&r.seldomObserver, "Options.Observer is too slow, so events are left out", "event", e.Kind.String())
	}
}

// mostAside is how many events may wait for the Observer.
const mostAside = 1024

// observeHit is observe for a hit from memory, which no goroutine is made for: where the observer
// ends its goroutine that is its caller's own.
func (r *reports) observeHit(key string) {
	defer func() {
		if p := recover(); p != nil {
			r.warn(&r.seldomObserver, "Options.Observer did not return", "error", newPanicError(p), "event", EventHit.String())
		}
	}()
	r.observer.Observe(Event{Kind: EventHit, Key: key, Source: SourceMemory})
}

// hit counts an answer from memory.
func (r *reports) hit(key string) {
	r.counted.memoryHits.add()
	if r.observer != nil {
		r.observeHit(key)
	}
}

// shares counts a call that does not ask itself.
func (r *reports) shares(key string) {
	r.counted.shared.Add(1)
	r.observe(Event{Kind: EventShared, Key: key})
}

// waitsForLock counts a wait for somebody else's lock.
func (r *reports) waitsForLock(key string) {
	r.counted.lockWaits.Add(1)
	r.observeAside(Event{Kind: EventLockWait, Key: key})
}

// seldom lets one call a second through, so that a broken codec cannot drown the log.
type seldom struct{ last atomic.Int64 }

func (s *seldom) ok(now int64) bool { return s.after(now, time.Second) }

// after lets one call through in each pause.
func (s *seldom) after(now int64, pause time.Duration) bool {
	last := s.last.Load()
	return (last == 0 || now-last >= int64(pause)) && s.last.CompareAndSwap(last, max(now, 1))
}

// refusedRead says, once a minute, that Redis refuses to read a key (WRONGTYPE, NOPERM): nothing is
// remembered of it, so that each call loads.
func (r *reports) refusedRead(key string, err error) {
	if link.Refused(err) && r.seldomRead.after(r.clock(), time.Minute) {
		r.logger.Warn("aside: Redis refuses to read a key, so it is loaded at each call; another program may keep another type under it", "key", quoted(key), "error", err)
	}
}

func (r *reports) warn(s *seldom, msg string, args ...any) {
	if s.ok(r.clock()) {
		r.logger.Warn("aside: "+msg, args...)
	}
}

func keyAttr(key string) slog.Attr { return slog.String("key", quoted(key)) }
