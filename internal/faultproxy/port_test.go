package faultproxy

import (
	"fmt"
	"net"
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A relapse would have a port in use that was just reserved, while another test starts a server.
func TestAReservedPortIsFreeThoughChildrenAreBeingForked(t *testing.T) {
	program, err := exec.LookPath("true")
	require.NoError(t, err)
	stop := make(chan struct{})
	var forking sync.WaitGroup
	for range 2 {
		forking.Go(func() { // ends with stop
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command(program).Run()
				}
			}
		})
	}
	defer forking.Wait()
	defer close(stop)
	for range 1_000 {
		t.Run("", func(t *testing.T) {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ReservePort(t)))
			require.NoError(t, err)
			closeListener(l)
		})
	}
}
