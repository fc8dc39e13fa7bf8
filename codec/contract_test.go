package codec_test

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/codectest"
	"github.com/redaside/aside/codec/zstd"
)

// record has every kind of field that the formats treat in a way of their own.
type record struct {
	ID      int64
	Name    string
	Score   float64
	Tags    []string
	Data    []byte
	Labels  map[string][]int
	Parent  *record
	At      time.Time
	Nested  struct{ A, B [2]uint8 }
	Enabled *bool
}

var yes = true

func records() []record {
	full := record{
		ID: math.MinInt64, Name: "Ada «Λ» \x00 <&>\u2028", Score: math.Pi, Tags: []string{"a", ""}, Data: []byte{0, 255, 0},
		Labels: map[string][]int{"x": {1, 2}, "": {0}}, At: time.Date(2024, 2, 29, 12, 30, 0, 123456789, time.UTC), Enabled: &yes,
	}
	full.Nested.B[1] = 7
	child := full
	child.Parent = &full
	return []record{{}, full, child}
}

func TestJSONKeepsTheContract(t *testing.T) {
	t.Run("struct", func(t *testing.T) { codectest.Run(t, codec.JSON[record](), records()) })
	t.Run("pointer", func(t *testing.T) { codectest.Run(t, codec.JSON[*record](), []*record{nil, {}, &records()[2]}) })
	t.Run("slice", func(t *testing.T) { codectest.Run(t, codec.JSON[[]int](), [][]int{nil, {}, {1, 2, 3}}) })
	t.Run("map", func(t *testing.T) {
		codectest.Run(t, codec.JSON[map[string]*int](), []map[string]*int{nil, {}, {"a": new(int), "b": nil}})
	})
	t.Run("any", func(t *testing.T) {
		codectest.Run(t, codec.JSON[any](), []any{nil, 1.5, "s", []any{}, map[string]any{"a": []any{nil, true}}})
	})
	t.Run("raw message", func(t *testing.T) {
		codectest.Run(t, codec.JSON[json.RawMessage](), []json.RawMessage{json.RawMessage(`{"a":[1,2]}`), json.RawMessage(`null`)})
	})
	t.Run("number", func(t *testing.T) { codectest.Run(t, codec.JSON[int](), []int{0, -1, math.MaxInt}) })
}

func TestGobKeepsTheContract(t *testing.T) {
	t.Run("struct", func(t *testing.T) { codectest.Run(t, codec.Gob[record](), records()) })
	t.Run("pointer", func(t *testing.T) { codectest.Run(t, codec.Gob[*record](), []*record{{}, &records()[2]}) })
	t.Run("map keyed by a struct", func(t *testing.T) {
		type point struct{ X, Y int }
		codectest.Run(t, codec.Gob[map[point]complex128](), []map[point]complex128{{}, {{1, 2}: 3i}, {{}: 0, {0, 1}: 1}})
	})
	t.Run("string", func(t *testing.T) { codectest.Run(t, codec.Gob[string](), []string{"", "a", "\xff\x00"}) })
}

func TestStringKeepsTheContract(t *testing.T) {
	codectest.Run(t, codec.String(), []string{"", "a", "\x00aside:lock:", "\xff\xfe", strings.Repeat("long ", 1000)})
}

func TestBytesKeepsTheContract(t *testing.T) {
	codectest.Run(t, codec.Bytes(), [][]byte{{}, {0}, []byte("a value"), []byte(strings.Repeat("long ", 1000))})
}

func TestFuncKeepsTheContract(t *testing.T) {
	codectest.Run(t, codec.Func(
		func(n int) (string, error) { return strconv.Itoa(n), nil },
		strconv.Atoi,
	), []int{0, 42, -1})
}

// A function that panics on half of what it is given makes a codec that does not.
func TestFuncWithPanickingFunctionsKeepsTheContract(t *testing.T) {
	codectest.Run(t, codec.Func(
		func(b byte) (string, error) { return string([]byte{'v', b}), nil },
		func(s string) (byte, error) {
			if s[0] != 'v' {
				return 0, errors.New("no v")
			}
			return s[1], nil
		},
	), []byte{0, 255})
}

func TestZstdKeepsTheContract(t *testing.T) {
	large := records()[1]
	large.Tags = strings.Split(strings.Repeat("again and again ", 200), " ")
	for name, minSize := range map[string]int{"everything": 0, "above 1 KiB": 1024, "nothing": math.MaxInt} {
		t.Run(name, func(t *testing.T) {
			codectest.Run(t, zstd.New(codec.JSON[record](), minSize), append(records(), large))
		})
	}
	t.Run("twice", func(t *testing.T) {
		codectest.Run(t, zstd.New(zstd.New(codec.String(), 0), 0),
			[]string{"", "a", strings.Repeat("a", 5000), "\x00zstd:", "\x00zstd:1", strings.Repeat("\x00zstd:1", 1000)})
	})
}
