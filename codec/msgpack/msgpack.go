// Package msgpack is the MessagePack codec of aside, on github.com/vmihailenco/msgpack/v5. It is
// smaller and faster than JSON, and other languages read it.
package msgpack

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/internal/nesting"
	"github.com/redaside/aside/codec/internal/outcome"
)

// New is the MessagePack codec for T: structs as maps by field name, and the struct tags,
// CustomEncoder, Marshaler and registered extensions of the library beneath it. Safe for concurrent
// use.
//
// It cannot represent: unexported fields; the location of a time, which comes back as local time
// (the same instant); the Go type of a value in an interface (a struct comes back as
// map[string]any, a map as that, or as map[any]any if a key is no text, integers perhaps in another
// type of integer); a value in an interface with methods, which is never read; a map with other
// keys than text in a map[string]any, likewise; complex numbers, channels and functions, which
// Encode refuses. A nil embedded pointer comes back as one to a zero struct. A nil pointer, slice
// or map comes back nil. The encoding of a map is in no particular order.
//
// Decode refuses anything after the value, nesting deeper than 10,000, and lengths beyond the end
// of the input, before memory is allocated for them; it allocates in proportion to the input.
// Unknown fields are skipped; but where T is a struct or a pointer to one, a map that has entries,
// none of which is a field of T, is refused, because it belongs to another type. An extension whose
// registered decoder begins by reading a map from its content is refused.
//
// Encode refuses a value that refers to itself, or that is nested deeper than Decode reads, before
// it runs out of stack; it cannot check what a type's own methods do. A struct that embeds itself
// (through a pointer) is refused in both directions: the library loops for ever on such a type.
func New[T any]() codec.Codec[T] {
	plan := rules.PlanOf(reflect.TypeFor[T]())
	return msgpackCodec[T]{plan}
}

// rules are what the library follows, which has no limit of its own.
var rules = nesting.Rules{
	Max: maxDepth,
	Skip: func(f reflect.StructField) bool {
		return name(f) == "-" || !f.IsExported() && !f.Anonymous
	},
	Opaque: func(t reflect.Type) (always, addressed bool) {
		own := func(t reflect.Type) bool {
			return t.Implements(reflect.TypeFor[msgpack.CustomEncoder]()) || t.Implements(reflect.TypeFor[msgpack.Marshaler]()) ||
				t.Implements(reflect.TypeFor[encoding.BinaryMarshaler]()) || t.Implements(reflect.TypeFor[encoding.TextMarshaler]())
		}
		return own(t) || t.Kind() != reflect.Pointer && own(reflect.PointerTo(t)), false
	},
	Inlines: func(f reflect.StructField) bool {
		_, options, _ := strings.Cut(f.Tag.Get("msgpack"), ",")
		return !slices.Contains(strings.Split(options, ","), "noinline")
	},
}

func name(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("msgpack"), ",")
	return name
}

var errTrailing = errors.New("bytes after the value")

type msgpackCodec[T any] struct{ nesting *nesting.Plan }

func (msgpackCodec[T]) String() string { return "MessagePack" }

func (c msgpackCodec[T]) Encode(v T) (s string, err error) {
	defer outcome.Settle("encode MessagePack", &s, &err)
	if err := c.nesting.Check(reflect.ValueOf(&v).Elem()); err != nil {
		return "", err
	}
	b, err := msgpack.Marshal(&v) // &v, for an EncodeMsgpack with a pointer receiver cannot be called on a copy in an interface
	return string(b), err         // b has room to spare, and the string may be kept for long
}

func (c msgpackCodec[T]) Decode(s string) (v T, err error) {
	defer outcome.Settle("decode MessagePack", &v, &err)
	if err := c.nesting.TypeError(); err != nil {
		return v, err
	}
	r, err := scan(s)
	if err != nil {
		return v, err
	}
	// Not msgpack.Unmarshal: it preallocates values, for each type in a goroutine that never ends.
	// Nor a pooled decoder, whose buffer an extension's decoder could keep hold of.
	d := msgpack.NewDecoder(r)
	d.SetMapDecoder(untypedMap)
	if err := d.Decode(&v); err != nil {
		return v, err
	}
	if r.Len() > 0 {
		return v, errTrailing
	}
	if isForeign(&v, s) {
		return v, errForeign
	}
	return v, nil
}

// untypedMap reads a map into an interface: as map[string]any, and as map[any]any where a key is no
// text, which the library would refuse.
func untypedMap(d *msgpack.Decoder) (any, error) {
	n, err := d.DecodeMapLen()
	if err != nil || n < 0 {
		return nil, err
	}
	texts := make(map[string]any, min(n, 64)) // what n claims is not taken on trust
	var all map[any]any
	for range n {
		key, err := d.DecodeInterface()
		if err != nil {
			return nil, err
		}
		value, err := d.DecodeInterface()
		if err != nil {
			return nil, err
		}
		if b, ok := key.([]byte); ok {
			key = string(b)
		}
		text, ok := key.(string)
		if !ok && all == nil {
			all = make(map[any]any, len(texts)+1)
			for k, v := range texts {
				all[k] = v
			}
		}
		switch {
		case all == nil:
			texts[text] = value
		case key != nil && !reflect.TypeOf(key).Comparable():
			return nil, fmt.Errorf("a map has a key of %T", key)
		default:
			all[key] = value
		}
	}
	if all != nil {
		return all, nil
	}
	return texts, nil
}

var errForeign = errors.New("none of the map's keys is a field: another type wrote it")

// maxMembers bounds what isForeign looks at.
const maxMembers = 1000

// isForeign reports whether v, which was decoded from s, is a zero struct only because s is a map
// without any of its fields.
func isForeign[T any](v *T, s string) bool {
	value := reflect.ValueOf(v).Elem()
	if value.Kind() == reflect.Pointer {
		value = value.Elem()
	}
	if value.Kind() != reflect.Struct || !value.IsZero() {
		return false
	}
	t := value.Type()
	if always, _ := rules.Opaque(t); always || t == reflect.TypeFor[time.Time]() {
		return false
	}
	var members map[string]msgpack.RawMessage
	if msgpack.NewDecoder(strings.NewReader(s)).Decode(&members) != nil || len(members) == 0 || len(members) > maxMembers {
		return false
	}
	for name := range members {
		alone, err := msgpack.Marshal(map[string]any{name: nil})
		if err != nil {
			return false
		}
		d := msgpack.NewDecoder(bytes.NewReader(alone))
		d.DisallowUnknownFields(true)
		if err := d.Decode(reflect.New(t).Interface()); err == nil || !strings.Contains(err.Error(), "unknown field") {
			return false
		}
	}
	return true
}
