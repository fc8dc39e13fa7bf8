// Package codec turns Go values into the bytes that Redis keeps, and back.
//
// A [Codec] is made once, for one type, and shared:
//
//	users := aside.Typed(client, codec.JSON[User]())
//
// Which one to choose:
//
//	codec           choose it when                                     what GET shows        mind
//	--------------  -------------------------------------------------  --------------------  ----------------------------------
//	JSON            in doubt; people or other languages read it too    readable text         exported fields only
//	msgpack.New     JSON's bytes or CPU show in a profile              MessagePack           times lose their location
//	proto.New       the type is a protobuf message already             protobuf              a nil message is refused
//	Gob             Go only, and types that JSON cannot say (complex   checksum, then gob    large for single small values:
//	                numbers, map keys that are structs)                                      each carries its type
//	String, Bytes   the value is bytes already                         the bytes themselves  nil becomes empty
//	Func            you have two functions for it                      what they write       keep the rules of Codec
//	zstd.New        values are some hundred bytes and repetitive; it   marker and zstd,      switch it on in two steps:
//	                wraps any of the above                             or the inner bytes    see there
//
// msgpack, proto and zstd are packages of their own, so that only programs that import them link
// them.
//
// Each codec's documentation says what it cannot represent. A view compares the first loaded values
// with what the codec gives back, and logs where they differ. A value that cannot be encoded, or
// not be decoded again, is loaded at every call: a line a minute in the log names the view and its
// type, and Stats counts EncodeErrors and DecodeErrors.
//
// # Changing a type
//
// Cached values outlive a deployment, so two versions of T read each other's bytes for a while.
// JSON, msgpack and Gob skip fields that they do not know and leave absent ones zero; that is right
// when a field is added, and wrong when its meaning changes: then change the key (a version in its
// prefix), so that the old values are not found. A value that does not decode is a miss, never a
// wrong answer: it is loaded again and replaced. (JSON and MessagePack treat an object none of
// whose members is a field in the same way; Gob refuses it by itself, and with Func your functions
// decide.)
//
// # Your own codec
//
// Implement the two methods of [Codec], or pass two functions to [Func], and check it:
//
//	func TestMyCodec(t *testing.T) { codectest.Run(t, MyCodec{}, []Thing{{}, {Name: "a"}}) }
package codec
