package aside

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/shape"
)

// What a view does with its codec: it encodes what was loaded or set, and decodes what was found, once
// where memory keeps what it has decoded.

// encode is for what a loader has returned.
func (t *TypedClient[T]) encode(key string, value T) loaded {
	raw, err := t.tryEncode(value)
	if err == nil {
		t.checkRoundTrip(key, value, raw)
	} else {
		t.warn(notEncoded, key, err)
	}
	if !t.anew {
		// The codec may have returned a part of the value itself, whose bytes may be a buffer's, or a short
		// piece of a long string.
		raw = strings.Clone(raw)
	}
	out := loaded{raw: raw, found: true, err: err}
	if err == nil && t.trips != nil && t.trips.RoundTrips(value, raw) {
		out.known = t.keptOf(value, out.raw)
	}
	return out
}

// anew is implemented by codecs of this module whose Encode returns memory that nobody else has, and no
// more of it than it takes.
type anew interface{ EncodesAnew() }

// readsBack reports whether what was loaded can be decoded for certain, by whoever reads it.
func (t *TypedClient[T]) readsBack(l *loaded) bool {
	return t.anew && t.version == 0 && l.known.decoded != nil
}

// keptOf is what is kept decoded of a value that comes back from the codec as it is: a copy, as the
// value stays the loader's.
func (t *TypedClient[T]) keptOf(value T, raw string) known {
	kept := t.hits.kept(&value, raw)
	if kept == nil {
		return known{}
	}
	bytes := t.own(kept, raw)
	if t.tooMuch(bytes) {
		return known{}
	}
	return known{&near.Decoded{By: t.id, Value: kept}, bytes}
}

// tooMuch reports whether a decoded value takes more memory than it may beside its bytes.
func (t *TypedClient[T]) tooMuch(bytes int) bool {
	return !t.hits.asIs && int64(bytes) > t.c.opt.MemoryBytes/mostOfMemory
}

// copied is what others would get for a value that was loaded for one caller alone: the value
// itself only where there is no such thing.
func (t *TypedClient[T]) copied(value T) T {
	raw, err := t.tryEncode(value)
	if err != nil {
		return value
	}
	back, err := t.tryDecode(raw)
	if err != nil {
		return value
	}
	return back
}

// decode returns the value of raw, which e holds where it is in memory: a copy of what is decoded
// there already, if the view can copy it. An error is counted; the caller logs it.
func (t *TypedClient[T]) decode(key, raw string, e *near.Entry) (T, error) {
	if t.wrong != nil {
		var none T
		return none, t.wrong
	}
	if t.version > 0 && e != nil && t.versionOf(e.Meta()) != itsVersion {
		return t.ownOf(key, e)
	}
	if t.hits.mode == HitDecodes || e == nil {
		return t.decodeAnew(key, raw)
	}
	kept, err := t.keptOrDecoded(key, raw, e)
	if err != nil {
		t.undecodable(key, err) // not with the entry locked: an Observer may ask for this very key
		var none T
		return none, err
	}
	if kept == nil {
		return t.decodeAnew(key, raw)
	}
	value, err := t.hits.give(kept)
	if err == nil && t.isNil(&value) {
		err = errNull
	}
	if err != nil {
		t.warn(notCloned, key, err)
		return t.decodeAnew(key, raw)
	}
	return value, nil
}

// keptOrDecoded returns what is decoded in e, after it has decoded raw if need be. nil: it cannot
// be handed out.
func (t *TypedClient[T]) keptOrDecoded(key, raw string, e *near.Entry) (*T, error) {
	if kept, ok := e.DecodedBy(t.id).(*T); ok {
		return kept, nil // it may be nil
	}
	if !t.hits.asIs && e.Taken(t.id) {
		return nil, nil // two views that take turns would decode more often than one that has the place
	}
	e.LockDecoding() // two hundred waiters of one key decode it once
	defer e.UnlockDecoding()
	if kept, ok := e.DecodedBy(t.id).(*T); ok {
		return kept, nil
	}
	value, err := t.read(raw)
	if err != nil {
		return nil, err
	}
	kept, bytes := t.hits.kept(&value, e.Raw()), 0
	if kept != nil {
		if bytes = t.own(kept, e.Raw()); t.tooMuch(bytes) {
			kept, bytes = nil, 0
		}
	}
	t.c.near.KeepDecoded(key, e, &near.Decoded{By: t.id, Value: kept}, bytes) // also nil, so that nobody looks at it again
	return kept, nil
}

// own makes value, which was decoded from raw, fit to be kept, and returns how many bytes it takes.
// It is called once for each value that is kept, not for a hit.
func (t *TypedClient[T]) own(value *T, raw string) int {
	v := reflect.ValueOf(value).Elem()
	if t.flat {
		shape.OwnStrings(v, raw)
	}
	return shape.Rounded(int(t.room)) + shape.Memory(v, raw)
}

