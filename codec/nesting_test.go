package codec_test

import (
	"encoding/gob"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/msgpack"
	"github.com/redaside/aside/codec/zstd"
)

// Without the check each of these ends the process: running out of stack cannot be recovered from.

type chain struct {
	Next *chain
	N    int
}

func chainOf(n int) *chain {
	var c *chain
	for i := range n {
		c = &chain{c, i}
	}
	return c
}

func loopOf(n int) *chain {
	c := chainOf(n)
	end := c
	for end.Next != nil {
		end = end.Next
	}
	end.Next = c
	return c
}

type tree struct {
	Up       *tree `json:"-" msgpack:"-"`
	hidden   *tree
	Children []*tree
	ByName   map[string]tree
	Any      any
}

type branches map[string]branches

type boxed struct{ Any any }

func init() {
	gob.Register(boxed{})
	gob.Register(map[string]any{})
	gob.Register([]any{})
}

func refuses[T any](t *testing.T, v T) {
	t.Helper()
	for _, c := range []codec.Codec[T]{codec.JSON[T](), codec.Gob[T](), msgpack.New[T](), zstd.New(codec.Gob[T](), 0), zstd.New(msgpack.New[T](), 0)} {
		_, err := c.Encode(v)
		require.ErrorContains(t, err, "refers to itself, or is nested deeper than", "%v", c)
	}
}

func TestAValueThatRefersToItselfIsRefused(t *testing.T) {
	refuses(t, loopOf(1))
	refuses(t, *loopOf(3))
	refuses(t, []*chain{nil, chainOf(3), loopOf(2)})

	up := &tree{}
	up.Children = []*tree{{}, {Children: []*tree{up}}}
	refuses(t, up)
	up = &tree{}
	up.ByName = map[string]tree{"a": {Children: []*tree{up}}}
	refuses(t, up)
	up = &tree{}
	up.Any = map[string]any{"a": []any{1, up}}
	refuses(t, up)

	b := branches{}
	b["b"] = b
	refuses(t, b)

	m := map[string]any{}
	m["m"] = []any{"a", m}
	refuses(t, m)
	refuses(t, boxed{m})
	refuses[any](t, m)

	s := []any{nil}
	s[0] = s
	refuses(t, s)

	k := make(map[string]any)
	box := &boxed{k}
	k["box"] = box
	refuses(t, box)
}

func TestAValueThatIsNestedTooDeepIsRefused(t *testing.T) {
	refuses(t, chainOf(1_000_000))
	var deep any
	for range 1_000_000 {
		deep = []any{deep}
	}
	refuses(t, deep)
}

// What is as deep as can be read is not refused, and what an encoder leaves out may lead back.
func TestAValueThatCanBeReadIsNotRefused(t *testing.T) {
	for name, encode := range map[string]func(n int) error{
		"JSON":        reads(codec.JSON[*chain]()),
		"MessagePack": reads(msgpack.New[*chain]()),
		"Gob":         reads(codec.Gob[*chain]()),
	} {
		t.Run(name, func(t *testing.T) {
			most := 10_000
			if name == "Gob" {
				most = 100_000
			}
			require.NoError(t, encode(most))
			require.Error(t, encode(most+1))
		})
	}
	up := &tree{}
	up.Children = []*tree{{Up: up, hidden: up}}
	for _, c := range []codec.Codec[*tree]{codec.JSON[*tree](), msgpack.New[*tree]()} {
		_, err := c.Encode(up)
		require.NoError(t, err, "%v", c)
	}
	up.Children[0].Up = nil // Gob has no tag for that
	_, err := codec.Gob[*tree]().Encode(up)
	require.NoError(t, err)

	one := &chain{N: 1} // met twice, but not within itself
	for _, c := range []codec.Codec[[]*chain]{codec.JSON[[]*chain](), codec.Gob[[]*chain](), msgpack.New[[]*chain]()} {
		s, err := c.Encode([]*chain{one, one})
		require.NoError(t, err)
		back, err := c.Decode(s)
		require.NoError(t, err)
		require.Equal(t, []*chain{one, one}, back)
	}
	written := owner{Name: "a"}
	written.Self = &written
	s, err := codec.JSON[owner]().Encode(written)
	require.NoError(t, err, "its own method leaves the way back out")
	require.Equal(t, `"a"`, s)
	s, err = codec.JSON[map[string]owner]().Encode(map[string]owner{"k": {Name: "b"}})
	require.NoError(t, err)
	require.Contains(t, s, `"Self":null`, "in a map encoding/json does not call a method of the pointer, so neither do we count on it")
	_, err = codec.JSON[map[string]owner]().Encode(map[string]owner{"k": {Self: &written}})
	require.NoError(t, err)
}

func reads(c codec.Codec[*chain]) func(n int) error {
	return func(n int) error {
		s, err := c.Encode(chainOf(n))
		if err != nil {
			return err
		}
		back, err := c.Decode(s)
		if err != nil {
			return err
		}
		for ; back != nil; back = back.Next {
			n--
		}
		if n != 0 {
			return fmt.Errorf("%d are missing", n)
		}
		return nil
	}
}

type owner struct {
	Name string
	Self *owner
}

func (o *owner) MarshalJSON() ([]byte, error) { return json.Marshal(o.Name) }

// Types that cannot be nested pay nothing.
func TestAFlatTypeHasNoPlan(t *testing.T) {
	type flat struct {
		A string
		B []string
		C map[string][]float64
		D *struct{ E [2]int }
	}
	for _, c := range []any{codec.JSON[flat](), codec.Gob[flat](), msgpack.New[flat]()} {
		require.True(t, reflect.ValueOf(c).Field(0).IsNil(), "%v", c)
	}
	require.Equal(t, codec.JSON[*chain](), codec.JSON[*chain](), "codecs of a type are equal, for views share what they decoded")
	_, err := codec.JSON[flat]().Encode(flat{C: map[string][]float64{"a": {math.Pi}}})
	require.NoError(t, err)
}
