package zstd

import (
	"bytes"
	"strings"
	"testing"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/internal/anybytes"
)

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
		anybytes.Decode(t, c, string(payload))

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
		anybytes.Decode(t, c, zstdFrame+string(payload))
	})
}
