package codec

// Codec turns values of T into the bytes that Redis keeps, and back. Safe for concurrent use.
//
// Encodings are strings because strings are immutable: a cached value is passed to many decoders at
// once, and none of them can change it for the others.
//
// The rules, which package codectest checks:
//
//   - Decode(Encode(v)) equals v, as far as the format can represent it; the codec's documentation
//     says what comes back otherwise. Every encoding is self-contained: it can be decoded by
//     another process, in any order, any number of times.
//   - Decode never panics, whatever the bytes, and returns an error for bytes that it cannot read.
//     The value beside an error has no meaning.
//   - Decode keeps no state, does not change s, and returns a value that shares no mutable memory
//     with an earlier result or with s: callers may change what it returned.
//   - Encode does not change v and does not retain it: changing v afterwards changes nothing that
//     was encoded. It may be called with a value that other goroutines are reading.
//   - The empty string is an encoding like any other: Encode may return it and Decode may be given
//     it.
//
// An error should not quote the value: it ends up in logs.
type Codec[T any] interface {
	Encode(v T) (string, error)
	Decode(s string) (T, error)
}
