package codec_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/msgpack"
)

type base struct {
	ID int `json:"id"`
}

type derived struct {
	base
	Name string `json:"name,omitempty"`
	at   time.Time
}

// encoding/json and MessagePack make a zero struct of any object; we do only where one member at
// least is a field.
func TestAnObjectWithoutAnyFieldOfTheTypeIsAnotherTypes(t *testing.T) {
	for stored, foreign := range map[string]bool{
		`{}`:                       false,
		` { } `:                    false,
		`{"id":0}`:                 false,
		`{"ID":0,"x":1}`:           false,
		`{"name":"","x":1}`:        false,
		`{"x":1}`:                  true,
		`{"at":"2026-01-01"}`:      true,
		`{"x":{"id":1},"name2":1}`: true,
	} {
		v, err := codec.JSON[derived]().Decode(stored)
		p, perr := codec.JSON[*derived]().Decode(stored)
		if foreign {
			require.ErrorContains(t, err, "aside: decode JSON: none of the object's members is a field", stored)
			require.Error(t, perr, stored)
			require.Zero(t, v)
			require.Nil(t, p)
			continue
		}
		require.NoError(t, err, stored)
		require.NoError(t, perr, stored)
	}
	_, err := codec.JSON[map[string]int]().Decode(`{"x":1}`)
	require.NoError(t, err)
	_, err = codec.JSON[time.Time]().Decode(`"0001-01-01T00:00:00Z"`)
	require.NoError(t, err)

	price, err := msgpack.New[map[string]any]().Encode(map[string]any{"Price": 1})
	require.NoError(t, err)
	_, err = msgpack.New[chain]().Decode(price)
	require.ErrorContains(t, err, "aside: decode MessagePack: none of the map's keys is a field")
	_, err = msgpack.New[*chain]().Decode(price)
	require.Error(t, err)
	one, err := msgpack.New[map[string]any]().Encode(map[string]any{"Price": 1, "N": 0})
	require.NoError(t, err)
	_, err = msgpack.New[*chain]().Decode(one)
	require.NoError(t, err)
	_, err = msgpack.New[chain]().Decode("\x80")
	require.NoError(t, err)
}
