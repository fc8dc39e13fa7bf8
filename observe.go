package aside

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/redaside/aside/internal/audit"
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

// The kinds of event. Each is told once for each thing that happens. Key, Keys and View are set
// where there are any.
const (
	EventHit          EventKind = iota // a key was answered from Source: SourceRedis, SourceDisk, or, with Options.HitEvents, SourceMemory
	EventLoad                          // a loader returned after Duration; Err is what it returned; Refresh: it ran for a refresh
	EventFillRefused                   // a loaded value was not stored: the key was set or deleted during the load
	EventStoreFailed                   // a loaded value was not stored: Err says why
	EventDecodeFailed                  // a stored value could not be read and is loaded again; Err says why
	EventRedisError                    // commands to Redis failed after Duration; Op, Keys and Err are as for EventCommand
	EventRedisAway                     // Redis, or the shard named by Key, is away; Err says why
	EventRedisBack                     // Redis, or the shard named by Key, answers again
	EventJournaled                     // a Set, a Del or operations are kept for replay; Err says why Redis did not do it
	EventFailover                      // another server answers for Redis, or the shard named by Key, than before; there need not have been an outage
	EventShared                        // a call has waited for Duration, until At, for another call of this process, or has taken what that has just loaded, instead of asking itself; Load tells for which load
	EventLockWait                      // a call has waited for Duration, until At, for another process to fill a key
	EventGet                           // a reading call (Op) has ended that memory alone could not answer, after Duration; Err is its error, or ErrNotFound for an absence. If what it has found cannot be decoded, it asks again, and that is another one
	EventWrite                         // a writing call (Op) has ended after Duration; Err is its error. EventJournaled has told what is kept for replay
	EventRefresh                       // a refresh of stale keys has ended after Duration. Keys were loaded; 0: another process refreshes them, or they are not stale any more
	EventMode                          // Redis, or the shard named by Key, has changed its mode (From, To); Err says why it was lost
	EventReplay                        // a replay to Redis, or to the shard named by Key, has ended after Duration: Replay tells what came of it; Err says why it was broken off
	EventProbe                         // a probe of Redis, or of the shard named by Key, was answered after Duration, or Err says why not
	EventCommand                       // commands to Redis, or to the shard named by Key, were answered after Duration, in one round trip: the script Op, for Keys
)

