package aside

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/shape"
	"github.com/redaside/aside/internal/wire"
)

// TypedClient is a view of a Client through a codec: the same keys, the same rules, values of type T. It costs nothing to
// make, owns nothing and needs no Close; make as many as there are types. Safe for concurrent use.
//
// All callers get equal values, whether they loaded them, waited for who did, or found them: what the codec makes of what it has written. So
// what a loader returned stays its own, and a field that the codec does not keep (one with `json:"-"`) is missing from the first answer already. At the first loads
// of a view the two are compared, and a difference is logged with view, type and field.
// Only a value that cannot be encoded, or whose encoding cannot be read back, is returned to who loaded it as the loader gave it; who waited for it
// gets an error, or loads for itself.
//
// A nil pointer or interface is no value: a loader that returns one with a nil error has said ErrNotFound. Neither is the null of JSON or MessagePack under a key, as other
// programs leave for what is not there, unless the codec writes a T so (a nil slice or map): it is loaded and replaced, as what does not decode is.
//
// What it returns is the caller's to change. Where T holds no pointer, slice or map (strings and time.Time are fine),
// one decoded copy is kept in memory and copied out; elsewhere each call decodes, unless the view was made [Shared].
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

// Shared promises that nobody changes what the view returns: one decoded value then serves all calls, whatever T is. It is still what the codec has
// read, never the loader's own value. A codec that returns a small part of something large (Func may) has memory hold on to the whole of it.
func Shared() ViewOption { return func(o *viewOptions) { o.shared = true } }

// Typed returns a view of client through a codec. A nil client or codec is reported by the view's calls, which all fail with
// [ErrInvalidArgument].
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
	// Views made anew for each request share what was decoded if their codecs are equal. One that has functions in it
	// cannot be compared: such a view is equal to itself only.
	if t.id = c; c == nil || !reflect.ValueOf(c).Comparable() {
		t.id = t
	}
	return t
}

// NewTypedClient returns a view of client through two functions. A nil function is reported by the view's calls.
func NewTypedClient[T any](client *Client, serialize func(T) (string, error), deserialize func(string) (T, error), opts ...ViewOption) *TypedClient[T] {
	return Typed(client, codec.Func(serialize, deserialize), opts...)
}

// Client returns the client that t is a view of.
func (t *TypedClient[T]) Client() *Client { return t.c }

var errNilClient = fmt.Errorf("%w: the view's client is nil: pass the client that aside.New returned, and look at its error first", ErrInvalidArgument)

var errNilCodec = fmt.Errorf("%w: the view's codec is nil: make it with aside.Typed(client, codec.JSON[T]())", ErrInvalidArgument)

// Get is [Client.Get] over T.
func (t *TypedClient[T]) Get(ctx context.Context, ttl time.Duration, key string, load Loader[T], opts ...CallOption) (T, error) {
	if t.c == nil {
		var none T
		return none, errNilClient
	}
	if e := t.c.near.Lookup(key); e != nil && ttl >= leastTTL && load != nil {
		if e.Absent() {
			t.c.hit(key)
			var none T
			return none, ErrNotFound
		}
		if value := t.decodedIn(e); value != nil {
			t.c.hit(key)
			return *value, nil
		}
		value, err := t.decode(key, e.Raw(), e)
		if err == nil {
			t.c.hit(key)
			return value, nil
		}
		if t.codec != nil {
			t.warn(notDecoded, key, err)
		}
	}
	return t.get(ctx, ttl, key, load, opts)
}

// get is Get behind memory.
func (t *TypedClient[T]) get(ctx context.Context, ttl time.Duration, key string, load Loader[T], opts []CallOption) (none T, _ error) {
	switch {
	case load == nil:
		return none, errNilLoader
	case t.codec == nil:
		return none, errNilCodec
	}
	bad := ""
	for range undecodableRounds {
		call := &typedLoad[T]{plan: plan{ttl: ttl, opts: opts, room: t.room}, t: t, user: load}
		call.plan.call = call
		out, err := t.c.obtain(ctx, key, bad, &call.plan)
		switch {
		case err != nil && !(out.own(call) && isEncodeError(err)):
			return none, err
		case out.absent:
			return none, out.notFound()
		case err != nil:
			return *call.value, nil //nolint:nilerr // it cannot be encoded; this caller has it all the same
		}
		value, err := t.decode(key, out.raw, out.entry)
		if err == nil {
			return value, nil
		}
		if out.own(call) {
			t.warn(notReadBack, key, err)
			return *call.value, nil // nobody would read the next one either
		}
		t.warn(notDecoded, key, err)
		bad = fingerprint(wire.Pack(out.raw))
	}
	// Whoever fills this key writes what we cannot read: another type shares it.
	return alone(ctx, t.c, opts, func(ctx context.Context) (T, error) {
		value, err := load(ctx, key)
		switch {
		case err != nil:
			return none, err
		case t.isNil(&value):
			return none, ErrNotFound
		}
		return t.copied(value), nil
	})
}

