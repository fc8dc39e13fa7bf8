package aside

import (
	"context"
	"time"

	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/wire"
)

// What a call wants done with keys that memory could not answer, and what it has found of them.

// loadCaller is a user's loader in the form that serves one key and many, strings and types: a
// pointer, made anew for each call. load fills out, which is as long as keys and preset to "not
// found"; keys stay as they are. another returns one of the same loader for a load that may run
// beside the call's own, or after one whose loader goes on because it does not heed the end of its
// context.
type loadCaller interface {
	load(ctx context.Context, keys []string, out []loaded) error
	another() loadCaller
}

// unwrapped is the loadCaller that the user's loader was made into.
func unwrapped(call loadCaller) loadCaller {
	for {
		wraps, ok := call.(interface{ inner() loadCaller })
		if !ok {
			return call
		}
		call = wraps.inner()
	}
}

// plan is what a call wants done with keys that memory could not answer.
type plan struct {
	ttl      time.Duration
	defaults *callOptions // of the view; nil: the client's
	opts     []CallOption
	options  *callOptions // what opts come to; set by obtain. Others may have them, too
	call     loadCaller   // of the latest load, see another
	room     uintptr      // see near.Value.Room
	led      bool         // the call leads the flight that it waits for, or waited for last; of a single key
	waited   bool         // the call has waited for WithSoftTimeout once, or for a refresh that another runs
	demands  int64        // when it first has demanded a refresh, in link.Now's time; 0: it has not
	looks    int          // how often it has waited for another process's refresh
	lost     bool         // a refresh that it has waited for has lost its lock: the next one goes on without
	seen     *observation // of the call; nil: nobody is told

	undrilled bool // Redis is asked in a drill, too, and what a drill has loaded will not do
	forced    bool // its loader is to be called, also where another has failed a moment ago

	found map[string]*old // what was found of keys that memory does not have
}

// loaded is what a loader gave for one key.
type loaded struct {
	raw   string // of its own: memory may keep it
	found bool
	err   error // found, but it cannot be encoded
	known known
}

// known is the decoded form of what was loaded, where a view can tell it without decoding.
type known struct {
	decoded *near.Decoded // nil: it cannot
	bytes   int           // that it takes
}

// old is what a caller has found for a key that is to be loaded again. Immutable.
type old struct {
	raw    string
	absent bool
	meta   *near.Meta  // what its header says; nil: it has none
	entry  *near.Entry // where it is in memory; nil: it is not

	expired bool // a group has made it stale, whatever is left of its ttl
}

// graceOr is the grace that its header states, else that of the reader: with so much left it is stale.
// o may be nil.
func (o *old) graceOr(readers time.Duration) time.Duration {
	switch {
	case o == nil:
		return readers
	case o.expired:
		return LongestTTL
	}
	return o.meta.GraceOr(readers)
}

// newer reports whether what was found is of a newer version than that of a call.
func (o *old) newer(version int64) bool { return o != nil && isNewer(o.meta, version) }

func isNewer(meta *near.Meta, version int64) bool {
	return version > 0 && meta != nil && meta.Version > version
}

// stored is what its key was found to hold.
func (o *old) stored() string {
	return stored(&near.Value{Raw: o.raw, Absent: o.absent, Meta: o.meta})
}

// stored is what Redis and the disk have where memory has v.
func stored(v *near.Value) string {
	switch {
	case v.Meta != nil:
		return wire.PackHeader(v.Meta.Header, v.Raw)
	case v.Absent:
		return wire.Absent
	default:
		return wire.Pack(v.Raw)
	}
}
