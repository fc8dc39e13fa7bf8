// Docker runs one Redis server in a container for package redistest, which starts this program for
// each server. It is a module of its own, so that nobody who imports the library, or runs its tests
// on a server of another kind, gets the modules of a container library.
//
// It reads one request a line and writes one answer a line, both JSON:
//
//	{"do":"run","image":"redis:7-alpine","command":["redis-server",…]}   →   {"addr":"127.0.0.1:32768"}
//	{"do":"signal","signal":"KILL"}                                       →   {}
//	{"do":"start"}, after a kill                                          →   {"addr":"127.0.0.1:32769"}
//	any of them, if it fails                                              →   {"error":"…"}
//
// When its input ends the container is removed, so nothing is left behind by a test that was
// killed. With -check it does nothing but say, by its exit code, whether an engine answers.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

const (
	inContainer  = "6379/tcp"
	stoppedAfter = 10 * time.Second // for the engine to notice that a killed server has ended
)

type request struct {
	Do      string   `json:"do"`
	Image   string   `json:"image"`
	Command []string `json:"command"`
	Signal  string   `json:"signal"`
}

type answer struct {
	Addr  string `json:"addr,omitempty"`
	Error string `json:"error,omitempty"`
}

func main() {
	signal.Ignore(os.Interrupt) // meant for the tests; their end is ours
	log.SetFlags(0)
	if len(os.Args) == 2 && os.Args[1] == "-check" {
		if err := check(); err != nil {
			log.Fatal("redistest/docker: ", err)
		}
		return
	}
	if err := serve(os.Stdin, os.Stdout); err != nil {
		log.Fatal("redistest/docker: ", err)
	}
}

func check() (err error) {
	defer func() { // where nothing points to an engine, testcontainers panics
		if p := recover(); p != nil {
			err = fmt.Errorf("no engine: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	provider, err := testcontainers.NewDockerProvider()
	if err != nil {
		return err
	}
	defer provider.Close()
	return provider.Health(ctx)
}

func serve(in io.Reader, out io.Writer) (err error) {
	var s server
	defer func() { err = errors.Join(err, s.remove()) }()
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var r request
		if err := requests.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		addr, err := s.do(context.Background(), r)
		a := answer{Addr: addr}
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

// server is a container; nil before "run".
type server struct {
	container testcontainers.Container
	engine    *testcontainers.DockerClient
}

func (s *server) do(ctx context.Context, r request) (addr string, err error) {
	switch {
	case r.Do == "run" && s.container == nil:
		return s.run(ctx, r)
	case s.container == nil:
		return "", fmt.Errorf("%q before \"run\"", r.Do)
	case r.Do == "signal":
		_, err := s.engine.ContainerKill(ctx, s.container.GetContainerID(), client.ContainerKillOptions{Signal: r.Signal})
		return "", err
	case r.Do == "start":
		return s.start(ctx)
	}
	return "", fmt.Errorf("%q is not known here", r.Do)
}

func (s *server) run(ctx context.Context, r request) (addr string, err error) {
	if s.engine, err = testcontainers.NewDockerClientWithOpts(ctx); err != nil {
		return "", err
	}
	s.container, err = testcontainers.Run(ctx, r.Image,
		testcontainers.WithCmd(r.Command...),
		testcontainers.WithExposedPorts(inContainer),
		testcontainers.WithWaitStrategy(wait.ForListeningPort(inContainer).SkipInternalCheck().WithPollInterval(5*time.Millisecond)))
	if err != nil {
		return "", err
	}
	return s.container.PortEndpoint(ctx, inContainer, "")
}

// start starts a container that was killed. Its port is another one then.
func (s *server) start(ctx context.Context) (addr string, err error) {
	// The kill has been delivered; the engine may take a moment to notice the end, and would not
	// start it until then.
	for deadline := time.Now().Add(stoppedAfter); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		state, err := s.container.State(ctx)
		if err != nil {
			return "", err
		}
		if !state.Running {
			break
		}
	}
	if err := s.container.Start(ctx); err != nil {
		return "", err
	}
	return s.container.PortEndpoint(ctx, inContainer, "")
}

func (s *server) remove() (err error) {
	if s.container != nil {
		// It has nothing to save, and one that is frozen would be waited for.
		err = testcontainers.TerminateContainer(s.container, testcontainers.StopTimeout(0))
	}
	if s.engine != nil {
		err = errors.Join(err, s.engine.Close())
	}
	return err
}
