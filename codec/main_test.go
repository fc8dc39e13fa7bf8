package codec_test

import (
	"testing"

	"go.uber.org/goleak"
)

// No codec leaves a goroutine behind, zstd's shared coders included.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
