package services_test

import (
	"testing"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/harness"
	"github.com/redaside/aside/internal/redistest"
)

var eventually = harness.Eventually

// newClient makes a client of a server of its own, and closes it when the test ends.
func newClient(t testing.TB) (*aside.Client, *redistest.Server) {
	t.Helper()
	server := redistest.Start(t)
	return harness.NewClient(t, server.Addr()), server
}
