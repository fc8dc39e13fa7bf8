package shape_test

import (
	"math"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/shape"
)

type inner struct{ N int }

type outer struct {
	Name   string
	hidden string
	At     time.Time
	at     time.Time
	Any    any
	Tags   []string
	By     map[string]any
	P      *inner
	F      float64
	Fn     func()
	mu     sync.Mutex
}

func TestDifferencesNamesTheField(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		was, now any
		want     []shape.Difference
	}{
		"equal":               {&outer{Name: "a", F: math.NaN(), At: now}, &outer{Name: "a", F: math.NaN(), At: now.Round(0).UTC()}, nil},
		"nil and empty":       {&outer{Tags: []string{}, By: map[string]any{}}, &outer{}, nil},
		"a hidden time":       {&outer{at: now}, &outer{at: now.Round(0)}, nil},
		"a string":            {&outer{Name: "a"}, &outer{}, []shape.Difference{{"Name", "string", "another value"}}},
		"an unexported field": {&outer{hidden: "a"}, &outer{}, []shape.Difference{{"hidden", "string", "nothing"}}},
		"a time":              {&outer{At: now}, &outer{At: now.Add(1)}, []shape.Difference{{"At", "time.Time", "another value"}}},
		"a number's type": {
			&outer{By: map[string]any{"id": int64(1), "same": "x"}},
			&outer{By: map[string]any{"id": float64(1), "same": "x"}},
			[]shape.Difference{{`By["id"]`, "int64", "float64"}},
		},
		"a missing key":   {&outer{By: map[string]any{"id": 1}}, &outer{}, []shape.Difference{{`By["id"]`, "int", "missing"}}},
		"nil comes alive": {&outer{}, &outer{P: &inner{}}, []shape.Difference{{"P", "nil", "*shape_test.inner"}}},
		"a function":      {&outer{Fn: func() {}}, &outer{}, []shape.Difference{{"Fn", "func()", "nil"}}},
		"a length":        {[]int{1, 2}, []int{1}, []shape.Difference{{"", "length 2", "length 1"}}},
		"an element":      {[]inner{{1}, {2}}, []inner{{1}, {3}}, []shape.Difference{{"[1].N", "int", "another value"}}},
		"types":           {inner{}, outer{}, []shape.Difference{{"", "shape_test.inner", "shape_test.outer"}}},
		"nothing":         {nil, inner{}, []shape.Difference{{"", "nil", "shape_test.inner"}}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, shape.Differences(reflect.ValueOf(c.was), reflect.ValueOf(c.now)))
		})
	}
}

type loop struct {
	Next *loop
	N    int
}

type angry struct{ N int }

func (angry) Equal(angry) bool { panic("no") }

func TestDifferencesIsBoundedAndDoesNotPanic(t *testing.T) {
	a, b := &loop{}, &loop{N: 1}
	a.Next, b.Next = a, b
	require.Len(t, shape.Differences(reflect.ValueOf(a), reflect.ValueOf(b)), 8)
	b.N = 0
	require.Empty(t, shape.Differences(reflect.ValueOf(a), reflect.ValueOf(b)))
	self := map[string]any{}
	self["self"] = self
	other := map[string]any{}
	other["self"] = other
	require.Empty(t, shape.Differences(reflect.ValueOf(self), reflect.ValueOf(other)))
	require.Empty(t, shape.Differences(reflect.ValueOf(angry{1}), reflect.ValueOf(angry{2})))
	require.Empty(t, shape.Differences(reflect.ValueOf(make([]int, 1<<20)), reflect.ValueOf(make([]int, 1<<20))))
}
