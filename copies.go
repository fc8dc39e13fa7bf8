package aside

import (
	"fmt"
	"reflect"
	"sync"
	"unsafe"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/clone"
	"github.com/redaside/aside/internal/shape"
)

// How the callers of a view get a value that is in memory. Decoding costs ten to fifty times what a
// copy does, so a value is decoded once, and kept; but what callers get is theirs to change, so
// each gets a copy. See docs/adr/0008.

// HitMode is how a view serves a value that is in memory.
type HitMode int

// The modes of hits.
const (
	// HitDecodes: each call decodes the stored bytes.
	HitDecodes HitMode = iota
	// HitCopies: the value is decoded once, and each call gets a copy.
	HitCopies
	// HitShares: the value is decoded once, and all calls get the same. Only with [Shared].
	HitShares
)

func (m HitMode) String() string {
	switch m {
	case HitDecodes:
		return "decodes"
	case HitCopies:
		return "copies"
	case HitShares:
		return "shares"
	default:
		return fmt.Sprintf("HitMode(%d)", int(m))
	}
}

// hits is how a view hands out what is decoded. Immutable.
type hits[T any] struct {
	mode  HitMode
	why   string
	asIs  bool        // each caller gets the memory of the kept value: all share it, or it refers to nothing
	plan  *clone.Plan // if not nil, copies are made by it, of values that it has checked
	clone func(v T) T // if not nil, copies are made by it

	byCodec bool // clone is the codec's, not the user's
}

// newHits decides for a view: shared is Shared, fn the function given to WithClone, or nil.
func newHits[T any](c codec.Codec[T], shared bool, fn any) (h hits[T], err error) {
	defer func() {
		if p := recover(); p != nil { // a codec of the user's own, which is a nil pointer perhaps
			h = hits[T]{why: fmt.Sprintf("the codec panicked: %v", newPanicError(p))}
		}
	}()
	kind := reflect.TypeFor[T]()
	switch {
	case c == nil:
		return hits[T]{why: "there is no codec"}, nil
	case fn != nil:
		clone, ok := fn.(func(T) T)
		if !ok {
			return hits[T]{}, fmt.Errorf("%w: the function given to WithClone is a %T, and the view is of %v: pass a func(%v) %v", ErrInvalidArgument, fn, kind, kind, kind)
		}
		return hits[T]{mode: HitCopies, why: "by the function given to WithClone", clone: clone}, nil
	case shared:
		return hits[T]{mode: HitShares, asIs: true, why: "the view was made with Shared"}, nil
	case shape.Flat(kind):
		return hits[T]{mode: HitCopies, asIs: true, why: kind.String() + " holds no pointers, slices or maps"}, nil
	case any(c) == any(codec.Bytes()):
		return hits[T]{why: "to decode bytes is to copy them"}, nil
	}
	if cloner := codec.ClonerOf(c); cloner != nil {
		return hits[T]{mode: HitCopies, why: "by the codec", clone: cloner.Clone, byCodec: true}, nil
	}
	plan, why := planOf(kind)
	switch {
	case plan == nil:
		return hits[T]{why: why}, nil
	case !codec.IsFresh(c):
		return hits[T]{why: "the codec does not say that it makes all that a value refers to: see codec.Fresh"}, nil
	default:
		return hits[T]{mode: HitCopies, why: why, plan: plan}, nil
	}
}

// plans are the copy plans by type: views may be made anew for each request.
var plans sync.Map

type planned struct {
	plan *clone.Plan // nil: there is none
	why  string
}

func planOf(t reflect.Type) (plan *clone.Plan, why string) {
	known, ok := plans.Load(t)
	if !ok {
		made := planned{why: "by a plan for " + t.String() + "; a value in which two pointers lead to the same memory, or an unexported field refers to something, or that is very large or deep, is decoded"}
		var err error
		if made.plan, err = clone.For(t); err != nil {
			made.why = err.Error()
		}
		known, _ = plans.LoadOrStore(t, &made)
	}
	p := known.(*planned)
	return p.plan, p.why
}

// mostOfMemory is the part of MemoryBytes that a decoded value may take beside its bytes: one that
// took more would drive out what others need, or itself.
const mostOfMemory = 16

// kept returns what is kept of a value that was just decoded from raw; nil: it cannot be copied
// soundly. A plan's copy of it holds on to no memory of the codec's.
func (h *hits[T]) kept(value *T, raw string) *T {
	switch {
	case h.plan == nil:
		return value
	case h.plan.Check(unsafe.Pointer(value)) != nil:
		return nil
	default:
		return clone.Keep(h.plan, value, raw)
	}
}

// give returns what a caller gets for a kept value. After an error it must be decoded for this one.
func (h *hits[T]) give(kept *T) (T, error) {
	switch {
	case h.plan != nil:
		return clone.Copy(h.plan, kept), nil
	case h.clone != nil:
		return h.cloned(kept)
	default:
		return *kept, nil
	}
}

// cloned calls the user's function, or the codec's.
func (h *hits[T]) cloned(kept *T) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError(p)
		}
	}()
	return h.clone(*kept), nil
}

// identity is what views have in common whose kept values are interchangeable: a value that a plan
// has checked may not be taken for one that others share.
type identity struct {
	codec any
	how   way
}

type way byte

const (
	byPlan way = iota
	byCodec
)

// identity is nil for a view that is equal to itself only: nobody knows what a function of the
// user's does.
func (h *hits[T]) identity(c codec.Codec[T]) any {
	switch {
	case h.plan != nil:
		return identity{c, byPlan}
	case h.byCodec:
		return identity{c, byCodec}
	case h.clone != nil:
		return nil
	default:
		return c
	}
}
