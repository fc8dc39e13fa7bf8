package aside

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/shape"
	"github.com/redaside/aside/internal/wire"
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
// copy, which takes a fraction of the time; if a T cannot be copied soundly, each call decodes. What
// was loaded is not decoded where the codec knows that it comes back as it was (codec.RoundTripper).
// [TypedClient.HitMode] tells which, and why; [WithClone] and [Shared] change it.
type TypedClient[T any] struct {
	c     *Client
	codec codec.Codec[T]
	wrong error                 // why no call can succeed, if so
	id    any                   // equal for views whose decoded values are interchangeable
	hits  hits[T]               // how values in memory are handed out
	flat  bool                  // T holds no pointer, slice or map
	trips codec.RoundTripper[T] // nil: it is not known what comes back from the codec, or the view cannot copy it
	anew  bool                  // what the codec encodes to is memory of its own
	nils  bool                  // a T may be nil, which is no value: it is a pointer or an interface
	room  uintptr               // what a decoded value takes there, if so

	version int64 // of T; 0: none

	calls *callOptions   // what its calls do by default; nil: the same as the client's
	grace time.Duration  // of calls
	need  freshness.Need // likewise

	prefix string      // of its keys in Redis
	joined near.Prefix // the same
	ready  bool        // what memory has that is fresh is served as it is to calls without options

	checks atomic.Pointer[roundTrips] // once something was loaded
	audits *audits[T]                 // of its hits; nil: none
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
	prefix   string
	clear    bool
	version  int64 // 0: none
	name     string
	audit    any // an Audit[T]; nil: none
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

// WithName gives a view a name, for the Observer: Event.View, and what is made of it in metrics and
// traces. Use few names, and none that is made of keys or users. Defaults to the name of T, such as
// "shop.Product".
func WithName(name string) ViewOption { return viewOption(func(o *viewOptions) { o.name = name }) }

// Typed returns a view of client through a codec. If client or codec is nil, all calls of the view
// fail with [ErrInvalidArgument].
func Typed[T any](client *Client, c codec.Codec[T], opts ...ViewOption) *TypedClient[T] {
	var options viewOptions
	for _, set := range opts {
		if set != nil {
			set.changeView(&options)
		}
	}
	t := &TypedClient[T]{c: client, codec: c, wrong: options.invalid, prefix: options.prefix, joined: near.NewPrefix(options.prefix)}
	kind := reflect.TypeFor[T]()
	t.flat, t.nils = shape.Flat(kind), kind.Kind() == reflect.Pointer || kind.Kind() == reflect.Interface
	var err error
	if t.hits, err = newHits(c, options.shared, options.clone); t.wrong == nil {
		t.wrong = err
	}
	if client != nil && t.wrong == nil {
		if options.name == "" && client.observer != nil {
			options.name = kind.String()
		}
		if t.calls, t.wrong = client.viewCalls(options); t.calls != nil {
			t.grace, t.need = t.calls.grace, t.calls.need
		}
	}
	if c == nil {
		t.wrong = errNilCodec
	}
	if t.wrong == nil {
		t.audits, t.wrong = newAudits[T](client, cmp.Or(options.name, kind.String()), options.audit)
	}
	t.ready = client != nil && t.wrong == nil && t.audits == nil && plainHits(t.calls)
	if trips, ok := c.(codec.RoundTripper[T]); ok && (t.hits.plan != nil || t.hits.asIs && t.flat) {
		t.trips = trips
	}
	_, t.anew = c.(anew)
	if t.hits.mode != HitDecodes {
		t.room = uintptr(max(shape.Size(kind), 1))
	}
	// Views made anew for each request share what was decoded if their codecs are equal. One that
	// has functions in it cannot be compared: such a view is equal to itself only.
	if t.id = t.hits.identity(c); t.id == nil || !reflect.ValueOf(c).Comparable() {
		t.id = t
	}
	if t.version = options.version; t.version > 0 && t.id != any(t) {
		t.id = versioned{t.id, t.version}
	}
	return t
}

// versioned is the identity of a view with a version: what it has decoded is no other version's.
type versioned struct {
	id      any
	version int64
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
	if len(o.calls) == 0 && o.maxLoads == 0 && o.name == "" && o.prefix == "" && !o.clear && o.version == 0 {
		return nil, nil
	}
	set, err := c.callOptions(nil, o.calls)
	calls := *set
	calls.view, calls.prefix, calls.version = o.name, o.prefix, o.version
	if o.clear {
		calls.clears = c.near.Group(wire.PrefixGroup(o.prefix))
		if o.prefix == "" {
			err = errClearsAll
		}
	}
	if o.maxLoads > 0 {
		calls.places = newPlaces("WithMaxLoads", o.maxLoads)
	}
	return &calls, err
}

var errClearsAll = fmt.Errorf("%w: a Clearable view has no prefix, so that Clear would not know what is its own: add WithPrefix", ErrInvalidArgument)

// viewName is the view's, for the Observer.
func (t *TypedClient[T]) viewName() string {
	if t.calls == nil {
		return ""
	}
	return t.calls.view
}

// hit counts an answer from memory.
func (t *TypedClient[T]) hit(ctx context.Context, key string) {
	t.c.counted.memoryHits.add()
	if t.c.allHits {
		t.c.observeHit(ctx, key, t.viewName())
	}
}

// plainHits reports whether views with these options serve whatever is fresh in memory.
func plainHits(calls *callOptions) bool {
	if calls == nil {
		return true
	}
	others := *calls // those that have a say beside what says nothing about hits, or is in the grace
	others.loadTimeout, others.negativeTTL, others.errorTTL, others.jitter, others.places, others.view, others.version = 0, 0, 0, 0, nil, "", 0
	others.grace, others.softTimeout, others.need = 0, 0, freshness.Need{}
	others.tags, others.clears, others.prefix = nil, nil, ""
	return reflect.ValueOf(others).IsZero()
}

// clears is the group of a Clearable view; nil: it is none.
func (t *TypedClient[T]) clears() *near.Group {
	if t.calls == nil {
		return nil
	}
	return t.calls.clears
}
