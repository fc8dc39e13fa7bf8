package codec

// String is the codec for values that are strings already: any bytes, stored as they are. Neither
// method fails.
func String() Codec[string] { return stringCodec{} }

type stringCodec struct{}

func (stringCodec) String() string { return "String" }

func (stringCodec) Encode(v string) (string, error) { return v, nil }
func (stringCodec) Decode(s string) (string, error) { return s, nil }

// Bytes is the codec for values that are bytes already, stored as they are. Both methods copy, so
// callers may change a decoded value. Neither fails. Nil and empty are not distinguished: both are
// stored as the empty string and come back as an empty slice that is not nil.
func Bytes() Codec[[]byte] { return bytesCodec{} }

type bytesCodec struct{}

func (bytesCodec) String() string { return "Bytes" }

func (bytesCodec) DecodesFresh() bool { return true }

func (bytesCodec) Encode(v []byte) (string, error) { return string(v), nil }
func (bytesCodec) Decode(s string) ([]byte, error) { return []byte(s), nil }
