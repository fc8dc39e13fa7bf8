package resp

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

// Commands that keep something on their connection get one that is the client's alone (ADR 14).
//
//	WATCH … EXEC    from the first WATCH or MULTI to EXEC, DISCARD or UNWATCH. Within MULTI all commands go there.
//	BLPOP, …        while it waits
//	SUBSCRIBE, …    from then on, for all commands of the client; see relay.go
//
// What is refused within a transaction is answered here, and Redis gets a command that it does not
// know instead: so it refuses the EXEC, as after any error.
//
// If the connection is lost, nothing of the transaction is done, unless it was lost at EXEC: what
// follows is refused until EXEC, DISCARD or RESET (conn.aborted).

// transaction is what a client's own connection is used for. It belongs to the connection's
// goroutine.
type transaction struct {
	own      *upstream.Own    // nil: none
	held     bool             // MULTI was answered here, as nobody knows yet to which node it goes
	place    place            // of own, in a cluster
	here     *heldTransaction // since a MULTI while Redis is away, which is done here; nil: none
	multi    bool             // MULTI was sent, EXEC or DISCARD were not
	watching bool             // WATCH was sent, and nothing that ends it
	lost     bool             // what it watched it does not watch any more: the connection was lost

	keys    []string // that the commands since MULTI may change
	reads   []string // that they only read
	stamps  []string // of these, keys that they write as SET does
	unnamed bool     // they may change keys that they do not name
}

const (
	noSuchCommand = "ASIDE.REFUSED" // what Redis gets for what is refused within a transaction
	lostWatch     = "ASIDEUNKNOWN the connection to Redis was lost since WATCH: whether the keys have changed is not known, so nothing that follows is done until EXEC, DISCARD or RESET"
)

// listsKeys are commands that would show keys of the proxy's own, where their replies are not looked at.
var listsKeys = map[string]bool{"KEYS": true, "SCAN": true, "RANDOMKEY": true}

// writesAsSet are commands that leave a stamp within a transaction, beside those that do by
// themselves. Those that may change nothing are not among them.
var writesAsSet = map[string]bool{
	"SET": true, "SETEX": true, "PSETEX": true, "MSET": true, "DEL": true, "UNLINK": true, "INCR": true, "DECR": true, "INCRBY": true, "DECRBY": true, "APPEND": true,
}

// passOwn sees to a command that belongs on a connection of the client's own. ours: it does.
func (c *conn) passOwn(args []string) (_ outcome, ours bool) {
	name := strings.ToUpper(args[0])
	t := &c.transaction
	switch {
	case c.relay != nil:
		return c.relayed(name, args), true
	case t.here != nil:
		return c.hold(name, args), true
	case t.multi:
		return c.queue(name, args), true
	case name == "SELECT":
		return c.selectElsewhere(args), true
	case subscribing[name], name == "CLIENT" && len(args) > 1 && strings.EqualFold(args[1], "TRACKING"):
		return c.connectThrough(name, args), true
	case name == "MULTI" && len(args) == 1:
		return c.begin(args), true
	case name == "WATCH" && len(args) > 1:
		return c.watch(args), true
	case name == "UNWATCH" && len(args) == 1, name == "EXEC" && len(args) > 1 && t.watching: // to Redis a wrong EXEC is an UNWATCH, too
		if c.denied(args) {
			return c.refuse(notPassedOn(strings.ToLower(name))), true
		}
		if t.lost = false; t.watching {
			t.watching = false
			return c.addOwn(args, passed{name: name}), true
		}
		c.settle()
		c.ok()
		return answered, true
	case name == "MULTI", name == "WATCH", name == "UNWATCH", (name == "EXEC" || name == "DISCARD") && len(args) > 1: // of the wrong number, so they change nothing
		if command, err := c.commandOf(args); err == nil && command != nil {
			return c.gather(command, args, nil), true
		}
	}
	return notPassed, false
}

