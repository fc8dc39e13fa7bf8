package codec_test

import (
	"encoding/gob"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
)

func TestGobDecodeTellsHowItIsWrong(t *testing.T) {
	c := codec.Gob[record]()
	s, err := c.Encode(records()[1])
	require.NoError(t, err)

	flipped := []byte(s)
	flipped[len(s)/2] ^= 1
	for _, bad := range []struct{ name, s, says string }{
		{"empty", "", "shorter than its header"},
		{"only a header", s[:4], "shorter than its header"},
		{"cut short", s[:len(s)-1], "checksum"},
		{"a bit flipped", string(flipped), "checksum"},
		{"bytes behind", s + "x", "checksum"},
		{"a later version", "\x02" + s[1:], "unknown version 2"},
		{"plain gob", s[5:], "unknown version"},
	} {
		t.Run(bad.name, func(t *testing.T) {
			got, err := c.Decode(bad.s)
			require.ErrorContains(t, err, "aside: decode Gob: ")
			require.ErrorContains(t, err, bad.says)
			assert.Zero(t, got)
		})
	}
}

func TestGobRefusesAnotherType(t *testing.T) {
	s, err := codec.Gob[string]().Encode("a")
	require.NoError(t, err)
	_, err = codec.Gob[int]().Decode(s)
	assert.ErrorContains(t, err, "aside: decode Gob: ")
}

// encoding/gob would panic, or write an empty record for the first and nothing for the others,
// which would not decode.
func TestGobEncodeOfANilPointerIsAnError(t *testing.T) {
	const says = "aside: encode Gob: gob cannot say a nil pointer"
	_, err := codec.Gob[*record]().Encode(nil)
	require.EqualError(t, err, says)
	_, err = codec.Gob[*int]().Encode(nil)
	require.EqualError(t, err, says)
	_, err = codec.Gob[**int]().Encode(new(*int))
	require.EqualError(t, err, says)
}

type shape interface{ Area() int }
type square struct{ Side int }

func (s square) Area() int { return s.Side * s.Side }

func TestGobKeepsWhatIsInAnInterface(t *testing.T) {
	gob.Register(square{})
	c := codec.Gob[shape]()
	s, err := c.Encode(square{3})
	require.NoError(t, err)
	got, err := c.Decode(s)
	require.NoError(t, err)
	assert.Equal(t, square{3}, got)

	s, err = c.Encode(nil)
	require.NoError(t, err)
	got, err = c.Decode(s)
	require.NoError(t, err)
	assert.Nil(t, got)
}

func TestGobDoesNotTellNilFromEmpty(t *testing.T) {
	inStruct := codec.Gob[record]()
	s, err := inStruct.Encode(record{Tags: []string{}})
	require.NoError(t, err)
	got, err := inStruct.Decode(s)
	require.NoError(t, err)
	assert.Nil(t, got.Tags)

	slice := codec.Gob[[]int]()
	s, err = slice.Encode([]int{})
	require.NoError(t, err)
	n, err := slice.Decode(s)
	require.NoError(t, err)
	assert.Nil(t, n)

	dict := codec.Gob[map[string]int]()
	s, err = dict.Encode(nil)
	require.NoError(t, err)
	m, err := dict.Decode(s)
	require.NoError(t, err)
	assert.Equal(t, map[string]int{}, m)
}
