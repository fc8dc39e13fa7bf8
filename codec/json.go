package codec

import (
	"encoding"
	"encoding/json"
	"reflect"
	"unsafe"

	"github.com/redaside/aside/codec/internal/nesting"
	"github.com/redaside/aside/codec/internal/outcome"
)

// JSON is the codec of encoding/json: readable with redis-cli and from any language. Struct tags, Marshalers and Unmarshalers (also
// those with a pointer receiver) work as they do there.
//
// What it cannot say: unexported fields; NaN, infinities, channels and functions, which Encode refuses; the monotonic clock reading of a
// time; the Go type of what is in an interface (numbers come back as float64). A nil pointer, slice or map comes back nil, an empty
// one empty. Bytes that are not UTF-8 come back as U+FFFD in strings; a []byte is kept as base64.
//
// Decode refuses anything after the value, and nesting deeper than 10,000. Unknown fields are skipped.
//
// Encode refuses a value that refers to itself, or that is nested deeper than Decode reads, before it runs out of stack. It follows what encoding/json
// follows: not what a type's own methods do.
func JSON[T any]() Codec[T] { return jsonCodec[T]{jsonRules.PlanOf(reflect.TypeFor[T]())} }

type jsonCodec[T any] struct{ nesting *nesting.Plan }

// jsonRules are what encoding/json does: it ends with an error where a value refers to itself, but not where it is nested too deep for the stack.
var jsonRules = nesting.Rules{
	Max: 10_000, // what it reads
	Skip: func(f reflect.StructField) bool {
		t := f.Type
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		return f.Tag.Get("json") == "-" || !f.IsExported() && !(f.Anonymous && t.Kind() == reflect.Struct)
	},
	Opaque: func(t reflect.Type) (always, addressed bool) {
		own := func(t reflect.Type) bool {
			return t.Implements(reflect.TypeFor[json.Marshaler]()) || t.Implements(reflect.TypeFor[encoding.TextMarshaler]())
		}
		return own(t), own(reflect.PointerTo(t))
	},
}

func (jsonCodec[T]) String() string { return "JSON" }

func (c jsonCodec[T]) Encode(v T) (s string, err error) {
	defer outcome.Settle("encode JSON", &s, &err)
	if err := c.nesting.Check(reflect.ValueOf(&v).Elem()); err != nil {
		return "", err
	}
	// &v, for a MarshalJSON with a pointer receiver is not found on a value; UnmarshalJSON, its counterpart, always is.
	b, err := json.Marshal(&v)
	// Nobody else has b: Marshal copies it out of its buffers and keeps nothing. A second copy would cost 15 % (BenchmarkJSON).
	return unsafe.String(unsafe.SliceData(b), len(b)), err
}

func (jsonCodec[T]) Decode(s string) (v T, err error) {
	defer outcome.Settle("decode JSON", &v, &err)
	// A copy, for T's own UnmarshalJSON or UnmarshalText is handed a piece of these bytes and may write to it, which would change a
	// string that others are reading. It costs 2 to 4 % (BenchmarkJSON), so there is no second way for types without such methods.
	err = json.Unmarshal([]byte(s), &v)
	return v, err
}
