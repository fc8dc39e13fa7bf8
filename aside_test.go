package aside_test

import (
	"testing"

	"github.com/redaside/aside/internal/contract"
	"github.com/redaside/aside/internal/redistest"
)

// The main job, on whatever server the tests have. integration/containers runs it on servers in
// containers.
func TestTheMainJob(t *testing.T) {
	t.Parallel()
	contract.Run(t, contract.Redis(redistest.Start))
}