// alone calls a loader for one call only, with the deadline and the shelter from panics that a shared load has.
func alone[R any](ctx context.Context, c *Client, opts []CallOption, load func(context.Context) (R, error)) (value R, err error) {
	options, err := c.callOptions(opts)
	if err != nil {
		return value, err
	}
	who := enterCall(ctx)
	defer who.leave()
	ctx, cancel := context.WithTimeout(who, options.loadTimeout)
	defer cancel()
	if failed := c.contained("the loader", func() {
		value, err = load(ctx)
		examine(err)
	}); failed != nil {
		return value, failed
	}
	return value, err
}

// typedLoad is a loader of T as loadCaller.
type typedLoad[T any] struct {
	plan
	t     *TypedClient[T]
	user  Loader[T]
	value *T // what the loader returned, to be read once the load has an outcome
}

func (l *typedLoad[T]) load(ctx context.Context, keys []string, out []loaded) error {
	value, err := l.user(ctx, keys[0])
	if err != nil {
		return err
	}
	if l.t.isNil(&value) {
		return ErrNotFound
	}
	out[0] = l.t.encode(keys[0], value)
	l.value = &value
	return nil
}

// undecodableRounds is how often a call tries to replace what it cannot read before it leaves the cache alone.
const undecodableRounds = 3

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

// copied is what others would get for a value that was loaded for one caller alone: the value itself only where there is no such thing.
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

// decode reads raw, which e holds where it is in memory, and keeps the result there if that is safe. An error is counted; the caller logs it.
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

// own makes value, which was decoded from raw, fit to be kept, and returns how many bytes it takes. It is called once for each value that is kept, not for a hit.
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

// isNil reports whether a value is none: a nil pointer or interface. Nil slices and maps are empty ones.
func (t *TypedClient[T]) isNil(value *T) bool { return t.nils && reflect.ValueOf(value).Elem().IsNil() }

// isNull reports whether raw is what JSON, or MessagePack, writes for nothing.
func isNull(raw string) bool {
	return raw == "\xc0" || len(raw) < 16 && strings.TrimSpace(raw) == "null"
}

// isForeignNull reports whether the null that value was decoded from was not written by this codec. Other programs remember absences so, and encoding/json
// takes it for any value that is zero. Where the codec writes the same for value it is one: a nil slice, the text "null", a type with methods of its own.
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

