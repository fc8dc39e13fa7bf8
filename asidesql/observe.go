package asidesql

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// EventKind says what happened.
type EventKind uint8

// The kinds of event.
const (
	EventDeleted  EventKind = iota // Change.Committed has deleted Keys, within Duration
	EventRelayed                   // a relay has deleted Keys, within Duration
	EventRetry                     // Keys could not be deleted, and a relay tries again; Err says why
	EventParked                    // the Client does not accept a key, and its row is parked; Err says why
	EventDatabase                  // a statement of a relay, or the removal of rows, failed; Err says how
)

func (k EventKind) String() string {
	names := [...]string{"deleted", "relayed", "retry", "parked", "database"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Event is one thing that happened. Fields that do not apply are zero.
type Event struct {
	Kind     EventKind
	Keys     []string // not to be changed
	Duration time.Duration
	Err      error
}

// Stats is a snapshot of what a Box has done since New. Counts only grow. They are keys, each
// counted as often as it was written.
type Stats struct {
	Written        int64 // rows written by Del of a Box or a Change, whether or not they were committed
	Deleted        int64 // keys deleted by Change.Committed and Transact
	Relayed        int64 // keys deleted by relays of this Box
	Retried        int64 // times that a key could not be deleted, and a relay was to try again
	Parked         int64 // rows parked by relays of this Box
	DatabaseErrors int64 // statements that failed, of relays and of removals
}

// Stats returns the current counts.
func (b *Box) Stats() Stats {
	c := &b.count
	return Stats{
		Written: c.written.Load(), Deleted: c.deleted.Load(), Relayed: c.relayed.Load(),
		Retried: c.retried.Load(), Parked: c.parked.Load(), DatabaseErrors: c.databaseErrors.Load(),
	}
}

// counters are the live form of Stats. Safe for concurrent use.
type counters struct {
	written, deleted, relayed, retried, parked, databaseErrors atomic.Int64
}

// Backlog is what the outbox table holds.
type Backlog struct {
	// Waiting is the number of rows that are to be relayed, or are being so.
	Waiting int64

	// Oldest is how long ago the oldest of these was written. Alert if it is more than a few times
	// Options.Lease: no relay runs, or Redis is away, or a key is refused.
	Oldest time.Duration

	// Parked is the number of rows that no relay takes, because the Client does not accept their
	// keys; last_error says why. Raise the Client's MaxKeyBytes and set their due_at to 0, which
	// has them tried again, or delete the rows.
	Parked int64
}

// Backlog counts the rows of the outbox table, by reading all of it.
func (b *Box) Backlog(ctx context.Context) (Backlog, error) {
	var log Backlog
	var age int64
	if err := b.db.QueryRowContext(ctx, b.opt.Dialect.backlog(b.opt.Table)).Scan(&log.Waiting, &log.Parked, &age); err != nil {
		return Backlog{}, fmt.Errorf("asidesql: cannot count the rows of %s: %w", b.opt.Table, err)
	}
	log.Oldest = max(0, time.Duration(age)*time.Millisecond)
	return log, nil
}

// databaseFailed counts, tells and logs what the database did not do.
func (b *Box) databaseFailed(what string, err error) {
	b.count.databaseErrors.Add(1)
	b.observe(Event{Kind: EventDatabase, Err: err})
	b.warn(&b.seldomDatabase, what, "table", b.opt.Table, "error", err)
}

// observe tells the observer. A panic of it is logged.
func (b *Box) observe(e Event) {
	if b.opt.Observer == nil {
		return
	}
	if err := contained("Options.Observer", func() error { b.opt.Observer(e); return nil }); err != nil {
		b.warn(&b.seldomObserver, "Options.Observer did not return", "error", err, "event", e.Kind.String())
	}
}

// contained calls fn, which is called what, and turns a panic of it into an error.
func contained(what string, fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("asidesql: %s panicked: %v", what, p)
		}
	}()
	return fn()
}

// warn logs, once in 10 seconds for each last.
func (b *Box) warn(last *atomic.Int64, msg string, args ...any) {
	now := time.Now().UnixNano()
	if was := last.Load(); (was == 0 || now-was >= int64(10*time.Second)) && last.CompareAndSwap(was, now) {
		b.opt.Logger.Warn("asidesql: "+msg, args...)
	}
}
