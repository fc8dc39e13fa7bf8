package codec_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
)

func TestJSONIsWhatOthersWouldWrite(t *testing.T) {
	s, err := codec.JSON[map[string]int]().Encode(map[string]int{"b": 2, "a": 1})
	require.NoError(t, err)
	assert.Equal(t, `{"a":1,"b":2}`, s)

	got, err := codec.JSON[map[string]int]().Decode(" { \"a\" :\n1 } ")
	require.NoError(t, err)
	assert.Equal(t, map[string]int{"a": 1}, got)
}

func TestJSONDecodeRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":            "",
		"bytes after":        `{"ID":1} x`,
		"two values":         `{"ID":1}{"ID":2}`,
		"another type":       `{"ID":"one"}`,
		"half a value":       `{"ID":1`,
		"a number too large": `{"ID":1e30}`,
		"deep nesting":       strings.Repeat(`{"Parent":`, 20_000),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := codec.JSON[record]().Decode(s)
			require.ErrorContains(t, err, "aside: decode JSON: ")
			assert.Zero(t, got, "nothing half decoded comes with an error")
		})
	}
}

func TestJSONEncodeRefusesWhatItCannotSay(t *testing.T) {
	s, err := codec.JSON[float64]().Encode(math.NaN())
	require.ErrorContains(t, err, "aside: encode JSON: ")
	assert.Empty(t, s)
}

// celsius has its methods on the pointer: Encode must find MarshalJSON as Decode finds
// UnmarshalJSON.
type celsius struct{ degrees float64 }

func (c *celsius) MarshalJSON() ([]byte, error) { return json.Marshal(c.degrees) }
func (c *celsius) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &c.degrees) }

func TestJSONFindsMethodsOfThePointer(t *testing.T) {
	c := codec.JSON[celsius]()
	s, err := c.Encode(celsius{21.5})
	require.NoError(t, err)
	assert.Equal(t, "21.5", s)
	got, err := c.Decode(s)
	require.NoError(t, err)
	assert.Equal(t, celsius{21.5}, got)
}

// vandal writes to what UnmarshalJSON and UnmarshalText lend it, and keeps it.
type vandal struct{ kept []byte }

func (v *vandal) UnmarshalJSON(b []byte) error { return v.UnmarshalText(b) }
func (v *vandal) UnmarshalText(b []byte) error {
	v.kept = b
	for i := range b {
		b[i] = 'X'
	}
	return nil
}

// A relapse (reading the string without a copy) would crash here: constants are in memory that
// cannot be written to.
func TestJSONDoesNotLendTheStringToUnmarshalers(t *testing.T) {
	const s = `"do not touch"`
	_, err := codec.JSON[vandal]().Decode(s)
	require.NoError(t, err)

	type nested struct {
		V vandal
		M map[string]vandal
	}
	const inside = `{"V":"do not touch","M":{"a":"nor this"}}`
	_, err = codec.JSON[nested]().Decode(inside)
	require.NoError(t, err)
}

type panicky struct{}

var errFromPanic = errors.New("from the panic")

func (panicky) MarshalJSON() ([]byte, error)  { panic("cannot marshal") }
func (*panicky) UnmarshalJSON(b []byte) error { panic(errFromPanic) }

func TestAPanicOfTheTypesOwnMethodsIsAnError(t *testing.T) {
	_, err := codec.JSON[panicky]().Encode(panicky{})
	require.EqualError(t, err, "aside: encode JSON: panic: cannot marshal")
	_, err = codec.JSON[panicky]().Decode("1")
	require.ErrorIs(t, err, errFromPanic)
}
