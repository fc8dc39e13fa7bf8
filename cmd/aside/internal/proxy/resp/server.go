package resp

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

// Server answers Redis's protocol from a Store. Safe for concurrent use.
type Server struct {
	store   *proxy.Store
	options Options
	pool    *upstream.Pool // for what is passed on; nil: nothing is
	deny    upstream.Deny
	kind    atomic.Int32 // of the Redis behind; 0: not known yet
	began   time.Time
	runID   string // 40 hex digits, as Redis has one; immutable

	ctx  context.Context //nolint:containedctx // the life of all commands; ends when Close does not wait for them any more
	stop context.CancelFunc

	password atomic.Pointer[string]
	logins   logins
	draining atomic.Bool
	serving  sync.WaitGroup // one for each connection

	mu        sync.Mutex // guards what follows; never held while calling out
	closed    bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	nextID    int64

	refusals refusals // in outages
	checked  refusals // that there would be, with Options.CheckApp

	targets   sync.Map       // *aside.RedirectTarget by which each server tells of changes, by its address, "" for the only one
	listen    chan struct{}  // wakes hears; buffered, never blocks
	listening sync.WaitGroup // hears, and what it has done

	listing      listing      // of keys, while Redis is away
	inPart       atomic.Int64 // answers by what is known of it, where there may be more
	inPartLogged atomic.Int64 // when the latest line about them was logged, in ns since 1970; 0: there was none

	blocked                                                                       atomic.Int64 // clients whose command waits for others
	connections, refused, commands, failed, protocolErrors, panics, refusedLogins atomic.Int64
}

// Stats is what a Server has done since New.
type Stats struct {
	Connected      int   // clients, now
	Connections    int64 // that were accepted, ever
	Refused        int64 // that were too many (Options.MaxConnections, or the Store's Connections)
	Commands       int64 // that were answered, unknown ones included
	Failed         int64 // of these, by an error
	ProtocolErrors int64 // connections that were ended for what they sent
	RefusedLogins  int64 // by AUTH or HELLO, for a wrong user or password
	InPart         int64 // commands that list keys and were answered by those known here, as Redis was away
	Panics         int64 // of commands; their callers got an error
}

// New returns a Server for store, which stays the caller's. It panics if options.Validate finds
// something.
func New(store *proxy.Store, options Options) *Server {
	if err := options.Validate(); err != nil {
		panic(err)
	}
	s := &Server{
		store: store, options: options.withDefaults(), began: time.Now(),
		listeners: make(map[net.Listener]struct{}), conns: make(map[*conn]struct{}),
	}
	s.connectPool()
	id := sha256.Sum256([]byte(rand.Text()))
	s.runID = hex.EncodeToString(id[:20])
	s.SetPassword(options.Password)
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.listen = make(chan struct{}, 1)
	if s.options.Collections && s.pool != nil {
		s.listening.Go(s.hears) // ends with ctx
	}
	return s
}

// SetPassword makes password what AUTH must give from now on; "" lets everybody in. As in Redis,
// clients that have logged in stay so.
func (s *Server) SetPassword(password string) { s.password.Store(&password) }

// Serve accepts connections of ln until Shutdown or Close, then returns nil; ln is closed. It may
// be called for several listeners at once. An error is of ln, and final.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()
	for pause := time.Duration(0); ; {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
			s.accept(nc)
		case s.draining.Load():
			return nil
		case isTemporary(err): // no descriptor is left, say: they come back as clients go
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.options.Logger.Warn("resp: cannot accept a connection, trying again", "address", ln.Addr().String(), "error", err, "in", pause)
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
			}
		default:
			return fmt.Errorf("resp: cannot accept connections at %s: %w", ln.Addr(), err)
		}
	}
}

// isTemporary asks for what net/http asks for; the method is deprecated because nobody knows what
// else it might mean.
func isTemporary(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.As(err, &temporary) && temporary.Temporary()
}

func (s *Server) accept(nc net.Conn) {
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		nc.Close()
		return
	case len(s.conns) >= s.options.MaxConnections, !s.store.Connections().Take(1): // the second leaves descriptors for Redis and the disk
		s.mu.Unlock()
		s.refused.Add(1)
		if s.options.TLS == nil { // it fits into what the kernel buffers for a new connection, so this does not wait
			_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = nc.Write([]byte("-ERR max number of clients reached\r\n"))
		}
		nc.Close()
		return
	}
	s.nextID++
	c := newConn(s, nc, s.nextID)
	s.conns[c] = struct{}{}
	s.serving.Add(1)
	s.mu.Unlock()
	s.connections.Add(1)
	go func() { // ends with its connection, which Shutdown closes
		defer s.serving.Done()
		defer s.store.Connections().Give(1)
		defer func() {
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
		c.serve()
	}()
}

// Shutdown accepts no more connections, answers the requests that have been read, and closes the
// connections. What is not answered when ctx ends is cut off, and ctx's error returned. When it
// returns, no goroutine of the Server is left but callers of Serve about to return.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.mu.Lock()
	s.closed = true
	for ln := range s.listeners {
		ln.Close()
	}
	for c := range s.conns {
		c.wake()
	}
	s.mu.Unlock()
	drained := make(chan struct{})
	go func() { // ends with the last connection
		s.serving.Wait()
		close(drained)
	}()
	defer s.listening.Wait()
	defer s.stop()
	if s.pool != nil {
		defer s.pool.Close()
	}
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
	}
	s.stop()
	s.mu.Lock()
	for c := range s.conns {
		c.net.Close()
	}
	s.mu.Unlock()
	<-drained
	return fmt.Errorf("resp: Shutdown has cut off what was not answered in time: %w", ctx.Err())
}

// Close is Shutdown that waits for nobody.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Stats returns what the Server has done since New.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	connected := len(s.conns)
	s.mu.Unlock()
	return Stats{
		Connected: connected, Connections: s.connections.Load(), Refused: s.refused.Load(), Commands: s.commands.Load(),
		Failed: s.failed.Load(), ProtocolErrors: s.protocolErrors.Load(), RefusedLogins: s.refusedLogins.Load(), InPart: s.inPart.Load(), Panics: s.panics.Load(),
	}
}
