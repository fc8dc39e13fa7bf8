// Package faultproxy stands between a client and a Redis server in a test, breaks the connection in
// the ways in which networks break, and counts what passes.
//
//	proxy := faultproxy.New(t, server.Addr())
//	client := dial(proxy.Addr())
//	proxy.BlackHole() // nobody answers, nobody hangs up
//	proxy.Heal()
//
// A fault holds until Heal or HealDropping; several may hold at once. All act on the connections
// that are open and on those to come, except where the method says otherwise.
//
// A connection that is cut behaves as a network that lost the packets and will repeat them: what
// was sent meanwhile, end of stream included, is held (up to some megabytes, then the sender
// blocks) and delivered after Heal, in order, even if its sender has gone away since. That is how a
// command that its client has given up on runs late.
package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy forwards TCP connections from one loopback address to an upstream. Safe for concurrent use.
type Proxy struct {
	t    testing.TB
	addr string         // immutable after New
	wg   sync.WaitGroup // every goroutine of the proxy; Cleanup waits for it

	mu       sync.Mutex // guards all below and the marked fields of links; never held while reading, writing or dialling
	listener net.Listener
	upstream string
	links    map[*link]struct{}

	cut     [2]bool       // by direction
	stall   bool          // for connections to come
	delay   time.Duration // of every chunk
	rate    int           // bytes a second in each direction, of all connections together; 0: no limit
	busy    [2]time.Time  // by direction: until when the link carries what was read already
	resetIn int           // reply bytes that may still pass before a reset; negative: no limit
	changed chan struct{} // closed and replaced whenever a fault ends, to wake the chunks that wait for it

	ignored    map[string]bool
	commands   int
	roundTrips int
	last       []string // names of the latest counted commands, at most keepNames
}

type direction int

const (
	requests direction = iota // from the client to the server
	replies
)

const (
	keepNames = 1024 // command names kept for LastCommands
	keepAhead = 1024 // chunks read ahead of a cut or delay, of up to chunkSize each
	chunkSize = 32 << 10

	maxBurst = 20 * time.Millisecond // that a throttled link catches up with, since we wake up late
)

// New listens on a free loopback port and forwards to upstream, a host:port, until the test ends.
func New(t testing.TB, upstream string) *Proxy {
	t.Helper()
	p := &Proxy{
		t:        t,
		addr:     fmt.Sprintf("127.0.0.1:%d", ReservePort(t)),
		upstream: upstream,
		links:    map[*link]struct{}{},
		resetIn:  -1,
		changed:  make(chan struct{}),
		ignored:  map[string]bool{probe: true},
	}
	p.mu.Lock()
	p.listenLocked()
	p.mu.Unlock()
	t.Cleanup(p.close)
	return p
}

// Addr is where clients connect to. It stays the same for the life of the proxy.
func (p *Proxy) Addr() string { return p.addr }

// SetUpstream forwards the connections to come to addr. Those that are open stay where they are.
// A client whose upstream does not answer is accepted and then reset.
func (p *Proxy) SetUpstream(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upstream = addr
}

// BlackHole cuts both directions: connections stay open, new ones are accepted, and no byte
// arrives.
func (p *Proxy) BlackHole() { p.set(func() { p.cut = [2]bool{true, true} }) }

// CutRequests holds back what clients send; replies and pushes still arrive.
func (p *Proxy) CutRequests() { p.set(func() { p.cut[requests] = true }) }

// CutReplies holds back what the server sends; commands still arrive there and take effect.
func (p *Proxy) CutReplies() { p.set(func() { p.cut[replies] = true }) }

// Stall accepts new connections and forwards nothing on them, as a server with a full backlog. Open
// ones go on.
func (p *Proxy) Stall() { p.set(func() { p.stall = true }) }

// Delay makes every byte arrive d later than it was sent, in both directions. It is latency, not a
// throttle: what was sent together arrives together. Zero ends it.
func (p *Proxy) Delay(d time.Duration) { p.set(func() { p.delay = d }) }

// Throttle makes the link carry that many bytes a second in each direction, for all connections
// together: a sender of more is slowed down. It holds for what is read from now on. Zero ends it.
func (p *Proxy) Throttle(bytesPerSecond int) {
	p.set(func() { p.rate, p.busy = bytesPerSecond, [2]time.Time{} })
}

// Reset breaks the connections that are open with a TCP RST. New ones are welcome.
func (p *Proxy) Reset() { p.set(func() { p.resetLocked(func(*link) bool { return true }) }) }

// ResetAfter lets n more bytes of replies pass, summed over all connections, and then resets the
// connection on which the last of them passed; with 0, the one on which the next one would. Once:
// connections after that are whole.
func (p *Proxy) ResetAfter(n int) { p.set(func() { p.resetIn = n }) }

