package clone

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// generator makes random types and values.
type generator struct{ *rand.Rand }

var leaves = []reflect.Type{
	reflect.TypeFor[bool](), reflect.TypeFor[int8](), reflect.TypeFor[int](), reflect.TypeFor[uint16](), reflect.TypeFor[float64](),
	reflect.TypeFor[complex128](), reflect.TypeFor[string](), reflect.TypeFor[[3]byte](), reflect.TypeFor[struct{}](), reflect.TypeFor[time.Time](),
	reflect.TypeFor[json.RawMessage](), reflect.TypeFor[netip.Addr](), reflect.TypeFor[*big.Int](), reflect.TypeFor[net.IP](), reflect.TypeFor[Recursive](),
}

// Recursive reaches itself in three ways.
type Recursive struct {
	Next  *Recursive
	Many  []Recursive
	Named map[string]Recursive
	Text  string
}

func (g generator) typ(depth int) reflect.Type {
	if depth == 0 || g.IntN(4) == 0 {
		return leaves[g.IntN(len(leaves))]
	}
	switch g.IntN(6) {
	case 0:
		return reflect.PointerTo(g.typ(depth - 1))
	case 1:
		return reflect.SliceOf(g.typ(depth - 1))
	case 2:
		return reflect.ArrayOf(g.IntN(4), g.typ(depth-1))
	case 3:
		keys := []reflect.Type{reflect.TypeFor[string](), reflect.TypeFor[int](), reflect.TypeFor[float64](), reflect.TypeFor[netip.Addr](), reflect.TypeFor[[2]string]()}
		return reflect.MapOf(keys[g.IntN(len(keys))], g.typ(depth-1))
	default:
		fields := make([]reflect.StructField, g.IntN(6))
		for i := range fields {
			fields[i] = reflect.StructField{Name: fmt.Sprint("F", i), Type: g.typ(depth - 1)}
		}
		return reflect.StructOf(fields)
	}
}

func (g generator) fill(v reflect.Value, depth int) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(g.Int64N(1e9), 0).In(time.FixedZone("x", g.IntN(3600)))))
		return
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.MustParseAddr(fmt.Sprintf("fe80::%x%%eth%d", g.IntN(1000), g.IntN(3)))))
		return
	case big.Int:
		v.Set(reflect.ValueOf(new(big.Int).Lsh(big.NewInt(g.Int64()), 200)).Elem())
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(g.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(g.Int64())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(g.Uint64())
	case reflect.Float64:
		v.SetFloat(g.Float64())
	case reflect.Complex128:
		v.SetComplex(complex(g.Float64(), g.Float64()))
	case reflect.String:
		v.SetString(fmt.Sprint(g.Int64()))
	case reflect.Array:
		for i := range v.Len() {
			g.fill(v.Index(i), depth)
		}
	case reflect.Struct:
		for _, field := range v.Fields() {
			g.fill(field, depth)
		}
	case reflect.Pointer:
		if depth > 0 && g.IntN(4) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			g.fill(v.Elem(), depth-1)
		}
	case reflect.Slice:
		if depth > 0 && g.IntN(4) > 0 {
			n := g.IntN(4)
			v.Set(reflect.MakeSlice(v.Type(), n, n+g.IntN(3)))
			for i := range n {
				g.fill(v.Index(i), depth-1)
			}
		}
	case reflect.Map:
		if depth > 0 && g.IntN(4) > 0 {
			v.Set(reflect.MakeMap(v.Type()))
			for range g.IntN(4) {
				key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				g.fill(key, depth-1)
				g.fill(value, depth-1)
				v.SetMapIndex(key, value)
			}
		}
	default:
		panic(v.Kind())
	}
}

// shared reports whether two values of a plan have memory in common that can be written.
func shared(t testing.TB, p *Plan, a, b unsafe.Pointer) bool {
	t.Helper()
	var both [2]checker
	for i, at := range []unsafe.Pointer{a, b} {
		both[i].piece(at, p.typ.Size())
		require.Nil(t, both[i].value(p, at, 0))
	}
	for _, x := range both[0].pieces {
		for _, y := range both[1].pieces {
			if x.from < y.to && y.from < x.to {
				return true
			}
		}
	}
	return false
}

// copyOf is Copy for a type that is known at run time only.
func copyOf(p *Plan, src reflect.Value) reflect.Value {
	dst := reflect.New(p.typ)
	dst.Elem().Set(src.Elem())
	p.replace(dst.UnsafePointer(), src.UnsafePointer())
	return dst
}

