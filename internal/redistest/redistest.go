// Package redistest gives a test a Redis server of its own, and the means to take it away.
//
//	server := redistest.Start(t)                 // fresh, empty, stopped when the test ends
//	client := connect(server.Addr())             // the address outlives every Kill and Restart
//	server.Do("SET", "k", "v")                   // by a connection of its own
//	server.Kill()                                // connections break, dials are refused
//	server.Restart()                             // back on the same port, empty
//	server.Freeze()                              // accepts, and never answers
//	server.Thaw()
//
// # Where the server comes from
//
// The first of these that is there; ASIDE_BACKEND=external|binary|docker insists on one.
//
//   - external: the server at REDIS_ADDR (host:port).
//   - binary: the program at REDIS_SERVER, else redis-server or valkey-server in PATH; a process
//     for each Start. A wrapper script is fine if it ends in exec.
//   - docker: a container for each Start, of the image REDIS_IMAGE (default redis:7-alpine).
//
// With none of them the test fails and says how to get one.
//
// External and docker servers are behind a faultproxy, so that their address is stable and an
// outage can be had:
//
//	           binary                     docker                        external
//	Kill       SIGKILL                    kill, the proxy refuses       the proxy refuses
//	Freeze     SIGSTOP                    SIGSTOP                       the proxy forwards nothing
//	Restart    a new process              start again                   empty it, the proxy forwards
//
// So on an external server a command that was sent before Kill may still be carried out after it,
// and a restart does not change the run id; CanSignal tells a test that depends on that.
//
// # An external server is erased
//
// Its contents are gone after the first test. To protect a server that was named by mistake, Start
// refuses one that has keys in it, unless they are a leftover of ours (a marker in database 15 says
// so). There is one server for all tests, so Start waits until the previous test is through, and a
// second Start in the same test or in its subtests shares the server. Between processes nothing
// keeps order: run go test -p 1.
//
// # More than one server
//
// Cluster and Sentinel start several processes and need a binary; WithTLS and WithReplication do,
// too.
//
// A test that cannot run somewhere calls Skip, which fails instead if ASIDE_NO_SKIP=1, so that a CI
// job that has everything notices when it silently loses something.
package redistest

import (
	"crypto/tls"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	readyWithin  = 10 * time.Second // to answer the first PING
	answerWithin = 5 * time.Second  // to answer one of our commands later
	agreeWithin  = 20 * time.Second // for the members of a Cluster or Sentinel to see what has happened
)

// Server is one Redis or Valkey server. A method that cannot do what it says fails the test.
// Safe for concurrent use.
type Server struct {
	t testing.TB
	*instance
}

// instance is the server that one or, if it is external, several Servers stand for.
type instance struct {
	settings
	backend
	name, version string // immutable after launch

	mu    sync.Mutex // guards all below and the methods of backend; held while they work
	state state
	saved bool // killed, and the next process will find the data of the last one
}

type state int

const (
	running state = iota
	frozen
	killed
)

// backend is one way to run a server. Its methods are called one at a time, in the states named
// here.
type backend interface {
	addr() string           // where clients connect to, the same for ever
	direct() string         // where the server is, without a proxy before it; running
	freeze() error          // running
	thaw() error            // frozen
	kill() error            // running, frozen
	start(empty bool) error // killed; returns when the server answers at addr
	signals() bool          // these act on the server and not on the way to it
}

// Start gives the test a fresh, empty server and stops it when the test ends.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	notShort(t)
	set := newSettings(options)
	if set.replicas != 0 {
		t.Fatal("redistest: WithReplicas is for Cluster")
	}
	kind := Backend()
	if set.tls || set.related {
		kind = "binary"
		needBinary(t, "WithTLS or WithReplication")
	}
	switch kind {
	case "external":
		return startExternal(t, set)
	case "binary":
		return startBinary(t, Binary(), set)
	case "docker":
		return startDocker(t, set)
	}
	t.Fatal("redistest: no Redis server: put redis-server into PATH (apt-get install redis-server), or set REDIS_SERVER to " +
		"one, or REDIS_ADDR to a server that may be erased, or start a Docker engine")
	return nil
}

// Container is Start with a container, whatever else there is. Where no engine answers it calls
// Skip.
func Container(t testing.TB, options ...Option) *Server {
	t.Helper()
	notShort(t)
	if !dockerAnswers() {
		Skip(t, "redistest: no Docker engine answers")
	}
	return startDocker(t, newSettings(options))
}