// Refuse closes the listener, so that dials fail with ECONNREFUSED, and resets the connections that
// are open.
func (p *Proxy) Refuse() {
	p.set(func() {
		if p.listener != nil {
			closeListener(p.listener)
			p.listener = nil
		}
		p.resetLocked(func(*link) bool { return true })
	})
}

// Heal ends all faults. What was held is delivered.
func (p *Proxy) Heal() { p.set(p.healLocked) }

// HealDropping ends all faults and resets the connections that a cut or a stall held back, so that
// nothing of what was held is ever delivered.
func (p *Proxy) HealDropping() {
	p.set(func() {
		p.resetLocked(func(l *link) bool { return p.cut[requests] || p.cut[replies] || l.stalled })
		p.healLocked()
	})
}

// Ignore keeps commands of these names, and their replies, out of all counts from now on: a
// client's handshake, say. Commands with an argument that begins with "aside:probe" are those of a
// prober, and never counted.
func (p *Proxy) Ignore(names ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		p.ignored[strings.ToUpper(name)] = true
	}
}

// Commands counts the commands that clients have sent, whether or not they have arrived. TLS hides
// them.
func (p *Proxy) Commands() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.commands
}

// RoundTrips counts bursts of commands, each connection by itself: a command begins a new burst if
// a reply has passed since the last one began. So a pipeline is one round trip and a command that
// waited for an answer is another one. Pushes are not replies. A pipeline so long that its first
// reply passes before its last command has been sent is counted more than once.
func (p *Proxy) RoundTrips() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.roundTrips
}

// LastCommands returns the upper-case names of the last n commands counted, oldest first; fewer if
// there were fewer. A script appears as the EVAL or EVALSHA that called it. The last 1024 are kept.
func (p *Proxy) LastCommands(n int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.last[max(0, len(p.last)-n):])
}

// ResetCounts sets Commands, RoundTrips and LastCommands back to nothing. The next command on any
// connection begins a round trip.
func (p *Proxy) ResetCounts() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.commands, p.roundTrips, p.last = 0, 0, nil
	for l := range p.links {
		l.answered = true
	}
}

// Connections is how many clients are connected: accepted, and neither closed nor reset since.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for l := range p.links {
		if !l.clientGone {
			n++
		}
	}
	return n
}

// set changes the faults and wakes the goroutines that wait for one to end.
func (p *Proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) healLocked() {
	p.cut, p.stall, p.delay, p.rate, p.resetIn = [2]bool{}, false, 0, 0, -1
	for l := range p.links {
		l.stalled = false
	}
	if p.listener == nil {
		p.listenLocked()
	}
}

func (p *Proxy) listenLocked() {
	listener, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Errorf("faultproxy: %v", err)
		return
	}
	p.listener = listener
	p.wg.Go(func() { p.accept(listener) }) // ends when listener is closed
}

func (p *Proxy) resetLocked(which func(*link) bool) {
	for l := range p.links {
		if which(l) {
			l.resetLocked()
		}
	}
}

func (p *Proxy) close() {
	p.Refuse()
	p.wg.Wait()
}

func (p *Proxy) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		l := &link{p: p, client: conn.(*net.TCPConn), answered: true}
		l.ctx, l.cancel = context.WithCancel(context.Background())

		p.mu.Lock()
		l.stalled = p.stall
		p.links[l] = struct{}{}
		if p.listener != listener { // Refuse came between Accept and here
			l.resetLocked()
		}
		upstream := p.upstream
		p.mu.Unlock()
		p.wg.Go(func() { l.run(upstream) }) // ends when both ends have hung up, or with a reset
	}
}

// link is one client's connection and its continuation upstream.
type link struct {
	p      *Proxy
	client *net.TCPConn
	ctx    context.Context // ends with a reset, or when the link has nothing left to do
	cancel context.CancelFunc

	// guarded by p.mu
	server     *net.TCPConn // nil until dialled
	stalled    bool
	clientGone bool   // nothing more will come from the client
	asked      frames // requests
	told       frames // replies
	awaited    []bool // commands without a reply yet, in order: is it counted?
	answered   bool   // a counted reply has passed since the last burst began
}

// chunk is what one read returned.
type chunk struct {
	data []byte
	at   time.Time // when it was read
	err  error     // nothing more comes: io.EOF, or how the connection broke
}

func (l *link) run(upstream string) {
	defer l.forget()
	conn, err := new(net.Dialer).DialContext(l.ctx, "tcp", upstream)
	if err != nil {
		l.admit(requests, time.Now()) // not even a refusal comes through a cut
		l.reset()
		return
	}
	server := conn.(*net.TCPConn)
	l.p.mu.Lock()
	l.server = server
	if l.ctx.Err() != nil { // reset while dialling
		l.resetLocked()
	}
	l.p.mu.Unlock()

	var wg sync.WaitGroup
	wg.Go(func() { l.forward(requests, l.client, server) }) // as run
	l.forward(replies, server, l.client)
	wg.Wait()
	l.hangUp()
}

