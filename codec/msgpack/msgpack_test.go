package msgpack_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lib "github.com/vmihailenco/msgpack/v5"

	"github.com/redaside/aside/codec/codectest"
	"github.com/redaside/aside/codec/msgpack"
)

type record struct {
	ID     int64
	Name   string
	Score  float64
	Tags   []string
	Data   []byte
	Labels map[string][]int
	Parent *record
	Any    any
	Nested struct{ A, B [2]uint16 }
	List   []point
}

type point struct{ X, Y int }

func records() []record {
	full := record{
		ID: math.MinInt64, Name: "Ada \x00", Score: math.Inf(1), Tags: []string{"a", ""}, Data: []byte{0, 255},
		Labels: map[string][]int{"x": {1, 2}}, Any: map[string]any{"a": []any{int8(1), "s", nil}}, List: []point{{1, 2}, {-70000, 1 << 40}},
	}
	child := full
	child.Parent = &full
	return []record{{}, full, child}
}

func TestMsgPackKeepsTheContract(t *testing.T) {
	t.Run("struct", func(t *testing.T) { codectest.Run(t, msgpack.New[record](), records()) })
	t.Run("pointer", func(t *testing.T) { codectest.Run(t, msgpack.New[*record](), []*record{nil, {}, &records()[2]}) })
	t.Run("untyped map", func(t *testing.T) {
		codectest.Run(t, msgpack.New[map[string]any](), []map[string]any{nil, {}, {"a": []any{"b", true}, "c": map[string]any{}}})
	})
	t.Run("any", func(t *testing.T) { codectest.Run(t, msgpack.New[any](), []any{nil, "s", []any{}, int8(1)}) })
	t.Run("slice", func(t *testing.T) { codectest.Run(t, msgpack.New[[]int](), [][]int{nil, {}, {1, 2, 3}}) })
	t.Run("string", func(t *testing.T) { codectest.Run(t, msgpack.New[string](), []string{"", "a", "\xff"}) })
	t.Run("own methods", func(t *testing.T) { codectest.Run(t, msgpack.New[[]pair](), [][]pair{nil, {}, {{"a", 1}, {"b", 2}}}) })
	t.Run("time", func(t *testing.T) {
		at := time.Date(2024, 2, 29, 12, 30, 0, 0, time.UTC)
		codectest.Run(t, msgpack.New[*time.Time](), []*time.Time{&at}, codectest.Equal(func(a, b *time.Time) bool { return a.Equal(*b) }))
	})
}

// pair writes two values where one is declared, as the library's own examples do.
type pair struct {
	s string
	n int
}

func (p *pair) EncodeMsgpack(e *lib.Encoder) error { return e.EncodeMulti(p.s, p.n) }
func (p *pair) DecodeMsgpack(d *lib.Decoder) error { return d.DecodeMulti(&p.s, &p.n) }

// Each of these would take gigabytes, or overflow the stack, without the scan: neither could be
// recovered from.
func TestDecodeRefusesBeforeItTakesMemory(t *testing.T) {
	for _, c := range []struct{ name, s, says string }{
		{"an array of 4 billion", "\xdd\xff\xff\xff\xff", "a length beyond the end"},
		{"a map of 4 billion", "\xdf\xff\xff\xff\xff", "a length beyond the end"},
		{"a map with more entries than bytes", "\xde\x00\x02\xa1a\x01", "a length beyond the end"},
		{"bytes of 4 GB", "\xc6\xff\xff\xff\xff", "a length beyond the end"},
		{"a string of 64 KB", "\xda\xff\xffa", "a length beyond the end"},
		{"a billion inside", "\x81\xa4Tags\xdd\x40\x00\x00\x00", "a length beyond the end"},
		{"deep arrays", strings.Repeat("\x91", 200_000), "nested deeper than 10000"},
		{"deep maps", strings.Repeat("\x81\xa1a", 200_000), "nested deeper than 10000"},
		{"an extension in place of a map, with 4 billion in it", "\xd7\xff\xdf\xff\xff\xff\xff\x00\x00\x00", "an extension where a map is expected"},
		{"the same, in an extension of any length", "\xc7\x05\x01\xdf\xff\xff\xff\xff", "an extension where a map is expected"},
		{"a length without its bytes", "\xdd\xff", "truncated"},
		{"an extension without its type", "\xc7\x00", "truncated"},
		{"a code that there is not", "\xc1", "unknown code 0xc1"},
		{"nothing", "", "EOF"},
		{"two values", "\x80\x80", "bytes after the value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := msgpack.New[map[string]any]().Decode(c.s)
			require.ErrorContains(t, err, "aside: decode MessagePack: ")
			require.ErrorContains(t, err, c.says)
			assert.Nil(t, got)
		})
	}
}

// A timestamp's bytes may look like the beginning of a map: 0xdf are the first bits of its
// nanoseconds.
func TestATimestampThatLooksLikeAMapIsRead(t *testing.T) {
	at := time.Unix(1<<33, 0xdf<<22)
	s, err := msgpack.New[time.Time]().Encode(at)
	require.NoError(t, err)
	require.Equal(t, "\xd7\xff\xdf", s[:3])
	got, err := msgpack.New[time.Time]().Decode(s)
	require.NoError(t, err)
	assert.True(t, at.Equal(got))

	s, err = msgpack.New[map[string]any]().Encode(map[string]any{"at": at})
	require.NoError(t, err)
	m, err := msgpack.New[map[string]any]().Decode(s)
	require.NoError(t, err)
	assert.True(t, at.Equal(m["at"].(time.Time)))
}

