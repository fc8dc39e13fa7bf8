package codectest

import (
	"testing"

	"go.uber.org/goleak"
)

// The suite waits for its own goroutines.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
