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
// each gets a copy. See docs/adr/0009.

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
}

// newHits decides for a view: shared is Shared, fn the function given to WithClone, or nil.
func newHits[T any](c codec.Codec[T], shared bool, fn any) (hits[T], error) {
	kind := reflect.TypeFor[T]()
	if fn != nil {
		clone, ok := fn.(func(T) T)
		if !ok {
			return hits[T]{}, fmt.Errorf("%w: the function given to WithClone is a %T, and the view is of %v: pass a func(%v) %v", ErrInvalidArgument, fn, kind, kind, kind)
		}
		return hits[T]{mode: HitCopies, why: "by the function given to WithClone", clone: clone}, nil
	}
	switch {
	case shared:
		return hits[T]{mode: HitShares, asIs: true, why: "the view was made with Shared"}, nil
	case shape.Flat(kind):
		return hits[T]{mode: HitCopies, asIs: true, why: kind.String() + " holds no pointers, slices or maps"}, nil
	case c == nil:
		return hits[T]{why: "there is no codec"}, nil
	}
	if cloner := codec.ClonerOf(c); cloner != nil {
		return hits[T]{mode: HitCopies, why: "by the codec", clone: cloner.Clone}, nil
	}
	plan, refusal := planOf(kind)
	switch {
	case refusal != "":
		return hits[T]{why: refusal}, nil
	case !codec.IsFresh(c):
		return hits[T]{why: "the codec does not say that it makes all that a value refers to: see codec.Fresh"}, nil
	default:
		return hits[T]{mode: HitCopies, why: "by a plan for " + kind.String() + "; a value in which two pointers lead to the same memory, or an unexported field refers to something, is decoded", plan: plan}, nil
	}
}

// plans are the copy plans by type: views may be made anew for each request.
var plans sync.Map

type planned struct {
	plan    *clone.Plan
	refusal string // why there is none
}

func planOf(t reflect.Type) (plan *clone.Plan, refusal string) {
	known, ok := plans.Load(t)
	if !ok {
		var made planned
		var err error
		if made.plan, err = clone.For(t); err != nil {
			made.refusal = err.Error()
		}
		known, _ = plans.LoadOrStore(t, &made)
	}
	p := known.(*planned)
	return p.plan, p.refusal
}

// soundly reports whether the value at v, which was just decoded, can be kept and handed out.
func (h *hits[T]) soundly(v *T) bool { return h.plan == nil || h.plan.Check(unsafe.Pointer(v)) == nil }

// give returns what a caller gets for a kept value; false: it must be decoded for this one.
func (h *hits[T]) give(kept *T) (T, bool) {
	switch {
	case h.plan != nil:
		return clone.Copy(h.plan, kept), true
	case h.clone != nil:
		return h.cloned(kept)
	default:
		return *kept, true
	}
}

// cloned calls the user's function, or the codec's.
func (h *hits[T]) cloned(kept *T) (value T, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return h.clone(*kept), true
}

// identity is what views have in common whose kept values are interchangeable: a value that one has
// checked may not be taken for one that another has shared.
type identity struct {
	codec any
	how   way
}

type way byte

const (
	byPlan way = iota
	byClone
)

func (h *hits[T]) identity(c codec.Codec[T]) any {
	switch {
	case h.plan != nil:
		return identity{c, byPlan}
	case h.clone != nil:
		return identity{c, byClone}
	default:
		return c
	}
}
