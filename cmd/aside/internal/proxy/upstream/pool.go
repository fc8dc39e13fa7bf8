package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/slot"
)

// Pool is all connections to Redis by which commands are passed on. Safe for concurrent use.
type Pool struct {
	options Options               // immutable
	own     *proxy.Budget         // of connections of clients' own
	table   atomic.Pointer[Table] // of the server that was connected to last; nil until then
	running sync.WaitGroup        // the goroutines of shared connections
	ctx     context.Context       //nolint:containedctx // the pool's life; ends with Close
	close   context.CancelFunc

	hearings atomic.Uint64 // how many there were
	latest   sync.Map      // of each place the latest *Hearing, by its number

	one     node // where Redis is no cluster: the server that takes writes, wherever that is now
	cluster cluster

	mu     sync.Mutex // guards what follows; never held while calling out
	closed bool
	idle   []*Own
}

// node is a server.
type node struct {
	address string   // immutable; "": wherever the one that takes writes is now
	shared  [2]place // for RESP2 and RESP3
}

// place is where a shared connection is kept.
type place struct {
	mu     sync.Mutex // guards what follows; never held while dialing
	conn   *shared
	latest atomic.Pointer[Hearing] // of what is or was there; nil: there was none; read by anybody
	dialed chan struct{}           // closed when somebody has dialed, or failed to; nil if nobody does
	err    error                   // why that failed
}

// Of connections of clients' own that nobody uses, so many are kept, and for so long.
const (
	mostIdle = 16
	idleFor  = 30 * time.Second
)

// ErrTooMany means that there are as many connections of clients' own as may be.
var ErrTooMany = errors.New("upstream: too many clients have a connection to Redis of their own")

// errClosed is why nothing is dialed any more.
var errClosed = errors.New("the proxy shuts down")

// New returns a Pool that dials when it is first asked.
func New(options Options) *Pool {
	p := &Pool{options: options, own: proxy.NewBudget(int64(options.MostOwn))}
	p.cluster.nodes = make(map[string]*node)
	p.ctx, p.close = context.WithCancel(context.Background())
	return p
}

// Close ends all connections, those of clients' own as well, and waits until nothing of them is
// left.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	p.close()
	for _, o := range idle {
		o.Close()
	}
	for _, n := range append(p.cluster.all(), &p.one) {
		n.close()
	}
	p.running.Wait()
}

// close ends the shared connections.
func (n *node) close() {
	for i := range n.shared {
		place := &n.shared[i]
		place.mu.Lock()
		conn := place.conn
		place.mu.Unlock()
		if conn != nil {
			conn.end(errClosed)
		}
	}
}