func checkRandom(t testing.TB, seed uint64) {
	t.Helper()
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	typ := g.typ(1 + g.IntN(5))
	p, err := For(typ)
	require.NoError(t, err, "%v", typ)
	src, again := reflect.New(typ), reflect.New(typ)
	state := g.Uint64()
	generator{rand.New(rand.NewPCG(state, 1))}.fill(src.Elem(), 4)
	generator{rand.New(rand.NewPCG(state, 1))}.fill(again.Elem(), 4)
	require.NoError(t, p.Check(src.UnsafePointer()), "%v", typ)
	dst := copyOf(p, src)
	require.Equal(t, again.Interface(), dst.Interface())
	require.False(t, shared(t, p, src.UnsafePointer(), dst.UnsafePointer()), "%v", typ)
	own{}.strings(typ, dst.UnsafePointer())
	require.Equal(t, again.Interface(), dst.Interface(), "with strings of its own: %v", typ)
	generator{g.Rand}.fill(dst.Elem(), 4)
	require.Equal(t, again.Interface(), src.Interface(), "a copy was written: %v", typ)
}

func TestRandomValuesOfRandomTypes(t *testing.T) {
	for seed := range uint64(5_000) {
		checkRandom(t, seed)
	}
}

func FuzzCopy(f *testing.F) {
	for seed := range uint64(10) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { checkRandom(t, seed) })
}

type embedded struct{ Inner []int }

type Exported struct{ Words []string }

type option[T any] struct {
	Value *T
	Set   bool
}

type decodesItself struct{ cells *[]int }

func (d *decodesItself) UnmarshalJSON([]byte) error { return nil }

type hidden struct {
	Name  string
	cache map[string]int
}

func TestWhatIsCopied(t *testing.T) {
	for name, c := range map[string]struct {
		value  any // a pointer to it
		type_  string
		reason string // of Check
	}{
		"a pointer":               {value: new(*int)},
		"a generic type":          {value: &option[[]string]{Value: &[]string{"a"}}},
		"embedded":                {value: &struct{ embedded }{embedded{[]int{1}}}},
		"an embedded pointer":     {value: &struct{ *Exported }{&Exported{[]string{"a"}}}},
		"an embedded nil pointer": {value: &struct{ *Exported }{}},
		"empty and nil": {value: &struct {
			A, B []int
			C, D map[string]int
			E, F []struct{}
		}{B: []int{}, D: map[string]int{}, F: make([]struct{}, 3)}},
		"NaN as key":                 {value: &map[float64][]int{math.NaN(): {1}}},
		"a url":                      {value: &url.URL{Host: "a", User: url.UserPassword("a", "b")}},
		"a mutex":                    {value: &struct{ mu sync.Mutex }{}},
		"a number that is atomic":    {value: &struct{ N atomic.Int64 }{}},
		"a channel":                  {value: new(chan int), type_: "a chan cannot be copied"},
		"a function":                 {value: &struct{ A struct{ F []func() } }{}, type_: "A.F[]: a func cannot be copied"},
		"an interface":               {value: &map[string]any{}, type_: "[]: an interface (interface {}) may hold anything"},
		"an atomic pointer":          {value: &struct{ P atomic.Pointer[int] }{}},
		"an unsafe pointer":          {value: &struct{ P unsafe.Pointer }{}, type_: "P: a unsafe.Pointer cannot be copied"},
		"a uintptr":                  {value: &struct{ P uintptr }{}, type_: "P: a uintptr cannot be copied"},
		"pointers as keys":           {value: &map[*int]int{}, type_: "[]: the keys of the map hold pointers or interfaces"},
		"what decodes itself":        {value: &[]decodesItself{}, type_: "[]: clone.decodesItself decodes itself (UnmarshalJSON), so it may refer to anything"},
		"an unexported field, unset": {value: &hidden{Name: "a"}},
		"an unexported field, set":   {value: &hidden{Name: "a", cache: map[string]int{}}, reason: "cache: an unexported field refers to something"},
		"in an element":              {value: &[]hidden{{}, {cache: map[string]int{}}}, reason: "cache: an unexported field refers to something"},
		"an atomic pointer, set": {value: func() any {
			v := new(struct{ P atomic.Pointer[int] })
			v.P.Store(new(int))
			return v
		}(), reason: "v: an unexported field refers to something"},
		"two pointers to one thing": {value: func() any {
			n := new(int)
			return &[]*int{n, n}
		}(), reason: "two pointers, slices or maps of the value lead to the same memory"},
		"slices of one array": {value: func() any {
			all := make([]int, 4)
			return &[][]int{all[:2], all[2:]}
		}(), reason: "two pointers, slices or maps of the value lead to the same memory"},
		"a pointer into the value itself": {value: func() any {
			v := new(struct {
				N int
				P *int
			})
			v.P = &v.N
			return v
		}(), reason: "two pointers, slices or maps of the value lead to the same memory"},
		"one map twice": {value: func() any {
			m := map[string]int{}
			return &[]map[string]int{m, m}
		}(), reason: "two pointers, slices or maps of the value lead to the same memory"},
		"a cycle": {value: func() any {
			v := new(Recursive)
			v.Next = v
			return v
		}(), reason: "the value is too deep or too large, or leads to itself"},
	} {
		t.Run(name, func(t *testing.T) {
			src := reflect.ValueOf(c.value)
			p, err := For(src.Type().Elem())
			if c.type_ != "" {
				require.EqualError(t, err, c.type_)
				return
			}
			require.NoError(t, err)
			err = p.Check(src.UnsafePointer())
			if c.reason != "" {
				require.EqualError(t, err, c.reason)
				return
			}
			require.NoError(t, err)
			dst := copyOf(p, src)
			if name != "NaN as key" { // which is not equal to itself
				require.Equal(t, src.Interface(), dst.Interface())
			}
			require.False(t, shared(t, p, src.UnsafePointer(), dst.UnsafePointer()))
		})
	}
	_, err := For(nil)
	require.EqualError(t, err, "there is no type")
}

