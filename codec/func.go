package codec

import (
	"errors"

	"github.com/redaside/aside/codec/internal/outcome"
)

// Func makes a codec of two functions, which must keep the rules of [Codec] and be safe for
// concurrent use. A panic in either comes back as an error. Where one of them is nil the codec is
// still usable for the other direction; calls that need it return an error that names it. A value
// that serialize writes and deserialize cannot read is loaded at every call. serialize must refuse
// a value that refers to itself: if it runs out of stack, the process ends.
func Func[T any](serialize func(T) (string, error), deserialize func(string) (T, error)) Codec[T] {
	return funcCodec[T]{serialize: serialize, deserialize: deserialize}
}

var (
	errNilSerialize   = errors.New("the serialize function given to codec.Func is nil")
	errNilDeserialize = errors.New("the deserialize function given to codec.Func is nil")
)

type funcCodec[T any] struct {
	serialize   func(T) (string, error)
	deserialize func(string) (T, error)
}

func (funcCodec[T]) String() string { return "Func" }

func (c funcCodec[T]) Encode(v T) (s string, err error) {
	defer outcome.Settle("encode", &s, &err)
	if c.serialize == nil {
		return "", errNilSerialize
	}
	return c.serialize(v)
}

func (c funcCodec[T]) Decode(s string) (v T, err error) {
	defer outcome.Settle("decode", &v, &err)
	if c.deserialize == nil {
		return v, errNilDeserialize
	}
	return c.deserialize(s)
}
