package clone

import (
	"cmp"
	"reflect"
	"slices"
	"unsafe"
)

const (
	mostDepth  = 1_000   // beyond, a copy would need too much stack
	mostPieces = 100_000 // pieces of memory of a value; beyond, nobody looks
)

// Check reports why the value at src, of the type that p is the plan of, cannot be copied by it:
// nil if it can. It takes about as long as a copy, and is for values that nobody changes any more.
func (p *Plan) Check(src unsafe.Pointer) error {
	if len(p.parts) == 0 && len(p.zero) == 0 {
		return nil
	}
	c := checker{}
	c.piece(src, p.typ.Size())
	if refusal := c.value(p, src, 0); refusal != nil {
		return refusal
	}
	slices.SortFunc(c.pieces, func(a, b piece) int { return cmp.Compare(a.from, b.from) })
	for i := 1; i < len(c.pieces); i++ {
		if c.pieces[i].from < c.pieces[i-1].to {
			return &Refusal{Reason: "two pointers, slices or maps of the value lead to the same memory"}
		}
	}
	return nil
}

type checker struct {
	pieces []piece
}

// piece is memory that belongs to the value.
type piece struct{ from, to uintptr }

func (c *checker) piece(at unsafe.Pointer, size uintptr) {
	if size > 0 {
		c.pieces = append(c.pieces, piece{uintptr(at), uintptr(at) + size})
	}
}

func (c *checker) value(p *Plan, src unsafe.Pointer, depth int) *Refusal {
	if depth > mostDepth || len(c.pieces) > mostPieces {
		return &Refusal{Reason: "the value is too deep or too large, or leads to itself"}
	}
	for _, z := range p.zero {
		if !reflect.NewAt(z.typ, unsafe.Add(src, z.offset)).Elem().IsZero() {
			return &Refusal{Where: z.name, Reason: "an unexported field refers to something"}
		}
	}
	for i := range p.parts {
		q := &p.parts[i]
		from := unsafe.Add(src, q.offset)
		switch q.kind {
		case reflect.Pointer:
			old := *(*unsafe.Pointer)(from)
			if old == nil {
				continue
			}
			c.piece(old, q.elem.typ.Size())
			if refusal := c.value(q.elem, old, depth+1); refusal != nil {
				return refusal
			}
		case reflect.Slice:
			old, size := (*slice)(from), q.elem.typ.Size()
			c.piece(old.data, uintptr(old.cap)*size)
			for i := range uintptr(old.len) {
				if len(q.elem.parts) == 0 && len(q.elem.zero) == 0 {
					break
				}
				if refusal := c.value(q.elem, unsafe.Add(old.data, i*size), depth+1); refusal != nil {
					return refusal
				}
			}
		default: // a map
			old := *(*unsafe.Pointer)(from)
			if old == nil {
				continue
			}
			c.piece(old, 1)
			if len(q.elem.parts) == 0 && len(q.elem.zero) == 0 {
				continue
			}
			value := reflect.New(q.typ.Elem())
			for all := reflect.NewAt(q.typ, from).Elem().MapRange(); all.Next(); {
				value.Elem().SetIterValue(all)
				if refusal := c.value(q.elem, value.UnsafePointer(), depth+1); refusal != nil {
					return refusal
				}
			}
		}
	}
	return nil
}
