package faultproxy

import (
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"
)

// Ports lie below 32768, where Linux begins to hand out ephemeral ones, so that no outgoing
// connection takes the port of a listener that is down for a moment:
//
//	12000–16999  ports that ReservePort returns
//	17000–21999  their guards, 5000 higher
//	22000–26999  the bus of a Redis Cluster node, 10000 higher (Redis 6 lets nobody choose)
const (
	firstPort   = 12000
	ports       = 5000
	guardOffset = 5000
)

// ReservePort returns a free loopback port that no other caller of ReservePort, in this process or
// another one, is given before the test ends. So a server that is killed finds its port free when
// it is started again. It reserves against its own kind only; a stranger may listen there, and the
// caller must look for "in use".
func ReservePort(t testing.TB) int {
	t.Helper()
	for range 10 * ports {
		port := firstPort + rand.IntN(ports)
		// A listener on the guard port is the reservation: it is exclusive between processes, and
		// the kernel gives it back when its process dies, however it dies. Nobody ever accepts on
		// it.
		guard, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+guardOffset))
		if err != nil {
			continue
		}
		if answers(port) {
			_ = guard.Close()
			continue
		}
		t.Cleanup(func() { _ = guard.Close() })
		return port
	}
	t.Fatalf("faultproxy: no free port between %d and %d on 127.0.0.1", firstPort, firstPort+ports-1)
	return 0
}

// answers reports whether somebody listens on a port. It does not listen there itself to find out: a
// child that is being forked has all open files for a moment, and would keep the port in use.
func answers(port int) bool {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// closeListener closes l, and returns when its port is free, which is when a child that was being
// forked has begun its program.
func closeListener(l net.Listener) {
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	for answers(port) {
		runtime.Gosched()
	}
}
