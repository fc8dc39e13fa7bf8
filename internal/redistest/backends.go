package redistest

import (
	"context"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"
)

// Backend is where Start gets its servers from: "external", "binary", "docker", or "" if there is nothing.
func Backend() string {
	if forced := os.Getenv("ASIDE_BACKEND"); forced != "" {
		return forced
	}
	switch {
	case os.Getenv("REDIS_ADDR") != "":
		return "external"
	case Binary() != "":
		return "binary"
	case dockerAnswers():
		return "docker"
	}
	return ""
}

// Binary is the path of a server program: REDIS_SERVER, else redis-server or valkey-server in PATH; "" if there is none.
func Binary() string {
	if path := os.Getenv("REDIS_SERVER"); path != "" {
		return path
	}
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// Skip skips the test for a reason that lies in the machine and not in the test. With ASIDE_NO_SKIP=1 it fails.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("ASIDE_NO_SKIP") == "1" {
		t.Fatalf("%s (ASIDE_NO_SKIP=1, so this is a failure)", reason)
	}
	t.Skip(reason)
}

func needBinary(t testing.TB, what string) string {
	t.Helper()
	path := Binary()
	if path == "" {
		Skip(t, "redistest: "+what+" needs a server binary: apt-get install redis-server, or set REDIS_SERVER")
	}
	return path
}

var dockerAnswers = sync.OnceValue(func() bool {
	// Where nothing points to an engine, testcontainers panics.
	defer func() { _ = recover() }()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	provider, err := testcontainers.NewDockerProvider()
	if err != nil {
		return false
	}
	defer provider.Close()
	return provider.Health(ctx) == nil
})

// notShort skips the test under -short, which stands for "what needs no server".
func notShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: this test needs a server")
	}
}
