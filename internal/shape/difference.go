package shape

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
)

// Difference is where two values of one type differ.
type Difference struct {
	Field    string // the way to it, as in "Owner.Tags[2]"; empty for the whole value
	Was, Now string // what is there: a type, or a state such as "nil" or "missing"; never the value itself
}

const (
	maxCompared  = 10_000 // values that Differences looks at
	maxDepth     = 100
	maxNamed     = 8 // differences that it returns
	maxKeyLength = 32
)

// Differences compares the exported and unexported contents of was and now, which have the same
// type, and returns the first few differences. A type with a method Equal(itself) bool, as
// time.Time has, is asked. Nil and empty slices and maps count as equal, for many formats cannot
// say which, and so do two NaNs. It looks at ten thousand values at most, a hundred deep, so that
// large and cyclic ones are compared in part. It never panics.
func Differences(was, now reflect.Value) (all []Difference) {
	c := comparison{left: maxCompared}
	defer func() {
		if recover() != nil { // an Equal of the user's own, or a value that others change meanwhile
			all = c.found
		}
	}()
	c.compare("", was, now, 0)
	return c.found
}

type comparison struct {
	left  int
	found []Difference
}

func (c *comparison) differ(at, was, now string) {
	c.found = append(c.found, Difference{at, was, now})
}

func (c *comparison) compare(at string, was, now reflect.Value, depth int) {
	if c.left--; c.left < 0 || depth > maxDepth || len(c.found) >= maxNamed {
		return
	}
	if !was.IsValid() || !now.IsValid() || was.Type() != now.Type() {
		c.differ(at, typeName(was), typeName(now))
		return
	}
	if isMessage(was.Type()) {
		return // protobuf keeps state of its own in a message's unexported fields
	}
	if equal, asked := askEqual(was, now); asked {
		if !equal {
			c.differ(at, was.Type().String(), "another value")
		}
		return
	}
	var same bool
	switch was.Kind() {
	case reflect.Bool:
		same = was.Bool() == now.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		same = was.Int() == now.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		same = was.Uint() == now.Uint()
	case reflect.Float32, reflect.Float64:
		same = sameFloat(was.Float(), now.Float())
	case reflect.Complex64, reflect.Complex128:
		a, b := was.Complex(), now.Complex()
		same = sameFloat(real(a), real(b)) && sameFloat(imag(a), imag(b))
	case reflect.String:
		same = was.String() == now.String()
	case reflect.Pointer, reflect.Interface:
		if c.bothThere(at, was, now) && (was.Kind() == reflect.Interface || was.Pointer() != now.Pointer()) {
			c.compare(at, was.Elem(), now.Elem(), depth+1)
		}
		return
	case reflect.Struct:
		own := encodesItself(was.Type())
		for i := range was.NumField() {
			f := was.Type().Field(i)
			switch {
			case f.Name == "_":
			case own || !f.IsExported() && !f.Anonymous || leftOut(f.Tag):
				c.lost(join(at, f.Name), was.Field(i), now.Field(i))
			default:
				c.compare(join(at, f.Name), was.Field(i), now.Field(i), depth+1)
			}
		}
		return
	case reflect.Array, reflect.Slice:
		if was.Len() != now.Len() {
			c.differ(at, fmt.Sprintf("length %d", was.Len()), fmt.Sprintf("length %d", now.Len()))
			return
		}
		for i := 0; i < was.Len() && c.left > 0; i++ {
			c.compare(at+"["+strconv.Itoa(i)+"]", was.Index(i), now.Index(i), depth+1)
		}
		return
	case reflect.Map:
		c.maps(at, was, now, depth)
		return
	default: // functions, channels, unsafe pointers
		c.bothThere(at, was, now)
		return
	}
	if !same {
		c.differ(at, was.Type().String(), "another value")
	}
}

