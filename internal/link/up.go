package link

import (
	"sync/atomic"
	"time"
)

// Hooks is what a link tells, and asks, those above it. None is nil. None may block, but for Contain and Told.
type Hooks struct {
	InBackground func(fn func()) bool // runs fn in a goroutine that Close waits for; false: closing, it does not run

	Contain func(what string, fn func()) error // runs the user's code; the error says what kept it from returning
	Told    func(what string, fn func())       // likewise, and logs that
	Examine func(err error) error              // returns an error of the user's, or another if its methods panic
	Warn    func(msg string, args ...any)      // logs something that may happen often

	Invalidated func(key string) // key has changed
	Lost        func()           // a connection is gone, or all was flushed: anything may have changed. Epochs have been raised
	Woken       func()           // nobody need wait for a push any more

	ModeChanged func(c ModeChange)                      // called with the shard's lock held: to be queued
	Observed    func(e Event)                           //
	Outage      func() func() []any                     // an outage begins: what is returned tells, for the log, how it goes
	Unreplayed  func(sh *Shard) bool                    // reports whether there is anything to replay
	Started     func(sh *Shard)                         // sh is used from now on
	TookOver    func(t Takeover)                        // another server answers
	Flushed     func(sh *Shard)                         // sh's database was flushed
	Send        [2]func(sh *Shard, requests []*Request) // of what goes together under load, see batcher: two kinds
}

// ModeChange is one change of a shard's mode.
type ModeChange struct {
	Addr     string // of the shard in a cluster, else ""
	From, To Mode
	At       time.Time
	Err      error // why it was lost; nil otherwise
}

// Event is what has happened to a shard.
type Event struct {
	Kind     EventKind
	Addr     string
	Duration time.Duration // of EventFailed
	Err      error
}

type EventKind int

const (
	EventFailed   EventKind = iota // commands were not answered, or with an error
	EventAway                      // the shard is degraded
	EventBack                      // it answers again
	EventFailover                  // another server answers for it than before
)

// Takeover says that another server answers for a shard than before.
type Takeover struct {
	Shard *Shard
	Since int64                 // when the other was last known to be well, in Link.Now's time
	Had   func(key string) bool // reports whether the other had key
	Attrs []any                 // for the log: which other
}

// Counts is what a link has counted since it began.
type Counts struct {
	Invalidations int64 // keys that have changed
	Flushes       int64 // times that anything may have changed
	RedisErrors   int64 // commands that failed
	Outages       int64 // times that a shard became degraded
	Failovers     int64 // times that another server answered than before
}

// counters are the live form of linkCounts. Safe for concurrent use.
type counters struct {
	invalidations, flushes, redisErrors, outages, failovers atomic.Int64
}

// Counts returns what the link has counted so far.
func (l *Link) Counts() Counts {
	n := &l.counts
	return Counts{n.invalidations.Load(), n.flushes.Load(), n.redisErrors.Load(), n.outages.Load(), n.failovers.Load()}
}
