// Package proto is the protobuf codec of aside, on google.golang.org/protobuf.
package proto

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/internal/outcome"
)

// New is the protobuf codec for T, a pointer to a generated message: proto.New[*pb.User](). Safe
// for concurrent use.
//
// The encoding is protobuf's binary form; the same message may be encoded in different bytes.
// Fields that the message does not know are kept. Encode refuses a nil message, whose encoding
// would be that of an empty one, and strings that are not UTF-8; a loader returns aside.ErrNotFound
// where there is no value. An empty message is the empty string. Both directions refuse a proto2
// message without its required fields, and nesting deeper than 10,000; so Encode also refuses a
// message that contains itself.
//
// Compare messages with proto.Equal: the fields that protobuf keeps for itself differ between a
// message and its copy.
//
// If T is no such type (an interface, or dynamicpb.Message, which has no descriptor until it is
// made with one), calls return an error.
func New[T proto.Message]() codec.Codec[T] {
	c := protoCodec[T]{}
	if c.make, c.err = maker[T](); c.err == nil {
		c.nests = nests(c.make().ProtoReflect().Descriptor(), make(map[protoreflect.FullName]bool))
	}
	return c
}

var errNilMessage = errors.New("the message is nil")

type protoCodec[T proto.Message] struct {
	make  func() T
	err   error // why there is no make
	nests bool  // a message may contain others without end
}

func (protoCodec[T]) String() string { return "protobuf" }

// Clone copies a message as protobuf does, which takes a fraction of the time of Decode.
func (protoCodec[T]) Clone(v T) T { return proto.CloneOf(v) }

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
	if c.nests && deeper(v.ProtoReflect(), protowire.DefaultRecursionLimit) {
		return "", errNesting
	}
	b, err := proto.Marshal(v)
	return string(b), err
}

// proto.Marshal does not end where a message contains itself, and runs out of stack where it is
// nested very deep, neither of which can be recovered from.
var errNesting = fmt.Errorf("the message contains itself, or is nested deeper than %d", protowire.DefaultRecursionLimit)

// nests reports whether messages of a type may contain others without end: the type contains
// itself, or has room for extensions. open has the types that d is looked at in.
func nests(d protoreflect.MessageDescriptor, open map[protoreflect.FullName]bool) bool {
	if inside, known := open[d.FullName()]; known {
		return inside
	}
	if d.ExtensionRanges().Len() > 0 {
		return true
	}
	open[d.FullName()] = true
	for i := range d.Fields().Len() {
		if m := d.Fields().Get(i).Message(); m != nil && nests(m, open) {
			return true
		}
	}
	open[d.FullName()] = false
	return false
}

// deeper reports whether messages in m are nested deeper than levels.
func deeper(m protoreflect.Message, levels int) (tooDeep bool) {
	if levels < 0 {
		return true
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					tooDeep = deeper(v.Message(), levels-2) // an entry is a message, too
					return !tooDeep
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := 0; i < v.List().Len() && !tooDeep; i++ {
				tooDeep = deeper(v.List().Get(i).Message(), levels-1)
			}
		default:
			tooDeep = deeper(v.Message(), levels-1)
		}
		return !tooDeep
	})
	return tooDeep
}

func (c protoCodec[T]) Decode(s string) (v T, err error) {
	defer outcome.Settle("decode protobuf", &v, &err)
	if c.err != nil {
		return v, c.err
	}
	v = c.make()
	return v, proto.Unmarshal([]byte(s), v)
}
