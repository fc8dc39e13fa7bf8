package aside

import (
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/internal/shape"
)

// What a loader returns is looked at as its callers will get it, Decode(Encode(v)), at the first loads of a view: a field that the codec does
// not keep is easily missed, as nothing fails. Afterwards the check costs one atomic load for each load, and nothing for a hit.

const (
	roundTripLoads        = 8       // values that are looked at for a view, or until one differs
	roundTripViewsOfAType = 64      // see roundTrips
	roundTripBytes        = 1 << 20 // an encoding that is longer is not looked at
	maxRoundTripViews     = 1024    // of which a client remembers that they were checked
)

// roundTrips counts the values that are still to be looked at, for all views that are equal, and bounds what is said about them. Safe for concurrent use.
type roundTrips struct {
	left atomic.Int32
	last [codecTroubles]atomic.Int64 // when each was said last, in Client.now's time; 0: never
	of   *roundTrips                 // those of the codec's type, whose last counts, where views cannot be compared
}

// codecTrouble is what is said of a view once a minute at most.
type codecTrouble int

const (
	notEncoded codecTrouble = iota
	notDecoded
	notReadBack
	codecTroubles
)

var codecTroubleSays = [codecTroubles]string{
	notEncoded:  "a loaded value cannot be encoded, so it is not stored, and is loaded at every call",
	notDecoded:  "a stored value cannot be decoded, so it is loaded again",
	notReadBack: "a loaded value cannot be decoded from what it was encoded to, so it is loaded at every call",
}

// warn says what is wrong with a view's codec.
func (t *TypedClient[T]) warn(trouble codecTrouble, key string, err error) {
	r := t.roundTrips()
	if r.of != nil {
		r = r.of
	}
	now, last := t.c.link.Now(), r.last[trouble].Load()
	if last != 0 && now-last < int64(time.Minute) || !r.last[trouble].CompareAndSwap(last, now) {
		return
	}
	t.c.opt.Logger.Warn("aside: "+codecTroubleSays[trouble], "key", quoted(key), "view", t.name(), "type", reflect.TypeFor[T]().String(), "error", err)
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

// roundTrips returns what t shares with its equals. A view whose codec cannot be compared is equal to itself only. Such views may be made anew
// for each request, so that only the first ones of a codec's type look at values.
func (t *TypedClient[T]) roundTrips() *roundTrips {
	if r := t.checks.Load(); r != nil {
		return r
	}
	var r *roundTrips
	if t.id != any(t) {
		r = t.c.roundTrips.of(t.id, roundTripLoads)
	} else if r = (&roundTrips{of: t.c.roundTrips.of(reflect.TypeOf(t.codec), roundTripViewsOfAType)}); r.of.take() {
		r.left.Store(roundTripLoads)
	}
	if !t.checks.CompareAndSwap(nil, r) {
		r = t.checks.Load()
	}
	return r
}

// checkRoundTrip warns if raw, which is what value was encoded to, does not decode to it. It is called by the loader's goroutine, right after
// Encode has read the value: later somebody may change it.
func (t *TypedClient[T]) checkRoundTrip(key string, value T, raw string) {
	r := t.roundTrips()
	if len(raw) > roundTripBytes || !r.take() {
		return
	}
	back, err := t.tryDecode(raw)
	if err != nil {
		return // who gets the value says so
	}
	found := shape.Differences(reflect.ValueOf(&value).Elem(), reflect.ValueOf(&back).Elem())
	if len(found) == 0 {
		return
	}
	r.left.Store(0)
	args := []any{keyAttr(key), "view", t.name(), "type", reflect.TypeFor[T]().String(), "field", found[0].Field, "was", found[0].Was, "now", found[0].Now}
	if len(found) > 1 {
		also := make([]string, 0, len(found)-1)
		for _, d := range found[1:] {
			also = append(also, d.Field)
		}
		args = append(args, "also", also)
	}
	t.c.opt.Logger.Warn("aside: a value changes on its way through the codec, and all callers get what comes back", args...)
}

// name is that of the view in logs: its codec's.
func (t *TypedClient[T]) name() string {
	if named, ok := t.codec.(fmt.Stringer); ok {
		return named.String()
	}
	return fmt.Sprintf("%T", t.codec)
}
