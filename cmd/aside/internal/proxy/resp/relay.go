package resp

import (
	"bytes"
	"crypto/rand"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

// A client that subscribes, or asks for what Redis pushes, is connected through from then on: all
// that it sends goes to the connection of its own, and all that comes there goes to it, until RESET.
//
//	client → guard → relayed → Redis        the connection's goroutine; it writes nothing to the client
//	client ← pump ← Redis                   a second one; it alone does
//
// So nothing is answered here, which would come out of order: instead of what is refused Redis gets
// a command that it does not know, and says so. If Redis goes away, the client is disconnected, as
// it would be by Redis: it must learn that messages were lost.

// relay is the state of a client that is connected through.
type relay struct {
	own   *upstream.Own          // immutable
	ended chan struct{}          // closed when the pump has ended
	last  atomic.Pointer[string] // the pump ends with the reply that has this in it, and keeps it to itself
	quiet atomic.Bool            // the client is not disconnected when the pump ends

	selects bool // it began with a SELECT of another database than the proxy's own; immutable
	user    bool // it has logged in as a user of Redis's own; immutable

	out    []byte // is to be sent; the connection's goroutine's, as what follows
	keeps  bool   // something was subscribed to
	blocks bool   // the latest command may wait for others

	multi     bool // MULTI was sent, EXEC or DISCARD were not
	watching  bool // WATCH was sent, and nothing that ends it
	elsewhere bool // it is at another database for certain
	astray    bool // its SELECT was refused: nothing is done with the data until another, or RESET
}

const (
	relayedAtOnce = 16 << 10    // bytes, before they are sent
	lastRepliesIn = time.Second // until a client that leaves gets no more of them
	redisEvery    = 50 * time.Millisecond
)

// subscribing are commands by which a client is connected through.
var subscribing = map[string]bool{
	"SUBSCRIBE": true, "PSUBSCRIBE": true, "SSUBSCRIBE": true, "UNSUBSCRIBE": true, "PUNSUBSCRIBE": true, "SUNSUBSCRIBE": true, "MONITOR": true,
}

// relayable are subcommands of CLIENT that a client which is connected through may use: about its
// connection, and nobody else's.
var relayable = map[string]bool{
	"REPLY": true, "TRACKING": true, "TRACKINGINFO": true, "CACHING": true, "GETREDIR": true, "ID": true, "GETNAME": true, "SETNAME": true, "SETINFO": true, "INFO": true, "NO-TOUCH": true,
}

// connectThrough begins with a command that subscribes.
func (c *conn) connectThrough(name string, args []string) outcome {
	if c.denied(args) {
		return c.refuse(notPassedOn(strings.ToLower(name)))
	}
	if subscribing[name] {
		if outcome := c.awaitRedis(args); outcome != notPassed {
			return outcome
		}
	}
	if _, err := c.commandOf(args); err != nil { // what is relayed must be known
		return c.refuse(c.describePassed(err, false))
	}
	n := c.anySlot()
	if c.server.inCluster() {
		if name == "CLIENT" { // a node tells of its own keys only
			return c.track(args[2:])
		}
		if command, err := c.commandOf(args); err == nil && command != nil {
			n = c.slotOf(command, args, nil)
		}
	}
	if outcome := c.openAt(n); outcome != notPassed {
		return outcome
	}
	c.settle()
	c.startRelay(&relay{own: c.transaction.own})
	return c.relayed(name, args)
}

// awaitRedis waits for Redis, for as long as one command may take, before a client subscribes. If
// Redis does not come the client is disconnected, as by Redis itself, and not answered: clients that
// subscribe anew after a loss (ioredis does, by itself) take that for a loss and come again, but an
// error for the end.
func (c *conn) awaitRedis(args []string) outcome {
	if c.transaction.own != nil {
		return notPassed
	}
	ends := time.Now().Add(c.server.options.RequestTimeout)
	ticker := time.NewTicker(redisEvery)
	defer ticker.Stop()
	for first := true; ; first = false {
		_, err := c.commandOf(args)
		if err == nil && c.server.alive() {
			c.settle()
			var own *upstream.Own
			if own, err = c.newOwn(nil, c.anySlot()); err == nil {
				own.Release()
				return notPassed
			}
		} else if err == nil {
			err = proxy.ErrDegraded
		}
		if text := c.describePassed(err, false); !strings.HasPrefix(text, degradedReply) {
			return c.refuse(text)
		}
		if first {
			c.settle()
			c.flushReply()
			c.out.flush()
			_ = c.net.SetReadDeadline(time.Time{})
			c.deadline = time.Time{}
		}
		c.intake.readAhead() // whether the client is still there
		if c.intake.ended() || c.server.draining.Load() || c.server.ctx.Err() != nil || time.Now().After(ends) {
			c.refused(nil, args)
			c.noted(strings.ToUpper(args[0]), time.Since(c.now), true)
			c.closing = true
			return gathered
		}
		<-ticker.C
	}
}

// startRelay connects the client through, behind what was answered before.
func (c *conn) startRelay(r *relay) {
	c.flushReply()
	c.out.flush()
	c.wire.stalled = func() {} // two goroutines cannot read what is ahead
	r.ended = make(chan struct{})
	c.relay, c.transaction = r, transaction{}
	if mode := "OFF"; c.out.mute { // CLIENT REPLY holds there, too
		if !c.silent {
			mode, c.out.mute = "SKIP", false
		}
		r.out = upstream.AppendCommand(r.out, []string{"CLIENT", "REPLY", mode})
	}
	go c.pump(r) // ends with the connection of the client's own, which endRelay closes
}

// relayed sends Redis a command of a client that is connected through.
func (c *conn) relayed(name string, args []string) outcome {
	r := c.relay
	if name == "QUIT" || name == "RESET" {
		c.leaveRelay()
		return notPassed
	}
	if name == "SELECT" && r.selects && !r.keeps && !r.multi && !r.watching { // those end with the connection
		c.leaveRelay()
		if c.isElsewhere(args) {
			return c.selectElsewhere(args)
		}
		return notPassed
	}
	if name == "SELECT" && !r.user && !r.selects && !r.multi {
		n, ok := number(args[len(args)-1])
		r.astray = len(args) != 2 || !ok || n != int64(c.server.options.DB)
	}
	command, err := c.commandOf(args)
	if err == nil && command != nil && c.relays(command, name, args) {
		var keys []string
		keys, err = c.keysOf(command, args)
		if r.astray && (len(keys) > 0 || command.Write || scripts[command.Name]) {
			command, keys = nil, nil
		}
		if err == nil && command != nil && c.server.inCluster() && !c.server.pool.Serves(r.own, c.slotOf(command, args, keys)) {
			if _, ok := command.Channel(args); ok || len(keys) > 0 { // it is at another node
				command = nil
			}
		}
		if err == nil && command != nil && len(keys) > 0 {
			switch {
			case slices.ContainsFunc(keys, func(key string) bool { return proxy.Reserved(key) || len(key) > c.server.options.MaxKeyBytes }):
				command = nil
			default:
				passing := proxy.Passing{Writes: keys}
				if command.ReadOnly {
					passing = proxy.Passing{Reads: keys}
				}
				if !r.elsewhere {
					err = c.during(func() error { return c.server.store.Pass(c.ctx, passing, func() error { return nil }) })
				}
			}
		}
	} else {
		command = nil
	}
	if err != nil { // Redis is away
		c.closing = true
		return gathered
	}
	if name = noSuchCommand; command != nil {
		name = command.Name
		r.notes(name, args, c.server.options.DB)
		r.keeps, r.blocks = r.keeps || subscribing[name] || strings.HasPrefix(name, "CLIENT|TRACKING"), command.Blocking
		if name == "CLIENT|REPLY" || name == "CLIENT" && strings.EqualFold(args[1], "REPLY") {
			c.silent = strings.EqualFold(args[len(args)-1], "OFF") || c.silent && !strings.EqualFold(args[len(args)-1], "ON")
		}
		c.uses(&command.Lower)
		r.out = upstream.AppendCommand(r.out, args)
	} else {
		r.out = upstream.AppendCommand(r.out, []string{noSuchCommand})
	}
	c.noted(name, 0, command == nil)
	if len(r.out) >= relayedAtOnce && c.sendRelayed() != nil {
		c.closing = true
	}
	return gathered
}

// leaveRelay disconnects a client from Redis that stays with the proxy: what it has written, from
// another database, too (COPY … DB), memory must have heard of before the client reads it there.
func (c *conn) leaveRelay() {
	c.endRelay(true)
	if !c.server.alive() {
		return
	}
	_ = c.during(func() error {
		var tags []string
		if c.server.inCluster() {
			tags = c.server.pool.Tags(nil)
		}
		c.server.store.Hear(c.ctx, tags...)
		return nil
	})
}

// notes takes note of what a command leaves on the connection. What Redis refuses of it is not known:
// so a SELECT of the proxy's own database, db, counts for good.
func (r *relay) notes(name string, args []string, db int) {
	switch name {
	case "MULTI":
		r.multi = true
	case "WATCH":
		r.watching = true
	case "UNWATCH":
		r.watching = r.watching && r.multi
	case "EXEC":
		r.multi, r.watching = false, false
	case "DISCARD": // of the wrong number it ends nothing
		r.multi, r.watching = r.multi && len(args) > 1, r.watching && len(args) > 1
	case "SELECT":
		n, ok := number(args[len(args)-1])
		r.elsewhere = r.elsewhere && ok && n != int64(db)
	}
}

// relays reports whether a command may be sent on a connection of the client's own.
func (c *conn) relays(command *upstream.Command, name string, args []string) bool {
	switch r := c.relay; {
	case c.server.deny.Denies(command, args), listsKeys[name] && !r.elsewhere, c.refusalOf(command, args) != "":
		return false
	case r.user && name == "HELLO": // without AUTH: another login is for who has said RESET, as its guesses are counted
		return !slices.ContainsFunc(args[1:], func(arg string) bool { return strings.EqualFold(arg, "AUTH") })
	case (r.user || r.selects) && name == "SELECT":
		return true
	case name == "SELECT":
		n, ok := number(args[len(args)-1])
		return ok && n == int64(c.server.options.DB)
	case name == "CLIENT":
		redirects := func(arg string) bool { return strings.EqualFold(arg, "REDIRECT") } // to a connection of others
		return len(args) > 1 && relayable[strings.ToUpper(args[1])] && !slices.ContainsFunc(args[2:], redirects)
	case name == "MULTI", name == "EXEC", name == "DISCARD", name == "WATCH", name == "UNWATCH", subscribing[name]:
		return true
	case name == "WAIT", name == "WAITAOF": // a user before a cluster has written on other connections, too
		return c.user == nil
	}
	return !isUnshared(args)
}

// sendRelayed sends what was gathered of what is relayed.
func (c *conn) sendRelayed() error {
	r := c.relay
	if len(r.out) == 0 {
		return nil
	}
	err := r.own.Send(r.out)
	if r.out = r.out[:0]; cap(r.out) > 4*relayedAtOnce {
		r.out = nil
	}
	return err
}

// pump sends the client what comes from Redis.
func (c *conn) pump(r *relay) {
	defer close(r.ended)
	share := c.server.store.Receiving().Share()
	defer share.End()
	var buf []byte
	for {
		all, err := r.own.Receive(buf[:0], &share, c.server.alive)
		if err != nil {
			break
		}
		if last := r.last.Load(); last != nil && bytes.Contains(all, []byte(*last)) {
			break
		}
		if c.server.inCluster() && c.server.pool.Redirected(r.own, all) {
			all = append(all[:0], "-"+slotMoves+"\r\n"...)
		}
		if _, err := c.net.Write(all); err != nil {
			break
		}
		share.End()
		if buf = all; cap(buf) > 4*relayedAtOnce {
			buf = nil
		}
	}
	if !r.quiet.Load() {
		c.net.Close() // its goroutine sees it
	}
}

// endRelay disconnects the client from Redis. replies: it gets those of all that it has sent.
func (c *conn) endRelay(replies bool) {
	r := c.relay
	if r == nil {
		return
	}
	r.quiet.Store(true)
	if last := rand.Text(); replies && !c.silent {
		r.last.Store(&last)
		r.out = upstream.AppendCommand(r.out, []string{last}) // Redis does not know it, and says so by name, within MULTI, too
		if c.sendRelayed() == nil {
			c.awaitEnd(r)
		}
	}
	r.own.Close()
	<-r.ended
	c.relay = nil
	c.wire.stalled = c.intake.readAhead
}

// awaitEnd waits for the last reply: at most lastRepliesIn; while the server shuts down, as long as
// that waits for clients, unless the command waits for others.
func (c *conn) awaitEnd(r *relay) {
	timer := time.NewTimer(lastRepliesIn)
	defer timer.Stop()
	expired := timer.C
	if c.server.draining.Load() && !r.blocks {
		expired = nil
	}
	select {
	case <-r.ended:
	case <-expired:
	case <-c.server.ctx.Done():
	}
}
