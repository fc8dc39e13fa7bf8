package aside

import (
	"sync"
	"sync/atomic"
)

// What a loader returns is looked at as its callers will get it, Decode(Encode(v)), at the first
// loads of a view: a field that the codec does not keep is easily missed, as nothing fails.
// Afterwards the check costs one atomic load for each load, and nothing for a hit.

const (
	roundTripLoads        = 8       // values that are looked at for a view, or until one differs
	roundTripViewsOfAType = 64      // see roundTrips
	roundTripBytes        = 1 << 20 // an encoding that is longer is not looked at
	maxRoundTripViews     = 1024    // of which a client remembers that they were checked
)

// roundTrips counts the values that are still to be looked at, for all views that are equal, and
// bounds what is said about them. Safe for concurrent use.
type roundTrips struct {
	left atomic.Int32
	last [codecTroubles]atomic.Int64 // when each was said last, in link.Now's time; 0: never
	of   *roundTrips                 // those of the codec's type, whose last counts, where views cannot be compared
}

// codecTrouble is what is said of a view once a minute at most.
type codecTrouble int

const (
	notEncoded codecTrouble = iota
	notDecoded
	notReadBack
	notCloned
	codecTroubles
)

var codecTroubleSays = [codecTroubles]string{
	notEncoded:  "a loaded value cannot be encoded, so it is not stored, and is loaded at every call",
	notDecoded:  "a stored value cannot be decoded, so it is loaded again",
	notReadBack: "a loaded value cannot be decoded from what it was encoded to, so it is loaded at every call",
	notCloned:   "a decoded value cannot be cloned, so it is decoded for each call",
}

// take reports whether one more value is to be looked at.
func (r *roundTrips) take() bool { return r.left.Load() > 0 && r.left.Add(-1) >= 0 }

// roundTripViews finds what equal views share.
type roundTripViews struct {
	others roundTrips // of those for which there is no room in all; looks at nothing

	mu  sync.Mutex
	all map[any]*roundTrips // guarded by mu; by a view's id or a codec's type
}

func (v *roundTripViews) of(key any, loads int32) *roundTrips {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.all[key]
	if r == nil {
		if len(v.all) == maxRoundTripViews {
			return &v.others
		}
		r = new(roundTrips)
		r.left.Store(loads)
		if v.all == nil {
			v.all = make(map[any]*roundTrips)
		}
		v.all[key] = r
	}
	return r
}
