package resp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

// conn is one client. Its goroutine alone uses it, except where a field says so.
type conn struct {
	server *Server  // immutable
	net    net.Conn // immutable; closed by anybody
	id     int64    // immutable
	since  time.Time
	wire   *outgoing // below net
	in     guard
	intake *intake
	out    replies
	w      *bufio.Writer          // before out
	name   atomic.Pointer[string] // as CLIENT SETNAME has given it; read by anybody

	latest   atomic.Pointer[string] // command, as CLIENT LIST says it; nil: none that is served; read by anybody
	latestAt atomic.Int64           // when it was begun, or the connection; ns since 1970; read by anybody
	three    atomic.Bool            // resp3; read by anybody

	resp3   bool // it speaks RESP3
	closing bool // the connection ends behind the replies to what it has sent so far
	aborted bool // its MULTI was refused: nothing is done until EXEC, DISCARD or RESET
	astray  bool // its SELECT was refused: nothing is done with the data until another, or RESET
	silent  bool // CLIENT REPLY OFF
	skip    bool // CLIENT REPLY SKIP has just been run

	stranger    bool      // has yet to log in
	strange     time.Time // since when it has to
	guesses     int       // wrong passwords since the last right one
	failed      bool      // the command that is run was answered by an error
	degraded    bool      // by ASIDEDEGRADED, and that was not counted yet
	library     *string   // that the client uses, as CLIENT SETINFO has said; nil: not known
	passing     *passing  // commands that are about to be sent to Redis; nil: none
	keys        []string  // of the command that is passed on; its memory is used again
	transaction transaction
	relay       *relay                       // the client is connected through; nil: it is not
	user        *upstream.Login              // of Redis's own, before a cluster, as whom the client has logged in; nil: it has not
	tracking    *tracking                    // what the nodes of a cluster tell it of what it has read; nil: nothing
	blocked     atomic.Pointer[upstream.Own] // by which its command waits for others; nil: none does; read by anybody
	ctx         *proxy.LazyContext
	spare       *proxy.LazyContext // to be used again; nil: none
	now         time.Time          // when the latest command was answered that is not in tally; zero: something has been waited for since
	tally       tally
	slow        bool      // the answer came from disk
	begun       time.Time // when the oldest reply that is held back was made
	partial     time.Time // when the request that is arriving was first waited for; zero: it was not
	deadline    time.Time // of reads
}

const (
	mostHeldFor  = 10 * time.Millisecond // beside one command's own time
	lingerFor    = time.Second
	lingerBytes  = 1 << 20
	handshakeFor = 10 * time.Second
)

var errDraining = errors.New("resp: the server shuts down")

func newConn(s *Server, nc net.Conn, id int64) *conn {
	out := &outgoing{Conn: nc, timeout: s.options.WriteTimeout}
	nc = out
	if s.options.TLS != nil {
		nc = tls.Server(nc, s.options.TLS)
	}
	c := &conn{server: s, net: nc, wire: out, id: id, since: time.Now(), strange: time.Now(), stranger: *s.password.Load() != ""}
	c.latestAt.Store(c.since.UnixNano())
	c.intake = newIntake(nc, s.store.Receiving(), s.options.MaxRequestBytes)
	c.intake.barred.Store(c.stranger)
	out.stalled, out.heard = c.intake.readAhead, &c.intake.heard
	c.out = replies{conn: nc}
	c.w = bufio.NewWriterSize(&c.out, 128) // it is emptied after every command, and passes on at once what is longer
	c.in = guard{
		source: c.intake, wait: c.wait, intern: intern, stranger: c.stranger, share: s.store.Receiving().Share(),
		limits: limits{bulk: s.options.MaxValueBytes, request: s.options.MaxRequestBytes},
	}
	return c
}

