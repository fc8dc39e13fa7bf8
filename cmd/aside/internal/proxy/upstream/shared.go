package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// Batch is some commands of one client, in their order, and their replies. It may be used again
// once it was answered. Not safe for concurrent use.
type Batch struct {
	Request  []byte // the commands, encoded
	Commands int    // how many they are

	// Share is what requests and replies are held in. A reply for which it has no room is dropped.
	Share proxy.Share

	// Replies are the bytes of all replies; Ends says where in them each ends. A reply that was
	// dropped has none. Both are there once Do has returned nil.
	Replies []byte
	Ends    []int

	places []placed // where its commands belong, in a cluster; empty elsewhere
	errs   []error  // of the commands, where some have failed and others have not

	heard  *Hearing      // what it was sent in; nil: in none, or in a cluster
	heards []*Hearing    // in a cluster: of each command; nil: none was sent in any
	sent   time.Duration // when, since began

	alive func() bool // whether somebody waits for the replies; of whoever watches the connection, while it is asked
	done  chan error  // gets one value, of the connection's goroutine or of whoever ends it; buffered
}

// Reset makes the batch empty. It keeps its memory, unless that has become large.
func (b *Batch) Reset() {
	const kept = 64 << 10
	if b.Request = b.Request[:0]; cap(b.Request) > kept {
		b.Request = nil
	}
	if b.Replies = b.Replies[:0]; cap(b.Replies) > kept {
		b.Replies = nil
	}
	b.Ends, b.Commands = b.Ends[:0], 0
	b.places, b.errs = b.places[:0], nil
	b.heard, b.heards = nil, nil
	b.Share.End()
}

// Again forgets the replies, so that the same commands can be sent once more.
func (b *Batch) Again() {
	b.Replies, b.Ends, b.errs = b.Replies[:0], b.Ends[:0], nil
	b.heard, b.heards = nil, nil
}

// Add appends a command.
func (b *Batch) Add(args []string) {
	b.Request = AppendCommand(b.Request, args)
	b.Commands++
}

// Args returns the i-th of the commands.
func (b *Batch) Args(i int) []string {
	rest := b.Request
	for ; ; i-- {
		command, after, err := decode(rest)
		if err != nil {
			return nil // there are fewer
		}
		if i == 0 {
			return stringsOf(command)
		}
		rest = after
	}
}

// shared is a connection on which the commands of many clients travel. Safe for concurrent use.
type shared struct {
	conn         *dialed       // immutable; read by run alone
	writeTimeout time.Duration // immutable
	elsewhere    func() bool   // another server takes writes now; nil: that cannot be; immutable
	looked       atomic.Int64  // when that was asked, in ns since 1970
	push         func([]byte)  // gets what the server pushes; nil: it pushes nothing; immutable

	mu      sync.Mutex
	out     []byte    // to be written; guarded by mu
	spare   []byte    // that was written; guarded by mu
	writing bool      // a goroutine writes, and will write what is in out; guarded by mu
	asked   []*Batch  // asked[first:] are not answered yet, in order; guarded by mu
	first   int       // guarded by mu
	watched bool      // watch will be called; guarded by mu
	renewed time.Time // when the deadline of writes was set; of whoever writes
	err     error     // it is over; guarded by mu
	old     bool      // the server is a replica now: nothing more is sent, and it ends once what was is answered; guarded by mu
	hearing *Hearing  // in which what is sent now is read; nil: in none; guarded by mu
}

// send has b sent; its done gets a value. false: the connection is over, and nothing was sent.
//
// Whoever finds nobody writing writes, for all who come meanwhile, too: one system call for many
// commands, and no goroutine more to wake.
func (s *shared) send(b *Batch) bool {
	now := time.Now()
	if nano := now.UnixNano(); s.elsewhere != nil && nano-s.looked.Load() > int64(aliveEvery) {
		if s.looked.Store(nano); s.elsewhere() {
			s.leave()
		}
	}
	s.mu.Lock()
	if s.err != nil || s.old {
		s.mu.Unlock()
		return false
	}
	b.heard, b.sent = s.hearing, now.Sub(began)
	s.asked = append(s.asked, b)
	s.out = append(s.out, b.Request...)
	if !s.watched {
		s.watched = true
		time.AfterFunc(aliveEvery, s.watch)
	}
	if s.writing {
		s.mu.Unlock()
		return true
	}
	s.writing = true
	s.mu.Unlock()
	runtime.Gosched() // others that can run may have something to send, too: a system call is dearer than a switch
	s.mu.Lock()
	for len(s.out) > 0 && s.err == nil {
		out := s.out
		s.out, s.spare = s.spare[:0], nil
		s.mu.Unlock()
		if err := s.write(out); err != nil {
			s.end(err)
		}
		s.mu.Lock()
		if cap(out) <= 1<<20 {
			s.spare = out
		}
	}
	s.writing = false
	s.mu.Unlock()
	return true
}