// A deep value is refused before a copy of it could take much stack, and a wide one is copied.
func TestDeepAndWideValues(t *testing.T) {
	p, err := For(reflect.TypeFor[Recursive]())
	require.NoError(t, err)
	chain := new(Recursive)
	for range mostDepth - 1 {
		chain = &Recursive{Next: chain}
	}
	require.NoError(t, p.Check(unsafe.Pointer(chain)))
	copied := Copy(p, chain)
	require.Equal(t, *chain, copied)
	for range 2 {
		chain = &Recursive{Next: chain}
	}
	require.Error(t, p.Check(unsafe.Pointer(chain)))

	fields := make([]reflect.StructField, 200)
	for i := range fields {
		fields[i] = reflect.StructField{Name: fmt.Sprint("F", i), Type: reflect.TypeFor[[]string]()}
	}
	wide := reflect.New(reflect.StructOf(fields))
	generator{rand.New(rand.NewPCG(1, 2))}.fill(wide.Elem(), 2)
	p, err = For(wide.Type().Elem())
	require.NoError(t, err)
	require.NoError(t, p.Check(wide.UnsafePointer()))
	require.Equal(t, wide.Interface(), copyOf(p, wide).Interface())
	_, err = For(reflect.TypeFor[[mostParts + 1]*int]())
	require.EqualError(t, err, "["+fmt.Sprint(mostParts)+"]: the type is too large")
}

// What is kept has no string in common with what it was made of, but those that are in memory anyway.
func TestWhatIsKeptHasStringsOfItsOwn(t *testing.T) {
	p, err := For(reflect.TypeFor[Recursive]())
	require.NoError(t, err)
	within := "in memory anyway"
	src := &Recursive{Text: within[3:9], Many: []Recursive{{Text: "an element"}}, Named: map[string]Recursive{"a key": {Next: &Recursive{Text: "behind"}}}}
	kept := Keep(p, src, within)
	require.Equal(t, src, kept)
	data := func(s string) *byte { return unsafe.StringData(s) }
	require.Same(t, data(src.Text), data(kept.Text))
	require.NotSame(t, data(src.Many[0].Text), data(kept.Many[0].Text))
	require.NotSame(t, data(src.Named["a key"].Next.Text), data(kept.Named["a key"].Next.Text))
	var was, now string
	for was = range src.Named {
	}
	for now = range kept.Named {
	}
	require.NotSame(t, data(was), data(now))
}

// Many copy what nobody writes, and write what they got.
func TestCopiesAtOnce(t *testing.T) {
	p, err := For(reflect.TypeFor[Recursive]())
	require.NoError(t, err)
	src := &Recursive{Text: "a", Many: []Recursive{{Text: "b"}}, Named: map[string]Recursive{"c": {Text: "d", Next: &Recursive{}}}}
	require.NoError(t, p.Check(unsafe.Pointer(src)))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1_000 {
				own := Copy(p, src)
				own.Many[0].Text = "!"
				own.Named["c"] = Recursive{}
				own.Named["c"].Next.scribble()
			}
		})
	}
	all.Wait()
	require.Equal(t, "b", src.Many[0].Text)
	require.NotNil(t, src.Named["c"].Next)
}

func (r *Recursive) scribble() {
	if r != nil {
		r.Text = "!"
	}
}
