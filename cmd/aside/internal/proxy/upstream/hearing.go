package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"
)

// What is read on a shared connection can be told at another connection to the same server, when it changes: CLIENT
// TRACKING with REDIRECT. OPTIN tracks what is read behind CLIENT CACHING YES, and nothing else.
//
// Redis forgets what a connection has read when that ends, and tells nobody. So what was read is worth
// something for as long as the connection lives, which a Hearing knows of its latest reply.

// In a cluster each node has its shared connections, and its target: they are named by the node's address, which is "" for the
// one server elsewhere.

// Hearing is a part of a shared connection's life: what is read in it is told at one target. Safe for concurrent use.
type Hearing struct {
	Target any    // whatever Listen was given; immutable
	Number uint64 // of this process's; immutable
	ID     int64  // CLIENT ID of the connection; immutable

	answered atomic.Int64 // when the latest command was sent that was answered, since began, in ns
}

// began is where times begin that never go back.
var began = time.Now()

// Alive reports whether the connection stood at a time, or so long before it.
func (h *Hearing) Alive(at time.Time, within time.Duration) bool {
	return time.Duration(h.answered.Load()) >= at.Sub(began)-within
}

// Heard is the Hearing in which the command at i was sent; nil: in none, or in a cluster not at once to the node that has answered it.
func (b *Batch) Heard(i int) *Hearing {
	if b.heards != nil {
		return b.heards[i]
	}
	return b.heard
}

// Cached reports whether the reply at i is that of a CLIENT CACHING YES which was done.
func (b *Batch) Cached(i int) bool { return bytes.Equal(b.Reply(i), []byte("+OK\r\n")) }

// Elements are the strings that a reply holds which is a list, a set, or a map: of that each name before its value.
func Elements(reply []byte) ([]string, error) {
	value, _, err := decode(reply)
	if err != nil {
		return nil, err
	}
	all, ok := value.([]any)
	elements := stringsOf(value)
	if !ok || len(elements) != len(all) {
		return nil, errProtocol
	}
	return elements, nil
}

// Values are what a reply holds that is a list, or the one value that it is: strings, numbers (int64), nil for none.
func Values(reply []byte) ([]any, error) {
	value, _, err := decode(reply)
	if refused, ok := value.(ServerError); ok {
		return nil, refused
	}
	if all, ok := value.([]any); ok {
		return all, err
	}
	return []any{value}, err
}

// Reply is the reply to the i-th command; empty if it was dropped. It is good until Reset.
func (b *Batch) Reply(i int) []byte {
	begin := 0
	if i > 0 {
		begin = b.Ends[i-1]
	}
	return b.Replies[begin:b.Ends[i]]
}

// nodeAt is the node at an address.
func (p *Pool) nodeAt(address string) *node {
	if address == "" {
		return &p.one
	}
	return p.cluster.node(address)
}

// Hearing is the latest of the shared connection to the node at an address for a version of the protocol; nil: there was none. It may be over.
func (p *Pool) Hearing(address string, protocol int) *Hearing {
	return p.nodeAt(address).shared[protocol-2].latest.Load()
}

// Numbered is the Hearing that has a number; nil if it is not the latest of its connection.
func (p *Pool) Numbered(number uint64) *Hearing {
	h, ok := p.latest.Load(number)
	if !ok {
		return nil
	}
	return h.(*Hearing)
}

// Hears reports whether what is read by the shared connection to the node at an address for a version of the protocol is told at target, as
// far as is known.
func (p *Pool) Hears(address string, protocol int, target any) bool {
	place := &p.nodeAt(address).shared[protocol-2]
	h := place.latest.Load()
	if h == nil || h.Target != target {
		return false
	}
	place.mu.Lock()
	conn := place.conn
	place.mu.Unlock()
	return conn != nil && conn.hears() == h
}

// hears returns the Hearing in which the next command is sent; nil: in none.
func (s *shared) hears() *Hearing {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.old {
		return nil
	}
	return s.hearing
}

// errElsewhere is why a connection is not told at a target.
var errElsewhere = errors.New("upstream: the connections lead to different servers")

// Listen has what is read from now on by the shared connection to the node at an address for a version of the protocol told at target, which is
// the connection id to the server with that run_id. It makes a connection if there is none. It must not be called by two at once for one address.
func (p *Pool) Listen(ctx context.Context, address string, protocol int, server string, id int64, target any, alive func() bool) error {
	n := p.nodeAt(address)
	conn, err := p.get(ctx, n, protocol)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	conn.mu.Lock()
	conn.hearing = nil
	conn.mu.Unlock()
	b := Batch{done: make(chan error, 1), alive: alive}
	b.Add([]string{"INFO", "server"})
	b.Add([]string{"CLIENT", "TRACKING", "ON", "REDIRECT", strconv.FormatInt(id, 10), "OPTIN"})
	if !conn.send(&b) {
		return ErrNotSent
	}
	if err := <-b.done; err != nil {
		return err
	}
	if reply := b.Reply(1); !b.Cached(1) {
		return fmt.Errorf("upstream: Redis refuses CLIENT TRACKING: %w", Refused(reply))
	}
	if info := b.Reply(0); server == "" || !bytes.Contains(info, []byte("run_id:"+server+"\r\n")) {
		return errElsewhere
	}
	h := &Hearing{Target: target, Number: p.hearings.Add(1), ID: conn.conn.id}
	h.answered.Store(int64(b.sent))
	conn.mu.Lock()
	defer conn.mu.Unlock()
	if conn.err != nil || conn.old {
		return ErrLost
	}
	conn.hearing = h
	p.latest.Store(h.Number, h)
	if before := n.shared[protocol-2].latest.Swap(h); before != nil {
		p.latest.Delete(before.Number)
	}
	return nil
}

// Prove has the shared connection to the node at an address for a version of the protocol answer something, so that its Hearing is known to be
// alive. It makes no connection.
func (p *Pool) Prove(address string, protocol int, alive func() bool) error {
	place := &p.nodeAt(address).shared[protocol-2]
	place.mu.Lock()
	conn := place.conn
	place.mu.Unlock()
	b := Batch{done: make(chan error, 1), alive: alive}
	b.Add([]string{"PING"})
	if conn == nil || !conn.send(&b) {
		return ErrNotSent
	}
	return <-b.done
}
