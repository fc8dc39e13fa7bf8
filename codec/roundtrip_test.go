package codec

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// comesBack is what RoundTrips promises, found out by decoding.
func comesBack(t *testing.T, v reflect.Value, encoded []byte) bool {
	t.Helper()
	back := reflect.New(v.Type())
	if err := json.Unmarshal(encoded, back.Interface()); err != nil {
		return false
	}
	again, err := json.Marshal(back.Interface())
	require.NoError(t, err)
	return reflect.DeepEqual(back.Elem().Interface(), v.Interface()) && string(again) == string(encoded) // DeepEqual takes -0 for 0
}

// randomTypes makes types and values of them, with all that JSON loses among them.
type randomTypes struct{ *rand.Rand }

func (r randomTypes) of(list ...reflect.Type) reflect.Type { return list[r.IntN(len(list))] }

type (
	rtNamed  string
	rtInner  struct{ Deep []int }
	rtMethod struct{ A int }
	rtHidden struct {
		A int
		b int
	}
	rtKey    int
	rtSelf   struct{ Next *rtSelf }
	rtNumber = json.Number
)

func (rtMethod) MarshalJSON() ([]byte, error) { return []byte("7"), nil }

func (rtKey) MarshalText() ([]byte, error) { return []byte("same"), nil }

func (r randomTypes) typ(depth int) reflect.Type {
	leaf := r.of(
		reflect.TypeFor[bool](), reflect.TypeFor[int](), reflect.TypeFor[int8](), reflect.TypeFor[uint64](), reflect.TypeFor[float32](),
		reflect.TypeFor[float64](), reflect.TypeFor[string](), reflect.TypeFor[rtNamed](), reflect.TypeFor[[]byte](), reflect.TypeFor[time.Time](),
		reflect.TypeFor[rtInner](), reflect.TypeFor[rtMethod](), reflect.TypeFor[rtHidden](), reflect.TypeFor[rtSelf](), reflect.TypeFor[rtNumber](), reflect.TypeFor[any](), reflect.TypeFor[uintptr](),
	)
	if depth == 0 {
		return leaf
	}
	switch r.IntN(8) {
	case 0:
		return reflect.SliceOf(r.typ(depth - 1))
	case 1:
		return reflect.PointerTo(r.typ(depth - 1))
	case 2:
		return reflect.MapOf(r.of(reflect.TypeFor[string](), reflect.TypeFor[rtNamed](), reflect.TypeFor[int16](), reflect.TypeFor[rtKey](), reflect.TypeFor[time.Time]()), r.typ(depth-1))
	case 3:
		return reflect.ArrayOf(r.IntN(3), r.typ(depth-1))
	case 4, 5, 6:
		fields := make([]reflect.StructField, 1+r.IntN(3))
		for i := range fields {
			fields[i] = reflect.StructField{Name: fmt.Sprintf("F%d", i), Type: r.typ(depth - 1)}
			fields[i].Tag = reflect.StructTag([]string{
				``, ``, `json:"a"`, `json:"A"`, `json:"b,omitempty"`, `json:",omitempty"`, `json:"-"`, `json:"-,"`, `json:",string"`, `json:"F1"`, `json:",omitzero"`, `json:"b c"`,
			}[r.IntN(12)])
		}
		return reflect.StructOf(fields)
	default:
		return leaf
	}
}