func (c *conn) serve() {
	defer c.in.share.End()
	defer c.intake.end()
	defer c.net.Close()
	defer c.endOwn()
	defer c.out.flush() // gives the memory back, if an error has left any
	if t, ok := c.net.(*tls.Conn); ok {
		ctx, cancel := context.WithTimeout(c.server.ctx, handshakeFor)
		err := t.HandshakeContext(ctx)
		cancel()
		if err != nil {
			return
		}
	}
	for {
		c.partial = time.Time{}
		args, err := c.in.next()
		c.goesOn()
		if err != nil {
			if c.server.draining.Load() || errors.Is(err, io.EOF) { // what it has sent may still be under way
				c.endRelay(true)
			}
			if c.late(err) {
				err = protocolError("the request has not arrived within " + c.server.options.ReceiveTimeout.String())
			}
			if wrong := protocolError(""); errors.As(err, &wrong) {
				c.server.protocolErrors.Add(1)
				c.settle()
				c.endRelay(true)
				c.error("ERR " + wrong.Error())
				c.finish()
				c.linger()
			}
			return
		}
		c.command(args)
		if c.closing || c.out.err != nil {
			c.finish()
			return
		}
	}
}

// finish sends all replies.
func (c *conn) finish() {
	c.settle()
	c.flushReply()
	c.out.flush()
}

// wait is called before each read: nobody may wait for a reply while we wait for him.
func (c *conn) wait() error {
	c.settle()
	c.now = time.Time{}
	if c.relay != nil {
		if err := c.sendRelayed(); err != nil {
			return err
		}
	}
	if c.out.flush(); c.out.err != nil {
		return c.out.err
	}
	if err := c.rests(); err != nil {
		return err
	}
	if err := c.limitReads(); err != nil {
		return err
	}
	// After the deadline was set: wake stores the flag before it sets its own, so that either we
	// see the flag, or its deadline stands.
	if c.server.draining.Load() {
		return errDraining
	}
	return nil
}

// limitReads sets the deadline of reads: no connection is for ever before its login, and no request
// takes for ever to arrive.
func (c *conn) limitReads() error {
	var deadline time.Time
	idle := c.server.options.IdleTimeout
	if c.relay != nil { // it may wait for messages
		idle = 0
	}
	if idle > 0 || c.in.amid {
		now := time.Now()
		if c.in.amid && c.partial.IsZero() {
			c.partial = now
		}
		if c.in.amid {
			deadline = c.partial.Add(c.server.options.ReceiveTimeout)
		}
		if ends := now.Add(idle); idle > 0 && (deadline.IsZero() || ends.Before(deadline)) {
			deadline = ends
		}
	}
	if c.stranger {
		deadline = c.strange.Add(handshakeFor)
	}
	if apart := deadline.Sub(c.deadline); deadline.IsZero() == c.deadline.IsZero() && apart >= 0 && apart <= idle/8 { // timers are dear
		return nil
	}
	c.deadline = deadline
	return c.net.SetReadDeadline(deadline)
}

// late reports whether err is that a request has not arrived in time.
func (c *conn) late(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && c.in.amid && !c.partial.IsZero() && !c.stranger && !c.server.draining.Load() &&
		time.Since(c.partial) >= c.server.options.ReceiveTimeout
}

// wake ends a wait for the client. Safe for concurrent use.
func (c *conn) wake() { _ = c.net.SetReadDeadline(time.Unix(1, 0)) }

// linger reads on for a moment, so that the error reaches a client that is still sending: a
// connection that is closed with something unread is reset, and what was sent before is lost.
func (c *conn) linger() {
	half, ok := c.net.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.server.draining.Load() {
		return
	}
	if c.net.SetReadDeadline(time.Now().Add(lingerFor)) == nil && !c.server.draining.Load() {
		_, _ = io.CopyN(io.Discard, c.net, lingerBytes)
	}
}

