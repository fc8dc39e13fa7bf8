package codec

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"unsafe"

	"github.com/redaside/aside/codec/internal/nesting"
	"github.com/redaside/aside/codec/internal/outcome"
)

// JSON is the codec of encoding/json: readable with redis-cli and from any language. Struct tags,
// Marshalers and Unmarshalers (also those with a pointer receiver) work as they do there.
//
// It cannot represent: unexported fields; NaN, infinities, channels and functions, which Encode
// refuses; the monotonic clock reading of a time; the Go type of a value in an interface (numbers
// come back as float64, which is exact up to 2⁵³; an interface with methods is never read; a map
// key comes back as text); a field with the tag "-"; fields beside an embedded type with a
// MarshalJSON of its own, which encodes the whole struct. A nil pointer, slice or map comes back
// nil, an empty one empty. Bytes that are not UTF-8 come back as U+FFFD in strings; a []byte is
// kept as base64.
//
// Decode refuses anything after the value, and nesting deeper than 10,000. Unknown fields are
// skipped; but where T is a struct or a pointer to one, an object that has members, none of which
// is a field of T, is refused, because it belongs to another type: encoding/json would make a zero
// T of it.
//
// Encode refuses a value that refers to itself, or that is nested deeper than Decode reads, before
// it runs out of stack. It cannot check what a type's own methods do.
func JSON[T any]() Codec[T] { return jsonCodec[T]{jsonRules.PlanOf(reflect.TypeFor[T]())} }

type jsonCodec[T any] struct{ nesting *nesting.Plan }

// jsonRules are what encoding/json does: it ends with an error where a value refers to itself, but
// not where it is nested too deep for the stack.
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

func (jsonCodec[T]) DecodesFresh() bool { return true }

// EncodesAnew marks a codec whose Encode returns memory that nobody else has: views need no copy of it.
func (jsonCodec[T]) EncodesAnew() {}

func (c jsonCodec[T]) Encode(v T) (s string, err error) {
	defer outcome.Settle("encode JSON", &s, &err)
	if err := c.nesting.Check(reflect.ValueOf(&v).Elem()); err != nil {
		return "", err
	}
	// &v, for a MarshalJSON with a pointer receiver is not found on a value; UnmarshalJSON, its
	// counterpart, always is.
	b, err := json.Marshal(&v)
	// Nobody else has b: Marshal copies it out of its buffers and keeps nothing. A second copy
	// would cost 15 % (BenchmarkJSON).
	return unsafe.String(unsafe.SliceData(b), len(b)), err
}

func (jsonCodec[T]) Decode(s string) (v T, err error) {
	defer outcome.Settle("decode JSON", &v, &err)
	// A copy, for T's own UnmarshalJSON or UnmarshalText is handed a piece of these bytes and may
	// write to it, which would change a string that others are reading. It costs 2 to 4 %
	// (BenchmarkJSON), so there is no second way for types without such methods.
	if err = json.Unmarshal([]byte(s), &v); err == nil && isForeign(&v, s) {
		err = errForeign
	}
	return v, err
}

var errForeign = errors.New("none of the object's members is a field: another type wrote it")

// isForeign reports whether v, which was decoded from s, is a zero struct only because s is an
// object without any of its fields.
func isForeign[T any](v *T, s string) bool {
	value := reflect.ValueOf(v).Elem()
	if value.Kind() == reflect.Pointer {
		value = value.Elem()
	}
	if value.Kind() != reflect.Struct || !value.IsZero() {
		return false
	}
	t := value.Type()
	if p := reflect.PointerTo(t); p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return false
	}
	var members map[string]json.RawMessage
	if json.Unmarshal([]byte(s), &members) != nil || len(members) == 0 || len(members) > maxMembers {
		return false
	}
	for name := range members {
		alone, err := json.Marshal(map[string]any{name: nil})
		if err != nil {
			return false
		}
		d := json.NewDecoder(bytes.NewReader(alone))
		d.DisallowUnknownFields()
		if err := d.Decode(reflect.New(t).Interface()); err == nil || !strings.HasPrefix(err.Error(), "json: unknown field") {
			return false
		}
	}
	return true
}

// maxMembers bounds what isForeign looks at.
const maxMembers = 1000
