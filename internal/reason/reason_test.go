package reason

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAReasonHasNoPrefixAndIsFoundAllTheSame(t *testing.T) {
	away := errors.New("aside: Redis is away")
	path := &fs.PathError{Op: "open", Path: "/x", Err: io.ErrUnexpectedEOF}
	whole := fmt.Errorf("aside: cannot set %q: %w", "k", Of(fmt.Errorf("%w: %w", away, Of(path))))
	require.EqualError(t, whole, `aside: cannot set "k": Redis is away: open /x: unexpected EOF`)
	require.ErrorIs(t, whole, away)
	require.ErrorIs(t, whole, io.ErrUnexpectedEOF)
	var found *fs.PathError
	require.ErrorAs(t, whole, &found)
	require.NoError(t, Of(nil))
	require.Equal(t, error(path), Of(path), "what has no prefix is what it is")

	require.NoError(t, Join(nil, nil))
	require.Equal(t, away, Join(nil, away))
	both := Join(fmt.Errorf("aside: a: %w", Of(away)), errors.New("aside: b"))
	require.EqualError(t, both, "aside: a: Redis is away; b")
	require.ErrorIs(t, both, away)
}
