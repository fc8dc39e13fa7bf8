package redistest

import (
	"cmp"
	"context"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"

	"github.com/redaside/aside/internal/faultproxy"
)

// docker is a container of our own, behind a proxy because its port changes with each start.
type docker struct {
	settings
	container testcontainers.Container
	engine    *testcontainers.DockerClient
	proxy     *faultproxy.Proxy
	upstream  string // changes with each start
}

const (
	defaultImage = "redis:7-alpine"
	inContainer  = "6379/tcp"
)

func startDocker(t testing.TB, set settings) *Server {
	t.Helper()
	image := cmp.Or(os.Getenv("REDIS_IMAGE"), defaultImage)
	program := "redis-server"
	if strings.Contains(path.Base(image), "valkey") {
		program = "valkey-server"
	}
	ctx := context.Background()
	engine, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		t.Fatalf("redistest: docker: %v", err)
	}
	t.Cleanup(func() { _ = engine.Close() })

	command := append([]string{program, "--protected-mode", "no", "--save", "", "--appendonly", "no"}, set.args...)
	container, err := testcontainers.Run(ctx, image,
		testcontainers.WithCmd(command...),
		testcontainers.WithExposedPorts(inContainer),
		testcontainers.WithWaitStrategy(wait.ForListeningPort(inContainer).SkipInternalCheck().WithPollInterval(5*time.Millisecond)))
	testcontainers.CleanupContainer(t, container)
	if err != nil {
		t.Fatalf("redistest: docker: %v", err)
	}
	d := &docker{settings: set, container: container, engine: engine}
	if err := d.locate(ctx); err != nil {
		t.Fatalf("redistest: docker: %v", err)
	}
	d.proxy = faultproxy.New(t, d.upstream)
	return newServer(t, set, d)
}

// locate finds out where the container listens now and waits until it answers there.
func (d *docker) locate(ctx context.Context) (err error) {
	d.upstream, err = d.container.PortEndpoint(ctx, inContainer, "")
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
	ctx := context.Background()
	// The kill has been delivered; the engine may take a moment to notice the end, and would not start it until then.
	for deadline := time.Now().Add(readyWithin); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		state, err := d.container.State(ctx)
		if err != nil {
			return err
		}
		if !state.Running {
			break
		}
	}
	if err := d.container.Start(ctx); err != nil {
		return err
	}
	if err := d.locate(ctx); err != nil {
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
	_, err := d.engine.ContainerKill(context.Background(), d.container.GetContainerID(), client.ContainerKillOptions{Signal: name})
	return err
}
