package codec

import (
	"reflect"
	"strings"
	"testing"
)

// fuzzed has what decoders treat in different ways, and no map: see FuzzGob.
type fuzzed struct {
	N      int
	F      float64
	S      string
	B      []byte
	L      []string
	P      *fuzzed
	Nested [2]struct{ A, B uint16 }
}

func seeds() []fuzzed {
	full := fuzzed{N: -1, F: 1.5, S: "s\x00", B: []byte{0, 255}, L: []string{"", "a"}}
	full.Nested[1].B = 7
	child := full
	child.P = &full
	return []fuzzed{{}, full, child}
}

// decodeAny checks what holds for any bytes: no panic, s is as it was, and what decodes encodes and comes back the same.
func decodeAny[T any](t *testing.T, c Codec[T], s string) {
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

func FuzzJSON(f *testing.F) {
	c := JSON[fuzzed]()
	for _, v := range seeds() {
		s, err := c.Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s)
	}
	f.Add(`[{"a":[1,null,true,"\ud800"]}]`)
	f.Fuzz(func(t *testing.T, s string) {
		decodeAny(t, c, s)
		decodeAny(t, JSON[any](), s)
		decodeAny(t, JSON[map[string]*fuzzed](), s)
	})
}

// FuzzGob decodes the bytes as they are, and once more under a checksum that fits them, for without one the fuzzer would never get
// beyond it. The type holds no map, for which encoding/gob takes as much memory as forged bytes ask for; Gob's documentation says so.
func FuzzGob(f *testing.F) {
	c := Gob[fuzzed]()
	for _, v := range seeds() {
		s, err := c.Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s)
		f.Add(s[gobHeader:])
	}
	f.Fuzz(func(t *testing.T, s string) {
		// Only that it does not panic: gob does not tell nil from empty, nor say which of two NaNs it is.
		_, _ = c.Decode(s)
		_, _ = c.Decode(sealGob(append(make([]byte, gobHeader), s...)))
	})
}
