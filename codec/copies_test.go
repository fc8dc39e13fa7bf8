package codec_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
)

// around wraps a codec, or itself.
type around struct{ inner codec.Codec[[]int] }

func (*around) Encode([]int) (string, error) { return "", nil }
func (*around) Decode(string) ([]int, error) { return nil, nil }
func (a *around) Unwrap() codec.Codec[[]int] { return a.inner }

// clones is a codec with a Clone.
type clones struct{ around }

func (*clones) Clone(v []int) []int { return v }

func TestWhichCodecsDecodeFresh(t *testing.T) {
	own := codec.Func(func([]int) (string, error) { return "", nil }, func(string) ([]int, error) { return nil, nil })
	self := new(around)
	self.inner = self
	for name, c := range map[string]struct {
		codec codec.Codec[[]int]
		fresh bool
	}{
		"JSON":           {codec.JSON[[]int](), true},
		"Gob":            {codec.Gob[[]int](), true},
		"Func":           {own, false},
		"promised":       {codec.Fresh(own), true},
		"around JSON":    {&around{codec.JSON[[]int]()}, true},
		"around Func":    {&around{own}, false},
		"around itself":  {self, false},
		"around nothing": {new(around), false},
		"nil":            {nil, false},
	} {
		assert.Equal(t, c.fresh, codec.IsFresh(c.codec), name)
		assert.Nil(t, codec.ClonerOf(c.codec), name)
	}
	assert.True(t, codec.IsFresh(codec.Bytes()))
	assert.Nil(t, codec.Fresh[int](nil))
	assert.NotNil(t, codec.ClonerOf[[]int](&around{new(clones)}))
	assert.Equal(t, "Func", codec.Fresh(own).(interface{ String() string }).String())
}

// What a codec encodes anew neither a change of the value nor what is encoded later can change. Views
// keep it, and hand it out, without a copy.
func TestWhatIsEncodedAnewStays(t *testing.T) {
	type value struct {
		Text  string
		Bytes []byte
		Raw   json.RawMessage // whose MarshalJSON returns its own bytes
	}
	for name, c := range map[string]codec.Codec[value]{"JSON": codec.JSON[value](), "Gob": codec.Gob[value]()} {
		_, anew := c.(interface{ EncodesAnew() })
		require.True(t, anew, name)
		v := value{"text", []byte("bytes"), json.RawMessage(`{"raw":1}`)}
		encoded, err := c.Encode(v)
		require.NoError(t, err)
		was := strings.Clone(encoded)
		copy(v.Bytes, "BYTES")
		copy(v.Raw, `{"RAW":2}`)
		for range 100 {
			_, err := c.Encode(value{"other", []byte("other"), json.RawMessage(`{"other":3}`)})
			require.NoError(t, err)
		}
		assert.Equal(t, was, encoded, name)
	}
	for name, c := range map[string]any{"String": codec.String(), "Bytes": codec.Bytes(), "Func": codec.Func(func(s string) (string, error) { return s, nil }, func(s string) (string, error) { return s, nil })} {
		_, anew := c.(interface{ EncodesAnew() })
		assert.False(t, anew, "%s may return its value", name)
	}
}
