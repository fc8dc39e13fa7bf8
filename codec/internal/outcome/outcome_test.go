package outcome_test

import (
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec/internal/outcome"
)

func TestSettle(t *testing.T) {
	method := func(f func() (int, error)) (v int, err error) {
		defer outcome.Settle("decode X", &v, &err)
		v = 5 // half decoded
		return f()
	}

	v, err := method(func() (int, error) { return 7, nil })
	require.NoError(t, err)
	assert.Equal(t, 7, v)

	v, err = method(func() (int, error) { return 7, io.ErrUnexpectedEOF })
	require.EqualError(t, err, "aside: decode X: unexpected EOF")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.Zero(t, v)

	v, err = method(func() (int, error) { panic(io.ErrUnexpectedEOF) })
	require.EqualError(t, err, "aside: decode X: panic: unexpected EOF")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.Zero(t, v)

	v, err = method(func() (int, error) { panic("no") })
	require.EqualError(t, err, "aside: decode X: panic: no")
	assert.Zero(t, v)
}