// leave has nothing more sent, and the connection end once what was sent is answered.
func (s *shared) leave() {
	s.mu.Lock()
	s.old = true
	idle := s.first == len(s.asked)
	s.mu.Unlock()
	if idle {
		s.end(errReadOnly)
	}
}

func (s *shared) write(out []byte) error {
	if now := time.Now(); now.Sub(s.renewed) > s.writeTimeout/8 { // timers are dear
		s.renewed = now
		if err := s.conn.SetWriteDeadline(now.Add(s.writeTimeout + s.writeTimeout/8)); err != nil {
			return err
		}
	}
	_, err := s.conn.Write(out)
	return err
}

// end ends the connection. Who waits is told that no reply will come.
func (s *shared) end(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
	}
	s.mu.Unlock()
	if first {
		s.conn.Close() // run sees it, and tells those who wait
	}
}

// over reports whether the connection has ended.
func (s *shared) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil || s.old
}

// run reads replies until the connection ends. One goroutine runs it.
func (s *shared) run() {
	for {
		first, err := s.conn.frames.Peek(1)
		if err == nil && first[0] == '>' {
			if err = s.receivePush(); err == nil {
				continue
			}
		}
		if err != nil {
			s.fail(err)
			return
		}
		s.mu.Lock()
		if s.first == len(s.asked) {
			s.mu.Unlock()
			s.fail(fmt.Errorf("%w: nobody has asked for it", errProtocol))
			return
		}
		b := s.asked[s.first]
		s.mu.Unlock()
		if err := s.receive(b); err != nil {
			s.fail(err)
			return
		}
		s.mu.Lock()
		s.asked[s.first] = nil
		if s.first++; s.first == len(s.asked) {
			s.asked, s.first = s.asked[:0], 0
		}
		over := s.old && len(s.asked) == 0
		if s.hearing != nil {
			s.hearing.answered.Store(int64(b.sent))
		}
		s.mu.Unlock()
		b.done <- nil
		if over {
			s.fail(errReadOnly)
			return
		}
	}
}

// receive reads the replies of b.
func (s *shared) receive(b *Batch) error {
	for len(b.Ends) < b.Commands {
		s.conn.frames.share = &b.Share
		replies, kind, tooLarge, err := s.conn.frames.next(b.Replies)
		if err != nil {
			return err
		}
		if kind == '>' {
			s.pushed(replies[len(b.Replies):], tooLarge)
			continue
		}
		if kind == '-' && isReadOnly(replies[len(b.Replies):]) {
			s.mu.Lock()
			s.old = true
			s.mu.Unlock()
		}
		b.Replies = replies
		b.Ends = append(b.Ends, len(replies))
	}
	return nil
}

// receivePush reads what is pushed out of turn.
func (s *shared) receivePush() error {
	s.conn.frames.share = nil
	raw, _, tooLarge, err := s.conn.frames.next(nil)
	if err == nil {
		s.pushed(raw, tooLarge)
	}
	return err
}

// pushed passes on what was pushed. tooLarge: it is not there.
func (s *shared) pushed(raw []byte, tooLarge bool) {
	switch {
	case s.push == nil: // nothing was subscribed to here: that what a connection has read is told nowhere any more
	case tooLarge:
		s.push([]byte(Forget))
	default:
		s.push(raw)
	}
}

// fail ends the connection and tells those who wait.
func (s *shared) fail(err error) {
	s.end(err)
	s.mu.Lock()
	asked := s.asked[s.first:]
	s.asked, s.first = nil, 0
	s.mu.Unlock()
	for _, b := range asked {
		b.done <- fmt.Errorf("%w: %w", ErrLost, err)
	}
}

// watch ends the connection once nobody waits for what it is asked first: what it is asked later was
// sent later, so that is waited for no longer. It is called every so often while there is something
// to wait for.
func (s *shared) watch() {
	s.mu.Lock()
	var alive func() bool
	if s.watched = s.err == nil && s.first < len(s.asked); s.watched {
		alive = s.asked[s.first].alive
	}
	s.mu.Unlock()
	switch {
	case alive == nil:
	case alive():
		time.AfterFunc(aliveEvery, s.watch)
	default:
		s.end(errGivenUp)
	}
}

const aliveEvery = 50 * time.Millisecond

var errReadOnly = errors.New("the server is a replica now")

// isReadOnly reports whether an error reply says that the server is a replica now, as it is after a
// failover: who dials again reaches the new primary.
func isReadOnly(reply []byte) bool { return bytes.HasPrefix(reply, []byte("-READONLY ")) }
