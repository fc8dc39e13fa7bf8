package zstd_test

import (
	"testing"

	"go.uber.org/goleak"
)

// The codec leaves no goroutine behind, its shared coders included.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
