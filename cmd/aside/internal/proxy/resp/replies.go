package resp

import (
	"net"
	"sync"
	"time"
	"unsafe"
)

// heldBack is how much of a connection's replies is held back at most, until there is nothing more
// to read or the client has taken it.
const heldBack = 16 << 10

var chunks = sync.Pool{New: func() any { return new([heldBack]byte) }}

// replies is what the commands of a connection write to, by conn.w. It has memory only while it holds
// something back, so that idle connections cost none; and once the client does not take what it is
// sent, it drops all. Belongs to the goroutine of its connection.
type replies struct {
	conn net.Conn

	chunk *[heldBack]byte // nil: nothing is held back
	n     int
	total int64 // bytes that were written to it, ever
	mute  bool  // what is written now is for nobody
	err   error // sticky

	filled time.Time // when it was full, and sent what it held, for the first time since serves made it zero
}

func (r *replies) Write(p []byte) (int, error) {
	size := len(p)
	r.total += int64(size)
	for len(p) > 0 && r.err == nil && !r.mute {
		if r.chunk == nil {
			r.chunk = chunks.Get().(*[heldBack]byte)
		}
		n := copy(r.chunk[r.n:], p)
		p = p[n:]
		if r.n += n; r.n == heldBack {
			if r.filled.IsZero() {
				r.filled = time.Now()
			}
			r.flush()
		}
	}
	return size, nil // bufio would hold an error for ever; the connection looks for it
}

// WriteString is Write without a copy of s.
func (r *replies) WriteString(s string) (int, error) {
	return r.Write(unsafe.Slice(unsafe.StringData(s), len(s)))
}

// flush sends what is held back. It waits for a client that is slow, and holds up nobody else.
func (r *replies) flush() {
	if r.chunk == nil {
		return
	}
	if r.err == nil {
		_, r.err = r.conn.Write(r.chunk[:r.n])
	}
	chunks.Put(r.chunk)
	r.chunk, r.n = nil, 0
}
