package shape

import (
	"reflect"
	"time"
	"unsafe"
)

// maxWeighed is how many values Memory looks at, and maxElements how many elements of one slice or
// map; what is beyond is taken to be like what was seen.
const (
	maxWeighed  = 10_000
	maxElements = 500
)

// Memory returns how many bytes v, which must be addressable, refers to beside those that it takes
// itself: strings, elements, what pointers lead to. within is a string that is in memory anyway:
// what lies in it is not counted. It looks at a bounded number of values.
func Memory(v reflect.Value, within string) int {
	w := weighing{within: within, left: maxWeighed}
	return w.beyond(v)
}

type weighing struct {
	within string
	left   int
	met    map[unsafe.Pointer]struct{} // what pointers, maps and slices lead to, so that nothing counts twice
}

// A Location that was parsed, with the slices in it: each time with an offset has one of its own.
const parsedLocation = 288

func (w *weighing) beyond(v reflect.Value) int {
	if w.left--; w.left < 0 {
		return 0
	}
	t := v.Type()
	if t == timeType {
		if at := timeOf(v); at.Location() != time.UTC && at.Location() != time.Local {
			return parsedLocation
		}
		return 0
	}
	switch v.Kind() {
	case reflect.String:
		s := v.String()
		if Lies(s, w.within) {
			return 0
		}
		return Rounded(len(s))
	case reflect.Interface:
		if v.IsNil() {
			return 0
		}
		elem := v.Elem()
		return Rounded(Size(elem.Type())) + w.beyond(elem)
	case reflect.Pointer:
		if v.IsNil() || w.again(v.UnsafePointer()) {
			return 0
		}
		return Rounded(Size(t.Elem())) + w.beyond(v.Elem())
	case reflect.Struct:
		sum := 0
		for i := range v.NumField() { //nolint:modernize // Fields allocates
			if f := v.Field(i); !bare(f.Kind()) {
				sum += w.beyond(f)
			}
		}
		return sum
	case reflect.Array:
		return w.elements(v)
	case reflect.Slice:
		if v.IsNil() || v.Cap() == 0 || w.again(v.UnsafePointer()) {
			return 0
		}
		return Rounded(v.Cap()*Size(t.Elem())) + w.elements(v)
	case reflect.Map:
		if v.IsNil() || w.again(v.UnsafePointer()) {
			return 0
		}
		// Go's maps keep eight entries and eight bytes of control in a group, between 7/16 and 7/8
		// full.
		const header, slack = 48, 2
		sum := header + slack*max(v.Len(), 4)*(Size(t.Key())+Size(t.Elem())+1)
		if bare(t.Key().Kind()) && bare(t.Elem().Kind()) {
			return sum
		}
		inside, n := 0, 0
		for each := v.MapRange(); w.left > 0 && n < maxElements && each.Next(); n++ {
			inside += w.beyond(each.Key()) + w.beyond(each.Value())
		}
		return sum + scaled(inside, n, v.Len())
	default:
		return 0
	}
}

func (w *weighing) elements(v reflect.Value) int {
	if bare(v.Type().Elem().Kind()) {
		return 0
	}
	inside, n := 0, 0
	for ; n < v.Len() && n < maxElements && w.left > 0; n++ {
		inside += w.beyond(v.Index(n))
	}
	return scaled(inside, n, v.Len())
}

// scaled is what all take if some of them take so much.
func scaled(inside, some, all int) int {
	if some == 0 || some == all {
		return inside
	}
	return int(float64(inside) / float64(some) * float64(all))
}

func (w *weighing) again(p unsafe.Pointer) bool {
	if _, met := w.met[p]; met {
		return true
	}
	if w.met == nil {
		w.met = make(map[unsafe.Pointer]struct{})
	}
	w.met[p] = struct{}{}
	return false
}

// bare reports whether values of a kind refer to nothing.
func bare(k reflect.Kind) bool { return k >= reflect.Bool && k <= reflect.Complex128 }

// timeOf reads a time.Time, also from a field that is not exported.
func timeOf(v reflect.Value) time.Time {
	switch {
	case v.CanAddr():
		return *(*time.Time)(unsafe.Pointer(v.UnsafeAddr()))
	case v.CanInterface():
		return v.Interface().(time.Time)
	default:
		return time.Time{}
	}
}

// Lies reports whether s begins in the memory of within; an empty s is nowhere else.
func Lies(s, within string) bool {
	if len(s) == 0 || len(within) == 0 {
		return len(s) == 0
	}
	at, from := uintptr(unsafe.Pointer(unsafe.StringData(s))), uintptr(unsafe.Pointer(unsafe.StringData(within)))
	return at >= from && at < from+uintptr(len(within))
}

// Rounded is what the allocator takes for so many bytes, about.
func Rounded(n int) int {
	const page, small = 8 << 10, 1 << 10
	switch {
	case n <= small:
		return (n + 15) &^ 15
	case n <= 4*page:
		return n + n/8
	default:
		return (n + page - 1) &^ (page - 1)
	}
}

// OwnStrings gives v, an addressable value of a flat type, strings of its own, in one piece of
// memory, so that short ones do not hold on to the long ones that they may be parts of. Those that
// lie within a string that is in memory anyway are left alone.
func OwnStrings(v reflect.Value, within string) {
	total := 0
	eachString(v, func(s *string) {
		if !Lies(*s, within) {
			total += len(*s)
		}
	})
	if total == 0 {
		return
	}
	all := make([]byte, 0, total)
	eachString(v, func(s *string) {
		if !Lies(*s, within) {
			from := len(all)
			all = append(all, *s...)
			*s = unsafe.String(unsafe.SliceData(all[from:]), len(*s))
		}
	})
}

// eachString calls do with every string in an addressable value of a flat type.
func eachString(v reflect.Value, do func(*string)) {
	switch v.Kind() {
	case reflect.String:
		do((*string)(unsafe.Pointer(v.UnsafeAddr()))) // also where the field is not exported
	case reflect.Struct:
		for i := range v.NumField() { //nolint:modernize // Fields allocates
			if f := v.Field(i); !bare(f.Kind()) && f.Type() != timeType {
				eachString(f, do)
			}
		}
	case reflect.Array:
		if !bare(v.Type().Elem().Kind()) {
			for i := range v.Len() {
				eachString(v.Index(i), do)
			}
		}
	default:
	}
}
