package zstd

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/redaside/aside/codec"
)

// decodeAny checks what holds for any bytes: no panic, s is as it was, and what decodes encodes and comes back the same.
func decodeAny[T any](t *testing.T, c codec.Codec[T], s string) {
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

func FuzzZstd(f *testing.F) {
	for _, s := range []string{"", "a", zstdMarker, zstdStored, zstdFrame, zstdStored + zstdFrame, strings.Repeat("abc", 500), "\x00aside:"} {
		f.Add([]byte(s), 0)
		f.Add([]byte(s), 100)
		stored, err := New(codec.String(), -1).Encode(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(stored), -1)
	}
	f.Fuzz(func(t *testing.T, payload []byte, minSize int) {
		c := New(codec.Bytes(), minSize)
		decodeAny(t, c, string(payload))

		stored, err := c.Encode(payload)
		if err != nil {
			t.Fatal(err)
		}
		if len(stored) > len(payload)+len(zstdStored) {
			t.Fatalf("%d bytes grew to %d", len(payload), len(stored))
		}
		got, err := c.Decode(stored)
		if err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("%q was stored as %q and came back as %q, %v", payload, stored, got, err)
		}
		decodeAny(t, c, zstdFrame+string(payload))
	})
}
