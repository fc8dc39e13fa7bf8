package aside

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A node's connection carries everybody's questions and answers, in order. So a question may be late because the server is
// silent, or because something large is ahead of it, and only the first says something of the server:
//
//	reader: 16 values of 4 MiB are asked for    writer: Set, 20 bytes    <- its answer is 64 MiB behind, a second or more
//
// Therefore the bytes that pass on each connection are counted (watchedConn). A question is waited for RedisTimeout, for what we had
// on the way to the server when it was asked, and for what has come since, each at linkRate; but never longer than the link is quiet
// for RedisTimeout and what the system's buffers hold. A frozen server is silent whatever is on the way, so it is noticed as before.

const (
	linkRate    = 1 << 20  // bytes a second: what a link must carry at least, or large values look like an outage
	largePiece  = 64 << 10 // what is written at once; what is smaller is taken by the system's buffers, however the server is
	mostUnseen  = 4 << 20  // may be in buffers on the way to the server, so that nobody sees it move
	mostPiece   = 4 << 20  // of a batch at once
	mostAhead   = 8 << 20  // of others, that a write allows for before the server must not do it any more
	prepareRate = 16       // times linkRate: how fast a busy server puts an answer together
	keyWork     = 256      // bytes whose work is that of a key
	quietToHang = 1500 * time.Millisecond
	quietLook   = 250 * time.Millisecond
)

// atLinkRate is how long bytes may take.
func atLinkRate(bytes int64) time.Duration { return time.Duration(bytes) * time.Second / linkRate }

// traffic is what has passed on the connections to a node. Safe for concurrent use.
type traffic struct {
	passed atomic.Int64 // bytes read, and of large pieces written
	at     atomic.Int64 // when the latest of them did, in Client.now's time
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

// watchedConn counts what passes, and hangs up when it was asked again and again and has been quiet for too long: rueidis counts
// answers, to which a large one is a long silence, so its own limit (ConnWriteTimeout) is set far beyond this one.
type watchedConn struct {
	net.Conn
	l         *link
	node, all *traffic

	writes atomic.Int32 // since something was last read
	quiet  atomic.Int64 // since when, in Client.now's time: the first of writes, or the latest large piece
	unread atomic.Int64 // bytes of writes
	look   *time.Timer
	closed atomic.Bool
}

// watch returns nil for a connection that is watched already.
func (l *link) watch(conn net.Conn, roads *roads, addr string) *watchedConn {
	if reflect.TypeOf(conn).Comparable() {
		if _, twice := l.conns.LoadOrStore(conn, true); twice {
			return nil
		}
	}
	w := &watchedConn{Conn: conn, l: l, node: roads.to(addr), all: roads.to("")}
	w.look = time.AfterFunc(time.Hour, w.hangUpIfQuiet) // so that the field is set before it runs
	w.look.Reset(quietLook)
	return w
}

func (w *watchedConn) pass(n int) (now int64) {
	now = w.l.now()
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
		w.quiet.Store(w.l.now())
	}
	for err == nil && len(b)-written > largePiece {
		var n int
		n, err = w.Conn.Write(b[written : written+largePiece])
		written += n
		w.unread.Add(int64(n))
		w.quiet.Store(w.pass(n))
	}
	if err == nil {
		var n int
		n, err = w.Conn.Write(b[written:])
		written += n
		w.unread.Add(int64(n))
	}
	return written, err
}

// hangUpIfQuiet closes a connection on which nothing has come for long, though it was written to twice at least: a single question may be
// one that Redis is meant to leave open (BLPOP).
func (w *watchedConn) hangUpIfQuiet() {
	if w.closed.Load() {
		return
	}
	quiet := time.Duration(w.l.now() - w.quiet.Load())
	if w.writes.Load() > 1 && quiet > quietToHang+atLinkRate(min(w.unread.Load(), mostUnseen)) {
		w.hangUp()
		return
	}
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

// question is the context of a question. It has no deadline that rueidis could see, which would take the connection down with it.
type commandContext struct {
	context.Context // ends with the caller's

	l        *link
	sh       *shard
	asked    int64
	passed   int64 // on the shard's connection, when it was asked
	patience time.Duration
	cancel   context.CancelFunc
	timer    *time.Timer
	late     atomic.Bool
}

// ask begins a question, which end must follow. limited reports that its bound comes before the caller's deadline.
func (l *link) ask(ctx context.Context, sh *shard, patience time.Duration) (_ context.Context, limited bool, end func()) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= patience {
		return ctx, false, func() {}
	}
	q := &commandContext{l: l, sh: sh, asked: l.now(), passed: sh.traffic.passed.Load(), patience: patience}
	q.Context, q.cancel = context.WithCancel(ctx)
	q.timer = time.AfterFunc(time.Hour, q.look) // so that the field is set before it runs
	q.timer.Reset(patience)
	return q, true, func() {
		q.timer.Stop()
		q.cancel()
	}
}

// look ends the question if it has been waited for long enough.
func (q *commandContext) look() {
	left := q.ends() - q.l.now()
	if left <= 0 {
		q.late.Store(true)
		q.cancel()
		return
	}
	q.timer.Reset(time.Duration(left))
}

func (q *commandContext) ends() int64 {
	t := q.sh.traffic
	all := q.asked + int64(q.patience+q.sh.preparing()+atLinkRate(t.passed.Load()-q.passed))
	quiet := max(q.asked, t.at.Load()) + int64(q.l.opt.RedisTimeout+q.sh.unseen())
	return min(all, max(quiet, q.asked+int64(q.l.opt.RedisTimeout)))
}

