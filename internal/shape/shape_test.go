package shape_test

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"

	"github.com/redaside/aside/internal/shape"
)

func TestFlatIsWhatCannotBeSharedByAccident(t *testing.T) {
	type money struct {
		Amount   int64
		Currency [3]byte
	}
	type order struct {
		ID    string
		Total money
		At    time.Time
		Dims  [2]struct{ W, H float64 }
		note  string
	}
	type myTime time.Time

	for _, c := range []struct {
		name string
		typ  reflect.Type
		flat bool
	}{
		{"bool", reflect.TypeFor[bool](), true},
		{"int", reflect.TypeFor[int](), true},
		{"uintptr", reflect.TypeFor[uintptr](), true},
		{"complex128", reflect.TypeFor[complex128](), true},
		{"string", reflect.TypeFor[string](), true},
		{"a duration", reflect.TypeFor[time.Duration](), true},
		{"time.Time", reflect.TypeFor[time.Time](), true},
		{"an empty struct", reflect.TypeFor[struct{}](), true},
		{"structs in arrays in structs", reflect.TypeFor[order](), true},
		{"an array of no pointers", reflect.TypeFor[[0]*int](), true},

		{"a pointer", reflect.TypeFor[*int](), false},
		{"a slice", reflect.TypeFor[[]byte](), false},
		{"a map", reflect.TypeFor[map[string]int](), false},
		{"a channel", reflect.TypeFor[chan int](), false},
		{"a function", reflect.TypeFor[func()](), false},
		{"an interface", reflect.TypeFor[any](), false},
		{"an error", reflect.TypeFor[error](), false},
		{"unsafe.Pointer", reflect.TypeFor[unsafe.Pointer](), false},
		{"a pointer to time.Time", reflect.TypeFor[*time.Time](), false},
		{"a slice far inside", reflect.TypeFor[struct{ A [1]struct{ b []int } }](), false},
		{"an array of pointers", reflect.TypeFor[[1]*int](), false},
		{"a type defined as time.Time", reflect.TypeFor[myTime](), false},
		{"netip.Addr, which hides a pointer", reflect.TypeFor[netip.Addr](), false},
		{"no type", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.flat, shape.Flat(c.typ)) })
	}
}

// A type that refers to itself can do so only through something that is not flat, so Flat always
// ends.
func TestFlatEndsOnTypesThatReferToThemselves(t *testing.T) {
	type node struct {
		Value int
		Next  *node
	}
	assert.False(t, shape.Flat(reflect.TypeFor[node]()))
}

func TestSizeIsTheValuesOwn(t *testing.T) {
	assert.Equal(t, 8, shape.Size(reflect.TypeFor[int64]()))
	assert.Equal(t, 24, shape.Size(reflect.TypeFor[[3]uint64]()))
	assert.Equal(t, int(unsafe.Sizeof("")), shape.Size(reflect.TypeFor[string]()))
	assert.Equal(t, 0, shape.Size(nil))
}
