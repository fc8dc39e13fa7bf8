package codectest

import "reflect"

// deepCopy returns a copy of v that shares no memory with it, as far as exported fields reach.
func deepCopy(v reflect.Value) reflect.Value {
	return copier{}.copy(v)
}

// copier maps pointers and maps to their copies, since values may refer to themselves.
type copier map[visit]reflect.Value

func (c copier) copy(v reflect.Value) reflect.Value {
	copied := reflect.New(v.Type()).Elem()
	copied.Set(v) // what is not followed below, unexported fields among it
	switch v.Kind() {
	case reflect.Pointer, reflect.Map:
		if v.IsNil() {
			break
		}
		at := visit{v.Pointer(), v.Type()}
		if known, ok := c[at]; ok {
			return known
		}
		if v.Kind() == reflect.Map {
			copied.Set(reflect.MakeMapWithSize(v.Type(), v.Len()))
			c[at] = copied
			for entries := v.MapRange(); entries.Next(); {
				copied.SetMapIndex(entries.Key(), c.copy(entries.Value()))
			}
			break
		}
		copied.Set(reflect.New(v.Type().Elem()))
		c[at] = copied
		copied.Elem().Set(c.copy(v.Elem()))
	case reflect.Slice:
		if !v.IsNil() {
			copied.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
			for i := range v.Len() {
				copied.Index(i).Set(c.copy(v.Index(i)))
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			copied.Index(i).Set(c.copy(v.Index(i)))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				copied.Field(i).Set(c.copy(v.Field(i)))
			}
		}
	case reflect.Interface:
		if !v.IsNil() {
			copied.Set(c.copy(v.Elem()))
		}
	}
	return copied
}