// forward carries one direction until its end has been delivered.
func (l *link) forward(dir direction, from, to *net.TCPConn) {
	ahead := make(chan chunk, keepAhead)
	l.p.wg.Go(func() { l.read(dir, from, ahead) }) // ends with the stream or the link
	for {
		var c chunk
		select {
		case c = <-ahead:
		case <-l.ctx.Done():
			return
		}
		if !l.admit(dir, c.at) {
			return
		}
		switch {
		case errors.Is(c.err, io.EOF):
			_ = to.CloseWrite()
			return
		case c.err != nil:
			l.reset()
			return
		}
		data, last := c.data, false
		if dir == replies {
			data, last = l.passReplies(data)
		}
		if _, err := to.Write(data); err != nil || last {
			l.reset()
			return
		}
	}
}

// read takes from a sender what it sends, so that waiting here does not slow it down: only so is
// Delay a latency.
func (l *link) read(dir direction, from *net.TCPConn, ahead chan<- chunk) {
	buf := make([]byte, chunkSize)
	for {
		n, err := from.Read(buf)
		c := chunk{data: bytes.Clone(buf[:n]), at: time.Now(), err: err}
		if dir == requests {
			l.sawRequests(c)
		}
		if !l.pace(dir, n) {
			return
		}
		select {
		case ahead <- c:
		case <-l.ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// admit waits until no fault holds back, in direction dir, what was read at a given time. False:
// the link is gone.
func (l *link) admit(dir direction, read time.Time) bool {
	for {
		l.p.mu.Lock()
		held := l.p.cut[dir] || l.stalled
		wait := time.Until(read.Add(l.p.delay))
		if l.p.delay == 0 {
			wait = 0
		}
		changed := l.p.changed
		l.p.mu.Unlock()

		var due <-chan time.Time // nil, and so never, while held
		if !held {
			if wait <= 0 {
				return l.ctx.Err() == nil
			}
			due = time.After(wait)
		}
		select {
		case <-changed:
		case <-due:
		case <-l.ctx.Done():
			return false
		}
	}
}

// pace waits until a throttled link has carried n bytes more. False: the link is gone.
func (l *link) pace(dir direction, n int) bool {
	l.p.mu.Lock()
	if l.p.rate <= 0 {
		l.p.mu.Unlock()
		return true
	}
	now := time.Now()
	if idle := now.Add(-maxBurst); l.p.busy[dir].Before(idle) {
		l.p.busy[dir] = idle
	}
	l.p.busy[dir] = l.p.busy[dir].Add(time.Duration(n) * time.Second / time.Duration(l.p.rate))
	wait := l.p.busy[dir].Sub(now)
	l.p.mu.Unlock()
	select {
	case <-time.After(wait):
		return true
	case <-l.ctx.Done():
		return false
	}
}

func (l *link) sawRequests(c chunk) {
	p := l.p
	p.mu.Lock()
	defer p.mu.Unlock()
	l.clientGone = c.err != nil
	l.asked.feed(c.data, func(_ byte, name string) {
		if name == "" {
			return // an empty array, which Redis does not answer
		}
		counted := !p.ignored[name]
		if !strings.HasSuffix(name, "SUBSCRIBE") { // answered by pushes only
			l.awaited = append(l.awaited, counted)
		}
		if !counted {
			return
		}
		p.commands++
		if len(p.last) == keepNames {
			p.last = slices.Delete(p.last, 0, 1)
		}
		p.last = append(p.last, name)
		if l.answered {
			p.roundTrips++
			l.answered = false
		}
	})
}

// passReplies returns the part of data that may pass, and whether it is the last before a reset.
func (l *link) passReplies(data []byte) (pass []byte, last bool) {
	p := l.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resetIn >= 0 {
		data = data[:min(p.resetIn, len(data))]
		p.resetIn -= len(data)
		if p.resetIn == 0 {
			p.resetIn, last = -1, true
		}
	}
	l.told.feed(data, func(kind byte, _ string) {
		if kind != '>' && len(l.awaited) > 0 {
			l.answered = l.answered || l.awaited[0]
			l.awaited = l.awaited[1:]
		}
	})
	return data, last
}

func (l *link) forget() {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	delete(l.p.links, l)
}

func (l *link) reset() {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.resetLocked()
}

// hangUp ends the link when both directions are through, unlike a reset without taking from the
// client what it has not read yet.
func (l *link) hangUp() {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.ctx.Err() != nil {
		return // by a reset
	}
	l.cancel()
	_ = l.client.Close()
	_ = l.server.Close()
}

// resetLocked ends the link at once; harmless when it has ended already. The client sees an RST.
// Upstream sees an ordinary close: what has arrived there is carried out, as it would be if the
// network broke on the client's side.
func (l *link) resetLocked() {
	l.cancel()
	l.clientGone = true
	_ = l.client.SetLinger(0)
	_ = l.client.Close()
	if l.server != nil {
		_ = l.server.Close()
	}
}
