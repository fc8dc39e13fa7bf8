// Package msgpack is the MessagePack codec of aside, on github.com/vmihailenco/msgpack/v5. It is smaller and faster than JSON, and other
// languages read it.
package msgpack

import (
	"errors"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/internal/outcome"
)

// New is the MessagePack codec for T: structs as maps by field name, and the struct tags, CustomEncoder, Marshaler and registered
// extensions of the library beneath it. Safe for concurrent use.
//
// What it cannot say: unexported fields; the location of a time, which comes back as local time (the same instant); the Go type of what is
// in an interface (a struct comes back as map[string]any, integers in the smallest type that holds them). A nil pointer, slice or map
// comes back nil. The encoding of a map is in no particular order.
//
// Decode refuses anything after the value, nesting deeper than 10,000, and lengths beyond the end of the input, before memory is taken
// for them; it takes memory in proportion to the input. Unknown fields are skipped.
// An extension whose registered decoder begins by reading a map from its content is refused.
func New[T any]() codec.Codec[T] { return msgpackCodec[T]{} }

var errTrailing = errors.New("bytes after the value")

type msgpackCodec[T any] struct{}

func (msgpackCodec[T]) String() string { return "MessagePack" }

func (msgpackCodec[T]) Encode(v T) (s string, err error) {
	defer outcome.Settle("encode MessagePack", &s, &err)
	b, err := msgpack.Marshal(&v) // &v, for an EncodeMsgpack with a pointer receiver cannot be called on a copy in an interface
	return string(b), err         // b has room to spare, and the string may be kept for long
}

func (msgpackCodec[T]) Decode(s string) (v T, err error) {
	defer outcome.Settle("decode MessagePack", &v, &err)
	r, err := scan(s)
	if err != nil {
		return v, err
	}
	// Not msgpack.Unmarshal: it preallocates values, for each type in a goroutine that never ends. Nor a pooled decoder, whose buffer
	// an extension's decoder could keep hold of.
	if err := msgpack.NewDecoder(r).Decode(&v); err != nil {
		return v, err
	}
	if r.Len() > 0 {
		return v, errTrailing
	}
	return v, nil
}
