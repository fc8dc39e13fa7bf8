// Package fakeredis is as much of a Redis, within the process, as aside and tests of its users
// need: RESP2 and RESP3, tracking with pushes, expiry, the commands of commands.go, and the scripts
// of internal/script, each of which is a function here (scripts.go). It has no port and starts no
// process, and it goes by time.Now, so that it works within testing/synctest.
//
// It answers as Redis 7.4 does. A test compares both, command by command and script by script.
package fakeredis

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Server is one server. Safe for concurrent use.
type Server struct {
	mu      sync.Mutex // guards all below; commands are done one after the other, under it
	thawed  *sync.Cond // of frozen and ended; its lock is mu
	down    bool       // dials are refused
	frozen  bool       // nothing is answered
	ended   bool       // by Close
	clients map[*client]bool
	lastID  int64
	working sync.WaitGroup // one for each goroutine

	data    data
	readers map[string]map[*client]bool // who has read a key, and is to be told when it changes
	known   map[string]bool             // the scripts that EVALSHA may be asked for, by SHA-1
	current *client                     // whose command is done; nil: nobody's
	now     int64                       // when the command that is done began, in µs since 1970
	told    int64                       // what TIME has answered last
	asked   bool                        // the command that is done has asked for TIME
	run     string                      // the id of this life of the server
	born    time.Time
	max     int64 // maxmemory in bytes; 0: no bound

	simulated func() int64                       // its clock, in place of time.Now; nil: it goes by that. Immutable
	watch     func(command []string, answer any) // of simulate.go; immutable
}

// New makes an empty server.
func New() *Server {
	s := &Server{clients: make(map[*client]bool), readers: make(map[string]map[*client]bool)}
	s.thawed = sync.NewCond(&s.mu)
	s.begin()
	return s
}

// begin begins a life of the server, with nothing in it.
func (s *Server) begin() {
	var id [20]byte
	_, _ = rand.Read(id[:]) // it does not fail
	s.run, s.born, s.known = hex.EncodeToString(id[:]), time.Now(), make(map[string]bool)
	s.max = 0
	s.clear()
}

// errRefused is what a dial finds where nobody listens.
var errRefused = &net.OpError{Op: "dial", Net: "memory", Addr: address{}, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}

// Dial connects to the server.
func (s *Server) Dial() (net.Conn, error) {
	there, here := pair()
	if !s.Serve(here) {
		return nil, errRefused
	}
	return there, nil
}

// Serve answers what comes on a connection, in goroutines of its own, until either side closes it.
// It closes it at once, and returns false, if the server is down.
func (s *Server) Serve(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down || s.ended {
		_ = conn.Close()
		return false
	}
	s.lastID++
	c := &client{server: s, id: s.lastID, conn: conn, resp: 2, born: time.Now()}
	c.said = sync.NewCond(&s.mu)
	s.clients[c] = true
	s.working.Go(c.read)  // ends with the connection
	s.working.Go(c.write) // likewise
	return true
}

// Down breaks all connections and refuses new ones, until Up. What the server holds stays.
func (s *Server) Down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = true
	s.thaw()
	s.hangUp(nil)
}

// Freeze lets the server take connections and commands and answer none, until Up.
func (s *Server) Freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = true
}

// Up ends Down and Freeze. After Freeze what was sent meanwhile is done.
func (s *Server) Up() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = false
	s.thaw()
}

func (s *Server) thaw() {
	s.frozen = false
	s.lookAtClock()
	s.armTimer()
	s.thawed.Broadcast()
}

// Restart breaks all connections, forgets all that the server holds, and begins another life of it,
// which is up.
func (s *Server) Restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangUp(nil)
	s.thaw()
	s.down = false
	s.begin()
}

// Close ends the server, and returns when nothing of it is left.
func (s *Server) Close() {
	s.mu.Lock()
	s.ended = true
	s.hangUp(nil)
	s.thaw()
	s.mu.Unlock()
	s.working.Wait()
}

// hangUp breaks all connections but one.
func (s *Server) hangUp(but *client) {
	for _, c := range inOrder(s.clients) {
		if c != but {
			c.out = nil
			c.leave()
			_ = c.conn.Close()
		}
	}
}

// Do does one command as if a client of RESP2 had sent it. The error is the server's answer.
func (s *Server) Do(args ...string) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := s.do(&client{server: s, resp: 2}, args)
	if failed, ok := answer.(failure); ok {
		return nil, failed
	}
	return plain(answer), nil
}

// plain is an answer of strings, integers, nil and lists of these.
func plain(answer any) any {
	switch v := answer.(type) {
	case status:
		return string(v)
	case verbatim:
		return string(v)
	case pairs:
		return plain([]any(v))
	case []any:
		all := make([]any, len(v))
		for i := range v {
			all[i] = plain(v[i])
		}
		return all
	}
	return answer
}

// lookAtClock has what follows happen now.
func (s *Server) lookAtClock() {
	if s.asked = false; s.simulated != nil {
		s.now = s.simulated()
		return
	}
	s.now = time.Now().UnixMicro()
}

// time is what TIME answers, in µs: the same within a command, and later than to every command
// before. A real server takes more than a microsecond for a command; in a bubble the clock stands
// still, and the state of a group that is made anew would be the one that was deleted.
func (s *Server) time() int64 {
	if !s.asked {
		s.told, s.asked = max(s.now, s.told+1), true
	}
	return s.told
}

// ms is now in ms.
func (s *Server) ms() int64 { return s.now / 1000 }

// client is a connection. Its fields belong to whoever has Server.mu, but for those that are
// immutable.
type client struct {
	server *Server   // immutable
	conn   net.Conn  // immutable; nil: somebody within this process
	id     int64     // immutable
	born   time.Time // immutable

	name, library string
	resp          int
	tracking      tracking
	pending       []push     // behind the answer to the command that is done
	out           []byte     // to be sent
	said          *sync.Cond // of out and gone; its lock is Server.mu
	gone          bool       // nothing comes from it any more
}

// say sends an answer or a push.
func (c *client) say(what any) {
	if c.conn == nil || c.gone {
		return
	}
	c.out = appendAnswer(c.out, what, c.resp)
	c.said.Signal()
}

// leave ends the connection, once what was said is sent.
func (c *client) leave() {
	if c.gone || c.conn == nil {
		return
	}
	c.gone = true
	delete(c.server.clients, c)
	c.said.Signal()
}

// read does the commands that come.
func (c *client) read() {
	s := c.server
	r := bufio.NewReader(c.conn)
	for {
		args, err := readCommand(r)
		s.mu.Lock()
		for s.frozen && !s.ended && !c.gone {
			s.thawed.Wait()
		}
		gone := c.gone
		switch failed, isReply := errors.AsType[failure](err); {
		case gone:
		case isReply:
			c.say(failed)
			c.leave()
		case err != nil:
			c.leave()
		case len(args) > 0:
			c.say(s.do(c, args))
			for _, p := range c.pending {
				c.say(p)
			}
			c.pending = nil
		}
		gone = c.gone
		s.mu.Unlock()
		if gone {
			return
		}
	}
}

// write sends what was said.
func (c *client) write() {
	s := c.server
	for {
		s.mu.Lock()
		for len(c.out) == 0 && !c.gone {
			c.said.Wait()
		}
		out, gone := c.out, c.gone
		c.out = nil
		s.mu.Unlock()
		var err error
		if len(out) > 0 {
			_, err = c.conn.Write(out)
		}
		if gone || err != nil {
			_ = c.conn.Close() // which ends read, too
			s.mu.Lock()
			c.leave()
			s.mu.Unlock()
			return
		}
	}
}
