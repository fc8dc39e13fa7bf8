package aside

import (
	"sync/atomic"

	"github.com/redaside/aside/internal/drill"
	"github.com/redaside/aside/internal/events"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/stamp"
)

// Client is a cache-aside client: it answers from this process's memory, else from Redis, else from
// a loader that at most one process at a time runs for a key. It speaks strings; [Typed] puts a
// codec in front. Safe for concurrent use.
type Client struct {
	// Immutable once New has returned; what they point to is safe for concurrent use.
	opt         Options      // complete
	tokenPrefix string       // of its markers
	lockTTL     string       // in ms, as Redis takes it
	stampTTL    string       // likewise
	defaults    *callOptions // what its calls do without options
	link        *link.Link
	near        *near.Memory
	stamps      *stamp.Stamper
	modes       *events.Bus[ModeChange]

	// Each is safe for concurrent use, and says at its type who may touch what.
	lifecycle                 // every goroutine of ours, from New to Close
	reports                   // the Observer, the log, and what is counted
	early      early          // whether most of what is read is invalidated at once
	flights    flights        // who shares an answer
	older      flights        // who shares a load beside a newer version, see version.go
	loads      loads          // which loaders run
	refreshes  refreshes      // which stale keys are refreshed
	store      outbox         // what Redis has not been told
	doubts     doubts         // what servers may lack
	drill      drill.Slot     // the drill, if one runs
	roundTrips roundTripViews // which codecs have been looked at

	tokens atomic.Uint64 // markers made so far
}

// reader is a Client that answers calls for values: from memory, and behind it.
type reader struct{ *Client }
