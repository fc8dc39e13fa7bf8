package codectest

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
)

// recorder is a *testing.T that remembers: the names of the subtests that failed, and what they
// said.
type recorder struct {
	name   string
	failed map[string]string // shared by all subtests
}

func (r recorder) Helper() {}
func (r recorder) Errorf(format string, args ...any) {
	r.failed[r.name] += fmt.Sprintf(format, args...)
}

func (r recorder) Run(name string, f func(reporter)) bool {
	f(recorder{name, r.failed})
	return r.failed[name] == ""
}

func failures[T any](c codec.Codec[T], values []T, opts ...Option[T]) map[string]string {
	r := recorder{failed: map[string]string{}}
	contract(r, c, values, opts)
	return r.failed
}

type thing struct {
	Name string
	Tags []string
}

func things() []thing {
	return []thing{{}, {Name: "a", Tags: []string{"x", "y"}}, {Name: "b", Tags: []string{"z"}}}
}

func encodeThing(v thing) (string, error) { b, err := json.Marshal(v); return string(b), err }
func decodeThing(s string) (v thing, err error) {
	err = json.Unmarshal([]byte(s), &v)
	return v, err
}

// broken is a codec of two functions, without the care that codec.Func takes.
type broken struct {
	encode func(thing) (string, error)
	decode func(string) (thing, error)
}

func (b broken) Encode(v thing) (string, error) { return b.encode(v) }
func (b broken) Decode(s string) (thing, error) { return b.decode(s) }

func TestTheSuitePassesAnHonestCodec(t *testing.T) {
	Run(t, broken{encodeThing, decodeThing}, things())
	assert.Empty(t, failures(broken{encodeThing, decodeThing}, things()))
}