// begin is MULTI.
func (c *conn) begin(args []string) outcome {
	t := &c.transaction
	if t.lost {
		t.lost, c.aborted = false, true
		return c.refuse(lostWatch)
	}
	if c.denied(args) {
		c.aborted = true
		return c.refuse(notPassedOn("multi"))
	}
	if !t.watching && c.user == nil && !c.server.alive() && c.holds() {
		return answered
	}
	if c.server.inCluster() && !t.watching {
		if c.settle(); !c.server.alive() {
			c.aborted = true
			return c.refuse(c.describePassed(proxy.ErrDegraded, true))
		}
		t.multi, t.held = true, true
		c.ok()
		return answered
	}
	if outcome := c.openAt(0); outcome != notPassed {
		c.aborted = true
		return outcome
	}
	t.multi = true
	return c.addOwn(args, passed{name: "MULTI"})
}

// watch is WATCH. Its keys are dropped from memory, so that a GET which follows is not older than it.
func (c *conn) watch(args []string) outcome {
	keys := slices.Clone(args[1:])
	switch {
	case c.denied(args):
		return c.refuse(notPassedOn("watch"))
	case c.astray:
		return c.refuse(wrongDB)
	}
	if outcome := c.refuseKeys(keys); outcome != notPassed {
		return outcome
	}
	c.transaction.place.concerns(keys)
	if outcome := c.openAt(c.transaction.place.slot); outcome != notPassed {
		return outcome
	}
	c.transaction.watching = true
	outcome := c.addOwn(args, passed{name: "WATCH"})
	if outcome == gathered {
		c.passing.keys = append(c.passing.keys, keys...)
	}
	return outcome
}

// refuseKeys answers a command that names a key which clients may not use.
func (c *conn) refuseKeys(keys []string) outcome {
	for _, key := range keys {
		if proxy.Reserved(key) || len(key) > c.server.options.MaxKeyBytes {
			c.settle()
			c.fits(keys...)
			return answered
		}
	}
	return notPassed
}

// openAt sees to it that the client has a connection of its own; in a cluster to the primary of a
// slot.
func (c *conn) openAt(n uint16) outcome {
	if c.transaction.own != nil {
		return notPassed
	}
	c.settle()
	own, err := c.newOwn(nil, n)
	if err != nil {
		c.transaction.place = place{}
		return c.refuse(c.describePassed(err, true))
	}
	c.transaction.own, c.transaction.place.fresh = own, true
	return notPassed
}

// newOwn returns a connection for this client, after writes of keys that wait for Redis were
// replayed; in a cluster to the primary of a slot.
func (c *conn) newOwn(keys []string, n uint16) (own *upstream.Own, err error) {
	err = c.during(func() error {
		return c.server.store.Pass(c.ctx, proxy.Passing{Writes: keys}, func() (err error) {
			if c.server.inCluster() {
				own, err = c.server.pool.OwnAt(c.ctx, c.user, c.protocol(), n)
			} else {
				own, err = c.server.pool.Own(c.ctx, c.protocol())
			}
			return err
		})
	})
	if err != nil && own != nil {
		own.Close()
	}
	return own, err
}

// addOwn gathers a command for the client's own connection.
func (c *conn) addOwn(args []string, call passed) outcome {
	if c.transaction.held {
		if outcome := c.openHeld(c.anySlot()); outcome != notPassed {
			return outcome
		}
	}
	if c.passing != nil && !c.passing.own {
		c.settle()
	}
	p := c.addCall(args, sizeOf(args), call)
	if p == nil { // Redis would not know that something is missing
		c.settle()
		c.loseOwn()
		return c.refuse(tooMuchAtOnce)
	}
	p.own, p.place = true, c.transaction.place
	return gathered
}