// Table is the commands that the server has. It asks for them with the first connection, and again
// with each that is made.
func (p *Pool) Table(ctx context.Context) (*Table, error) {
	if t := p.table.Load(); t != nil {
		return t, nil
	}
	nodes := []*node{&p.one}
	if p.options.Nodes != nil && len(p.options.Nodes()) > 0 {
		s, err := p.slots(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		nodes = s.primaries
	}
	var err error
	for _, n := range nodes {
		if _, err = p.get(ctx, n, 3); err == nil {
			return p.table.Load(), nil
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
}

// Known is Table without waiting; nil if nobody has asked yet.
func (p *Pool) Known() *Table { return p.table.Load() }

// get returns the shared connection to a node for a version of the protocol.
func (p *Pool) get(ctx context.Context, n *node, protocol int) (*shared, error) {
	place := &n.shared[protocol-2]
	for waited := false; ; waited = true {
		place.mu.Lock()
		if conn := place.conn; conn != nil && !conn.over() {
			place.mu.Unlock()
			return conn, nil
		}
		if waited && place.dialed == nil && place.err != nil {
			err := place.err
			place.mu.Unlock()
			return nil, err
		}
		if place.dialed == nil {
			if p.ctx.Err() != nil {
				place.mu.Unlock()
				return nil, errClosed
			}
			place.dialed, place.err = make(chan struct{}), nil
			p.running.Go(func() { p.fill(place, n.address, protocol) }) // ends with the connection
		}
		dialed := place.dialed
		place.mu.Unlock()
		select {
		case <-dialed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// fill dials for a place, and serves what it has dialed until that ends.
func (p *Pool) fill(place *place, address string, protocol int) {
	conn, err := p.dialShared(address, protocol)
	place.mu.Lock()
	if place.err = err; err == nil {
		place.conn = conn
	}
	close(place.dialed)
	place.dialed = nil
	place.mu.Unlock()
	if err != nil {
		return
	}
	if p.ctx.Err() != nil { // Close may not have seen it
		conn.end(errClosed)
	}
	conn.run()
}

func (p *Pool) dialShared(address string, protocol int) (*shared, error) {
	d, err := p.options.dial(p.ctx, address, protocol, sharedBuffer)
	if err != nil {
		return nil, err
	}
	if err := d.SetDeadline(time.Now().Add(p.options.DialTimeout)); err != nil {
		d.Close()
		return nil, err
	}
	reply, err := d.ask("COMMAND")
	var table *Table
	if err == nil {
		table, err = newTable(reply)
	}
	if err == nil {
		err = d.SetDeadline(time.Time{})
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	if p.options.Plain != nil {
		for _, command := range table.commands {
			command.Plain = p.options.Plain(command)
		}
	}
	p.table.Store(table)
	s := &shared{conn: d, writeTimeout: p.options.WriteTimeout}
	if address == "" {
		s.elsewhere = func() bool { return p.options.elsewhere(d) }
	}
	return s, nil
}

// Do sends a batch and waits for its replies, until alive, which is asked now and then, reports that
// nothing is waited for any more. ctx ends the waiting for a connection. The error is ErrNotSent or
// ErrLost.
func (p *Pool) Do(ctx context.Context, protocol int, b *Batch, alive func() bool) error {
	if len(b.places) > 0 {
		return p.doInCluster(ctx, nil, protocol, b, alive)
	}
	return p.doAt(ctx, &p.one, protocol, b, alive)
}

// doAt is Do at a node.
func (p *Pool) doAt(ctx context.Context, n *node, protocol int, b *Batch, alive func() bool) error {
	if b.done == nil {
		b.done = make(chan error, 1)
	}
	for range 2 { // a connection may just have ended
		conn, err := p.get(ctx, n, protocol)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		if b.alive = alive; conn.send(b) {
			return <-b.done
		}
	}
	return fmt.Errorf("%w: its connections end at once", ErrNotSent)
}

// KeysOf asks the server which of args are keys; in a cluster any.
func (p *Pool) KeysOf(ctx context.Context, args []string, alive func() bool) ([]string, error) {
	var b Batch
	if args = append([]string{"COMMAND", "GETKEYS"}, args...); p.cluster.known.Load() != nil {
		b.AddAt(args, Place{Slot: uint16(rand.IntN(slot.Count))})
	} else {
		b.Add(args)
	}
	if err := p.Do(ctx, 3, &b, alive); err != nil {
		if errors.Is(err, ErrLost) { // it was only a question
			err = fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return nil, err
	}
	return keysOf(b.Replies)
}

// Own returns a connection that is the caller's alone until its Close or Release.
func (p *Pool) Own(ctx context.Context, protocol int) (*Own, error) {
	return p.ownAt(ctx, nil, &p.one, protocol)
}

func (p *Pool) ownAt(ctx context.Context, as *Login, n *node, protocol int) (*Own, error) {
	if as != nil {
		return as.take(ctx, n, protocol)
	}
	p.mu.Lock()
	for i := len(p.idle) - 1; i >= 0; i-- {
		if o := p.idle[i]; o.node == n && o.protocol == protocol {
			p.idle = slices.Delete(p.idle, i, i+1)
			p.mu.Unlock()
			if o.fresh() && (n.address != "" || !p.options.elsewhere(o.dialed)) {
				return o, nil
			}
			o.Close()
			p.mu.Lock()
			i = len(p.idle)
		}
	}
	p.mu.Unlock()
	return p.dialOwn(ctx, &p.options, n, protocol)
}

// dialOwn makes a connection of a client's own.
func (p *Pool) dialOwn(ctx context.Context, options *Options, n *node, protocol int) (*Own, error) {
	if !p.own.Take(1) {
		return nil, ErrTooMany
	}
	if !p.options.Open.Take(1) {
		p.own.Give(1)
		return nil, ErrTooMany
	}
	d, err := options.dial(ctx, n.address, protocol, ownBuffer)
	if err != nil {
		p.options.Open.Give(1)
		p.own.Give(1)
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	return &Own{dialed: d, pool: p, node: n, protocol: protocol}, nil
}

// Owned is how many connections of clients' own there are, idle ones included.
func (p *Pool) Owned() int64 { return p.own.Used() }
