package aside

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/shape"
)

// TypedClient is a view of a Client through a codec: the same keys, the same rules, values of type
// T. Create as many as you like, there is nothing to close. Safe for concurrent use.
//
// All callers get equal values, whether they loaded them, waited for them or found them: what the
// codec decodes from what it has encoded. So the value that a loader returned stays its own, and a
// field that the codec does not keep (one with `json:"-"`) is missing from the first answer on. At
// the first loads of a view the two are compared, and a difference is logged with view, type and
// field. If a value cannot be encoded, or its encoding cannot be decoded, the caller that loaded it
// gets it as the loader returned it; callers that waited for it get an error, or load for
// themselves.
//
// A nil pointer or interface is no value: a loader that returns one with a nil error has said
// ErrNotFound. The null of JSON or MessagePack is no value either, because other programs leave it
// for what is not there; it is loaded and replaced, like a value that does not decode, unless the
// codec itself writes a T so (a nil slice or map).
//
// Callers may change the values they get. If T holds no pointer, slice or map (strings and
// time.Time are fine), one decoded copy is kept in memory and copied for each caller; for other
// types each call decodes, unless the view was made with [Shared].
type TypedClient[T any] struct {
	c     *Client
	codec codec.Codec[T]
	id    any     // equal for views whose decoded values are interchangeable
	keep  bool    // decoded values stay in memory
	text  bool    // T is a string
	flat  bool    // copies of a T share nothing that can be changed
	nils  bool    // a T may be nil, which is no value: it is a pointer or an interface
	room  uintptr // what a decoded value takes there, if so

	checks atomic.Pointer[roundTrips] // once something was loaded
}

// ViewOption changes a view.
type ViewOption func(*viewOptions)

type viewOptions struct{ shared bool }

// Shared promises that nobody changes the values that the view returns: one decoded value then
// serves all calls, whatever T is. It is still what the codec has decoded, never the loader's own
// value. If a codec returns a small part of something large (Func may), memory holds on to the
// whole.
func Shared() ViewOption { return func(o *viewOptions) { o.shared = true } }

// Typed returns a view of client through a codec. If client or codec is nil, all calls of the view
// fail with [ErrInvalidArgument].
func Typed[T any](client *Client, c codec.Codec[T], opts ...ViewOption) *TypedClient[T] {
	var options viewOptions
	for _, set := range opts {
		if set != nil {
			set(&options)
		}
	}
	t := &TypedClient[T]{c: client, codec: c}
	kind := reflect.TypeFor[T]()
	t.text = kind.Kind() == reflect.String
	t.flat, t.nils = shape.Flat(kind), kind.Kind() == reflect.Pointer || kind.Kind() == reflect.Interface
	if t.keep = options.shared || t.flat; t.keep {
		t.room = uintptr(max(shape.Size(kind), 1))
	}
	// Views made anew for each request share what was decoded if their codecs are equal. One that
	// has functions in it cannot be compared: such a view is equal to itself only.
	if t.id = c; c == nil || !reflect.ValueOf(c).Comparable() {
		t.id = t
	}
	return t
}

// NewTypedClient returns a view of client through two functions. If one is nil, the calls of the
// view say so.
func NewTypedClient[T any](client *Client, serialize func(T) (string, error), deserialize func(string) (T, error), opts ...ViewOption) *TypedClient[T] {
	return Typed(client, codec.Func(serialize, deserialize), opts...)
}

// Client returns the client that t is a view of.
func (t *TypedClient[T]) Client() *Client { return t.c }

var errNilClient = fmt.Errorf("%w: the view's client is nil: pass the client that aside.New returned, and look at its error first", ErrInvalidArgument)

var errNilCodec = fmt.Errorf("%w: the view's codec is nil: make it with aside.Typed(client, codec.JSON[T]())", ErrInvalidArgument)

// encode is for what a loader has returned.
func (t *TypedClient[T]) encode(key string, value T) loaded {
	raw, err := t.tryEncode(value)
	if err == nil {
		t.checkRoundTrip(key, value, raw)
	} else {
		t.warn(notEncoded, key, err)
	}
	if t.text {
		raw = strings.Clone(raw) // the codec may have returned the value itself, whose bytes may be a buffer's
	}
	return loaded{raw: raw, found: true, err: err}
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

// decode reads raw, which e holds where it is in memory, and keeps the result there if that is
// safe. An error is counted; the caller logs it.
func (t *TypedClient[T]) decode(key, raw string, e *near.Entry) (T, error) {
	if t.codec == nil {
		var none T
		return none, errNilCodec
	}
	if !t.keep || e == nil {
		return t.decodeAnew(key, raw)
	}
	if value := t.decodedIn(e); value != nil {
		return *value, nil
	}
	value, err := t.decodeOnce(key, raw, e)
	if err != nil {
		t.undecodable(key, err) // not with the entry locked: an Observer may ask for this very key
	}
	return value, err
}

// decodeOnce decodes raw and keeps the result in e.
func (t *TypedClient[T]) decodeOnce(key, raw string, e *near.Entry) (T, error) {
	e.LockDecoding() // two hundred waiters of one key decode it once
	defer e.UnlockDecoding()
	if value := t.decodedIn(e); value != nil {
		return *value, nil
	}
	value, err := t.read(raw)
	if err == nil {
		copied := value
		t.c.near.KeepDecoded(key, e, &near.Decoded{By: t.id, Value: &copied}, t.own(&copied, e.Raw()))
	}
	return value, err
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
	t.c.observe(Event{Kind: EventDecodeFailed, Key: key, Err: err})
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

// decodedIn returns what is decoded in e already, if this view may use it.
func (t *TypedClient[T]) decodedIn(e *near.Entry) *T {
	if !t.keep {
		return nil
	}
	value, _ := e.DecodedBy(t.id).(*T)
	return value
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
