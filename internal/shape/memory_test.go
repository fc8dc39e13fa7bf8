package shape_test

import (
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/shape"
)

func heapOf[T any](build func() T) (T, int) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&before)
	v := build()
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return v, int(after.HeapAlloc) - int(before.HeapAlloc)
}

type weighed struct {
	ID    int
	Name  string
	Tags  []string
	By    map[string]any
	Owner *weighed
	At    time.Time
}

func deepValue(n int) weighed {
	w := weighed{Name: strings.Repeat("n", n), By: make(map[string]any)}
	for i := range n {
		w.Tags = append(w.Tags, strings.Repeat("t", 40))
		w.By[fmt.Sprint("key", i)] = []any{float64(i), strings.Repeat("v", 30)}
	}
	w.Owner = &weighed{Name: strings.Repeat("o", 5000)}
	return w
}

// What Memory estimates is near to what the heap says, for values that are larger than it looks at,
// too.
func TestMemoryIsNearTheHeap(t *testing.T) {
	for _, n := range []int{100, 1000, 50_000} {
		v, heap := heapOf(func() *weighed { v := deepValue(n); return &v })
		got := shape.Memory(reflect.ValueOf(v).Elem(), "")
		require.InEpsilon(t, heap, got, 0.4, "%d", n)
		require.GreaterOrEqual(t, float64(got), 0.8*float64(heap), "%d", n)
		runtime.KeepAlive(v)
	}
}

func TestMemoryCountsNothingTwiceAndEnds(t *testing.T) {
	type ring struct {
		Next *ring
		Any  any
	}
	r := &ring{}
	r.Next = r
	m := map[string]any{}
	m["m"] = m
	r.Any = m
	require.Less(t, shape.Memory(reflect.ValueOf(r).Elem(), ""), 1000)
	whole := strings.Repeat("x", 1000)
	require.Zero(t, shape.Memory(reflect.ValueOf(&struct{ A, B string }{whole[10:500], ""}).Elem(), whole))
	require.Equal(t, 1000, shape.Memory(reflect.ValueOf(&struct{ b string }{whole[:1000]}).Elem(), "")/1008*1000)
	zone := time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("", 7200))
	require.Positive(t, shape.Memory(reflect.ValueOf(&struct{ at time.Time }{zone}).Elem(), ""))
}

func TestOwnStringsLetsGoOfWhatIsLonger(t *testing.T) {
	long, within := strings.Repeat("abcdefgh", 1000), strings.Repeat("w", 100)
	v := struct {
		A     string
		b     [2]string
		N     int
		Inner struct{ c string }
	}{A: long[:8], b: [2]string{long[8:12], ""}, N: 7, Inner: struct{ c string }{within[3:7]}}
	want := v
	shape.OwnStrings(reflect.ValueOf(&v).Elem(), within)
	require.Equal(t, want, v)
	require.NotSame(t, unsafe.StringData(want.A), unsafe.StringData(v.A))
	require.NotSame(t, unsafe.StringData(want.b[0]), unsafe.StringData(v.b[0]))
	require.Same(t, unsafe.StringData(want.Inner.c), unsafe.StringData(v.Inner.c))
	require.Equal(t, 16, shape.Memory(reflect.ValueOf(&v.A).Elem(), within))
}