// Each broken codec fails in the check that is about its mistake, with words that tell it.
func TestTheSuiteFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		codec  func() broken // made anew, for some keep state
		breaks string
		says   string
	}{
		{
			"a codec that drops a field",
			func() broken {
				return broken{func(v thing) (string, error) { v.Tags = nil; return encodeThing(v) }, decodeThing}
			},
			"what is encoded decodes to an equal value", "decoded a different value",
		},
		{
			"a codec that refuses its own encoding",
			func() broken {
				return broken{encodeThing, func(s string) (thing, error) { return thing{}, errors.New("no") }}
			},
			"what is encoded decodes to an equal value", "Decode refused what Encode wrote",
		},
		{
			"an encoder that fails",
			func() broken {
				return broken{func(thing) (string, error) { return "", errors.New("no") }, decodeThing}
			},
			"what is encoded decodes to an equal value", "values[0]: Encode: no",
		},
		{
			"an encoder that panics",
			func() broken {
				return broken{func(v thing) (string, error) { return v.Tags[0], nil }, decodeThing}
			},
			"what is encoded decodes to an equal value", "Encode panicked: runtime error: index out of range",
		},
		{
			"a codec that writes to what it decodes",
			func() broken {
				return broken{encodeThing, func(s string) (thing, error) {
					v, err := decodeThing(s)
					clear(unsafe.Slice(unsafe.StringData(s), len(s)))
					return v, err
				}}
			},
			"what is encoded decodes to an equal value", "Decode changed the string that it was given",
		},
		{
			"an encoder with one buffer for all",
			func() broken {
				var mu sync.Mutex
				var buffer [1024]byte
				return broken{func(v thing) (string, error) {
					mu.Lock()
					defer mu.Unlock()
					s, err := encodeThing(v)
					n := copy(buffer[:], s)
					return unsafe.String(&buffer[0], n), err
				}, decodeThing}
			},
			"each encoding stands alone", "its encoding changed when others were encoded",
		},
		{
			"an encoder that describes its type only once, as a gob stream does",
			func() broken {
				var stream bytes.Buffer
				enc := gob.NewEncoder(&stream)
				return broken{func(v thing) (string, error) {
					stream.Reset()
					err := enc.Encode(v)
					return stream.String(), err
				}, func(s string) (v thing, err error) {
					err = gob.NewDecoder(strings.NewReader(s)).Decode(&v)
					return v, err
				}}
			},
			"what is encoded decodes to an equal value", "values[1]: Decode refused what Encode wrote",
		},
		{
			"a codec that numbers what it writes and wants to read it in that order",
			func() broken {
				var written, read atomic.Int32
				return broken{func(v thing) (string, error) {
					s, err := encodeThing(v)
					return fmt.Sprintf("%08d", written.Add(1)) + s, err
				}, func(s string) (thing, error) {
					if s[:8] != fmt.Sprintf("%08d", read.Add(1)) {
						return thing{}, errors.New("out of order")
					}
					return decodeThing(s[8:])
				}}
			},
			"each encoding stands alone", "in another order than it was encoded",
		},
		{
			"a decoder with one buffer for all",
			func() broken {
				var mu sync.Mutex
				var buffer [1024]byte
				return broken{encodeThing, func(s string) (thing, error) {
					mu.Lock()
					defer mu.Unlock()
					v, err := decodeThing(s)
					v.Name = unsafe.String(&buffer[0], copy(buffer[:], v.Name)) // strings cannot be mutated by the suite, only compared later
					return v, err
				}}
			},
			"each encoding stands alone", "what was decoded changed when others were decoded",
		},
		{
			"a decoder that remembers what it decoded",
			func() broken {
				var cache sync.Map
				return broken{encodeThing, func(s string) (thing, error) {
					if v, ok := cache.Load(s); ok {
						return v.(thing), nil
					}
					v, err := decodeThing(s)
					if err == nil {
						cache.Store(strings.Clone(s), v)
					}
					return v, err
				}}
			},
			"decoded values share no mutable memory", "changing one decoded value changed another",
		},
		{
			"a codec that hands back what it was given",
			func() broken {
				var cache sync.Map
				return broken{func(v thing) (string, error) {
					s, err := encodeThing(v)
					cache.LoadOrStore(s, v)
					return s, err
				}, func(s string) (thing, error) {
					if v, ok := cache.Load(s); ok {
						return v.(thing), nil
					}
					return decodeThing(s)
				}}
			},
			"decoded values share no mutable memory", "changing one decoded value changed another",
		},
		{
			"an encoder that keeps the value for the next read",
			func() broken {
				var latest atomic.Pointer[thing]
				var of atomic.Pointer[string]
				return broken{func(v thing) (string, error) {
					s, err := encodeThing(v)
					latest.Store(&v)
					of.Store(&s)
					return s, err
				}, func(s string) (thing, error) {
					v, err := decodeThing(s)
					if last := of.Swap(nil); err == nil && last != nil && *last == s && len(v.Tags) == 1 {
						// Only once after each Encode, so that decoding twice does not show it, but
						// the change of a value does.
						kept := latest.Load()
						if kept.Tags[0] != v.Tags[0] {
							return *kept, nil
						}
					}
					return v, err
				}}
			},
			"Encode does not retain its value", "changing the value after it was encoded changed what is decoded",
		},
		{
			"an encoder that sorts in place",
			func() broken {
				return broken{func(v thing) (string, error) {
					slices.SortFunc(v.Tags, func(a, b string) int { return strings.Compare(b, a) })
					return encodeThing(v)
				}, decodeThing}
			},
			"Encode does not change its value", "Encode changed the value that it was given",
		},
		{
			"a decoder that trusts a length",
			func() broken {
				return broken{func(v thing) (string, error) {
					s, err := encodeThing(v)
					return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s, err
				}, func(s string) (thing, error) {
					n := binary.BigEndian.Uint32([]byte(s)[:4])
					return decodeThing(s[4 : 4+n])
				}}
			},
			"Decode survives any bytes", "Decode panicked on \"\"",
		},
		{
			"a decoder that is spoiled by damaged bytes",
			func() broken {
				var spoiled atomic.Bool
				return broken{encodeThing, func(s string) (thing, error) {
					if spoiled.Load() {
						return thing{}, errors.New("spoiled")
					}
					v, err := decodeThing(s)
					if err != nil {
						spoiled.Store(true)
					}
					return v, err
				}}
			},
			"Decode survives any bytes", "intact, after damaged ones were refused",
		},
		{
			"a decoder that takes half a value for one",
			func() broken {
				return broken{func(v thing) (string, error) {
					if v.Name == "half" {
						return "", errors.New("half a thing")
					}
					return encodeThing(v)
				}, func(s string) (thing, error) {
					v, err := decodeThing(s)
					if err != nil {
						return thing{Name: "half"}, nil
					}
					return v, nil
				}}
			},
			"a truncated encoding is an error or a valid value", "decodes to a value that cannot be encoded: half a thing",
		},
		{
			"a codec with one workspace for all, that a race detector does not see",
			func() broken {
				var workspace atomic.Pointer[thing]
				return broken{func(v thing) (string, error) {
					workspace.Store(&v)
					time.Sleep(time.Microsecond) // others come in between
					return encodeThing(*workspace.Load())
				}, decodeThing}
			},
			"concurrent use gives the same as use one by one", "while others use the codec",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			failed := failures[thing](c.codec(), things())
			require.Len(t, failed, 1, "%v", failed)
			require.Contains(t, failed, c.breaks)
			assert.Contains(t, failed[c.breaks], c.says)
			assert.Contains(t, failed[c.breaks], "The rule: "+c.breaks)
		})
	}
}

