package codec

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"hash/crc32"
	"reflect"
	"strings"

	"github.com/redaside/aside/codec/internal/nesting"
	"github.com/redaside/aside/codec/internal/outcome"
)

// Gob is the codec of encoding/gob, for Go programs only. Every value is self-contained and
// therefore carries the description of its type, some hundred bytes: use it for large values, not
// for many small ones.
//
// It cannot represent: unexported fields; the difference between a pointer and its target; the
// difference between nil and empty: an empty slice comes back nil, and a nil map that is the whole
// value comes back empty. Encode refuses a nil pointer (also in a slice or map), functions and
// channels, and an interface's concrete type unless gob.Register knows it, in every program that
// reads it. It refuses a value that refers to itself, or that is nested deeper than 100,000, before
// it runs out of stack; it cannot check what a type's own methods do.
//
// The checksum makes damaged bytes an error. It does not make gob safe against forged values:
// encoding/gob is not hardened against that. Where others can write to your Redis, use JSON.
func Gob[T any]() Codec[T] { return gobCodec[T]{gobRules.PlanOf(reflect.TypeFor[T]())} }

// gobRules are what encoding/gob does, which has no limit of its own.
var gobRules = nesting.Rules{
	Max:  100_000, // a tenth of what a stack has room for
	Skip: func(f reflect.StructField) bool { return !f.IsExported() },
	Opaque: func(t reflect.Type) (always, addressed bool) {
		own := func(t reflect.Type) bool {
			return t.Implements(reflect.TypeFor[gob.GobEncoder]()) || t.Implements(reflect.TypeFor[encoding.BinaryMarshaler]())
		}
		return t.Kind() != reflect.Interface && (own(t) || own(reflect.PointerTo(t))), false
	},
}

// Gob writes:
//
//	+---------+--------+---------...
//	| version | crc32c | gob stream: type descriptions, one value
//	+---------+--------+---------...
//	  1 byte    4        to the end
//
//	Version 1. crc32c (Castagnoli) covers the gob stream. Little endian.
//
// Why a checksum: gob allocates a map for as many entries as the bytes say before it looks at the
// first (decodeMap in Go 1.26), so that one flipped bit may ask for all memory there is, and that
// is no panic that could be recovered from.
const (
	gobVersion = 1
	gobHeader  = 1 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errGobShort    = errors.New("shorter than its header")
	errGobChecksum = errors.New("checksum does not match")
	errGobNil      = errors.New("gob cannot say a nil pointer")
	errGobTrailing = errors.New("bytes after the value")
)

type gobCodec[T any] struct{ nesting *nesting.Plan }

func (gobCodec[T]) String() string { return "Gob" }

func (gobCodec[T]) DecodesFresh() bool { return true }

// EncodesAnew is as that of jsonCodec.
func (gobCodec[T]) EncodesAnew() {}

func (c gobCodec[T]) Encode(v T) (s string, err error) {
	defer outcome.Settle("encode Gob", &s, &err)
	if err := c.nesting.Check(reflect.ValueOf(&v).Elem()); err != nil {
		return "", err
	}
	var b bytes.Buffer
	b.Write(make([]byte, gobHeader))
	// Sent through &v, a nil pointer would pass for an empty value, or write no value at all.
	for p := reflect.ValueOf(&v).Elem(); p.Kind() == reflect.Pointer; p = p.Elem() {
		if p.IsNil() {
			return "", errGobNil
		}
	}
	// &v, so that an interface type is sent as an interface, with the name of what is in it.
	if err := gob.NewEncoder(&b).Encode(&v); err != nil {
		return "", err
	}
	return sealGob(b.Bytes()), nil
}

func (gobCodec[T]) Decode(s string) (v T, err error) {
	defer outcome.Settle("decode Gob", &v, &err)
	stream, err := openGob(s)
	if err != nil {
		return v, err
	}
	r := strings.NewReader(stream) // an io.ByteReader, so gob reads no further than it needs
	if err := gob.NewDecoder(r).Decode(&v); err != nil {
		return v, err
	}
	if r.Len() > 0 {
		return v, errGobTrailing
	}
	return v, nil
}

// sealGob fills in the header in front of a gob stream.
func sealGob(b []byte) string {
	b[0] = gobVersion
	binary.LittleEndian.PutUint32(b[1:], crc32.Checksum(b[gobHeader:], castagnoli))
	return string(b)
}

// openGob returns the gob stream behind an intact header.
func openGob(s string) (string, error) {
	if len(s) < gobHeader {
		return "", errGobShort
	}
	if s[0] != gobVersion {
		return "", fmt.Errorf("unknown version %d", s[0])
	}
	head, stream := []byte(s[1:gobHeader]), s[gobHeader:]
	if binary.LittleEndian.Uint32(head) != crc32.Checksum([]byte(stream), castagnoli) {
		return "", errGobChecksum
	}
	return stream, nil
}
