package codec_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
)

func TestBytesNilComesBackEmpty(t *testing.T) {
	for _, v := range [][]byte{nil, {}} {
		s, err := codec.Bytes().Encode(v)
		require.NoError(t, err)
		assert.Equal(t, "", s)
	}
	got, err := codec.Bytes().Decode("")
	require.NoError(t, err)
	assert.NotNil(t, got)
	assert.Empty(t, got)
}
