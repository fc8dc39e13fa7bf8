// Package nesting refuses values that an encoder would follow without end: those that refer to
// themselves, and those that are nested deeper than a stack has room for. Running out of stack ends
// the process and cannot be recovered from.
//
//	1: A type is planned once: which of its parts can be nested endlessly at all? Those of a type that contains itself, and interfaces. A
//	   type without such parts has no plan, and its values cost nothing.
//	2: A value is walked along those parts only, as the encoder would, before it is encoded.
package nesting

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
)

// Rules say what an encoder follows. They are made once for each encoder.
type Rules struct {
	// Max is how deep structs, maps, slices and arrays may be nested.
	Max int

	// Skip reports whether the encoder leaves a field alone.
	Skip func(f reflect.StructField) bool

	// Opaque reports whether values of t are encoded by methods of their own, which are not looked
	// into: always, or only where they can be addressed. May be nil.
	Opaque func(t reflect.Type) (always, addressed bool)

	// Inlines reports whether the encoder looks into an embedded struct when it learns the one
	// around it, and does not end where one embeds itself, nor with a type of pointers to itself.
	// Nil: it does not.
	Inlines func(f reflect.StructField) bool

	plans sync.Map // reflect.Type → *Plan, nil where there is none
}

// Plan is how values of a type are walked. A nil Plan is that of a type whose values are never
// nested endlessly. Immutable.
type Plan struct {
	root    *node
	rules   *Rules
	typeErr error
}

// node is a type, and which of its parts can be nested endlessly.
type node struct {
	t         reflect.Type
	deep      bool  // it contains itself or an interface, directly or not
	addressed bool  // it is opaque where it can be addressed
	endless   bool  // the encoder does not end when it learns the type
	key, elem *node // of a map; elem also of a pointer, slice or array
	fields    []field
	parents   []*node // while planning
	open      bool    // while planning: it is being looked into
}

type field struct {
	index int
	node  *node
}

// PlanOf returns the plan of a type; nil if its values need not be walked.
func (r *Rules) PlanOf(t reflect.Type) *Plan {
	if p, ok := r.plans.Load(t); ok {
		return p.(*Plan)
	}
	b := builder{rules: r, nodes: make(map[reflect.Type]*node)}
	root := b.node(t, nil)
	var p *Plan
	if root.deep {
		p = &Plan{root, r, root.typeError(make(map[*node]bool))}
	}
	kept, _ := r.plans.LoadOrStore(t, p)
	return kept.(*Plan)
}

type builder struct {
	rules *Rules
	nodes map[reflect.Type]*node
}

func (b *builder) node(t reflect.Type, parent *node) *node {
	n := b.nodes[t]
	known := n != nil
	if !known {
		n = &node{t: t}
		b.nodes[t] = n
	}
	if parent != nil {
		n.parents = append(n.parents, parent)
	}
	switch {
	case n.deep:
		parent.deepen()
		return n
	case n.open: // every cycle of types is met here once
		n.deepen()
		return n
	case known:
		return n
	}
	var always bool
	if always, n.addressed = b.rules.opaque(t); always {
		return n
	}
	n.open = true
	switch t.Kind() {
	case reflect.Interface:
		n.deepen()
	case reflect.Map:
		n.key, n.elem = b.node(t.Key(), n), b.node(t.Elem(), n)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		n.elem = b.node(t.Elem(), n)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); !b.rules.Skip(f) {
				n.fields = append(n.fields, field{i, b.node(f.Type, n)})
			}
		}
	default:
	}
	n.open = false
	if b.rules.Inlines != nil && b.rules.endless(t, nil) {
		n.endless = true
		n.deepen()
	}
	return n
}

// deepen marks n, and all that contain it.
func (n *node) deepen() {
	if n == nil || n.deep {
		return
	}
	n.deep = true
	for _, p := range n.parents {
		p.deepen()
	}
}

func (r *Rules) opaque(t reflect.Type) (always, addressed bool) {
	if r.Opaque == nil {
		return false, false
	}
	return r.Opaque(t)
}

