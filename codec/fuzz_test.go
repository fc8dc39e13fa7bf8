package codec

import (
	"testing"

	"github.com/redaside/aside/codec/internal/anybytes"
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
		anybytes.Decode(t, c, s)
		anybytes.Decode(t, JSON[any](), s)
		anybytes.Decode(t, JSON[map[string]*fuzzed](), s)
	})
}

// FuzzGob decodes the bytes as they are, and once more under a checksum that fits them, for without
// one the fuzzer would never get beyond it. The type holds no map, for which encoding/gob takes as
// much memory as forged bytes ask for; Gob's documentation says so.
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
		// Only that it does not panic: gob does not tell nil from empty, nor say which of two NaNs
		// it is.
		_, _ = c.Decode(s)
		_, _ = c.Decode(sealGob(append(make([]byte, gobHeader), s...)))
	})
}