// command runs one request and leaves its reply in out.
func (c *conn) command(args []string) {
	if c.now.IsZero() {
		c.now = time.Now()
		c.begun = c.now
	}
	c.failed = false
	name := "UNKNOWN"
	if len(args) > 0 {
		name = args[0]
	}
	if c.server.options.CheckApp {
		c.check(args)
	}
	outcome := notPassed
	if c.in.refusal != "" && c.relay != nil {
		c.relayed("UNKNOWN", []string{noSuchCommand})
		return
	}
	if c.in.refusal == "" && !c.stranger && (!c.in.known || c.transaction.multi || c.transaction.here != nil || c.relay != nil || c.user != nil || c.passesOn(args)) {
		c.tell()
		outcome = c.pass(args)
	}
	if outcome == gathered {
		return // its reply comes with those of others
	}
	here := outcome == notPassed && c.in.known && c.in.refusal == "" && c.mayServe(name)
	if !here || c.passing != nil {
		c.settle()
	}
	quick := false
	switch {
	case here:
		quick = c.serves(args)
	case outcome == answeredHere:
		name = strings.ToUpper(name)
	case outcome == answered:
		if !c.in.known {
			name = "UNKNOWN"
		}
	case c.in.refusal != "" && !c.stranger:
		if !c.in.known {
			name = "UNKNOWN"
		}
		if c.transaction.multi { // Redis does not know that something is missing
			c.loseOwn()
		}
		if c.transaction.here != nil { // nor may the rest of it be done
			c.transaction.here.broken = true
		}
		c.error(c.in.refusal)
	case c.stranger:
		name = "UNKNOWN"
		c.error(noAuth)
	default:
		name = "UNKNOWN"
		c.unserved(args)
	}
	c.flushReply()
	c.out.mute, c.skip = c.silent || c.skip, false
	c.counts(name, quick)
	if c.degraded {
		c.refused(nil, args)
	}
	if c.now.Sub(c.begun) > mostHeldFor { // it was slow; those who wait for what came before it have waited enough
		c.out.flush()
		c.begun = c.now
	}
}

// uses notes what the client does, for CLIENT LIST.
func (c *conn) uses(command *string) {
	if c.latest.Load() != command { // a store is dearer than a look
		c.latest.Store(command)
	}
	if at := c.now.UnixNano(); c.latestAt.Load() != at {
		c.latestAt.Store(at)
	}
}

// run does a command that is served here; args are what stands behind its name. It returns when the
// command began to wait for something; zero if it did not.
func (c *conn) run(name string, cmd *command, args []string) (waited time.Time) {
	before := c.out.total + int64(c.w.Buffered())
	ctx := c.spare
	c.spare = nil
	if deadline := c.now.Add(c.server.options.RequestTimeout); ctx == nil {
		ctx = proxy.NewLazyContext(c.server.ctx, deadline)
	} else {
		ctx.Begin(deadline)
	}
	defer func() {
		c.ctx = nil
		if ctx.End() {
			c.spare = ctx
		} else {
			waited = ctx.Waited()
		}
	}()
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		c.server.panicked(name, v)
		if c.out.total+int64(c.w.Buffered()) != before { // half a reply: what follows it would be taken for the other half
			c.failed = true
			c.closing = true
			return
		}
		c.error(internalError)
	}()
	switch {
	case c.stranger && !cmd.open:
		c.error(noAuth)
	case c.aborted && name != "RESET" && name != "QUIT":
		c.error(notDone(name))
	case cmd.arity < 0 && len(args)+1 < -cmd.arity, cmd.arity > 0 && len(args)+1 != cmd.arity:
		c.error(wrongNumber(strings.ToLower(name)))
	case c.astray && cmd.data():
		c.error(wrongDB)
	default:
		c.ctx = ctx
		if !cmd.steps || !c.away(name, args) {
			cmd.run(c, args)
		}
	}
	return waited
}

// panicked takes note of a panic in a deferred call.
func (s *Server) panicked(command string, v any) {
	s.panics.Add(1)
	s.options.Logger.Error("resp: a command panicked", "command", command, "panic", v, "stack", string(debug.Stack()))
}