// Deadline hides the caller's.
func (q *commandContext) Deadline() (time.Time, bool) { return time.Time{}, false }

func (q *commandContext) Err() error {
	err := q.Context.Err()
	if err != nil && q.late.Load() {
		return context.DeadlineExceeded
	}
	return err
}

// sends notes that bytes are on their way to sh's server, and as many as are expected will be on their way back, and returns how long
// they, and what is ahead of them, may take. arrived must follow.
func (sh *shard) sends(bytes, expected, now int64) time.Duration {
	sh.expected.Add(expected)
	all := sh.bulk.Add(bytes)
	if bytes >= largePiece && all-bytes < largePiece {
		sh.traffic.at.Store(now) // it was idle before: nothing could move
	}
	return atLinkRate(bytes + expected + min(all-bytes, mostAhead))
}

func (sh *shard) arrived(bytes, expected int64) {
	sh.bulk.Add(-bytes)
	sh.expected.Add(-expected)
}

// unseen is how long what is on its way to sh's server may take without anybody seeing it move.
func (sh *shard) unseen() time.Duration {
	return atLinkRate(min(sh.bulk.Load(), mostUnseen)) + sh.preparing()
}

// preparing is how long the server may take to put together what it was asked for, before anything of it comes.
func (sh *shard) preparing() time.Duration {
	return atLinkRate(min(sh.expected.Load()+sh.guessed.Load(), mostAhead)) / prepareRate
}

// perKey is how many bytes the values of batches have had lately.
func (sh *shard) perKey() int64 {
	if sh == nil {
		return 0
	}
	return sh.typical.Load()
}

// guess is how much the answers to batches may be, by what they were lately, where it is not known.
func (sh *shard) guess(calls []*call) (bytes int64) {
	for _, q := range calls {
		if len(q.keys) > 1 && q.expects == 0 {
			bytes += int64(len(q.keys)) * (sh.perKey() + keyWork)
		}
	}
	return bytes
}

// learn takes note of how large the answers to batches were. Others' are among what has passed, so that it may be too much.
func (sh *shard) learn(calls []*call, passed int64) {
	keys := 0
	for _, q := range calls {
		if q.err != nil {
			return
		}
		keys += len(q.keys)
	}
	if keys >= maxBatchKeys {
		sh.typical.Store((sh.typical.Load() + (sh.traffic.passed.Load()-passed)/int64(keys)) / 2)
	}
}

// renewedTTL is the ttl of a lock that is renewed now, as Redis takes it: LockTTL, and for how long its fill may be behind others.
func (c *Client) renewedTTL() string {
	ahead := int64(0)
	if t := c.topo.Load(); t != nil {
		for _, sh := range t.shards {
			ahead = max(ahead, sh.bulk.Load())
		}
	}
	if ahead < maxBatchBytes {
		return c.lockTTL
	}
	return milliseconds(c.opt.LockTTL + atLinkRate(min(ahead, mostAhead)))
}

// turns lets large values pass one after the other, so that no more than mostAhead of them are ahead of a small question. Safe for
// concurrent use.
type turns struct {
	mu   sync.Mutex
	out  int64   // bytes of those that are under way; guarded by mu
	next []*turn // who waits, in order; guarded by mu
}

type turn struct {
	bytes int64
	come  chan struct{} // closed when it has come
}

// take waits until so many bytes may pass, or ctx ends. give must follow, if it does not return false.
func (t *turns) take(ctx context.Context, bytes int64) bool {
	t.mu.Lock()
	mine := &turn{bytes, make(chan struct{})}
	t.next = append(t.next, mine)
	t.callLocked()
	t.mu.Unlock()
	select {
	case <-mine.come:
		return true
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.next, mine); i >= 0 {
		t.next = slices.Delete(t.next, i, i+1)
	} else {
		t.out -= bytes
	}
	t.callLocked() // the one behind may fit
	return false
}

func (t *turns) give(bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out -= bytes
	t.callLocked()
}

// callLocked calls who may pass: the first, whatever he brings, if nobody is under way.
func (t *turns) callLocked() {
	for len(t.next) > 0 && (t.out == 0 || t.out+t.next[0].bytes <= mostAhead) {
		t.out += t.next[0].bytes
		close(t.next[0].come)
		t.next = t.next[1:]
	}
}

// inTurn has do ask calls, when it is their turn if they are large.
func (l *link) inTurn(ctx context.Context, sh *shard, calls []*call, do func()) {
	bytes, expected := sizes(calls)
	if large := max(bytes, expected); sh.asks() && large >= maxBatchBytes {
		if !sh.turns.take(ctx, large) {
			for _, q := range calls {
				q.err = fmt.Errorf("%w: %w", errNotAsked, ctx.Err())
			}
			return
		}
		defer sh.turns.give(large)
	}
	do()
}

// flows reports whether enough has passed since asked, when so many bytes had, for the lack of an answer to say nothing of the server: the
// latest of it less than recent ago.
func (sh *shard) flows(asked, passed, now int64, recent time.Duration) bool {
	at := max(asked, sh.traffic.at.Load())
	if now < at+int64(sh.unseen()) {
		return true
	}
	enough := linkRate / 2 * time.Duration(now-asked).Seconds()
	return now < at+int64(recent) && float64(sh.traffic.passed.Load()-passed) > enough
}
