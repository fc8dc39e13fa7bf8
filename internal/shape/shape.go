// Package shape finds out about types, once when a view is made and never on the way of a call.
package shape

import (
	"reflect"
	"time"
)

var timeType = reflect.TypeFor[time.Time]()

// Flat reports whether copies of a value of type t share nothing that can be changed, so that one
// decoded value may be handed to many callers. That is so where t holds, through arrays and
// structs, no pointer, slice, map, channel, function or interface. Strings are fine, for nobody can
// change them, and so is time.Time, whose *Location is never written. Other types that hide a
// pointer are not flat even where they never write through it (netip.Addr, a type defined as
// time.Time): that costs them a decode, and is never wrong.
//
// A nil type (what reflect.TypeOf says of a nil interface) is not flat.
func Flat(t reflect.Type) bool {
	if t == nil {
		return false
	}
	if t == timeType {
		return true
	}
	switch t.Kind() {
	case reflect.Bool, reflect.String,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return true
	case reflect.Array:
		return t.Len() == 0 || Flat(t.Elem())
	case reflect.Struct:
		for field := range t.Fields() {
			if !Flat(field.Type) {
				return false
			}
		}
		return true
	default: // pointers, slices, maps, channels, functions, interfaces, unsafe.Pointer, and whatever kinds are still to come
		return false
	}
}

// Size returns how many bytes a value of type t takes itself: not what its strings, or anything
// else that it refers to, take beyond that. 0 for a nil type.
func Size(t reflect.Type) int {
	if t == nil {
		return 0
	}
	return int(t.Size())
}
