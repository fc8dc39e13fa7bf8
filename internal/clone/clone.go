// Package clone copies values by a plan that is made once for their type, so that a decoded value
// can be kept and each caller be given one of its own.
//
// A plan is sound or does not exist. Everything that a value of the type may reach is copied
// (arrays, structs, slices, maps and pointers to such) or cannot be changed (numbers, strings, and
// the types in the list of std.go). [For] refuses other types and says why. What depends on the
// value is asked once for each value that is to be copied, by [Plan.Check]: two pointers that lead
// to the same memory would be two after a copy, and an unexported field may hold what only its
// type's own methods can copy.
//
// A copy is equal to its source: nil slices and maps stay nil, empty ones stay empty, and the order
// of a map does not matter. The capacity of a slice is not kept; nothing behind its length is
// copied.
package clone

import (
	"maps"
	"reflect"
	"unsafe"
)

// Plan copies values of one type. It is immutable, and safe for concurrent use.
type Plan struct {
	typ   reflect.Type
	parts []part // what must be replaced in a copy of the memory, by offset
	zero  []zero // what must be zero, by offset; for Check only
}

// part is a place in a value that refers to memory of its own: a pointer, a slice or a map.
type part struct {
	offset uintptr
	kind   reflect.Kind // Pointer, Slice or Map
	typ    reflect.Type
	elem   *Plan // of what a pointer leads to, or of the elements of a slice or map
	how    allocation
}

// zero is an unexported field that may reach memory, and must not.
type zero struct {
	offset uintptr
	typ    reflect.Type
	name   string
}

// Copy returns a copy of *src, which must have passed p.Check and must not be changed meanwhile. p
// is the plan of T.
func Copy[T any](p *Plan, src *T) T {
	dst := *src
	if len(p.parts) > 0 {
		p.replace(unsafe.Pointer(&dst), unsafe.Pointer(src)) // dst stays on the stack: replace keeps no pointer to it
	}
	return dst
}

// replace copies what src refers to and has dst, a copy of src's memory, refer to the copies.
func (p *Plan) replace(dst, src unsafe.Pointer) {
	for i := range p.parts {
		q := &p.parts[i]
		at := unsafe.Add(dst, q.offset)
		from := unsafe.Add(src, q.offset)
		switch q.kind {
		case reflect.Pointer:
			if old := *(*unsafe.Pointer)(from); old != nil {
				*(*unsafe.Pointer)(at) = q.pointer(old)
			}
		case reflect.Slice:
			if old := (*slice)(from); old.data != nil {
				(*slice)(at).data = q.slice(old)
				(*slice)(at).cap = old.len
			}
		default: // a map
			if *(*unsafe.Pointer)(from) != nil {
				*(*unsafe.Pointer)(at) = q.mapping(from)
			}
		}
	}
}

// slice is the memory of a slice.
type slice struct {
	data     unsafe.Pointer
	len, cap int
}

// pointer returns a copy of what old leads to.
func (q *part) pointer(old unsafe.Pointer) unsafe.Pointer {
	made := reflect.New(q.elem.typ)
	made.Elem().Set(reflect.NewAt(q.elem.typ, old).Elem())
	at := made.UnsafePointer()
	if len(q.elem.parts) > 0 {
		q.elem.replace(at, old)
	}
	return at
}

// allocation is how the memory of a slice is had with one allocation.
type allocation int

const (
	byReflection allocation = iota // two of them: reflect's header is one
	ofBytes                        // elements without pointers, which need no alignment
	ofWords                        // elements without pointers
	ofPointers                     // pointers or maps
	ofStrings
)

// noElements is where slices of no element point to, which are not nil.
var noElements struct{}

// slice returns a copy of the elements of old.
func (q *part) slice(old *slice) unsafe.Pointer {
	n := old.len
	if n == 0 || q.elem.typ.Size() == 0 {
		return unsafe.Pointer(&noElements)
	}
	size := q.elem.typ.Size()
	var at unsafe.Pointer
	switch q.how {
	case ofBytes:
		made := append([]byte(nil), unsafe.Slice((*byte)(old.data), uintptr(n)*size)...)
		return unsafe.Pointer(unsafe.SliceData(made))
	case ofWords:
		made := make([]uint64, (uintptr(n)*size+7)/8)
		at = unsafe.Pointer(unsafe.SliceData(made))
		copy(unsafe.Slice((*byte)(at), uintptr(n)*size), unsafe.Slice((*byte)(old.data), uintptr(n)*size))
		return at
	case ofStrings:
		made := append(make([]string, 0, n), unsafe.Slice((*string)(old.data), n)...)
		return unsafe.Pointer(unsafe.SliceData(made))
	case ofPointers:
		made := make([]unsafe.Pointer, n) // replace fills it
		at = unsafe.Pointer(unsafe.SliceData(made))
	default:
		made := reflect.MakeSlice(q.typ, n, n)
		reflect.Copy(made, reflect.NewAt(q.typ, unsafe.Pointer(old)).Elem())
		at = made.UnsafePointer()
	}
	for i := range uintptr(n) {
		q.elem.replace(unsafe.Add(at, i*size), unsafe.Add(old.data, i*size))
	}
	return at
}

// mapping returns a copy of the map that from holds.
func (q *part) mapping(from unsafe.Pointer) unsafe.Pointer {
	switch q.typ { // two that are frequent, for which reflection would allocate for each element
	case stringsByString:
		return reflect.ValueOf(maps.Clone(*(*map[string]string)(from))).UnsafePointer()
	case intsByString:
		return reflect.ValueOf(maps.Clone(*(*map[string]int)(from))).UnsafePointer()
	}
	old := reflect.NewAt(q.typ, from).Elem()
	made := reflect.MakeMapWithSize(q.typ, old.Len())
	key, value := reflect.New(q.typ.Key()).Elem(), reflect.New(q.typ.Elem())
	was := reflect.New(q.typ.Elem())
	for all := old.MapRange(); all.Next(); {
		key.SetIterKey(all)
		value.Elem().SetIterValue(all)
		if len(q.elem.parts) > 0 {
			was.Elem().Set(value.Elem())
			q.elem.replace(value.UnsafePointer(), was.UnsafePointer())
		}
		made.SetMapIndex(key, value.Elem())
	}
	return made.UnsafePointer()
}

var (
	stringsByString = reflect.TypeFor[map[string]string]()
	intsByString    = reflect.TypeFor[map[string]int]()
)