func (t *TypedClient[T]) decodeAnew(key, raw string) (T, error) {
	value, err := t.read(raw)
	if err != nil {
		t.undecodable(key, err)
	}
	return value, err
}

// read decodes raw; what is no value is an error.
func (t *TypedClient[T]) read(raw string) (T, error) {
	value, err := t.tryDecode(raw)
	if err == nil && (t.isNil(&value) || isNull(raw) && t.isForeignNull(value, raw)) {
		err = errNull
	}
	return value, err
}

func (t *TypedClient[T]) undecodable(key string, err error) {
	t.c.counted.decodeErrors.Add(1)
	t.c.observe(context.Background(), Event{Kind: EventDecodeFailed, View: t.viewName(), Key: key, Keys: 1, Err: err})
}

var errNull = errors.New("it is null, which is no value")

// isNil reports whether a value is none: a nil pointer or interface. Nil slices and maps are empty
// ones.
func (t *TypedClient[T]) isNil(value *T) bool { return t.nils && reflect.ValueOf(value).Elem().IsNil() }

// isNull reports whether raw is what JSON, or MessagePack, writes for nothing.
func isNull(raw string) bool {
	return raw == "\xc0" || len(raw) < 16 && strings.TrimSpace(raw) == "null"
}

// isForeignNull reports whether the null that value was decoded from was not written by this codec.
// Other programs remember absences so, and encoding/json takes it for any value that is zero. Where
// the codec writes the same for value it is one: a nil slice, the text "null", a type with methods
// of its own.
func (t *TypedClient[T]) isForeignNull(value T, raw string) (foreign bool) {
	defer func() { // a codec of the user's own
		if recover() != nil {
			foreign = true
		}
	}()
	own, err := t.codec.Encode(value)
	return err != nil || strings.TrimSpace(own) != strings.TrimSpace(raw)
}

func (t *TypedClient[T]) tryDecode(raw string) (value T, err error) {
	defer func() { // a codec of the user's own
		if p := recover(); p != nil {
			err = fmt.Errorf("the codec panicked: %w", newPanicError(p))
		}
	}()
	value, err = t.codec.Decode(raw)
	examine(err)
	return value, err
}

func (t *TypedClient[T]) tryEncode(value T) (raw string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the codec panicked: %w", newPanicError(p))
		}
	}()
	raw, err = t.codec.Encode(value)
	examine(err)
	return raw, err
}

// decodedIn returns what this view, or an equal one, has decoded in e and keeps there, or nil.
func (t *TypedClient[T]) decodedIn(e *near.Entry) *T {
	value, _ := e.DecodedBy(t.id).(*T)
	return value
}

// Of what version a value is, to a view.
const (
	itsVersion = iota
	olderVersion
	newerVersion
)

// versionOf says of what version a value with such a header is.
func (t *TypedClient[T]) versionOf(meta *near.Meta) int {
	if t.version == 0 {
		return itsVersion
	}
	found := int64(0)
	if meta != nil {
		found = meta.Version
	}
	switch {
	case found < t.version:
		return olderVersion
	case found > t.version:
		return newerVersion
	}
	return itsVersion
}

// errOtherVersion is why a value is not decoded. It is a miss, and no trouble of a codec.
var errOtherVersion = errors.New("aside: the stored value is of another version of the type")

// ownVersion is what a view has loaded beside a newer version, and keeps with the entry of that.
// Immutable.
type ownVersion struct {
	raw   string
	began int64 // its load, in link.Now's time
	ends  int64 // likewise
}

// Lasting keeps it where another view decodes the newer value.
func (*ownVersion) Lasting() {}

// ownOf returns what the view has loaded beside e, which is of another version; else
// errOtherVersion.
func (t *TypedClient[T]) ownOf(key string, e *near.Entry) (none T, _ error) {
	if own, ok := e.DecodedBy(t.id).(*ownVersion); ok && t.c.link.Now() < own.ends {
		return t.decodeAnew(key, own.raw)
	}
	return none, errOtherVersion
}

// warn says what is wrong with a view's codec.
func (t *TypedClient[T]) warn(trouble codecTrouble, key string, err error) {
	if err == errOtherVersion { //nolint:errorlint // ours, never wrapped
		return
	}
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

// roundTrips returns what t shares with its equals. A view whose codec cannot be compared is equal
// to itself only. Such views may be made anew for each request, so that only the first ones of a
// codec's type look at values.
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

// checkRoundTrip warns if raw, which is what value was encoded to, does not decode to it. It is
// called by the loader's goroutine, right after Encode has read the value: later somebody may
// change it.
func (t *TypedClient[T]) checkRoundTrip(key string, value T, raw string) {
	if r := t.roundTrips(); len(raw) <= roundTripBytes && r.take() {
		t.compareRoundTrip(r, key, value, raw)
	}
}

func (t *TypedClient[T]) compareRoundTrip(r *roundTrips, key string, value T, raw string) {
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
