package redistest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redaside/aside/internal/faultproxy"
)

// docker is a container of our own, behind a proxy because its port changes with each start. The
// program in the folder docker runs it, and says how it is spoken to. It is another module, for
// which go build needs no more than this one's source.
type docker struct {
	settings
	proxy    *faultproxy.Proxy
	upstream string // changes with each start

	stdin   io.WriteCloser
	answers *json.Decoder
	log     tail
}

const defaultImage = "redis:7-alpine"

func startDocker(t testing.TB, set settings) *Server {
	t.Helper()
	image := cmp.Or(os.Getenv("REDIS_IMAGE"), defaultImage)
	program := "redis-server"
	if strings.Contains(path.Base(image), "valkey") {
		program = "valkey-server"
	}
	d := &docker{settings: set}
	if err := d.launch(t); err != nil {
		t.Fatalf("redistest: docker: %v", err)
	}
	command := append([]string{program, "--protected-mode", "no", "--save", "", "--appendonly", "no"}, set.args...)
	if err := d.locate(map[string]any{"do": "run", "image": image, "command": command}); err != nil {
		t.Fatalf("redistest: docker: %v", err)
	}
	d.proxy = faultproxy.New(t, d.upstream)
	return newServer(t, set, d)
}

// dockerProgram is the command that runs the program in the folder docker.
func dockerProgram(args ...string) (*exec.Cmd, error) {
	path, err := builtDocker()
	if err != nil {
		return nil, err
	}
	return exec.Command(path, args...), nil
}

// builtDocker builds that program once for each test binary: go run would look at its sources for
// each server. It is left in the user's cache. Others may be running the one before, so it is put
// there by a rename.
var builtDocker = sync.OnceValues(func() (path string, err error) {
	_, here, _, _ := runtime.Caller(0)
	source := filepath.Join(filepath.Dir(here), "docker")
	if _, err := os.Stat(source); err != nil {
		return "", fmt.Errorf("the program that runs containers is not where this test was built from: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	path = filepath.Join(cache, "aside-redistest-docker")
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	build := exec.Command("go", "build", "-o", fresh, ".")
	build.Dir = source
	build.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=") // -race and the like are for the tests
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, bytes.TrimSpace(out))
	}
	return path, os.Rename(fresh, path)
})

// launch starts the program that runs the container, and ends it, and so the container, with the
// test.
func (d *docker) launch(t testing.TB) error {
	cmd, err := dockerProgram()
	if err != nil {
		return err
	}
	cmd.Stderr = &d.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if d.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	d.answers = json.NewDecoder(out)
	if err := cmd.Start(); err != nil {
		return err
	}
	t.Cleanup(func() {
		_ = d.stdin.Close()
		_, _ = io.Copy(io.Discard, out) // Wait closes the pipe
		if err := cmd.Wait(); err != nil {
			t.Errorf("redistest: docker: %v\n%s", err, d.log.String())
		}
	})
	return nil
}

// ask sends one request and returns the address that comes back, if any.
func (d *docker) ask(request map[string]any) (addr string, err error) {
	line, err := json.Marshal(request)
	if err != nil {
		return "", err
	}
	var answer struct{ Addr, Error string }
	_, err = d.stdin.Write(append(line, '\n'))
	if err == nil {
		err = d.answers.Decode(&answer)
	}
	switch {
	case err != nil: // it has ended
		return "", fmt.Errorf("%w\n%s", err, bytes.TrimSpace([]byte(d.log.String())))
	case answer.Error != "":
		return "", errors.New(answer.Error)
	}
	return answer.Addr, nil
}

// locate makes a request that starts the server, and waits until it answers where it listens now.
func (d *docker) locate(request map[string]any) (err error) {
	d.upstream, err = d.ask(request)
	for deadline := time.Now().Add(readyWithin); err == nil; time.Sleep(2 * time.Millisecond) {
		if _, err = d.do(d.upstream, "PING"); err == nil {
			break
		}
		if time.Now().Before(deadline) {
			err = nil
		}
	}
	return err
}

func (d *docker) addr() string   { return d.proxy.Addr() }
func (d *docker) direct() string { return d.upstream }
func (d *docker) signals() bool  { return true }

// A signal and not docker's pause: a paused container cannot be killed before it has run again.
func (d *docker) freeze() error { return d.signal("STOP") }
func (d *docker) thaw() error   { return d.signal("CONT") }

func (d *docker) kill() error {
	d.proxy.Refuse()
	return d.signal("KILL")
}

func (d *docker) start(empty bool) error {
	if err := d.locate(map[string]any{"do": "start"}); err != nil {
		return err
	}
	if empty {
		if _, err := d.do(d.upstream, "FLUSHALL"); err != nil {
			return err
		}
	}
	d.proxy.SetUpstream(d.upstream)
	d.proxy.HealDropping()
	return nil
}

func (d *docker) signal(name string) error {
	_, err := d.ask(map[string]any{"do": "signal", "signal": name})
	return err
}
