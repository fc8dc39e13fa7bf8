package codectest

import "reflect"

// mutate changes all that can be changed through v without assigning to it: what pointers point to,
// elements of slices and maps, however deep. It reports whether anything was. Unexported fields
// stay as they are: some point to what their package shares on purpose.
func mutate(v reflect.Value) bool {
	m := mutator{seen: map[visit]bool{}}
	m.walk(v, false)
	return m.changed
}

type mutator struct {
	seen    map[visit]bool // pointers that were followed: values may refer to themselves, and what is changed twice may be as before
	changed bool
}

type visit struct {
	at  uintptr
	typ reflect.Type
}

// first reports whether v, a pointer, map or slice, is met for the first time.
func (m *mutator) first(v reflect.Value) bool {
	at := visit{v.Pointer(), v.Type()}
	met := m.seen[at]
	m.seen[at] = true
	return !met
}

// walk visits v; shared says that v lies behind a pointer, slice or map, so that a change to it is
// seen by all who hold that.
func (m *mutator) walk(v reflect.Value, shared bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() && m.first(v) {
			m.walk(v.Elem(), true)
		}
	case reflect.Slice:
		if v.Len() > 0 && m.first(v) {
			for i := range v.Len() {
				m.walk(v.Index(i), true)
			}
		}
	case reflect.Map:
		if !v.IsNil() && m.first(v) {
			m.mapEntries(v)
		}
	case reflect.Array:
		for i := range v.Len() {
			m.walk(v.Index(i), shared)
		}
	case reflect.Struct:
		m.fields(v, shared)
	case reflect.Interface:
		m.inside(v, shared)
	default:
		if shared && v.CanSet() {
			m.leaf(v)
		}
	}
}

// mapEntries changes every entry, and adds one: an empty map can be shared too.
func (m *mutator) mapEntries(v reflect.Value) {
	changed := reflect.MakeMap(v.Type()) // aside, for the map is being ranged over
	for entries := v.MapRange(); entries.Next(); {
		value := reflect.New(v.Type().Elem()).Elem()
		value.Set(entries.Value())
		m.walk(value, true)
		changed.SetMapIndex(entries.Key(), value)
	}
	for entries := changed.MapRange(); entries.Next(); {
		v.SetMapIndex(entries.Key(), entries.Value())
	}
	zero := reflect.Zero(v.Type().Key())
	if !v.MapIndex(zero).IsValid() {
		v.SetMapIndex(zero, reflect.Zero(v.Type().Elem()))
		m.changed = true
	}
}

func (m *mutator) fields(v reflect.Value, shared bool) {
	exported := 0
	for i := range v.NumField() {
		if v.Type().Field(i).IsExported() {
			exported++
			m.walk(v.Field(i), shared)
		}
	}
	// A struct that shows no field (time.Time, big.Int) can still be overwritten as a whole.
	if exported == 0 && shared && v.CanSet() && !v.IsZero() {
		v.SetZero()
		m.changed = true
	}
}

// inside follows what an interface holds. What it holds by value cannot be changed in place, only
// replaced by a changed copy.
func (m *mutator) inside(v reflect.Value, shared bool) {
	if v.IsNil() {
		return
	}
	if !shared || !v.CanSet() {
		m.walk(v.Elem(), false)
		return
	}
	held := reflect.New(v.Elem().Type()).Elem()
	held.Set(v.Elem())
	m.walk(held, true)
	v.Set(held)
}

// leaf changes a value that has no parts.
func (m *mutator) leaf(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.String:
		v.SetString("changed by codectest, was " + v.String())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(v.Int() ^ 1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		v.SetUint(v.Uint() ^ 1)
	case reflect.Float32, reflect.Float64:
		if v.Float() == 1 {
			v.SetFloat(2)
		} else {
			v.SetFloat(1) // not + 1, which changes nothing in a large number
		}
	case reflect.Complex64, reflect.Complex128:
		if v.Complex() == 1 {
			v.SetComplex(2)
		} else {
			v.SetComplex(1)
		}
	default: // channels, functions: not what a codec makes
		return
	}
	m.changed = true
}