func (k EventKind) String() string {
	names := [...]string{
		"hit", "load", "fill-refused", "store-failed", "decode-failed", "redis-error", "redis-away", "redis-back", "journaled", "failover", "shared", "lock-wait",
		"get", "write", "refresh", "mode", "replay", "probe", "command",
	}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Event is one thing that happened. Fields that do not apply are zero.
type Event struct {
	Kind     EventKind
	Source   Source // of EventGet: where the answer came from; for many keys, SourceLoader if any of them was loaded
	Shared   bool   // of EventGet: it waited for another call of this process, or took what that had just loaded
	Stale    bool   // of EventGet: what it returned is stale, see WithGrace
	Refresh  bool   // of EventLoad: it ran for a refresh
	Op       string // of EventGet and EventWrite: the method, in small letters: get, get_multi, peek, look_multi, set, set_multi, delete, touch, expire, update, update_away, apply, apply_away; of EventCommand and EventRedisError: the name of a script of ours, or "" for the commands of an Update
	View     string // the name of the view, see WithName; "" for a call of the Client itself
	Key      string // the data key, the first of several; or a shard's address in a cluster. It is no attribute for a metric: there are too many
	Keys     int    // how many it is about
	Duration time.Duration
	Waited   time.Duration // of EventGet: how much of Duration it has waited for a load of another call or of another process
	Err      error
	At       time.Time       // when it happened, if it is told later; else zero: just now
	From, To Mode            // of EventMode
	Replay   *Replay         // of EventReplay; not to be changed
	Load     context.Context //nolint:containedctx // of EventShared: what Tracer.Start has returned for the load that the call has waited for; nil: no load, or no Tracer
}

// Observer is told what happens. It must be safe for concurrent use, and quick: it runs on the
// caller's path; in the caller's goroutine for a hit from memory, else in another, so that one that
// panics or ends its goroutine is logged and harms nobody.
//
// ctx is the one of the call or the load, and has its values. It must not be kept beyond Observe: a
// server may give it to another request. What happens by itself comes with a context without values:
// EventRedisError, EventRedisAway, EventRedisBack, EventFailover, EventMode, EventReplay, EventProbe
// and EventCommand come one after the other from a goroutine of their own, for which only Close
// waits. If 1,024 of them wait, further ones are left out, and the log says so. EventDecodeFailed
// has no values either. Those of an EventLoad are gone, but for what Tracer.Start has added: the
// load is over.
//
// It may ask the Client, with a context of its own that ends: what it asks for may wait for the call
// that told it.
type Observer interface {
	Observe(ctx context.Context, e Event)
}

// Tracer is an Observer that is also told when what takes time begins: EventGet, EventLoad,
// EventWrite and EventRefresh, with Kind, Op, View, Key and Keys, and Refresh of an EventLoad. So it
// can make spans.
type Tracer interface {
	Observer

	// Start returns ctx, or a context that descends from it. With this one the thing goes on: a
	// loader gets it, and so does the Observe of its end, if there is one: not all loads that begin
	// have their end told. An EventLoad comes without Start where no place was free for it
	// (ErrOverloaded). Start is contained as Observe is, and must not ask the Client: the loader
	// waits for it.
	Start(ctx context.Context, e Event) context.Context
}

// ObserverFunc makes an Observer of a function.
type ObserverFunc func(ctx context.Context, e Event)

// Observe calls f.
func (f ObserverFunc) Observe(ctx context.Context, e Event) { f(ctx, e) }

// Stats is a snapshot of what a Client has done since New. Counts only grow.
type Stats struct {
	MemoryHits     int64 // keys answered from this process's memory
	RedisHits      int64 // keys answered from Redis
	Loads          int64 // loader calls that returned, a batch counted once
	LoadErrors     int64 // of these, with an error other than ErrNotFound, panics and timeouts included
	NotFound       int64 // of the loaded keys, those that the loader did not find
	Shared         int64 // calls that waited for another call of this process instead of asking themselves
	LockWaits      int64 // times that a call waited for another process to fill a key
	LocksLost      int64 // locks of running loads that were found to be gone, or somebody else's
	FillsRefused   int64 // loaded values not stored because the key was set or deleted during the load
	TooLarge       int64 // loaded values not stored because of MaxValueBytes
	EncodeErrors   int64 // loaded values that their codec could not encode
	DecodeErrors   int64 // stored values that could not be read, and were loaded again
	RedisErrors    int64 // commands to Redis that failed
	Invalidations  int64 // keys that Redis said have changed
	GoneEarly      int64 // of these, keys that had been read less than a second before: many, if Redis's tracking table is full
	Flushes        int64 // times that all of the memory was given up: a connection lost, FLUSHALL
	DiskHits       int64 // keys answered from the fallback store
	Journaled      int64 // Sets, Dels and operations kept for replay, by key
	Rejected       int64 // times that operations of a key, kept for replay, were put into quarantine: refused for good, or perhaps done already
	Outages        int64 // times that a shard became degraded
	Failovers      int64 // times that another server answered than before: a failover, a restart, an address that leads elsewhere now
	Overloaded     int64 // loads not begun because of MaxLoaders, MaxLoads or WithMaxLoads
	Pending        int   // Sets and Dels that wait to be replayed right now
	RedisConnected bool  // every shard answers: none is degraded
	MemoryEntries  int   // entries in the local memory
	MemoryBytes    int64 // their size, as estimated
	StaleHits      int64 // keys answered with a stale value, while somebody refreshed it or was to, see WithGrace
	Waiting        int   // keys for which a call waits, a load runs, or what was loaded is being stored right now

	Refreshes        int64 // keys whose refresh this process has begun
	RefreshesFailed  int64 // of these, those whose loader has failed, or was not called because of MaxLoads
	RefreshesRefused int64 // of these, those whose result was not stored: the key was set or deleted, or the lock lost meanwhile
	RefreshesHeldOff int64 // refreshes that Redis has not let begin: another process runs one, or one has failed and its back-off is not over

	// Hits that were audited, of all views with WithAudit; see AuditReport.
	AuditsSame      int64 // the source has what was cached
	AuditsStale     int64 // it has something else, and no change of the key was heard of
	AuditsOvertaken int64 // the key changed or ended meanwhile, so nobody knows
	AuditsFailed    int64 // the loader failed
	AuditsSkipped   int64 // hits that were drawn, and not audited because of Audit.AtOnce or PerSecond
}

// counters are the live form of Stats. Safe for concurrent use.
type counters struct {
	memoryHits striped // the only one on the hot path

	redisHits, loads, loadErrors, notFound, shared, lockWaits, fillsRefused                    atomic.Int64
	tooLarge, encodeErrors, decodeErrors, diskHits, journaled, rejected, overloaded, goneEarly atomic.Int64
	staleHits, locksLost                                                                       atomic.Int64

	refreshes, refreshesFailed, refreshesRefused, refreshesHeldOff atomic.Int64

	audits        [audit.Failed + 1]atomic.Int64 // by verdict
	auditsSkipped atomic.Int64
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
	tracer   Tracer             // the same, if it is one; immutable
	allHits  bool               // Options.HitEvents, if there is an Observer; immutable
	logger   *slog.Logger       // Options.Logger, behind log; immutable
	log      *logqueue.Handler  // see log.go; immutable
	aside    *events.Bus[Event] // the Observer is its watcher; immutable
	counted  counters

	seldomRedis, seldomStore, seldomDecode, seldomObserver, seldomDisk, seldomReplay, seldomRead seldom
}

// observe tells the observer. What keeps it from returning is logged.
func (r *reports) observe(ctx context.Context, e Event) {
	if r.observer != nil { // here, as e is on the heap there
		r.tell(ctx, e)
	}
}

func (r *reports) tell(ctx context.Context, e Event) {
	if err := r.life.contained("Options.Observer", func() { r.observer.Observe(ctx, e) }); err != nil {
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
		r.observe(context.Background(), e)
	case !r.aside.Announce(e, nil):
		r.warn(&r.seldomObserver, "Options.Observer is too slow, so events are left out", "event", e.Kind.String())
	}
}

// mostAside is how many events may wait for the Observer.
const mostAside = 1024

// observeHit is observe for a hit from memory, which no goroutine is made for: where the observer
// ends its goroutine that is its caller's own.
func (r *reports) observeHit(ctx context.Context, key, view string) {
	defer func() {
		if p := recover(); p != nil {
			r.warn(&r.seldomObserver, "Options.Observer did not return", "error", newPanicError(p), "event", EventHit.String())
		}
	}()
	r.observer.Observe(ctx, Event{Kind: EventHit, Source: SourceMemory, View: view, Key: key, Keys: 1})
}

// hit counts an answer from memory to a call of a view; "": of none.
func (r *reports) hit(ctx context.Context, key, view string) {
	r.counted.memoryHits.add()
	if r.allHits {
		r.observeHit(ctx, key, view)
	}
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

// The handler of Options.Logger is the caller's code: it may write to a pipe that nobody reads or
// to a disk that hangs, and it may panic. Who logs here holds a lock, is a prober, or replays. So
// lines are queued, and the handler is called from a goroutine that does nothing else.

// logGrace is how long Close, or a New that fails, waits for the handler.
const logGrace = 500 * time.Millisecond

// flush waits for the handler, in bounds.
func (r *reports) flush() error {
	if r.log.Flush(logGrace) {
		return nil
	}
	return fmt.Errorf("aside: Close left log lines behind: the handler of Options.Logger did not take them within %v", logGrace)
}
