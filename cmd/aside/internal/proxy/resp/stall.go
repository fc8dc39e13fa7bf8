package resp

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// A client may send a whole pipeline before it reads the first reply. Once the kernel's buffers are
// full, it waits for us to read and we wait for it:
//
//	client: 100,000 more GETs →  | full |   ← proxy: the replies to the first 50,000
//
// So when a write stalls, the connection's requests are read ahead until the client has sent all of
// them and begins to read. Requests are what is held then, not replies: they are shorter, and how
// much of them is held is bounded.

const (
	stallsAfter = 250 * time.Millisecond // a write that takes longer may wait for a client that sends
	aheadChunk  = 64 << 10
)

// outgoing is the write side of a connection, below TLS. Its Write belongs to one goroutine at a
// time.
type outgoing struct {
	net.Conn
	timeout time.Duration // for each Write, from when the client was last heard
	stalled func()
	heard   *atomic.Int64 // when the client last sent something while a write was stalled; ns since 1970

	renewed time.Time
	fixed   atomic.Bool // TLS has set the deadline for its last words
}

func (o *outgoing) Write(p []byte) (written int, err error) {
	now := time.Now()
	since, pause := now, min(stallsAfter, o.timeout/2)
	for {
		if now.Sub(o.renewed) > pause/8 && !o.fixed.Load() { // timers are dear
			o.renewed = now
			if err := o.Conn.SetWriteDeadline(now.Add(pause)); err != nil {
				return written, err
			}
		}
		n, err := o.Conn.Write(p[written:])
		written += n
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || o.fixed.Load() {
			return written, err
		}
		now = time.Now()
		if heard := time.Unix(0, o.heard.Load()); heard.After(since) {
			since = heard
		}
		if now.Sub(since) >= o.timeout {
			return written, err
		}
		o.stalled()
	}
}

// SetWriteDeadline is called by TLS alone, when it closes.
func (o *outgoing) SetWriteDeadline(t time.Time) error {
	o.fixed.Store(true)
	return o.Conn.SetWriteDeadline(t)
}

// CloseWrite is for linger.
func (o *outgoing) CloseWrite() error {
	if half, ok := o.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// intake is the read side of a connection: what was read ahead, then what comes.
type intake struct {
	conn   net.Conn // immutable
	budget *proxy.Budget
	most   int          // bytes
	heard  atomic.Int64 // see outgoing
	barred atomic.Bool  // nothing is read ahead: its client has yet to log in
	busy   atomic.Bool  // something may have been read ahead, or a goroutine does so
	ending sync.WaitGroup

	mu     sync.Mutex // guards what follows; never held while reading
	change sync.Cond
	chunks [][]byte // read ahead; each has room for aheadChunk bytes
	used   int      // bytes of chunks[0] that Read has returned
	ahead  bool     // a goroutine reads
	enough bool     // it should end, as somebody waits for what it reads
	err    error    // of the connection, final
}

func newIntake(conn net.Conn, budget *proxy.Budget, most int) *intake {
	i := &intake{conn: conn, budget: budget, most: most}
	i.change.L = &i.mu
	return i
}

// Read belongs to the goroutine of the connection.
func (i *intake) Read(p []byte) (int, error) {
	if !i.busy.Load() {
		return i.conn.Read(p)
	}
	i.mu.Lock()
	for {
		if len(i.chunks) > 0 && i.used < len(i.chunks[0]) {
			n := copy(p, i.chunks[0][i.used:])
			if i.used += n; i.used == len(i.chunks[0]) {
				i.dropFirstLocked()
			}
			i.mu.Unlock()
			return n, nil
		}
		if i.err != nil || !i.ahead {
			err := i.err
			i.busy.Store(err != nil)
			i.mu.Unlock()
			if err != nil {
				return 0, err
			}
			return i.conn.Read(p)
		}
		i.enough = true
		i.change.Wait()
	}
}

// dropFirstLocked drops the first chunk, unless more is about to be written to it.
func (i *intake) dropFirstLocked() {
	i.used = 0
	if len(i.chunks) == 1 && i.ahead {
		i.chunks[0] = i.chunks[0][:0]
		return
	}
	i.chunks[0] = nil
	i.chunks = i.chunks[1:]
	i.budget.Give(aheadChunk)
}

// readAhead has the connection read until as much is held as may be, or somebody waits in Read.
func (i *intake) readAhead() {
	if i.barred.Load() {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.enough = false
	if i.ahead || i.err != nil {
		return
	}
	i.ahead = true
	i.busy.Store(true)
	i.ending.Go(i.run) // ends with the connection, which end closes, or before
}

func (i *intake) run() {
	var buf [usualBuffer]byte
	for i.room() {
		n, err := i.conn.Read(buf[:])
		if n > 0 {
			i.heard.Store(time.Now().UnixNano())
		}
		i.mu.Lock()
		last := len(i.chunks) - 1
		i.chunks[last] = append(i.chunks[last], buf[:n]...)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) { // the next wait for the client has a deadline of its own
				i.err = err
			}
			i.ahead = false
		} else if i.enough {
			i.ahead = false
		}
		over := !i.ahead
		i.tidyLocked()
		i.mu.Unlock()
		if over {
			return
		}
	}
}

// tidyLocked wakes the waiters, and drops a chunk that is empty and will stay so.
func (i *intake) tidyLocked() {
	if last := len(i.chunks) - 1; last >= 0 && !i.ahead && len(i.chunks[last]) == 0 {
		i.chunks = i.chunks[:last]
		i.budget.Give(aheadChunk)
	}
	i.change.Broadcast()
}

// room makes room for one more read; false if there is none, then the goroutine ends.
func (i *intake) room() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if n := len(i.chunks); n > 0 && aheadChunk-len(i.chunks[n-1]) >= usualBuffer {
		return true
	}
	if (len(i.chunks)+1)*aheadChunk <= i.most && i.budget.Take(aheadChunk) {
		i.chunks = append(i.chunks, make([]byte, 0, aheadChunk))
		return true
	}
	i.ahead = false
	i.tidyLocked()
	return false
}

// ended reports whether the client has gone, as far as it was read ahead.
func (i *intake) ended() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err != nil
}

// end waits for the goroutine of a connection that is closed, and gives back what is held.
func (i *intake) end() {
	i.ending.Wait()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.budget.Give(int64(len(i.chunks)) * aheadChunk)
	i.chunks = nil
}
