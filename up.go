package aside

import (
	"sync/atomic"
	"time"
)

// linkHooks is what a link tells, and asks, those above it. None is nil. None may block, but for Contain and Told.
type linkHooks struct {
	InBackground func(fn func()) bool // runs fn in a goroutine that Close waits for; false: closing, it does not run

	Contain func(what string, fn func()) error // runs the user's code; the error says what kept it from returning
	Told    func(what string, fn func())       // likewise, and logs that
	Examine func(err error) error              // returns an error of the user's, or another if its methods panic
	Warn    func(msg string, args ...any)      // logs something that may happen often

	Invalidated func(key string) // key has changed
	Lost        func()           // a connection is gone, or all was flushed: anything may have changed. Epochs have been raised
	Woken       func()           // nobody need wait for a push any more

	ModeChanged func(c shardChange)                     // called with the shard's lock held: to be queued
	Observed    func(e linkEvent)                       //
	Outage      func() func() []any                     // an outage begins: what is returned tells, for the log, how it goes
	Unreplayed  func(sh *shard) bool                    // reports whether there is anything to replay
	Started     func(sh *shard)                         // sh is used from now on
	TookOver    func(t takeover)                        // another server answers
	Flushed     func(sh *shard)                         // sh's database was flushed
	Send        [2]func(sh *shard, requests []*request) // of what goes together under load, see batcher: two kinds
}

// shardChange is one change of a shard's mode.
type shardChange struct {
	Addr     string // of the shard in a cluster, else ""
	From, To linkMode
	At       time.Time
	Err      error // why it was lost; nil otherwise
}

// linkEvent is what has happened to a shard.
type linkEvent struct {
	Kind     linkEventKind
	Addr     string
	Duration time.Duration // of linkFailed
	Err      error
}

type linkEventKind int

const (
	linkFailed   linkEventKind = iota // commands were not answered, or with an error
	linkAway                          // the shard is degraded
	linkBack                          // it answers again
	linkFailover                      // another server answers for it than before
)

// takeover says that another server answers for a shard than before.
type takeover struct {
	Shard *shard
	Since int64                 // when the other was last known to be well, in link.now's time
	Had   func(key string) bool // reports whether the other had key
	Attrs []any                 // for the log: which other
}

// linkCounts is what a link has counted since it began.
type linkCounts struct {
	invalidations int64 // keys that have changed
	flushes       int64 // times that anything may have changed
	redisErrors   int64 // commands that failed
	outages       int64 // times that a shard became degraded
	failovers     int64 // times that another server answered than before
}

// linkCounters are the live form of linkCounts. Safe for concurrent use.
type linkCounters struct {
	invalidations, flushes, redisErrors, outages, failovers atomic.Int64
}

// tally returns what the link has counted so far.
func (l *link) tally() linkCounts {
	n := &l.counts
	return linkCounts{n.invalidations.Load(), n.flushes.Load(), n.redisErrors.Load(), n.outages.Load(), n.failovers.Load()}
}
