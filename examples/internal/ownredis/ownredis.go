// Package ownredis is the Redis of an example: the user's, or a server that runs as long as the
// example does.
package ownredis

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Server is a redis-server that was started for this run. A nil one is fine: nothing was started.
type Server struct {
	cmd *exec.Cmd
	dir string
}

// Find returns the address of a Redis that answers: addr itself, else a server started for this run,
// which is to be stopped.
func Find(ctx context.Context, addr string) (string, *Server, error) {
	if answers(addr) {
		return addr, nil, nil
	}
	for _, name := range []string{"redis-server", "valkey-server"} {
		if program, err := exec.LookPath(name); err == nil {
			return start(ctx, program)
		}
	}
	return "", nil, fmt.Errorf("no Redis at %s and no redis-server in PATH: start one (docker run -p 6379:6379 redis), or name it with REDIS_ADDR=host:port", addr)
}

func start(ctx context.Context, program string) (string, *Server, error) {
	dir, err := os.MkdirTemp("", "aside-example-")
	if err != nil {
		return "", nil, err
	}
	s := &Server{dir: dir}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Stop()
		return "", nil, err
	}
	addr := free.Addr().String()
	free.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(program, "--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "", "--appendonly", "no")
	DieWithUs(cmd)
	if err := cmd.Start(); err != nil {
		s.Stop()
		return "", nil, err
	}
	s.cmd = cmd
	for deadline := time.Now().Add(5 * time.Second); !answers(addr); {
		if ctx.Err() != nil || time.Now().After(deadline) {
			s.Stop()
			return "", nil, fmt.Errorf("%s was started at %s but does not answer", program, addr)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return addr, s, nil
}

// Stop ends the server and removes what it has left.
func (s *Server) Stop() {
	if s == nil {
		return
	}
	if s.cmd != nil {
		_ = s.cmd.Process.Kill() // nothing in it is worth saving
		_ = s.cmd.Wait()
	}
	_ = os.RemoveAll(s.dir)
}

// answers reports whether something at addr speaks Redis; an error such as NOAUTH is an answer too.
func answers(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && (strings.HasPrefix(line, "+") || strings.HasPrefix(line, "-"))
}
