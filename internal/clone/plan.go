package clone

import (
	"fmt"
	"reflect"
	"strings"
)

// Refusal is why a type or a value cannot be copied.
type Refusal struct {
	Where  string // the way to it, as in "Owner.Tags"; empty for the whole
	Reason string // as in "a channel cannot be copied"
}

func (r *Refusal) Error() string {
	if r.Where == "" {
		return r.Reason
	}
	return r.Where + ": " + r.Reason
}

// mostParts bounds a plan: a type that would need more is cheaper to decode.
const mostParts = 10_000

// For returns the plan for a type, or a *Refusal.
func For(t reflect.Type) (*Plan, error) {
	if t == nil {
		return nil, &Refusal{Reason: "there is no type"}
	}
	b := builder{plans: make(map[reflect.Type]*Plan)}
	p, refusal := b.plan(t)
	if refusal != nil {
		return nil, refusal
	}
	return p, nil
}

type builder struct {
	plans map[reflect.Type]*Plan // those that are made or being made: a type may reach itself
	parts int
}

func (b *builder) plan(t reflect.Type) (*Plan, *Refusal) {
	if p := b.plans[t]; p != nil {
		return p, nil
	}
	p := &Plan{typ: t, many: reflect.SliceOf(t)}
	b.plans[t] = p
	if refusal := b.add(p, t, 0); refusal != nil {
		return nil, refusal
	}
	return p, nil
}

// add adds to p what a t at an offset needs.
func (b *builder) add(p *Plan, t reflect.Type, offset uintptr) *Refusal {
	if immutable[t] || flat(t) {
		return nil
	}
	if !copyable[t] {
		if refusal := refusedBy(t); refusal != nil {
			return refusal
		}
	}
	switch t.Kind() {
	case reflect.Array:
		for i := range t.Len() {
			if refusal := b.add(p, t.Elem(), offset+uintptr(i)*t.Elem().Size()); refusal != nil {
				return within("["+fmt.Sprint(i)+"]", refusal)
			}
		}
		return nil
	case reflect.Struct:
		for field := range t.Fields() {
			at := offset + field.Offset
			if !field.IsExported() && !field.Anonymous && !copyable[t] {
				if !flat(field.Type) && !immutable[field.Type] {
					p.zero = append(p.zero, zero{at, field.Type, field.Name})
				}
				continue
			}
			if refusal := b.add(p, field.Type, at); refusal != nil {
				return within(field.Name, refusal)
			}
		}
		return nil
	}
	elem, refusal := b.plan(t.Elem())
	if refusal == nil && t.Kind() == reflect.Map && !flat(t.Key()) && !immutable[t.Key()] {
		refusal = &Refusal{Reason: "the keys of the map hold pointers or interfaces"}
	}
	if refusal != nil {
		if t.Kind() == reflect.Pointer {
			return refusal
		}
		return within("[]", refusal)
	}
	if b.parts++; b.parts > mostParts {
		return &Refusal{Reason: "the type is too large"}
	}
	p.parts = append(p.parts, part{offset: offset, kind: t.Kind(), typ: t, elem: elem, how: allocationOf(t)})
	return nil
}

func within(where string, r *Refusal) *Refusal {
	switch {
	case r.Where == "":
	case strings.HasPrefix(r.Where, "["):
		where += r.Where
	default:
		where += "." + r.Where
	}
	return &Refusal{Where: where, Reason: r.Reason}
}

// refusedBy returns why no t can be copied, whatever it consists of.
func refusedBy(t reflect.Type) *Refusal {
	switch t.Kind() {
	case reflect.Array, reflect.Struct, reflect.Slice, reflect.Map, reflect.Pointer:
	case reflect.Interface:
		return &Refusal{Reason: "an interface (" + t.String() + ") may hold anything"}
	default:
		return &Refusal{Reason: "a " + t.Kind().String() + " cannot be copied"}
	}
	if t.Name() == "" && t.Kind() != reflect.Struct {
		return nil // a pointer has the methods of what it leads to, which is asked by itself
	}
	pointer := reflect.PointerTo(t)
	for method := range pointer.Methods() {
		switch name := method.Name; {
		case name == "ProtoReflect":
			return &Refusal{Reason: t.String() + " is a protobuf message, which only its codec can copy"}
		case strings.HasPrefix(name, "Unmarshal"), strings.HasPrefix(name, "Decode"), name == "GobDecode":
			return &Refusal{Reason: t.String() + " decodes itself (" + name + "), so it may refer to anything"}
		}
	}
	return nil
}

func allocationOf(t reflect.Type) allocation {
	if t.Kind() != reflect.Slice {
		return byReflection
	}
	elem := t.Elem()
	switch {
	case elem.Kind() == reflect.String:
		return ofStrings
	case elem.Kind() == reflect.Pointer, elem.Kind() == reflect.Map:
		return ofPointers
	case !pointerFree(elem):
		return byReflection
	case elem.Align() == 1:
		return ofBytes
	default:
		return ofWords
	}
}
