// Package proto is the protobuf codec of aside, on google.golang.org/protobuf.
package proto

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/internal/outcome"
)

// New is the protobuf codec for T, a pointer to a generated message: proto.New[*pb.User](). Safe for concurrent use.
//
// The encoding is protobuf's binary form; the same message may be encoded in different bytes. Fields that the message does not know are
// kept. Encode refuses a nil message, which on the wire could not be told from an empty one, and strings that are not UTF-8; a
// loader says that there is nothing with aside.ErrNotFound. An empty message is the empty string. Both directions refuse a proto2
// message without its required fields; Decode also nesting deeper than 10,000.
//
// Compare messages with proto.Equal: the fields that protobuf keeps for itself differ between a message and its copy.
//
// Where T is no such type (an interface, or dynamicpb.Message, which has no descriptor until it is made with one), calls return
// an error.
func New[T proto.Message]() codec.Codec[T] {
	c := protoCodec[T]{}
	c.make, c.err = maker[T]()
	return c
}

var errNilMessage = errors.New("the message is nil")

type protoCodec[T proto.Message] struct {
	make func() T
	err  error // why there is no make
}

func (protoCodec[T]) String() string { return "protobuf" }

// maker returns what makes an empty message.
func maker[T proto.Message]() (mk func() T, err error) {
	defer func() {
		if recover() != nil {
			mk, err = nil, fmt.Errorf("%T is not a pointer to a generated message", *new(T))
		}
	}()
	var none T
	if any(none) == nil {
		return nil, errors.New("T is an interface: name the message, as in proto.New[*pb.User]()")
	}
	typ := none.ProtoReflect().Type() // generated messages know their type even when nil
	mk = func() T { return typ.New().Interface().(T) }
	mk() // panics where T only looks like a message
	return mk, nil
}

func (c protoCodec[T]) Encode(v T) (s string, err error) {
	defer outcome.Settle("encode protobuf", &s, &err)
	if c.err != nil {
		return "", c.err
	}
	if !v.ProtoReflect().IsValid() {
		return "", errNilMessage
	}
	b, err := proto.Marshal(v)
	return string(b), err
}

func (c protoCodec[T]) Decode(s string) (v T, err error) {
	defer outcome.Settle("decode protobuf", &v, &err)
	if c.err != nil {
		return v, c.err
	}
	v = c.make()
	return v, proto.Unmarshal([]byte(s), v)
}