func TestTheSuiteWantsValues(t *testing.T) {
	assert.Contains(t, failures[thing](broken{encodeThing, decodeThing}, nil)[""], "no values")
}

func TestTheSuiteIsTheSameEveryTime(t *testing.T) {
	inputs := func() (all []string) {
		var mu sync.Mutex
		c := broken{encodeThing, func(s string) (thing, error) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, s)
			return decodeThing(s)
		}}
		long := []thing{{Name: strings.Repeat("long ", 200)}}
		s := &suite[thing]{codec: c, values: long, want: long, rand: newRand(), equal: func(a, b thing) bool { return true }}
		require.NoError(t, s.anyBytes())
		return all
	}
	assert.Equal(t, inputs(), inputs())
}

func TestEqualAndMutateAreTheUsersToSay(t *testing.T) {
	type hidden struct{ tags []string }
	shared := hidden{[]string{"a"}}
	c := codec.Func(
		func(hidden) (string, error) { return "h", nil },
		func(string) (hidden, error) { return shared, nil },
	)
	assert.Empty(t, failures(c, []hidden{{[]string{"a"}}}), "by itself the suite does not look into unexported fields")

	mutating := Mutate(func(h *hidden) bool { h.tags[0] += "!"; return true })
	assert.Contains(t, failures(c, []hidden{{[]string{"a"}}}, mutating), "decoded values share no mutable memory")

	blind := Equal(func(a, b thing) bool { return a.Name == b.Name })
	drops := broken{func(v thing) (string, error) { v.Tags = nil; return encodeThing(v) }, decodeThing}
	assert.Empty(t, failures(drops, things()[1:], blind))
}

func TestMutateChangesAllThatIsShared(t *testing.T) {
	type inner struct{ N *int }
	type outer struct {
		B    []bool
		M    map[string]inner
		Any  any
		Arr  [1][]string
		F    []float64
		C    []complex128
		U    map[uint8]uint8
		T    *time.Time
		NaN  map[float64]int
		Self *outer
		Fn   []func()
	}
	make1 := func() outer {
		n, at := 1, time.Unix(1, 0)
		o := outer{
			B: []bool{true}, M: map[string]inner{"a": {&n}}, Any: []any{1, map[string]any{"x": &n}}, Arr: [1][]string{{"s"}},
			F: []float64{math.MaxFloat64, math.NaN(), 1}, C: []complex128{0, 1}, U: map[uint8]uint8{1: 1}, T: &at,
			NaN: map[float64]int{math.NaN(): 1}, Fn: []func(){nil},
		}
		o.Self = &o
		return o
	}
	v := make1()
	require.True(t, mutate(reflect.ValueOf(&v).Elem()))

	assert.Equal(t, []bool{false}, v.B)
	assert.NotEqual(t, 1, *v.M["a"].N)
	assert.Contains(t, v.M, "", "an entry was added")
	assert.NotEqual(t, 1, v.Any.([]any)[0])
	assert.NotEqual(t, "s", v.Arr[0][0])
	assert.Equal(t, []float64{1, 1, 2}, v.F)
	assert.Equal(t, []complex128{1, 2}, v.C)
	assert.Equal(t, map[uint8]uint8{0: 0, 1: 0}, v.U)
	assert.True(t, v.T.IsZero())
	assert.Greater(t, len(v.NaN), 1)

	assert.False(t, mutate(reflect.ValueOf(&struct {
		N int
		S string
		T time.Time
		A [2]bool
		P *int
		M map[string]int
		I any
	}{N: 1, I: 5}).Elem()), "nothing here is shared")
}

func TestDeepCopySharesNothing(t *testing.T) {
	type node struct {
		N    *int
		M    map[string][]int
		Any  any
		Arr  [1]*int
		Next *node
		T    time.Time
	}
	n := 1
	v := node{N: &n, M: map[string][]int{"a": {1}}, Any: []any{&n, map[string]any{"x": 1}}, Arr: [1]*int{&n}, T: time.Unix(1, 0)}
	v.Next = &v
	copied := deepCopy(reflect.ValueOf(&v)).Interface().(*node)
	require.Equal(t, &v, copied)
	assert.Same(t, copied, copied.Next, "what refers to itself does so in the copy")
	assert.Same(t, copied.N, copied.Arr[0], "what is one in the value is one in the copy")

	require.True(t, mutate(reflect.ValueOf(copied)))
	assert.Equal(t, 1, n)
	assert.Equal(t, map[string][]int{"a": {1}}, v.M)
	assert.Equal(t, []any{&n, map[string]any{"x": 1}}, v.Any)
}