// GetMulti is [Client.GetMulti] over T.
func (t *TypedClient[T]) GetMulti(ctx context.Context, ttl time.Duration, keys []string, load BatchLoader[T], opts ...CallOption) (map[string]T, error) {
	values := make(map[string]T, len(keys))
	switch {
	case t.c == nil:
		return values, errNilClient
	case load == nil:
		return values, errNilLoader
	case t.codec == nil:
		return values, errNilCodec
	}
	missing := t.c.fromMemory(ttl, keys, func(key string, e *near.Entry) bool {
		if e.Absent() {
			return true
		}
		if value := t.decodedIn(e); value != nil {
			values[key] = *value
			return true
		}
		value, err := t.decode(key, e.Raw(), e)
		if err != nil {
			t.warn(notDecoded, key, err)
			return false
		}
		values[key] = value
		return true
	})
	var failed map[string]error
	bad := make(map[string]string)
	for round := 0; len(missing) > 0 && failed == nil; round++ {
		if round == undecodableRounds { // as in get
			found, err := alone(ctx, t.c, opts, func(ctx context.Context) (map[string]T, error) { return load(ctx, slices.Clone(missing)) })
			for _, key := range missing {
				if value, ok := found[key]; ok && err == nil && !t.isNil(&value) {
					values[key] = t.copied(value)
				}
			}
			if err != nil && !isNotFound(err) {
				failed = make(map[string]error)
				for _, key := range missing {
					failed[key] = err
				}
			}
			break
		}
		call := &typedBatchLoad[T]{t: t, user: load}
		var undecodable []string
		err := t.c.obtainMulti(ctx, missing, bad, &plan{ttl: ttl, opts: opts, room: t.room, call: call}, func(key string, out outcome) {
			if out.absent {
				return
			}
			if out.err != nil { // only its own load's, that it cannot be encoded
				values[key] = call.value(key)
				return
			}
			value, err := t.decode(key, out.raw, out.entry)
			if err != nil && out.own(call) { // as in get
				t.warn(notReadBack, key, err)
				values[key] = call.value(key)
				return
			}
			if err != nil {
				t.warn(notDecoded, key, err)
				undecodable = append(undecodable, key)
				bad[key] = fingerprint(wire.Pack(out.raw))
				return
			}
			values[key] = value
		})
		if batch, ok := errors.AsType[*BatchError](err); ok {
			failed = batch.Failed
		} else if err != nil {
			return values, err
		}
		missing = undecodable
	}
	if len(failed) > 0 {
		for _, key := range missing { // undecodable, and not tried again because others failed
			if _, ok := failed[key]; !ok {
				failed[key] = errUndecodable
			}
		}
		return values, &BatchError{Failed: failed}
	}
	return values, nil
}

// typedBatchLoad is a batch loader of T as loadCaller.
type typedBatchLoad[T any] struct {
	t    *TypedClient[T]
	user BatchLoader[T]

	mu     sync.Mutex
	loaded map[string]T // what the loader returned; guarded by mu, for a call may load more than once
}

func (l *typedBatchLoad[T]) load(ctx context.Context, keys []string, out []loaded) error {
	found, err := l.user(ctx, slices.Clone(keys))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.loaded == nil {
		l.loaded = make(map[string]T, len(found))
	}
	for i, key := range keys {
		if value, ok := found[key]; ok && !l.t.isNil(&value) {
			out[i] = l.t.encode(key, value)
			l.loaded[key] = value
		}
	}
	return strangers(keys, found)
}

func (l *typedBatchLoad[T]) value(key string) T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loaded[key]
}

var errUndecodable = errors.New("aside: the stored value cannot be decoded, and was not loaded again because other keys of the call failed")

// Peek is [Client.Peek] over T. A value that cannot be decoded counts as none.
func (t *TypedClient[T]) Peek(ctx context.Context, key string) (none T, _ bool, _ error) {
	switch {
	case t.c == nil:
		return none, false, errNilClient
	case t.codec == nil:
		return none, false, errNilCodec
	}
	found, e, ok, err := t.c.look(ctx, key)
	if err != nil || !ok {
		return none, false, err
	}
	if e != nil {
		if value := t.decodedIn(e); value != nil {
			return *value, true, nil
		}
	}
	value, err := t.decode(key, found.Value, e)
	if err != nil {
		t.warn(notDecoded, key, err)
	}
	return value, err == nil, nil // decode has counted it: for Peek there is no value then
}

// Set is [Client.Set] over T. A value that cannot be encoded, or is a nil pointer or interface, is an error, and nothing is written.
func (t *TypedClient[T]) Set(ctx context.Context, ttl time.Duration, key string, value T) error {
	switch {
	case t.c == nil:
		return errNilClient
	case t.codec == nil:
		return errNilCodec
	case t.isNil(&value):
		return fmt.Errorf("%w: cannot set %s: the value is nil: use Del, or a T that is not a pointer", ErrInvalidArgument, quoted(key))
	}
	raw, err := t.tryEncode(value)
	if err != nil {
		return fmt.Errorf("aside: cannot set %s: it cannot be encoded: %w", quoted(key), reason.Of(err))
	}
	return t.c.Set(ctx, ttl, key, raw)
}

// Del is [Client.Del].
func (t *TypedClient[T]) Del(ctx context.Context, keys ...string) error {
	if t.c == nil {
		return errNilClient
	}
	return t.c.Del(ctx, keys...)
}

// Touch is [Client.Touch].
func (t *TypedClient[T]) Touch(ctx context.Context, ttl time.Duration, keys ...string) error {
	if t.c == nil {
		return errNilClient
	}
	return t.c.Touch(ctx, ttl, keys...)
}
