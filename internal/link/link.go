package link

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// Link asks Redis, as the package says. Its fields stand in groups; each says who may touch it.
// Safe for concurrent use.
type Link struct {
	// Immutable.
	opt       Options
	up        Hooks
	began     time.Time // for Now
	dialLimit time.Duration
	closing   context.Context // ends when the client closes

	// The topology. topoMu is held while topo is replaced and probers are started; whoever reads
	// topo takes what is there.
	topo    atomic.Pointer[topology] // nil until Redis has been reached
	topoMu  sync.Mutex
	moved   chan struct{} // asks follow to look at once; buffered, never blocks
	noShard *Shard        // stands in where no shard is known; degraded while there is such a place; immutable

	// The connections.
	conns      sync.Map              // net.Conns that are open
	roads      roads                 // what passes on them
	lateClient lateClient            // for the user's own commands
	unreached  atomic.Pointer[error] // why there was no connection yet, at the last attempt

	// Probes.
	probeKeys atomic.Uint64 // made so far
	ears      sync.Map      // the shards whose probes have a key, by that key

	contexts sync.Pool // *commandContext that are used again
	counts   counters  // has its own atomics
}

// Options is what a link goes by. Redis and the durations are complete.
type Options struct {
	Redis          rueidis.ClientOption
	ClientBuilder  func(rueidis.ClientOption) (rueidis.Client, error)
	ConnectTimeout time.Duration
	RedisTimeout   time.Duration
	StaleLease     time.Duration // how long what was read may be used without a proof that nothing was missed
	RestAfter      time.Duration // how long nobody must have used a shard for its prober to rest, see rest.go
	DegradedTTL    time.Duration // and while Redis is away; -1: without a bound
	FlushKeyTTL    time.Duration // of the keys by which a flush is noticed
	Memory         bool          // what is read is kept, so that pushes must be proven all the time
	ID             string        // of the client, in the names of its probe keys
	Logger         *slog.Logger
	Observed       bool // somebody is told of EventAnswered and EventProbed
}

// New makes a link that has no connection yet: Connect makes one. All that it does ends with
// closing.
func New(closing context.Context, opt Options, up Hooks) *Link {
	l := &Link{opt: opt, up: up, began: time.Now(), closing: closing, moved: make(chan struct{}, 1)}
	l.lateClient.l = l
	l.dialLimit = l.baseOption().Dialer.Timeout
	l.noShard = l.newShard("", nil, false)
	return l
}

// Now is the time since New, in nanoseconds of the monotonic clock; never 0.
func (l *Link) Now() int64 { return int64(time.Since(l.began)) + 1 }

const never = math.MaxInt64 // a time that is not reached

// Freeze runs fn while no topology is replaced. Where fn ends closing none is replaced afterwards.
func (l *Link) Freeze(fn func()) {
	l.topoMu.Lock()
	defer l.topoMu.Unlock()
	fn()
}

// Close closes the connections, once closing has ended and nobody asks any more.
func (l *Link) Close() {
	l.lateClient.end()
	if t := l.topo.Load(); t != nil {
		t.session.close(t.redis)
		for _, sh := range t.shards { // one that rueidis has given up is ours to close; twice is fine
			t.session.close(sh.client)
		}
	}
}

// Began is when the link began to count Now.
func (l *Link) Began() time.Time { return l.began }
