package link

import (
	"crypto/tls"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// A node's connection carries everybody's commands and answers, in order. So an answer may be late
// because the server is silent, or because something large is ahead of it, and only the first says
// something of the server:
//
//	reader: asks for 16 values of 4 MiB    writer: Set, 20 bytes
//	                                       <- its answer is 64 MiB behind, a second or more
//
// Therefore the bytes that pass on each connection are counted (watchedConn). An answer is waited
// for RedisTimeout, for what we had on the way to the server when the command was sent, and for
// what has come since, each at linkRate; but never longer than the link is quiet for RedisTimeout
// and what the system's buffers hold. A frozen server is silent whatever is on the way, so it is
// noticed as before.

const (
	linkRate    = 1 << 20                 // bytes a second: what a link must carry at least, or large values look like an outage
	largePiece  = 64 << 10                // what is written at once; what is smaller is taken by the system's buffers, however the server is
	mediumPiece = 8 << 10                 // half of the buffer in which rueidis collects commands
	mostUnseen  = 4 << 20                 // may be in buffers on the way to the server, so that nobody sees it move
	mostPiece   = 4 << 20                 // of a batch at once
	mostAhead   = 8 << 20                 // of others, that a write allows for before the server must not do it any more
	prepareRate = 16                      // times linkRate: how fast a busy server puts an answer together
	keyWork     = 256                     // bytes whose work is that of a key
	quietToHang = 1500 * time.Millisecond // RedisTimeout, if that is longer
	quietLook   = 250 * time.Millisecond
)

// atLinkRate is how long bytes may take.
func atLinkRate(bytes int64) time.Duration { return time.Duration(bytes) * time.Second / linkRate }

// traffic is what has passed on the connections to a node. Safe for concurrent use.
type traffic struct {
	passed atomic.Int64 // bytes read, and of large pieces written
	at     atomic.Int64 // when the latest of them did, in Link.Now's time
}

func (t *traffic) pass(n int, now int64) {
	t.passed.Add(int64(n))
	t.at.Store(now)
}

// roads has the traffic of every address; that of "" is of all. Safe for concurrent use.
type roads struct {
	mu     sync.Mutex
	byAddr map[string]*traffic // guarded by mu; an address stays
}

func (r *roads) to(addr string) *traffic {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byAddr == nil {
		r.byAddr = make(map[string]*traffic)
	}
	t := r.byAddr[addr]
	if t == nil {
		t = new(traffic)
		r.byAddr[addr] = t
	}
	return t
}

// watchedConn counts what passes, and hangs up when it was asked again and again and has been quiet
// for too long: rueidis counts answers, to which a large one is a long silence, so its own limit
// (ConnWriteTimeout) is set far beyond this one.
type watchedConn struct {
	net.Conn
	l         *Link
	node, all *traffic

	writes atomic.Int32 // since something was last read
	quiet  atomic.Int64 // since when, in Link.Now's time: the first of writes, or the latest large piece
	unread atomic.Int64 // bytes of writes
	look   *time.Timer
	due    int64 // when look is to run, in Link.Now's time; it belongs to look
	closed atomic.Bool
}

// watch returns nil for a connection that is watched already.
func (l *Link) watch(conn net.Conn, roads *roads, addr string) *watchedConn {
	if reflect.TypeOf(conn).Comparable() {
		if _, twice := l.conns.LoadOrStore(conn, true); twice {
			return nil
		}
	}
	w := &watchedConn{Conn: conn, l: l, node: roads.to(addr), all: roads.to("")}
	w.look = time.AfterFunc(time.Hour, w.hangUpIfQuiet) // so that the field is set before it runs
	w.due = l.Now() + int64(quietLook)
	w.look.Reset(quietLook)
	return w
}

func (w *watchedConn) pass(n int) (now int64) {
	now = w.l.Now()
	w.node.pass(n, now)
	w.all.pass(n, now)
	return now
}

func (w *watchedConn) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if n > 0 {
		w.writes.Store(0)
		w.unread.Store(0)
		w.pass(n)
	}
	return n, err
}

func (w *watchedConn) Write(b []byte) (written int, err error) {
	if w.writes.Add(1) == 1 {
		w.quiet.Store(w.l.Now())
	}
	for err == nil && len(b)-written > largePiece {
		var n int
		n, err = w.Conn.Write(b[written : written+largePiece])
		written += n
		w.wrote(n, true)
	}
	if err == nil {
		var n int
		n, err = w.Conn.Write(b[written:])
		written += n
		w.wrote(n, false)
	}
	return written, err
}

// WriteString is Write without a copy: a bufio.Writer, as rueidis has one, passes what is longer
// than its buffer on by itself. Else it would come in pieces of that buffer.
func (w *watchedConn) WriteString(s string) (written int, err error) {
	return w.Write(unsafe.Slice(unsafe.StringData(s), len(s))) // a Writer must not change what it is given
}

// wrote counts n bytes that were written: as passed where they are of a large piece, or a piece of
// some size behind others that together are as large, with nothing read since. Small commands do not
// count: a frozen server gets them, too.
func (w *watchedConn) wrote(n int, large bool) {
	if unread := w.unread.Add(int64(n)); large || n >= mediumPiece && unread > largePiece {
		w.quiet.Store(w.pass(n))
	}
}

// hangUpIfQuiet closes a connection on which nothing has come for long, though it was written to
// twice at least: a single command may be one that Redis is meant to leave open (BLPOP). Where a call
// waits longer for its answer, the connection does so, too.
//
// By as much as it runs late the process did not run. That time does not count: what has come
// meanwhile waits to be read, perhaps until after this.
func (w *watchedConn) hangUpIfQuiet() {
	if w.closed.Load() {
		return
	}
	now, since := w.l.Now(), w.quiet.Load()
	if late := now - w.due; late > 0 {
		since = min(since+late, now)
		w.quiet.Store(since)
	}
	limit := max(quietToHang, w.l.opt.RedisTimeout) + atLinkRate(min(w.unread.Load(), mostUnseen))
	if w.writes.Load() > 1 && time.Duration(now-since) > limit {
		w.hangUp()
		return
	}
	w.due = now + int64(quietLook)
	w.look.Reset(quietLook)
}

// hangUp is Close without a goodbye, which the other end may not listen to.
func (w *watchedConn) hangUp() {
	if secure, ok := w.Conn.(*tls.Conn); ok {
		_ = secure.NetConn().Close()
	}
	_ = w.Close()
}

func (w *watchedConn) Close() error {
	w.closed.Store(true)
	w.look.Stop()
	if reflect.TypeOf(w.Conn).Comparable() {
		w.l.conns.Delete(w.Conn)
	}
	return w.Conn.Close()
}