// Addr is the host:port for clients. It stays the same when the server is killed and restarted.
func (s *Server) Addr() string { return s.addr() }

// Name is "redis" or "valkey".
func (s *Server) Name() string { return s.name }

// Version is the server's own, such as "7.0.15". Compare the versions of servers of one Name only.
func (s *Server) Version() string { return s.version }

// CanSignal is whether Kill, Freeze and Restart act on the server itself, so that its run id
// changes with a restart and what it had not carried out when it was killed never is. It is false
// for an external server.
func (s *Server) CanSignal() bool { return s.signals() }

// Password is what WithPassword set.
func (s *Server) Password() string { return s.password }

// TLSConfig is what a client needs to trust a server that was started WithTLS; nil without.
func (s *Server) TLSConfig() *tls.Config { return s.clientTLS.Clone() }

// Kill ends the server without any warning: connections break, dials are refused. Killing it twice
// is fine. Immediately before, unless it is frozen, it saves its data for RestartKeepingData.
func (s *Server) Kill() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killLocked(s.t)
}

// Freeze stops the server where it stands: the kernel still accepts connections and bytes for it;
// it answers nothing.
func (s *Server) Freeze() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != running {
		s.t.Fatalf("redistest: Freeze of a server that is %v", s.state)
	}
	s.must(s.freeze())
	s.state = frozen
}

// Thaw lets a frozen server go on, with what was sent to it meanwhile.
func (s *Server) Thaw() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != frozen {
		s.t.Fatalf("redistest: Thaw of a server that is %v", s.state)
	}
	s.must(s.thaw())
	s.state = running
}

// Restart kills the server, if it is not, and starts it again: empty, at the same address, and
// ready when it returns. A node of a cluster keeps its place in it.
func (s *Server) Restart() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killLocked(s.t)
	s.must(s.start(true))
	s.state = running
}

// RestartKeepingData is Restart with the data that the server had when it was killed, by this call
// or an earlier Kill. A frozen server cannot save them: Thaw it first.
func (s *Server) RestartKeepingData() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killLocked(s.t)
	if !s.saved {
		s.t.Fatal("redistest: RestartKeepingData, but the server could not save its data before it was killed")
	}
	s.must(s.start(false))
	s.state = running
}

// Empty removes all keys of all databases.
func (s *Server) Empty() {
	s.t.Helper()
	s.Do("FLUSHALL")
}

// Do sends one command on a new connection, which tracks nothing, and returns the reply: a string,
// an int64, nil or an []any of these. An error reply, or no reply within 5 s, fails the test. What
// a connection remembers (SELECT, MULTI, what WAIT waits for) is gone after each Do.
func (s *Server) Do(args ...any) any {
	s.t.Helper()
	reply, err := s.TryDo(args...)
	if err != nil {
		s.t.Fatalf("redistest: %s: %v", strings.TrimSpace(fmt.Sprintln(args...)), err)
	}
	return reply
}

// TryDo is Do for a command that may fail. An error reply is a ReplyError.
func (s *Server) TryDo(args ...any) (any, error) { return s.do(s.addr(), args...) }

func (s *Server) isRunning() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == running
}

func (s *Server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("redistest: %v", err)
	}
}

func (i *instance) killLocked(t testing.TB) {
	t.Helper()
	if i.state == killed {
		return
	}
	i.saved = !i.signals() // what is not killed loses nothing
	if i.signals() && i.state == running {
		// Now, because nobody knows yet which restart it will be. No error: a server that is busy
		// or is a Sentinel cannot, and only RestartKeepingData minds.
		_, err := i.do(i.direct(), "SAVE")
		i.saved = err == nil
	}
	if err := i.kill(); err != nil {
		t.Fatalf("redistest: %v", err)
	}
	i.state = killed
}

// newServer asks a server that has just been started for its version and run id.
func newServer(t testing.TB, set settings, back backend) *Server {
	t.Helper()
	i := &instance{settings: set, backend: back}
	info, err := i.info(i.direct())
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	i.name, i.version = "redis", info["redis_version"]
	if v, ok := info["valkey_version"]; ok {
		i.name, i.version = "valkey", v
	}
	return &Server{t: t, instance: i}
}

// eventually polls until ok. It is for what servers agree on among themselves and tell nobody.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(agreeWithin); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("redistest: waited %v for %s", agreeWithin, what)
		}
	}
}

func (s state) String() string { return [...]string{"running", "frozen", "killed"}[s] }