// endless reports whether t embeds itself, or points to itself. in is what it is embedded in.
func (r *Rules) endless(t reflect.Type, in []reflect.Type) bool {
	if slices.Contains(in, t) {
		return true
	}
	if always, _ := r.opaque(t); always {
		return false
	}
	in = append(in, t)
	switch t.Kind() {
	case reflect.Pointer:
		return r.endless(t.Elem(), in)
	case reflect.Struct:
		for f := range t.Fields() {
			if f.Anonymous && !r.Skip(f) && r.Inlines(f) && r.endless(f.Type, in) {
				return true
			}
		}
	default:
	}
	return false
}

// Check returns an error if v, which has the type that p was made for, must not be encoded.
func (p *Plan) Check(v reflect.Value) error {
	if p == nil {
		return nil
	}
	w := walker{p.rules}
	return w.walk(p.root, v, 0, 0)
}

// TypeError returns an error if the encoder would not end when it learns the type that p was made
// for.
func (p *Plan) TypeError() error {
	if p == nil {
		return nil
	}
	return p.typeErr
}

func (n *node) typeError(seen map[*node]bool) error {
	if n == nil || seen[n] || !n.deep {
		return nil
	}
	seen[n] = true
	if n.endless {
		return n.endlessError()
	}
	for _, f := range n.fields {
		if err := f.node.typeError(seen); err != nil {
			return err
		}
	}
	if err := n.key.typeError(seen); err != nil {
		return err
	}
	return n.elem.typeError(seen)
}

func (n *node) endlessError() error { return fmt.Errorf("%v embeds or points to itself", n.t) }

type walker struct{ rules *Rules }

// hopsPerLevel bounds pointers and interfaces, which count only together with what they lead to:
// none may lead on and on.
const hopsPerLevel = 4

func (w walker) tooDeep() error {
	return fmt.Errorf("the value refers to itself, or is nested deeper than %d", w.rules.Max)
}

func (w walker) walk(n *node, v reflect.Value, depth, hops int) error {
	if !n.deep || n.addressed && v.CanAddr() {
		return nil
	}
	if n.endless {
		return n.endlessError()
	}
	switch kind := v.Kind(); kind {
	case reflect.Interface, reflect.Pointer:
		switch {
		case v.IsNil():
			return nil
		case hops >= hopsPerLevel*w.rules.Max:
			return w.tooDeep()
		case kind == reflect.Pointer:
			return w.walk(n.elem, v.Elem(), depth, hops+1)
		}
		return w.dynamic(v.Elem(), depth, hops+1)
	default:
		if depth >= w.rules.Max {
			return w.tooDeep()
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		for _, f := range n.fields {
			if err := w.walk(f.node, v.Field(f.index), depth+1, hops); err != nil {
				return err
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := w.walk(n.elem, v.Index(i), depth+1, hops); err != nil {
				return err
			}
		}
	case reflect.Map:
		for each := v.MapRange(); each.Next(); {
			if n.key.deep {
				if err := w.walk(n.key, each.Key(), depth+1, hops); err != nil {
					return err
				}
			}
			if err := w.walk(n.elem, each.Value(), depth+1, hops); err != nil {
				return err
			}
		}
	default:
	}
	return nil
}

// dynamic walks what is in an interface.
func (w walker) dynamic(v reflect.Value, depth, hops int) error {
	if v.CanInterface() {
		return w.any(v.Interface(), depth, hops)
	}
	return w.planned(v, depth, hops)
}

// any is dynamic with a short way for what untyped JSON is made of.
func (w walker) any(x any, depth, hops int) error {
	switch x := x.(type) {
	case nil, string, bool, float64, int, int64, []byte, []string:
	case map[string]any:
		if depth >= w.rules.Max {
			return w.tooDeep()
		}
		for _, e := range x {
			if err := w.any(e, depth+1, hops); err != nil {
				return err
			}
		}
	case []any:
		if depth >= w.rules.Max {
			return w.tooDeep()
		}
		for _, e := range x {
			if err := w.any(e, depth+1, hops); err != nil {
				return err
			}
		}
	default:
		return w.planned(reflect.ValueOf(x), depth, hops)
	}
	return nil
}

func (w walker) planned(v reflect.Value, depth, hops int) error {
	p := w.rules.PlanOf(v.Type())
	if p == nil {
		return nil
	}
	return w.walk(p.root, v, depth, hops)
}