// queue gathers a command within a transaction.
func (c *conn) queue(name string, args []string) outcome {
	t := &c.transaction
	switch name {
	case "QUIT", "RESET":
		return notPassed
	case "EXEC", "DISCARD":
		if c.denied(args) {
			return c.addOwn([]string{noSuchCommand}, passed{name: "UNKNOWN", refusal: notPassedOn(strings.ToLower(name))})
		}
		outcome := c.addOwn(args, passed{name: name})
		if outcome == gathered && (len(args) == 1 || name == "EXEC") { // a wrong EXEC discards, a wrong DISCARD does not
			if name == "EXEC" {
				p := c.passing
				p.exec = true
				p.keys, p.stamps, p.unnamed = append(p.keys, t.keys...), append(p.stamps, t.stamps...), p.unnamed || t.unnamed
				p.reads = append(p.reads, t.reads...)
			}
			own := t.own
			*t = transaction{own: own, place: t.place, keys: t.keys[:0], reads: t.reads[:0], stamps: t.stamps[:0]}
			c.settle() // what follows may be for others
		}
		if len(args) == 1 || name == "EXEC" { // it is over, also where the connection was lost just before
			c.aborted = false
		}
		return outcome
	case "MULTI", "WATCH", "UNWATCH":
		return c.addOwn(args, passed{name: name})
	}
	command, err := c.commandOf(args)
	if err == nil && command == nil {
		return c.addOwn([]string{noSuchCommand}, passed{name: "UNKNOWN", refusal: unknownCommand(args)})
	}
	var keys []string
	var refusal string
	if err == nil {
		refusal = c.refusalOf(command, args)
		keys, err = c.keysOf(command, args)
	}
	switch {
	case refusal != "":
	case err != nil:
		refusal = c.describeError(err, false)
	case name == "SELECT" && len(args) == 2:
		if n, ok := number(args[1]); ok && n != int64(c.server.options.DB) {
			refusal = "ERR DB index is out of range"
		}
	case name != "SELECT" && isUnshared(args), listsKeys[name]:
		refusal = "ERR '" + command.Lower + "' is not served within a transaction"
	case slices.ContainsFunc(keys, proxy.Reserved):
		refusal = "ERR " + proxy.ErrReserved.Error()
	case slices.ContainsFunc(keys, func(key string) bool { return len(key) > c.server.options.MaxKeyBytes }):
		refusal = c.describeError(aside.ErrTooLarge, false)
	}
	if refusal != "" {
		return c.addOwn([]string{noSuchCommand}, passed{name: "UNKNOWN", refusal: refusal})
	}
	if c.server.inCluster() {
		t.place.concerns(keys)
		if t.held {
			if outcome := c.openHeld(c.slotOf(command, args, keys)); outcome != notPassed {
				return outcome
			}
		}
	}
	if !command.ReadOnly {
		t.keys = append(t.keys, keys...)
		if leavesStamp(name, args) && !stamping[name] || writesAsSet[name] && !conditional(name, args) {
			t.stamps = append(t.stamps, keys...)
		}
	}
	if command.ReadOnly {
		t.reads = append(t.reads, keys...)
	}
	t.unnamed = t.unnamed || scripts[name] || command.Write && len(keys) == 0
	return c.addOwn(args, passed{command: command, name: command.Name})
}

// conditional reports whether a SET may change nothing.
func conditional(name string, args []string) bool {
	if name != "SET" || len(args) < 4 {
		return false
	}
	return slices.ContainsFunc(args[3:], func(option string) bool { return strings.EqualFold(option, "NX") || strings.EqualFold(option, "XX") })
}

// doOwn sends what was gathered for the client's own connection.
func (c *conn) doOwn(p *passing) error {
	own := c.transaction.own
	if own == nil {
		return upstream.ErrNotSent
	}
	if p.exec {
		own.Wrote()
	}
	if err := own.Do(&p.batch, c.inTime()); err != nil || !c.server.inCluster() {
		return err
	}
	return c.followOwn(p)
}