func (r randomTypes) value(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	if t == reflect.TypeFor[time.Time]() {
		at := time.Unix(r.Int64N(4e9), r.Int64N(1e9))
		v.Set(reflect.ValueOf([]time.Time{{}, at, at.UTC(), time.Now(), at.In(time.FixedZone("", 3600)), at.In(time.FixedZone("X", 0))}[r.IntN(6)]))
		return v
	}
	if r.IntN(5) == 0 {
		return v // zero
	}
	switch t.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(r.Int64() >> r.IntN(63))
	case reflect.Uint8, reflect.Uint64, reflect.Uintptr:
		v.SetUint(r.Uint64())
	case reflect.Float32, reflect.Float64:
		v.SetFloat([]float64{math.Copysign(0, -1), r.NormFloat64(), 1e300, math.SmallestNonzeroFloat64, 1e21, -1e-7}[r.IntN(6)])
	case reflect.String:
		v.SetString([]string{"", "x", "\xff", "a\u2028<b>", "\ufffd", `\ufffd`, "null", "7"}[r.IntN(8)])
	case reflect.Slice:
		v.Set(reflect.MakeSlice(t, r.IntN(3), 3))
		for i := range v.Len() {
			v.Index(i).Set(r.value(t.Elem()))
		}
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).Set(r.value(t.Elem()))
		}
	case reflect.Pointer:
		if t.Elem() != t {
			v.Set(reflect.New(t.Elem()))
			v.Elem().Set(r.value(t.Elem()))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(t))
		for range r.IntN(3) {
			v.SetMapIndex(r.value(t.Key()), r.value(t.Elem()))
		}
	case reflect.Struct:
		for _, field := range v.Fields() {
			if field.CanSet() && !(t == reflect.TypeFor[rtSelf]() && r.IntN(2) == 0) {
				field.Set(r.value(field.Type()))
			}
		}
		if t == reflect.TypeFor[rtHidden]() {
			v.Set(reflect.ValueOf(rtHidden{1, 2}))
		}
	case reflect.Interface:
		v.Set(reflect.ValueOf(map[string]any{"n": 1}))
	default:
	}
	return v
}

// What is said to come back does, of random types and values; and enough of them are said to.
func TestWhatRoundTripsComesBack(t *testing.T) {
	seed := rand.Uint64()
	r := randomTypes{rand.New(rand.NewPCG(seed, 1))}
	said, did := 0, 0
	for range 20_000 {
		v := r.value(r.typ(3))
		encoded, err := json.Marshal(v.Interface())
		if err != nil {
			continue
		}
		trip := jsonTripOf(v.Type())
		says := trip.sure && keepsText(string(encoded)) && (trip.look == nil || trip.look(v))
		does := comesBack(t, v, encoded)
		require.False(t, says && !does, "seed %d: %v %#v as %s is said to come back", seed, v.Type(), v, encoded)
		if says {
			said++
		}
		if does {
			did++
		}
	}
	require.Greater(t, said, did/5, "of %d that come back", did)
}

func TestJSONRoundTrips(t *testing.T) {
	type embedded struct{ Inner int }
	type Embedded struct{ Inner int }
	utc := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	trips := func(name string, got, want bool) {
		t.Helper()
		require.Equal(t, want, got, name)
	}
	trips("a struct as services have it", roundTrips(t, struct {
		ID    int64     `json:"id"`
		Name  string    `json:"name,omitempty"`
		Roles []string  `json:"roles"`
		At    time.Time `json:"at"`
		Next  *Embedded `json:"next"`
	}{1, "Ada", []string{"a"}, utc, &Embedded{2}}), true)
	trips("a pointer", roundTrips(t, &Embedded{1}), true)
	trips("fields of an embedded struct", roundTrips(t, struct{ Embedded }{Embedded{1}}), true)
	trips("a nil slice", roundTrips(t, []int(nil)), true)
	trips("an empty slice", roundTrips(t, []int{}), true)
	trips("an empty slice that is left out", roundTrips(t, struct {
		A []int `json:",omitempty"`
	}{[]int{}}), false)
	trips("a nil slice that is left out", roundTrips(t, struct {
		A []int `json:",omitempty"`
	}{}), true)
	trips("text that is not UTF-8", roundTrips(t, "a\xff"), false)
	trips("a time of a place", roundTrips(t, utc.In(time.FixedZone("here", 3600))), false)
	trips("a time with a clock reading", roundTrips(t, time.Now()), false)
	trips("an unexported field", roundTrips(t, rtHidden{1, 2}), false)
	trips("an embedded struct that is not exported", roundTrips(t, struct{ embedded }{embedded{1}}), false)
	trips("two names that differ by case only", roundTrips(t, struct {
		A int `json:"x"`
		B int `json:"X"`
	}{1, 2}), false)
	trips("an interface", roundTrips(t, any(1)), false)
	trips("a type with methods of its own", roundTrips(t, rtMethod{1}), false)
	trips("a pointer to nil", roundTrips(t, new([]int)), false)
}

func roundTrips[T any](t *testing.T, v T) bool {
	t.Helper()
	c := JSON[T]()
	encoded, err := c.Encode(v)
	require.NoError(t, err)
	return c.(RoundTripper[T]).RoundTrips(v, encoded)
}