func TestLimitsLeaveRoomForWhatIsHonest(t *testing.T) {
	var v any = int8(1)
	for range 9_000 {
		v = []any{v}
	}
	c := msgpack.New[any]()
	s, err := c.Encode(v)
	require.NoError(t, err)
	_, err = c.Decode(s)
	require.NoError(t, err)

	many := make([]bool, 1<<20)
	s, err = msgpack.New[[]bool]().Encode(many)
	require.NoError(t, err)
	got, err := msgpack.New[[]bool]().Decode(s)
	require.NoError(t, err)
	assert.Len(t, got, len(many))
}

// Not reflect.DeepEqual after decoding again, for a NaN and a time's location do not survive that.
func FuzzMsgPack(f *testing.F) {
	for _, v := range records() {
		s, err := msgpack.New[record]().Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s)
	}
	f.Add("\xd7\xff\xdf\xff\xff\xff\xff\x00\x00\x00")
	f.Add("\xdd\xff\xff\xff\xff")
	f.Add("\x92\xa1a\x01\xa1b\x02")
	f.Fuzz(func(t *testing.T, s string) {
		reencodes(t, msgpack.New[record](), s)
		reencodes(t, msgpack.New[map[string]any](), s)
		reencodes(t, msgpack.New[any](), s)
		reencodes(t, msgpack.New[[]pair](), s)
		reencodes(t, msgpack.New[map[string]map[string]*time.Time](), s)
	})
}

// reencodes checks that what decodes is whole: it encodes, and that decodes.
func reencodes[T any](t *testing.T, c interface {
	Encode(T) (string, error)
	Decode(string) (T, error)
}, s string) {
	v, err := c.Decode(s)
	if err != nil {
		return
	}
	again, err := c.Encode(v)
	if err != nil {
		t.Fatalf("%q decoded to %+v, which does not encode: %v", s, v, err)
	}
	if _, err := c.Decode(again); err != nil {
		t.Fatalf("%q decoded to %+v, encoded to %q, which does not decode: %v", s, v, again, err)
	}
}

func BenchmarkMsgPack(b *testing.B) {
	c, v := msgpack.New[record](), records()[1]
	s, err := c.Encode(v)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = c.Encode(v)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = c.Decode(s)
		}
	})
}

// The library refuses an interface that holds such a map, though it has written it.
func TestAMapWithOtherKeysThanTextIsReadIntoAnInterface(t *testing.T) {
	type holder struct{ Any any }
	for _, c := range []struct{ v, want any }{
		{map[int]string{1: "a"}, map[any]any{int8(1): "a"}},
		{map[bool]int8{true: 1}, map[any]any{true: int8(1)}},
		{map[any]any{"a": int8(1), int8(2): "b", nil: "c"}, map[any]any{"a": int8(1), int8(2): "b", nil: "c"}},
		{map[string]any{"a": map[string]string{"b": "c"}}, map[string]any{"a": map[string]any{"b": "c"}}},
		{map[string]any{"a": []any{map[int]any{1: map[string]any{}}}}, map[string]any{"a": []any{map[any]any{int8(1): map[string]any{}}}}},
		{map[string]any(nil), nil},
		{map[int]int{}, map[string]any{}},
	} {
		s, err := msgpack.New[any]().Encode(c.v)
		require.NoError(t, err)
		got, err := msgpack.New[any]().Decode(s)
		require.NoError(t, err, "%v", c.v)
		require.Equal(t, c.want, got)
		s, err = msgpack.New[holder]().Encode(holder{c.v})
		require.NoError(t, err)
		held, err := msgpack.New[holder]().Decode(s)
		require.NoError(t, err)
		require.Equal(t, c.want, held.Any)
	}
	_, err := msgpack.New[any]().Decode("\x81\x91\x01\x01")
	require.ErrorContains(t, err, "a map has a key of []interface {}")
	got, err := msgpack.New[any]().Decode("\x81\xc4\x01a\x01")
	require.NoError(t, err)
	require.Equal(t, map[string]any{"a": int8(1)}, got)
	_, err = msgpack.New[map[string]any]().Decode("\x81\x01\x01")
	require.Error(t, err, "which only a map[any]any could hold")
}

type matryoshka struct {
	*matryoshka
	N int
}

type pointerToItself *pointerToItself

type holds struct {
	List map[string][]*matryoshka
	Any  any
}

// The library does not end when it learns such a type.
func TestATypeThatEmbedsItselfIsRefused(t *testing.T) {
	const says = "embeds or points to itself"
	_, err := msgpack.New[matryoshka]().Encode(matryoshka{N: 1})
	require.ErrorContains(t, err, says)
	_, err = msgpack.New[matryoshka]().Decode("\x80")
	require.ErrorContains(t, err, says)
	_, err = msgpack.New[holds]().Encode(holds{List: map[string][]*matryoshka{"a": {{}}}})
	require.ErrorContains(t, err, says)
	_, err = msgpack.New[holds]().Decode("\x80")
	require.ErrorContains(t, err, says)
	_, err = msgpack.New[any]().Encode(&matryoshka{})
	require.ErrorContains(t, err, says)
	_, err = msgpack.New[pointerToItself]().Encode(nil)
	require.ErrorContains(t, err, says)
	_, err = msgpack.New[pointerToItself]().Decode("\xc0")
	require.ErrorContains(t, err, says)
}
