package codec

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// RoundTripper may be implemented by a codec that knows, without decoding, what comes back of a
// value. A view then keeps a copy of what a loader has returned, instead of what it would decode.
//
// RoundTrips reports whether Decode would make of encoded, which is what Encode has just made of v, a
// value that equals v in all respects: a nil slice or map stays nil, an empty one empty, and no field
// is lost. False where that is not certain. It does not change v, and is called before anybody else
// may.
type RoundTripper[T any] interface {
	RoundTrips(v T, encoded string) bool
}

// RoundTrips is true for most values of plain types: exported fields, numbers, strings, slices, maps
// and pointers of such.
func (jsonCodec[T]) RoundTrips(v T, encoded string) bool {
	trip := jsonTripOf(reflect.TypeFor[T]())
	return trip.sure && keepsText(encoded) && (trip.look == nil || looks(trip, v))
}

// looks has a trip look at v. It is not inlined: only what is looked at needs memory.
//
//go:noinline
func looks[T any](trip jsonTrip, v T) bool { return trip.look(reflect.ValueOf(&v).Elem()) }

// keepsText reports whether no string was changed on the way to JSON. Bytes that are not UTF-8 are
// replaced, by one of two spellings.
func keepsText(encoded string) bool {
	return !strings.Contains(encoded, `\ufffd`) && !strings.Contains(encoded, "\ufffd")
}

// jsonTrip is what comes back of the values of a type.
type jsonTrip struct {
	sure bool                     // all of them, but for those that look refuses, if their strings are UTF-8
	look func(reflect.Value) bool // nil: none are refused
}

var jsonTrips sync.Map // reflect.Type → jsonTrip

func jsonTripOf(t reflect.Type) jsonTrip {
	if known, ok := jsonTrips.Load(t); ok {
		return known.(jsonTrip)
	}
	known, _ := jsonTrips.LoadOrStore(t, planJSONTrip(t, nil))
	return known.(jsonTrip)
}

var jsonMethods = []reflect.Type{
	reflect.TypeFor[json.Marshaler](), reflect.TypeFor[json.Unmarshaler](),
	reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](),
}

// planJSONTrip looks into a type. What it does not know for certain does not come back. in is what t
// is a part of: a type that contains itself is not looked into.
func planJSONTrip(t reflect.Type, in []reflect.Type) jsonTrip {
	if t == reflect.TypeFor[time.Time]() {
		return jsonTrip{sure: true, look: isPlainTime}
	}
	if slices.Contains(in, t) || t == reflect.TypeFor[json.Number]() ||
		slices.ContainsFunc(jsonMethods, func(m reflect.Type) bool { return reflect.PointerTo(t).Implements(m) }) {
		return jsonTrip{}
	}
	in = append(slices.Clip(in), t)
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return jsonTrip{sure: true}
	case reflect.Pointer:
		switch t.Elem().Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map: // one that leads to nil is nil afterwards
			return jsonTrip{}
		default:
		}
		return eachOf(planJSONTrip(t.Elem(), in), func(v reflect.Value, look func(reflect.Value) bool) bool {
			return v.IsNil() || look(v.Elem())
		})
	case reflect.Slice, reflect.Array:
		return eachOf(planJSONTrip(t.Elem(), in), func(v reflect.Value, look func(reflect.Value) bool) bool {
			for i := range v.Len() {
				if !look(v.Index(i)) {
					return false
				}
			}
			return true
		})
	case reflect.Map:
		key := planJSONTrip(t.Key(), in)
		switch t.Key().Kind() {
		case reflect.Bool, reflect.Float32, reflect.Float64: // not to be encoded
			return jsonTrip{}
		default:
		}
		if !key.sure || key.look != nil {
			return jsonTrip{}
		}
		return eachOf(planJSONTrip(t.Elem(), in), func(v reflect.Value, look func(reflect.Value) bool) bool {
			for each := v.MapRange(); each.Next(); {
				if !look(each.Value()) {
					return false
				}
			}
			return true
		})
	case reflect.Struct:
		return planJSONStruct(t, in)
	default:
		return jsonTrip{}
	}
}

// eachOf is the trip of what contains elements of a trip.
func eachOf(elem jsonTrip, each func(v reflect.Value, look func(reflect.Value) bool) bool) jsonTrip {
	if !elem.sure || elem.look == nil {
		return elem
	}
	return jsonTrip{sure: true, look: func(v reflect.Value) bool { return each(v, elem.look) }}
}

// isPlainTime reports whether a time has no clock reading and is in UTC: JSON keeps neither the
// reading nor the name of a place.
func isPlainTime(v reflect.Value) bool {
	at := v.Interface().(time.Time)
	return at == at.Round(0).UTC() //nolint:revive // the same in all its parts, not only the same moment
}

// planJSONStruct is planJSONTrip for a struct. Names that differ by case only are one to a decoder
// that does not find the exact one, so such structs are left alone.
func planJSONStruct(t reflect.Type, in []reflect.Type) jsonTrip {
	type part struct {
		index int
		look  func(reflect.Value) bool
	}
	var parts []part
	var names []string
	if !addJSONNames(t, &names) {
		return jsonTrip{}
	}
	for i := range t.NumField() {
		f := t.Field(i)
		trip := planJSONTrip(f.Type, in)
		if !trip.sure {
			return jsonTrip{}
		}
		_, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if options == "omitempty" {
			switch f.Type.Kind() {
			case reflect.Slice, reflect.Map: // an empty one is left out, and nil afterwards
				within := trip.look
				trip.look = func(v reflect.Value) bool {
					return (v.IsNil() || v.Len() > 0) && (within == nil || within(v))
				}
			case reflect.Float32, reflect.Float64: // so is -0, which is not 0
				return jsonTrip{}
			default:
			}
		}
		if trip.look != nil {
			parts = append(parts, part{i, trip.look})
		}
	}
	if len(parts) == 0 {
		return jsonTrip{sure: true}
	}
	return jsonTrip{sure: true, look: func(v reflect.Value) bool {
		for _, p := range parts {
			if !p.look(v.Field(p.index)) {
				return false
			}
		}
		return true
	}}
}

// addJSONNames adds the names that the fields of a struct have in JSON. False: some may be lost, or
// take another's place.
func addJSONNames(t reflect.Type, names *[]string) bool {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case !f.IsExported() || options != "" && options != "omitempty" || strings.ContainsFunc(name, isUnusual):
			return false
		case f.Anonymous:
			// The fields of an embedded struct are its own.
			if f.Type.Kind() != reflect.Struct || f.Type == reflect.TypeFor[time.Time]() || f.Tag != "" || !addJSONNames(f.Type, names) {
				return false
			}
			continue
		case name == "":
			name = f.Name
		}
		if slices.ContainsFunc(*names, func(other string) bool { return strings.EqualFold(name, other) }) {
			return false
		}
		*names = append(*names, name)
	}
	return true
}

// isUnusual reports whether c is none of the characters of which names in JSON usually consist. "-"
// stands for no name.
func isUnusual(c rune) bool {
	return !(c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z')
}
