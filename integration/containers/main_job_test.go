// Package containers runs on servers in containers what the library's own tests run on server
// programs. It needs a Docker engine: make test-docker.
package containers

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/redaside/aside/internal/contract"
	"github.com/redaside/aside/internal/redistest"
)

func TestMain(m *testing.M) {
	// rueidis sleeps for a second before it looks again at a topology that it could not read,
	// whether it is closed or not.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

func TestTheMainJobInContainers(t *testing.T) { contract.Run(t, contract.Redis(redistest.Container)) }
