// Package anybytes has what the fuzz targets of all codecs check.
package anybytes

import (
	"reflect"
	"strings"
	"testing"
)

// Codec is codec.Codec, which this package must not import: that package's own tests use it.
type Codec[T any] interface {
	Encode(T) (string, error)
	Decode(string) (T, error)
}

// Decode checks what holds for any bytes: no panic, s is as it was, and what decodes encodes and
// comes back the same.
func Decode[T any](t testing.TB, c Codec[T], s string) {
	before := strings.Clone(s)
	v, err := c.Decode(s)
	if s != before {
		t.Fatalf("Decode changed its input: %q became %q", before, s)
	}
	if err != nil {
		return
	}
	again, err := c.Encode(v)
	if err != nil {
		t.Fatalf("%q decoded to %+v, which does not encode: %v", s, v, err)
	}
	got, err := c.Decode(again)
	if err != nil || !reflect.DeepEqual(got, v) {
		t.Fatalf("%q decoded to %+v, encoded to %q, decoded to %+v, %v", s, v, again, got, err)
	}
}
