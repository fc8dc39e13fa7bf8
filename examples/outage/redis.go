package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/examples/internal/ownredis"
)

// server is a redis-server of our own. It writes all that it acknowledges into an append-only file
// (which survives a kill, if not a loss of power), so that it comes back with what it had: also
// with what was deleted meanwhile, if nobody makes up for that.
type server struct {
	program, dir string
	addr         string
	cmd          *exec.Cmd // nil: it does not run
}

// findServer returns the program to start.
func findServer() (string, error) {
	if program := os.Getenv("REDIS_SERVER"); program != "" {
		return exec.LookPath(program)
	}
	for _, name := range []string{"redis-server", "valkey-server"} {
		if program, err := exec.LookPath(name); err == nil {
			return program, nil
		}
	}
	return "", errors.New("no redis-server in PATH: install Redis (apt-get install redis-server, brew install redis), or name one with REDIS_SERVER=/path/to/redis-server")
}

func newServer(program, dir string) (*server, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	return &server{program: program, dir: dir, addr: addr}, err
}

// freeAddr returns an address at which nobody listens. While our server is away somebody else could
// take its port, and would be taken for it; so it is not one that the system gives to a program
// that asks for any port.
func freeAddr() (string, error) {
	const from, to = 27000, 32000
	for try := 0; ; try++ {
		free, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(from+rand.IntN(to-from))))
		if err == nil {
			addr := free.Addr().String()
			free.Close()
			return addr, nil
		}
		if try == 100 {
			return "", err
		}
	}
}

// start returns when the server answers.
func (s *server) start(ctx context.Context) error {
	_, port, _ := net.SplitHostPort(s.addr)
	cmd := exec.Command(s.program, "--bind", "127.0.0.1", "--port", port, "--dir", s.dir, "--logfile", filepath.Join(s.dir, "log"),
		"--save", "", "--appendonly", "yes")
	ownredis.DieWithUs(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	for deadline := time.Now().Add(5 * time.Second); !s.answers(); time.Sleep(2 * time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%s was started at %s but does not answer", s.program, s.addr)
		}
	}
	return nil
}

func (s *server) answers() bool {
	conn, err := net.DialTimeout("tcp", s.addr, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && strings.HasPrefix(line, "+PONG") // it may say that it is loading
}

// kill is kill -9. It returns when the process is gone, and does nothing if there is none.
func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // says that it was killed
		s.cmd = nil
	}
}

// valuesBeforeAnybody is values of a server that does not run: it is started at an address that
// nobody knows, and killed again.
func (s *server) valuesBeforeAnybody(ctx context.Context, keys []string) (map[string]string, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	hidden := &server{program: s.program, dir: s.dir, addr: addr}
	defer hidden.kill()
	if err := hidden.start(ctx); err != nil {
		return nil, err
	}
	return hidden.values(ctx, keys)
}

// values asks Redis itself what stands in keys; those that are not there are missing in the answer.
func (s *server) values(ctx context.Context, keys []string) (map[string]string, error) {
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.addr}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	answers, err := rueidis.MGet(client, ctx, keys)
	if err != nil {
		return nil, err
	}
	found := make(map[string]string, len(keys))
	for key, answer := range answers {
		if value, err := answer.ToString(); err == nil {
			found[key] = value
		}
	}
	return found, nil
}