// settledOwn gives the connection back once nothing is left on it, and draws the consequences of an
// error. refused: Redis has refused the last command.
func (c *conn) settledOwn(err error, refused bool) {
	t := &c.transaction
	t.place.fresh = false
	switch {
	case err != nil:
		c.loseOwn()
	case t.own != nil && !t.multi && !t.watching && c.passing == nil && refused: // a DISCARD or UNWATCH, maybe, that has ended nothing
		t.own.Close()
		t.own, t.place = nil, place{}
	case t.own != nil && !t.multi && !t.watching && c.passing == nil:
		t.own.Release()
		t.own, t.place = nil, place{}
	}
}

// loseOwn ends the client's own connection, and with it what was begun there.
func (c *conn) loseOwn() {
	t := &c.transaction
	if t.own != nil {
		t.own.Close()
	}
	c.aborted = c.aborted || t.multi
	*t = transaction{lost: t.lost || t.watching && !t.multi}
}

// endOwn is for the end of the connection, and RESET.
func (c *conn) endOwn() {
	c.endRelay(false)
	c.endHeld()
	if c.transaction.own != nil {
		c.transaction.own.Close()
	}
	c.transaction = transaction{}
	c.endUser()
}

// done reports whether the transaction that was gathered last was done: its EXEC is the last command,
// and was answered by a list.
func (p *passing) done() bool {
	reply := p.last()
	if len(reply) == 0 { // it was too large to be held, which a refusal is not
		return true
	}
	return len(reply) > 1 && reply[0] == '*' && !bytes.HasPrefix(reply, []byte("*-1"))
}

// last is the last reply; empty if it was too large.
func (p *passing) last() []byte {
	begin := 0
	if n := len(p.batch.Ends); n > 1 {
		begin = p.batch.Ends[n-2]
	}
	return p.batch.Replies[begin:]
}

// block runs a command that may wait for others, on a connection of its own, for as long as its
// client is there.
func (c *conn) block(command *upstream.Command, args, keys []string) outcome {
	c.settle()
	c.flushReply()
	c.out.flush()
	n := c.slotOf(command, args, keys)
	own, err := c.newOwn(keys, n)
	if err != nil {
		return c.refuse(c.describePassed(err, true))
	}
	p := passings.Get().(*passing)
	defer p.end()
	p.batch.Share = c.server.store.Receiving().Share()
	p.batch.Share.Hold(sizeOf(args)) // the request itself is held already
	p.batch.Add(args)
	p.calls = append(p.calls, passed{command: command, name: command.Name})
	c.uses(&command.Lower)
	_ = c.net.SetReadDeadline(time.Time{})
	c.deadline = time.Time{}
	waiting := false
	wait := func() bool {
		if !waiting { // Redis has it, and has not answered
			waiting = true
			c.server.blocked.Add(1)
			c.blocked.Store(own)
		}
		c.intake.readAhead() // whether the client is still there
		return c.server.alive() && !c.server.draining.Load() && !c.intake.ended()
	}
	if c.rests() != nil {
		c.closing = true
	}
	for range mostFollows {
		if command.Write {
			own.Wrote()
		}
		if err = own.Do(&p.batch, wait); err != nil || !c.server.inCluster() {
			break
		}
		next, failed := c.follow(own, n, p.batch.Replies)
		if next == nil {
			err = failed
			break
		}
		own.Release()
		c.stopsWaiting(waiting)
		own, waiting = next, false
		p.batch.Again()
	}
	c.goesOn()
	c.stopsWaiting(waiting)
	if err != nil {
		own.Close()
	} else {
		own.Release()
	}
	took := time.Since(c.now)
	c.now = time.Now()
	c.passedReply(p, 0, err)
	c.flushReply()
	c.out.mute, c.skip = c.silent || c.skip, false
	c.noted(command.Name, took, c.failed)
	if c.degraded {
		c.refused(command, args)
	}
	return gathered
}

// stopsWaiting takes note that the client's command waits for others no more, if it did.
func (c *conn) stopsWaiting(waited bool) {
	if waited {
		c.blocked.Store(nil)
		c.server.blocked.Add(-1)
	}
}
