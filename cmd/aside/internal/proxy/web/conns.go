package web

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// conns are the connections of clients. There are Options.MaxConnections at most, and no more than
// the open files of the process allow; a quarter of these stays with the other front end. One more
// takes the place of one that rests; where none does it is told so and closed. Safe for concurrent
// use.
type conns struct {
	budget *proxy.Budget // immutable, as is max; shared with the other front end
	max    int

	mu   sync.Mutex // guards open
	open map[*conn]struct{}

	displaced, refused atomic.Int64 // so far
}

// conn is the connection of a client, below TLS.
type conn struct {
	net.Conn

	of    *conns
	rests atomic.Int64 // since when it waits for a request, in Unix nanoseconds; 0 while there is one
	first atomic.Bool  // that is its first one
	once  sync.Once    // gives up the place
}

// firstGrace is how long a client may take for its first request before its place may be somebody
// else's.
const firstGrace = time.Second

// ShareOfFiles is how many connections one of the two front ends may have: most, and no more than
// three quarters of budget, so that neither keeps the other from being asked.
func ShareOfFiles(budget *proxy.Budget, most int) int {
	if files := budget.Limit(); files > 0 {
		most = int(min(int64(most), max(files-files/4, 1)))
	}
	return most
}

func newConns(budget *proxy.Budget, most int) *conns {
	most = ShareOfFiles(budget, most)
	return &conns{budget: budget, max: most, open: make(map[*conn]struct{})}
}

// Limit returns ln with the limit on connections; HTTPServer's server has to serve it, by TLS or
// not.
func (s *Server) Limit(ln net.Listener) net.Listener { return &limited{ln, s} }

type limited struct {
	net.Listener
	s *Server
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if admitted := l.s.conns.admit(c); admitted != nil {
			return admitted, nil
		}
		l.s.conns.refused.Add(1)
		l.s.o.Logger.Debug("aside: a connection was refused, as all are in use", "open", l.s.conns.count())
		refuse(c)
	}
}

// refuse says why. A client that expects TLS sees that it is none.
func refuse(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond)) // it fits into what the kernel buffers for a new connection
	_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Type: text/plain\r\nContent-Length: 74\r\n\r\n"+
		"all connections are in use; raise service.max_http_connections, ulimit -n\n")
	_ = c.Close()
}

// admit returns c with a place, or nil if there is none.
func (cs *conns) admit(c net.Conn) *conn {
	for {
		cs.mu.Lock()
		if len(cs.open) < cs.max && cs.budget.Take(1) {
			admitted := &conn{Conn: c, of: cs}
			admitted.first.Store(true)
			admitted.rests.Store(time.Now().UnixNano())
			cs.open[admitted] = struct{}{}
			cs.mu.Unlock()
			return admitted
		}
		resting := cs.restingLocked()
		cs.mu.Unlock()
		if resting == nil {
			return nil
		}
		cs.displaced.Add(1)
		_ = resting.Close() // its client finds it closed, as after any timeout
	}
}

// restingLocked is the connection that has rested longest, and does not any more for others.
func (cs *conns) restingLocked() *conn {
	grace := time.Now().Add(-firstGrace).UnixNano()
	for {
		var longest *conn
		var since int64
		for c := range cs.open {
			at := c.rests.Load()
			if at == 0 || c.first.Load() && at > grace {
				continue
			}
			if longest == nil || at < since {
				longest, since = c, at
			}
		}
		if longest == nil || longest.rests.CompareAndSwap(since, 0) { // else a request has come
			return longest
		}
	}
}

func (cs *conns) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open)
}

// Close gives up the place.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.of.mu.Lock()
		delete(c.of.open, c)
		c.of.mu.Unlock()
		c.of.budget.Give(1)
	})
	return c.Conn.Close()
}

// CloseWrite is what net/http does before it closes a connection on which there is more than it has
// read: else the client would lose the answer.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// connState notes whether a connection rests. It is http.Server.ConnState.
func connState(c net.Conn, state http.ConnState) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	own, ok := c.(*conn)
	if !ok {
		return
	}
	switch state {
	case http.StateActive:
		own.rests.Store(0)
		own.first.Store(false)
	case http.StateIdle:
		own.rests.Store(time.Now().UnixNano())
	}
}
