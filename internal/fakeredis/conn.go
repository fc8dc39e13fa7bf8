package fakeredis

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pair returns two ends of a connection in memory. Unlike net.Pipe's they have room for all that is
// written, as the buffers of two machines have: a client that writes to a server that is frozen
// goes on, and waits for the answer.
func pair() (client, server net.Conn) {
	there, back := newStream(), newStream()
	return &end{in: back, out: there}, &end{in: there, out: back}
}

// stream is one direction of a connection. Safe for concurrent use.
type stream struct {
	mu       sync.Mutex
	changed  *sync.Cond // of anything below; its lock is mu
	bytes    []byte     // written and not read
	closed   bool       // by its writer: what is there may be read
	given    bool       // up by its reader
	deadline time.Time  // of its reader; zero: none
	timer    *time.Timer
}

func newStream() *stream {
	s := new(stream)
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *stream) read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.given:
			return 0, net.ErrClosed
		case !s.deadline.IsZero() && !time.Now().Before(s.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(s.bytes) > 0:
			n := copy(b, s.bytes)
			s.bytes = s.bytes[n:]
			return n, nil
		case s.closed:
			return 0, io.EOF
		case len(b) == 0:
			return 0, nil
		}
		s.changed.Wait()
	}
}

func (s *stream) write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return 0, net.ErrClosed
	case s.given:
		return 0, io.ErrClosedPipe
	}
	s.bytes = append(s.bytes, b...)
	s.changed.Broadcast()
	return len(b), nil
}

// end ends a stream, from its writer's side or from its reader's.
func (s *stream) end(reader bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = s.closed || !reader
	s.given = s.given || reader
	if s.timer != nil && reader {
		s.timer.Stop()
	}
	s.changed.Broadcast()
}

func (s *stream) limit(deadline time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	s.deadline = deadline
	if left := time.Until(deadline); !deadline.IsZero() && left > 0 && !s.given {
		s.timer = time.AfterFunc(left, s.wake)
	}
	s.changed.Broadcast()
}

func (s *stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

// end is one end of a connection. Safe for concurrent use.
type end struct{ in, out *stream }

func (e *end) Read(b []byte) (int, error)  { return e.in.read(b) }
func (e *end) Write(b []byte) (int, error) { return e.out.write(b) }

func (e *end) Close() error {
	e.in.end(true)
	e.out.end(false)
	return nil
}

func (e *end) SetDeadline(t time.Time) error      { return e.SetReadDeadline(t) }
func (e *end) SetReadDeadline(t time.Time) error  { e.in.limit(t); return nil }
func (e *end) SetWriteDeadline(t time.Time) error { return nil } // there is always room
func (e *end) LocalAddr() net.Addr                { return address{} }
func (e *end) RemoteAddr() net.Addr               { return address{} }

// address is that of everything in this process.
type address struct{}

func (address) Network() string { return "memory" }
func (address) String() string  { return "in memory" }
