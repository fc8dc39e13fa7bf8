package aside

import (
	"sync/atomic"

	"github.com/redaside/aside/internal/events"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/stamp"
)

// Client is a cache-aside client: it answers from this process's memory, else from Redis, else from a loader that at most
// one process at a time runs for a key. It speaks strings; [Typed] puts a codec in front. Safe for concurrent use.
type Client struct {
	link *link.Link // the floor that asks Redis

	opt         Options // complete; immutable
	tokenPrefix string  // immutable
	lockTTL     string  // in ms, as Redis takes it; immutable
	stamps      *stamp.Stamper

	lifecycle // from New to Close, and every goroutine of ours
	reports   // the Observer, the log, and what is counted
	near      *near.Memory
	early     early   // whether most of what is read is invalidated at once
	flights   flights // who shares an answer
	loads     loads   // which loaders run
	store     outbox  // what outages leave behind
	doubts    doubts  // what servers may lack

	tokens     atomic.Uint64           // acquisitions so far
	modes      *events.Bus[ModeChange] // immutable
	roundTrips roundTripViews
}
