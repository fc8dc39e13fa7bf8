package codectest

import (
	"iter"
	"math/rand/v2"
	"strings"
)

// corpus is bytes that have nothing to do with the codec, or that ask more of a decoder than they
// give it.
func corpus() []string {
	junk := []string{
		"", " ", "\n", "\x00", "\xff", "null", "true", "0", "-", "1e999", `"`, `""`, "{", "{}", "[", "[]", "[1,", `{"":`,
		"\x00aside:", "\x00zstd:", "\x00zstd:0", "\x00zstd:1",
		"\x28\xb5\x2f\xfd",                         // zstd's own magic
		"\xdd\xff\xff\xff\xff",                     // MessagePack: an array of 4 billion
		"\xdf\xff\xff\xff\xff",                     // a map of as many
		"\xc6\xff\xff\xff\xff",                     // 4 GB of bytes
		"\xd7\xff\xdf\xff\xff\xff\xff\x00\x00\x00", // a timestamp that looks like a map
		"\x0a\xff\xff\xff\xff\x0f",                 // protobuf: a field of 4 GB
		"\xf8\xff\xff\xff\xff\xff\xff\xff\xff",     // gob: a message of 2⁶⁴ bytes
		"\xed\xa0\x80\xc0\xaf\xfe",                 // not UTF-8
	}
	for _, unit := range []string{"[", `{"a":`, "\x91", "\x81\xa1a", "\x0a", "\x0b", "\x00", "\xff", "("} {
		junk = append(junk, strings.Repeat(unit, 100_000)) // nesting that would exhaust a stack
	}
	for b := range 256 {
		junk = append(junk, string([]byte{byte(b)}), strings.Repeat(string([]byte{byte(b)}), 9))
	}
	return junk
}

// damage yields what may become of an encoding: cut short, bits flipped, bytes replaced, removed,
// repeated, put in front and behind.
func damage(r *rand.Rand, enc string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, around := range []string{"\x00", " ", "\xff", "0", "{}", "\x00aside:", "\x00zstd:1", enc} {
			if !yield(enc+around) || !yield(around+enc) {
				return
			}
		}
		for _, n := range positions(r, len(enc)) {
			if !yield(enc[:n]) || !yield(enc[n:]) || !yield(enc[:n]+enc[n+1:]) || !yield(enc[:n]+enc[n:n+1]+enc[n:]) {
				return
			}
			for bit := range 8 {
				if !yield(enc[:n] + string([]byte{enc[n] ^ 1<<bit}) + enc[n+1:]) {
					return
				}
			}
			for _, b := range []byte{0x00, 0x7f, 0x80, 0xff, byte(r.Uint32())} {
				if !yield(enc[:n] + string([]byte{b}) + enc[n+1:]) {
					return
				}
			}
			// Lengths often take four bytes.
			if n+4 <= len(enc) && !yield(enc[:n]+"\xff\xff\xff\xff"+enc[n+4:]) {
				return
			}
		}
	}
}

// positions returns where in n bytes to try something: everywhere, if they are few, else at the
// beginning, at the end, and here and there.
func positions(r *rand.Rand, n int) []int {
	const everywhere, edge, some = 400, 100, 100
	var at []int
	for i := range n {
		if n <= everywhere || i < edge || i >= n-edge || r.IntN(n) < some {
			at = append(at, i)
		}
	}
	return at
}
