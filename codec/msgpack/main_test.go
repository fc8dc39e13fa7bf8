package msgpack_test

import (
	"testing"

	"go.uber.org/goleak"
)

// The codec leaves no goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
