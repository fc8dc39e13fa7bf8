package proto_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	gproto "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/redaside/aside/codec/codectest"
	"github.com/redaside/aside/codec/proto"
)

func aStruct(t testing.TB) *structpb.Struct {
	s, err := structpb.NewStruct(map[string]any{"name": "Ada", "tags": []any{"a", 1.5, nil, true}, "nested": map[string]any{"x": "y"}})
	require.NoError(t, err)
	return s
}

func TestProtoKeepsTheContract(t *testing.T) {
	t.Run("nested message", func(t *testing.T) {
		codectest.Run(t, proto.New[*structpb.Struct](), []*structpb.Struct{{}, aStruct(t)},
			codectest.Equal(func(a, b *structpb.Struct) bool { return gproto.Equal(a, b) }))
	})
	t.Run("bytes", func(t *testing.T) {
		codectest.Run(t, proto.New[*wrapperspb.BytesValue](), []*wrapperspb.BytesValue{{}, {Value: []byte{0, 255}}},
			codectest.Equal(func(a, b *wrapperspb.BytesValue) bool { return gproto.Equal(a, b) }))
	})
}

func TestAnEmptyMessageIsTheEmptyString(t *testing.T) {
	c := proto.New[*timestamppb.Timestamp]()
	s, err := c.Encode(&timestamppb.Timestamp{})
	require.NoError(t, err)
	assert.Equal(t, "", s)
	got, err := c.Decode("")
	require.NoError(t, err)
	assert.True(t, gproto.Equal(&timestamppb.Timestamp{}, got))
}

func TestUnknownFieldsAreKept(t *testing.T) {
	whole, err := proto.New[*timestamppb.Timestamp]().Encode(&timestamppb.Timestamp{Seconds: 1, Nanos: 2})
	require.NoError(t, err)
	older := proto.New[*wrapperspb.Int64Value]() // knows field 1 only
	v, err := older.Decode(whole)
	require.NoError(t, err)
	again, err := older.Encode(v)
	require.NoError(t, err)
	assert.Equal(t, whole, again)
}

func TestProtoRefuses(t *testing.T) {
	_, err := proto.New[*structpb.Struct]().Encode(nil)
	require.EqualError(t, err, "aside: encode protobuf: the message is nil")
	_, err = proto.New[*wrapperspb.StringValue]().Encode(wrapperspb.String("\xff"))
	require.ErrorContains(t, err, "aside: encode protobuf: ")
	got, err := proto.New[*structpb.Struct]().Decode("\x0a\xff")
	require.ErrorContains(t, err, "aside: decode protobuf: ")
	assert.Nil(t, got)
}

func TestATypeThatIsNoMessageIsAnErrorOnUse(t *testing.T) {
	uses := func(c interface {
		Encode(gproto.Message) (string, error)
		Decode(string) (gproto.Message, error)
	}) {
		_, err := c.Encode(&structpb.Struct{})
		require.ErrorContains(t, err, "T is an interface")
		_, err = c.Decode("")
		require.ErrorContains(t, err, "T is an interface")
	}
	uses(proto.New[gproto.Message]())

	_, err := proto.New[*dynamicpb.Message]().Decode("")
	require.EqualError(t, err, "aside: decode protobuf: *dynamicpb.Message is not a pointer to a generated message")
}

func FuzzProto(f *testing.F) {
	c := proto.New[*structpb.Struct]()
	s, err := c.Encode(aStruct(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s)
	f.Add("")
	f.Add("\x0a\xff\xff\xff\xff\x0f")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := c.Decode(s)
		if err != nil {
			return
		}
		again, err := c.Encode(v)
		if err != nil {
			t.Fatalf("%q decoded to %v, which does not encode: %v", s, v, err)
		}
		if _, err := c.Decode(again); err != nil { // not compared: a NaN is not equal to itself
			t.Fatalf("%q decoded to %v, encoded to %q, which does not decode: %v", s, v, again, err)
		}
	})
}

// Without the check each of these ends the process.
func TestAMessageThatContainsItselfIsRefused(t *testing.T) {
	const says = "the message contains itself, or is nested deeper than 10000"
	list := &structpb.ListValue{}
	list.Values = []*structpb.Value{structpb.NewListValue(list)}
	_, err := proto.New[*structpb.ListValue]().Encode(list)
	require.ErrorContains(t, err, says)
	s := &structpb.Struct{}
	s.Fields = map[string]*structpb.Value{"a": structpb.NewStringValue("b"), "s": structpb.NewStructValue(s)}
	_, err = proto.New[*structpb.Struct]().Encode(s)
	require.ErrorContains(t, err, says)

	v := structpb.NewNullValue()
	for range 1_000_000 {
		v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
	}
	_, err = proto.New[*structpb.Value]().Encode(v)
	require.ErrorContains(t, err, says)

	v = structpb.NewNullValue()
	for range 4_900 {
		v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
	}
	enc, err := proto.New[*structpb.Value]().Encode(v)
	require.NoError(t, err)
	_, err = proto.New[*structpb.Value]().Decode(enc)
	require.NoError(t, err)
}
