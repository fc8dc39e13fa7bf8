package aside

import (
	"errors"
	"fmt"
	"math"
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
// Callers may change the values they get. A value in memory is decoded once, and each call gets a
// copy, which takes a fraction of the time; if a T cannot be copied soundly, each call decodes.
// [TypedClient.HitMode] tells which, and why; [WithClone] and [Shared] change it.
type TypedClient[T any] struct {
	c     *Client
	codec codec.Codec[T]
	wrong error   // why no call can succeed, if so
	id    any     // equal for views whose decoded values are interchangeable
	hits  hits[T] // how values in memory are handed out
	flat  bool    // T holds no pointer, slice or map
	nils  bool    // a T may be nil, which is no value: it is a pointer or an interface
	room  uintptr // what a decoded value takes there, if so

	calls *callOptions  // what its calls do by default; nil: the same as the client's
	grace time.Duration // of calls

	checks atomic.Pointer[roundTrips] // once something was loaded
}

// ViewOption changes a view.
type ViewOption interface{ changeView(o *viewOptions) }

func (set Option) changeView(o *viewOptions) {
	if set != nil {
		o.calls = append(o.calls, set)
	}
}

// viewOption is an option that is of no use for a call.
type viewOption func(*viewOptions)

func (set viewOption) changeView(o *viewOptions) { set(o) }

type viewOptions struct {
	shared   bool
	clone    any // a func(T) T
	maxLoads int // 0: no bound
	calls    []CallOption
	invalid  error
}

// Shared promises that nobody changes the values that the view returns: one decoded value then
// serves all calls, whatever T is. It is still what the codec has decoded, never the loader's own
// value. If a codec returns a small part of something large (Func may), memory holds on to the
// whole.
func Shared() ViewOption { return viewOption(func(o *viewOptions) { o.shared = true }) }

// WithClone has the view copy values with fn, which must return a T that shares nothing with v that
// anybody changes. fn does not change v, which other goroutines may be reading. If it panics, or
// returns a nil pointer or interface, the value is decoded for that call, and a warning is logged
// once a minute. Memory holds on to the whole of what the codec has decoded, as for Shared.
//
// It is for a T that a view cannot copy by itself (see [TypedClient.HitMode]). A method that does
// so is passed as WithClone(T.Clone); the view never calls it unasked, as many are shallow. Where
// [Shared] is set too, WithClone decides.
func WithClone[T any](fn func(v T) T) ViewOption {
	return viewOption(func(o *viewOptions) {
		if fn == nil {
			o.invalid = errNilClone
			return
		}
		o.clone = fn
	})
}

var errNilClone = fmt.Errorf("%w: the function given to WithClone is nil: leave the option out, or pass a function that copies a value", ErrInvalidArgument)

// WithMaxLoads bounds how many loads of the view run at once, whether Redis is there or not; n must
// be positive. More loads wait for a second, and then return ErrOverloaded. A load that a loader of
// the view asks for runs in that loader's place, one at a time. Each view counts for itself, so make
// it once. Options.MaxLoads bounds those of a client.
func WithMaxLoads(n int) ViewOption {
	return viewOption(func(o *viewOptions) {
		if n < 1 || n > math.MaxInt32 {
			o.invalid = fmt.Errorf("%w: WithMaxLoads is %d: must be from 1 to %d; leave the option out for no bound", ErrInvalidArgument, n, math.MaxInt32)
			return
		}
		o.maxLoads = n
	})
}

// Typed returns a view of client through a codec. If client or codec is nil, all calls of the view
// fail with [ErrInvalidArgument].
func Typed[T any](client *Client, c codec.Codec[T], opts ...ViewOption) *TypedClient[T] {
	var options viewOptions
	for _, set := range opts {
		if set != nil {
			set.changeView(&options)
		}
	}
	t := &TypedClient[T]{c: client, codec: c, wrong: options.invalid}
	kind := reflect.TypeFor[T]()
	t.flat, t.nils = shape.Flat(kind), kind.Kind() == reflect.Pointer || kind.Kind() == reflect.Interface
	var err error
	if t.hits, err = newHits(c, options.shared, options.clone); t.wrong == nil {
		t.wrong = err
	}
	if client != nil && t.wrong == nil {
		if t.calls, t.wrong = client.viewCalls(options); t.calls != nil {
			t.grace = t.calls.grace
		}
	}
	if c == nil {
		t.wrong = errNilCodec
	}
	if t.hits.mode != HitDecodes {
		t.room = uintptr(max(shape.Size(kind), 1))
	}
	// Views made anew for each request share what was decoded if their codecs are equal. One that
	// has functions in it cannot be compared: such a view is equal to itself only.
	if t.id = t.hits.identity(c); t.id == nil || !reflect.ValueOf(c).Comparable() {
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

// HitMode returns how the view serves a value that is in memory, and why so, in words. It depends
// on T, the codec and the options, not on the value; but a view that copies decodes a value for
// each call if it cannot be copied soundly, or would take more than a sixteenth of MemoryBytes.
//
// A T is copied if all that it can reach is known to be copied or never to change: numbers,
// strings, arrays, structs, slices, maps and pointers of such; time.Time, json.RawMessage, net.IP,
// url.URL, those of net/netip and of math/big. It is decoded if it has pointers and can reach an
// interface, a channel, a function, unsafe.Pointer or uintptr, a map with pointers as keys, or a
// type with pointers that decodes itself (Unmarshal…, Decode…, GobDecode).
//
// The codec must make all that a value refers to. JSON and Gob do, also within zstd; for others
// codec.Fresh says so. Protobuf messages are copied by their codec.
func (t *TypedClient[T]) HitMode() (mode HitMode, why string) { return t.hits.mode, t.hits.why }

// viewCalls returns what the calls of a view with these options do by default; nil: the same as
// those of the client.
func (c *Client) viewCalls(o viewOptions) (*callOptions, error) {
	if len(o.calls) == 0 && o.maxLoads == 0 {
		return nil, nil
	}
	calls, err := c.callOptions(nil, o.calls)
	if o.maxLoads > 0 {
		calls.places = newPlaces("WithMaxLoads", o.maxLoads)
	}
	return &calls, err
}

// encode is for what a loader has returned.
func (t *TypedClient[T]) encode(key string, value T) loaded {
	raw, err := t.tryEncode(value)
	if err == nil {
		t.checkRoundTrip(key, value, raw)
	} else {
		t.warn(notEncoded, key, err)
	}
	// The codec may have returned a part of the value itself, whose bytes may be a buffer's, or a short
	// piece of a long string.
	return loaded{raw: strings.Clone(raw), found: true, err: err}
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
		if bytes = t.own(kept, e.Raw()); !t.hits.asIs && int64(bytes) > t.c.opt.MemoryBytes/mostOfMemory {
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

// decodedIn returns what this view, or an equal one, has decoded in e and keeps there, or nil.
func (t *TypedClient[T]) decodedIn(e *near.Entry) *T {
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
