package codec_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

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
