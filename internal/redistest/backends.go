package redistest

import (
	"os"
	"os/exec"
	"sync"
	"testing"
)

// Backend is where Start gets its servers from: "external", "binary", "docker", or "" if there is
// nothing.
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

// Binary is the path of a server program: REDIS_SERVER, else redis-server or valkey-server in PATH;
// "" if there is none.
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

// Skip skips the test for a reason that lies in the machine and not in the test. With
// ASIDE_NO_SKIP=1 it fails.
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

// dockerAnswers asks the program in the folder docker, but only where there is a sign of an engine:
// to build it takes a while.
var dockerAnswers = sync.OnceValue(func() bool {
	_, noProgram := exec.LookPath("docker")
	_, noSocket := os.Stat("/var/run/docker.sock")
	if os.Getenv("DOCKER_HOST") == "" && noProgram != nil && noSocket != nil {
		return false
	}
	check, err := dockerProgram("-check")
	return err == nil && check.Run() == nil
})

// notShort skips the test under -short, which stands for "what needs no server".
func notShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: this test needs a server")
	}
}
