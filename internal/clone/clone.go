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
//
// What the elements of a slice lead to is allocated together, in pieces of at most a KiB: sixteen
// pointers need one allocation. Who keeps one of them keeps its neighbours, but no more than that.
package clone

import (
	"maps"
	"reflect"
	"unsafe"
)

// Plan copies values of one type. It is immutable, and safe for concurrent use.
type Plan struct {
	typ   reflect.Type
	many  reflect.Type // a slice of these
	parts []part       // what must be replaced in a copy of the memory, by offset
	zero  []zero       // what must be zero, by offset; for Check only
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

// slab is how many bytes are allocated together at most, if they are of more than one piece.
const slab = 1 << 10

// replace copies what src refers to and has dst, a copy of src's memory, refer to the copies. dst may
// be src.
func (p *Plan) replace(dst, src unsafe.Pointer) {
	for i := range p.parts {
		q := &p.parts[i]
		q.replace(unsafe.Add(dst, q.offset), unsafe.Add(src, q.offset))
	}
}

// replaceMany is replace for n values behind each other, which refer to what they are copies of.
func (p *Plan) replaceMany(at unsafe.Pointer, n int) {
	for i := range p.parts {
		q := &p.parts[i]
		first, stride := unsafe.Add(at, q.offset), p.typ.Size()
		if q.kind == reflect.Slice && (q.how == ofBytes || q.how == ofWords || q.how == ofStrings) {
			q.slices(first, n, stride)
			continue
		}
		for i := range uintptr(n) {
			one := unsafe.Add(first, i*stride)
			q.replace(one, one)
		}
	}
}

// replace copies what from refers to and has at, which may be from, refer to the copy.
func (q *part) replace(at, from unsafe.Pointer) {
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
		made := make([]unsafe.Pointer, n)
		q.elem.parts[0].pointers(made, unsafe.Slice((*unsafe.Pointer)(old.data), n))
		return unsafe.Pointer(unsafe.SliceData(made))
	default:
		made := reflect.MakeSlice(q.typ, n, n)
		reflect.Copy(made, reflect.NewAt(q.typ, unsafe.Pointer(old)).Elem())
		at = made.UnsafePointer()
	}
	q.elem.replaceMany(at, n)
	return at
}

// pointers fills made with copies of what the pointers or maps of old lead to.
func (q *part) pointers(made, old []unsafe.Pointer) {
	together, size := 1, uintptr(0)
	if q.kind == reflect.Pointer {
		if size = q.elem.typ.Size(); size > 0 {
			together = max(1, int(slab/size))
		}
	}
	for len(old) > 0 {
		some := old[:min(together, len(old))]
		n := 0
		for _, from := range some {
			if from != nil {
				n++
			}
		}
		if n < 2 {
			for i := range some {
				q.replace(unsafe.Pointer(&made[i]), unsafe.Pointer(&some[i]))
			}
		} else {
			all := reflect.MakeSlice(q.elem.many, n, n)
			at := all.UnsafePointer()
			n = 0
			for i, from := range some {
				if from != nil {
					all.Index(n).Set(reflect.NewAt(q.elem.typ, from).Elem())
					made[i] = unsafe.Add(at, uintptr(n)*size)
					n++
				}
			}
			q.elem.replaceMany(at, n)
		}
		made, old = made[len(some):], old[len(some):]
	}
}

// slices is replace for the slices at first and, at each stride behind it, n of them, whose elements
// refer to nothing but strings.
func (q *part) slices(first unsafe.Pointer, n int, stride uintptr) {
	size := int(q.elem.typ.Size())
	at := func(i int) *slice { return (*slice)(unsafe.Add(first, uintptr(i)*stride)) }
	room := func(s *slice) int { // so that the next one is aligned
		if q.how == ofWords {
			return (s.len*size + 7) &^ 7
		}
		return s.len * size
	}
	for from := 0; from < n; {
		bytes, past := 0, from
		for ; past < n; past++ {
			more := room(at(past))
			if past > from && bytes+more > slab {
				break
			}
			bytes += more
		}
		var made unsafe.Pointer
		switch {
		case bytes == 0:
			made = unsafe.Pointer(&noElements)
		case q.how == ofStrings:
			made = unsafe.Pointer(unsafe.SliceData(make([]string, bytes/size)))
		case q.how == ofWords:
			made = unsafe.Pointer(unsafe.SliceData(make([]uint64, bytes/8)))
		default:
			made = unsafe.Pointer(unsafe.SliceData(make([]byte, bytes)))
		}
		used := 0
		for i := from; i < past; i++ {
			s := at(i)
			switch {
			case s.data == nil:
				continue
			case s.len*size == 0:
				s.data = unsafe.Pointer(&noElements)
			default:
				to := unsafe.Add(made, used)
				if q.how == ofStrings {
					copy(unsafe.Slice((*string)(to), s.len), unsafe.Slice((*string)(s.data), s.len))
				} else {
					copy(unsafe.Slice((*byte)(to), s.len*size), unsafe.Slice((*byte)(s.data), s.len*size))
				}
				s.data = to
			}
			s.cap = s.len
			used += room(s)
		}
		from = past
	}
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
