package clone

import (
	"encoding/json"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"time"
)

// immutable are types that hide a pointer to what nobody writes.
var immutable = map[reflect.Type]bool{
	reflect.TypeFor[time.Time]():      true, // to a Location
	reflect.TypeFor[netip.Addr]():     true, // to the name of a zone
	reflect.TypeFor[netip.Prefix]():   true,
	reflect.TypeFor[netip.AddrPort](): true,
	reflect.TypeFor[url.Userinfo]():   true, // two strings; a *Userinfo is "immutable" by its documentation
}

// copyable are types with a decoding method or unexported fields which may be copied part by part
// all the same: what these refer to is theirs alone.
var copyable = map[reflect.Type]bool{
	reflect.TypeFor[json.RawMessage]():  true,
	reflect.TypeFor[net.IP]():           true,
	reflect.TypeFor[net.IPNet]():        true,
	reflect.TypeFor[net.HardwareAddr](): true,
	reflect.TypeFor[url.URL]():          true,
	reflect.TypeFor[big.Int]():          true, // a sign and a slice of words
	reflect.TypeFor[big.Rat]():          true, // two of these
	reflect.TypeFor[big.Float]():        true,
}

// flat reports whether a copy of the memory of a t is a copy of the value: it holds no pointers but
// those of strings.
func flat(t reflect.Type) bool { return holdsOnly(t, true) }

// pointerFree reports whether a t holds no pointer at all.
func pointerFree(t reflect.Type) bool { return holdsOnly(t, false) }

func holdsOnly(t reflect.Type, strings bool) bool {
	switch t.Kind() {
	case reflect.Bool,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return true
	case reflect.String:
		return strings
	case reflect.Array:
		return t.Len() == 0 || holdsOnly(t.Elem(), strings)
	case reflect.Struct:
		for field := range t.Fields() {
			if !holdsOnly(field.Type, strings) && !(strings && immutable[field.Type]) {
				return false
			}
		}
		return true
	default: // pointers, slices, maps, interfaces; uintptr may be a pointer in disguise
		return false
	}
}