func (c *comparison) maps(at string, was, now reflect.Value, depth int) {
	for each := was.MapRange(); each.Next() && c.left > 0 && len(c.found) < maxNamed; c.left-- {
		key := each.Key()
		at := at + "[" + keyName(key) + "]"
		if !key.Comparable() {
			continue
		}
		switch other := now.MapIndex(key); {
		case other.IsValid():
			c.compare(at, each.Value(), other, depth+1)
		case key.Kind() == reflect.Float64 || key.Kind() == reflect.Float32 || key.Kind() == reflect.Pointer || key.Kind() == reflect.Struct:
			// A NaN, an address, or something that may hold one: it is not found for that.
		default:
			c.differ(at, contentName(each.Value()), "missing")
		}
	}
	if was.Len() != now.Len() && len(c.found) == 0 {
		c.differ(at, fmt.Sprintf("%d entries", was.Len()), fmt.Sprintf("%d entries", now.Len()))
	}
}

// lost is compare for what the codec has not read: it may be guarded by a lock of the value's own,
// while others change it, so that only whether it is set is looked at.
func (c *comparison) lost(at string, was, now reflect.Value) {
	if len(c.found) < maxNamed && !was.IsZero() && now.IsZero() && !isLock(was.Type()) {
		c.differ(at, contentName(was), "nothing")
	}
}

// encodesItself reports whether a codec asks t for its bytes, and so need not read its fields.
func encodesItself(t reflect.Type) bool {
	for _, name := range []string{"MarshalJSON", "MarshalText", "MarshalBinary", "GobEncode", "EncodeMsgpack", "MarshalMsgpack"} {
		if _, ok := reflect.PointerTo(t).MethodByName(name); ok {
			return true
		}
	}
	return false
}

// leftOut reports whether a field's tag keeps it from one of the formats.
func leftOut(tag reflect.StructTag) bool {
	return tag.Get("json") == "-" || tag.Get("msgpack") == "-"
}

// isLock reports whether t is of package sync: its state says nothing of the value.
func isLock(t reflect.Type) bool { return t.PkgPath() == "sync" || t.PkgPath() == "sync/atomic" }

// bothThere reports whether both are not nil, and notes a difference where one is.
func (c *comparison) bothThere(at string, was, now reflect.Value) bool {
	if was.IsNil() != now.IsNil() {
		c.differ(at, contentName(was), contentName(now))
	}
	return !was.IsNil() && !now.IsNil()
}

// contentName names the type of v, or of what is in it, if that is an interface.
func contentName(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Interface:
		return typeName(v.Elem())
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Func, reflect.Chan, reflect.UnsafePointer:
		if v.IsNil() {
			return "nil"
		}
	default:
	}
	return typeName(v)
}

func typeName(v reflect.Value) string {
	if !v.IsValid() {
		return "nil"
	}
	return v.Type().String()
}

func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}

func keyName(key reflect.Value) string {
	for key.Kind() == reflect.Interface && !key.IsNil() {
		key = key.Elem()
	}
	if key.Kind() != reflect.String {
		return key.Type().String()
	}
	s := key.String()
	if len(s) > maxKeyLength {
		return strconv.Quote(s[:maxKeyLength]) + "…"
	}
	return strconv.Quote(s)
}

func sameFloat(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }

// askEqual asks a method Equal of the type, where it has one about itself. What hides in an
// unexported field cannot be asked: it counts as equal then, for what is equal to such a type may
// look different.
func askEqual(was, now reflect.Value) (equal, asked bool) {
	t := was.Type()
	if t.Kind() == reflect.Interface || t.NumMethod() == 0 {
		return false, false
	}
	m, ok := t.MethodByName("Equal")
	if !ok || m.Type.NumIn() != 2 || m.Type.In(1) != t || m.Type.NumOut() != 1 || m.Type.Out(0).Kind() != reflect.Bool {
		return false, false
	}
	if t.Kind() == reflect.Pointer && (was.IsNil() || now.IsNil()) {
		return false, false
	}
	if !was.CanInterface() || !now.CanInterface() {
		return true, true
	}
	return was.Method(m.Index).Call([]reflect.Value{now})[0].Bool(), true
}

func isMessage(t reflect.Type) bool {
	if t.Kind() == reflect.Struct {
		t = reflect.PointerTo(t)
	}
	_, ok := t.MethodByName("ProtoReflect")
	return ok && t.Kind() == reflect.Pointer
}
