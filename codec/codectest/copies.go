package codectest

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/redaside/aside/codec"
)

// decodesFresh holds for a codec that claims nothing.
func (s *suite[T]) decodesFresh() error {
	if !codec.IsFresh(s.codec) {
		return nil
	}
	for i, v := range s.values {
		enc, err := s.encode(v)
		if err != nil {
			return fmt.Errorf("values[%d]: Encode: %w", i, err)
		}
		one, err1, fatal1 := s.decode(enc)
		other, err2, fatal2 := s.decode(enc)
		if err := errors.Join(err1, fatal1, err2, fatal2); err != nil {
			return fmt.Errorf("values[%d]: Decode: %w", i, err)
		}
		first := references{}
		first.walk(reflect.ValueOf(&one).Elem(), nil)
		shared := ""
		references{}.walk(reflect.ValueOf(&other).Elem(), func(at visit) {
			if first[at] {
				shared = at.typ.String()
			}
		})
		if shared != "" {
			return fmt.Errorf("values[%d]: two decoded values have the same %s: DecodesFresh must report false", i, shared)
		}
	}
	return nil
}

// references are the pointers, slices and maps of a value, as far as exported fields reach.
type references map[visit]bool

// walk adds those in v, and tells each of them, if tell is not nil.
func (r references) walk(v reflect.Value, tell func(visit)) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if v.IsNil() || v.Kind() == reflect.Slice && v.Cap() == 0 || v.Kind() != reflect.Map && v.Type().Elem().Size() == 0 {
			return // it leads to no memory
		}
		at := visit{v.Pointer(), v.Type()}
		if r[at] {
			return
		}
		r[at] = true
		if tell != nil {
			tell(at)
		}
	case reflect.Interface:
		if v.IsNil() {
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		r.walk(v.Elem(), tell)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			r.walk(v.Index(i), tell)
		}
	case reflect.Map:
		for all := v.MapRange(); all.Next(); {
			r.walk(all.Key(), tell)
			r.walk(all.Value(), tell)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() || field.Anonymous {
				r.walk(v.Field(i), tell)
			}
		}
	}
}

// clonesApart holds for a codec without a Clone.
func (s *suite[T]) clonesApart() error {
	cloner := codec.ClonerOf(s.codec)
	if cloner == nil {
		return nil
	}
	for i, v := range s.values {
		ours, err := s.private(v)
		if err != nil {
			return fmt.Errorf("values[%d]: %w", i, err)
		}
		copied := cloner.Clone(ours)
		if !s.equal(copied, s.want[i]) {
			return fmt.Errorf("values[%d]: its clone is another value\n got: %+v\nwant: %+v", i, copied, s.want[i])
		}
		if s.mutate(&copied) && !s.equal(ours, s.want[i]) {
			return fmt.Errorf("values[%d]: changing a clone changed its value\n now: %+v\n was: %+v", i, ours, s.want[i])
		}
	}
	return nil
}

// roundTrips holds for a codec that is no RoundTripper.
func (s *suite[T]) roundTrips() error {
	knows, ok := s.codec.(codec.RoundTripper[T])
	if !ok {
		return nil
	}
	for i, v := range s.values {
		enc, err := s.encode(v)
		if err != nil || !knows.RoundTrips(v, enc) {
			continue
		}
		back, err, fatal := s.decode(enc)
		if err := errors.Join(err, fatal); err != nil {
			return fmt.Errorf("values[%d]: RoundTrips is true, and Decode fails: %w", i, err)
		}
		if !reflect.DeepEqual(back, v) {
			return fmt.Errorf("values[%d]: RoundTrips is true, and it comes back as another value\n got: %+v\nwant: %+v", i, back, v)
		}
	}
	return nil
}
