package link

import (
	"sync/atomic"
	"time"
)

// Hooks are the functions by which a link tells, and asks, those above it. None may be nil. They
// run where things happen, so they must not block, but for those that run the user's code.
type Hooks struct {
	// InBackground runs fn in a goroutine that Close waits for; false: the client closes, and fn
	// does not run.
	InBackground func(fn func()) bool

	// Contain runs code of the user's, called what, and returns what kept it from returning.
	Contain func(what string, fn func()) error

	// Told is Contain for code that is told something: it logs what kept it from returning.
	Told func(what string, fn func())

	// Examine returns an error of the user's, or another in its place if its methods panic.
	Examine func(err error) error

	// Warn logs what may happen often.
	Warn func(msg string, args ...any)

	// Invalidated tells that key has changed. It is called by rueidis's reader, for which all
	// answers of a connection wait.
	Invalidated func(key string)

	// Lost tells that anything may have changed: a connection is gone, or all was flushed. What was
	// read before has been invalidated already.
	Lost func()

	// Woken tells that nobody need wait for a push any more.
	Woken func()

	// ModeChanged tells of a change of a mode. It is called with a lock held, so that changes come
	// in order: it must do no more than queue it.
	ModeChanged func(c ModeChange)

	// Observed tells what has happened, for an Observer, which may take its time.
	Observed func(e Event)

	// Outage tells that an outage begins. What it returns tells, for lines of the log, how it goes.
	Outage func() (attrs func() []any)

	// Unreplayed reports whether sh, which answers again, may have missed anything. Then it is
	// Recovering until CaughtUp is called.
	Unreplayed func(sh *Shard) bool

	// Started tells that sh is used from now on, until sh.Left.
	Started func(sh *Shard)

	// TookOver tells that another server answers for a shard.
	TookOver func(t Takeover)

	// Flushed tells that the database of sh was flushed. What it returns is in the Flush.
	Flushed func(sh *Shard) (mark int64)

	// Senders send the requests that go together, of each kind, see Shard.Batcher.
	Senders [4]Sender
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
	Addr     string        // of the shard in a cluster, else ""
	Duration time.Duration // of EventFailed, EventAnswered and EventProbed
	Err      error
	Script   string // of EventFailed and EventAnswered: the name of the first that was run; "" for commands of the user's
	Keys     int    // of EventFailed and EventAnswered
	From, To Mode   // of EventMode
}

// EventKind is what kind of thing has happened.
type EventKind int

// The kinds of Event.
const (
	EventFailed   EventKind = iota // commands were not answered, or with an error
	EventAway                      // the shard is degraded
	EventBack                      // it answers again
	EventFailover                  // another server answers for it than before
	EventMode                      // its mode has changed
	EventAnswered                  // commands were answered, without an error; only with Options.Observed
	EventProbed                    // a probe was answered, or failed; only with Options.Observed
)

// Takeover tells that another server answers for a shard than before.
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

// counters are the live form of Counts. Safe for concurrent use.
type counters struct {
	invalidations, flushes, redisErrors, outages, failovers atomic.Int64
}

// Counts returns what the link has counted so far.
func (l *Link) Counts() Counts {
	n := &l.counts
	return Counts{n.invalidations.Load(), n.flushes.Load(), n.redisErrors.Load(), n.outages.Load(), n.failovers.Load()}
}
