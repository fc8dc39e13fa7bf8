package clone

import (
	"reflect"
	"strings"
	"unsafe"

	"github.com/redaside/aside/internal/shape"
)

// Keep returns a copy of *src that holds on to no memory but its own: src may be a part of something
// large, and its strings may be parts of long ones. Strings that lie in within, which is in memory
// anyway, are left alone. Else it is Copy.
func Keep[T any](p *Plan, src *T, within string) *T {
	dst := Copy(p, src)
	own{within}.strings(p.typ, unsafe.Pointer(&dst))
	return &dst
}

// own gives strings memory of their own.
type own struct{ within string }

// strings does so for those in the t at an address.
func (o own) strings(t reflect.Type, at unsafe.Pointer) {
	if immutable[t] || pointerFree(t) {
		return
	}
	switch t.Kind() {
	case reflect.String:
		if s := (*string)(at); !shape.Lies(*s, o.within) {
			*s = strings.Clone(*s)
		}
	case reflect.Pointer:
		if to := *(*unsafe.Pointer)(at); to != nil {
			o.strings(t.Elem(), to)
		}
	case reflect.Struct:
		for field := range t.Fields() {
			o.strings(field.Type, unsafe.Add(at, field.Offset))
		}
	case reflect.Array:
		o.elements(t.Elem(), at, t.Len())
	case reflect.Slice:
		o.elements(t.Elem(), (*slice)(at).data, (*slice)(at).len)
	case reflect.Map:
		o.mapping(reflect.NewAt(t, at).Elem())
	default: // an unexported field of a kind that cannot be copied, which is zero
	}
}

func (o own) elements(t reflect.Type, at unsafe.Pointer, n int) {
	if pointerFree(t) {
		return
	}
	for i := range uintptr(n) {
		o.strings(t, unsafe.Add(at, i*t.Size()))
	}
}

// mapping replaces a map by one whose keys and values have strings of their own.
func (o own) mapping(m reflect.Value) {
	t := m.Type()
	if m.IsNil() || pointerFree(t.Key()) && pointerFree(t.Elem()) {
		return
	}
	made := reflect.MakeMapWithSize(t, m.Len())
	for all := m.MapRange(); all.Next(); {
		key, value := reflect.New(t.Key()), reflect.New(t.Elem())
		key.Elem().SetIterKey(all)
		value.Elem().SetIterValue(all)
		o.strings(t.Key(), key.UnsafePointer())
		o.strings(t.Elem(), value.UnsafePointer())
		made.SetMapIndex(key.Elem(), value.Elem())
	}
	m.Set(made)
}
