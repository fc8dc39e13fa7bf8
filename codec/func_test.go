package codec_test

import (
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
)

func TestFuncNamesTheFunctionThatIsNil(t *testing.T) {
	c := codec.Func[int](nil, nil)
	_, err := c.Encode(1)
	require.EqualError(t, err, "aside: encode: the serialize function given to codec.Func is nil")
	_, err = c.Decode("1")
	require.EqualError(t, err, "aside: decode: the deserialize function given to codec.Func is nil")
}

func TestFuncKeepsTheErrorAndDropsTheValue(t *testing.T) {
	c := codec.Func(
		func(int) (string, error) { return "half", io.ErrShortWrite },
		func(string) (int, error) { return 7, io.ErrUnexpectedEOF },
	)
	s, err := c.Encode(1)
	require.ErrorIs(t, err, io.ErrShortWrite)
	assert.Empty(t, s)
	n, err := c.Decode("1")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.Zero(t, n)
}

func TestFuncTurnsAPanicIntoAnError(t *testing.T) {
	broken := errors.New("broken")
	c := codec.Func(func(int) (string, error) { panic("no") }, func(string) (int, error) { panic(broken) })
	_, err := c.Encode(1)
	require.EqualError(t, err, "aside: encode: panic: no")
	_, err = c.Decode("1")
	require.ErrorIs(t, err, broken)
}
