package resp

import (
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// What one client is answered from memory is counted together, as a look at the clock and a count for
// each command would be a tenth of what such a command costs. A command that has waited, for Redis or
// for the client to take replies, is counted by itself, and its wait is in nobody else's time:
//
//	GET GET GET GET(waits for Redis)  GET TTL GET   nothing more has arrived
//	|           |                  |              |
//	the clock is read here, and so told: 3 GETs; 1 GET; 2 GETs and 1 TTL
//
// Before a client is waited for, and before a command that is no such one, all is told.

const (
	mostTallied = 128 // commands, before they are told
	mostKinds   = 4   // likewise
)

// tally is what was answered since conn.now and not told yet. It belongs to the connection's goroutine.
type tally struct {
	kinds [mostKinds]proxy.Answered // of which n are used; their Took and At are not known yet
	n     int
	count int // of all kinds
}

// add counts a command. full: it must be told now.
func (t *tally) add(name string, failed bool) (full bool) {
	t.count++
	for i := range t.kinds[:t.n] {
		if kind := &t.kinds[i]; kind.Failed == failed && kind.Command == name {
			kind.Count++
			return t.count == mostTallied
		}
	}
	t.kinds[t.n] = proxy.Answered{Command: name, Count: 1, Failed: failed}
	t.n++
	return t.n == mostKinds || t.count == mostTallied
}

// tell tells what was answered from memory.
func (c *conn) tell() {
	if c.tally.count > 0 {
		c.tellUntil(time.Now())
	}
}

// tellUntil is tell of what was answered by then.
func (c *conn) tellUntil(end time.Time) {
	t := &c.tally
	if t.count == 0 {
		return
	}
	took := end.Sub(c.now) / time.Duration(t.count)
	c.now = end
	for _, kind := range t.kinds[:t.n] {
		kind.Took, kind.At = took, end
		c.server.noted(kind)
	}
	t.n, t.count = 0, 0
}

// counts counts the command that was answered just now. quick: its answer was at hand.
func (c *conn) counts(name string, quick bool) {
	if !quick {
		start := c.now
		c.now = time.Now()
		c.noted(name, c.now.Sub(start), c.failed)
	} else if c.tally.add(name, c.failed) || c.slow {
		c.tell()
	}
}

// serves does a command that is served here. quick: its answer was at hand, and it is about as long as
// that of others.
func (c *conn) serves(args []string) (quick bool) {
	cmd := served[args[0]]
	if !cmd.quick {
		c.tell()
	}
	c.slow = false
	c.out.filled = time.Time{}
	c.uses(&cmd.lower)
	waited := c.run(args[0], cmd, args[1:])
	c.flushReply()
	switch {
	case !waited.IsZero():
		c.tellUntil(waited)
	case !c.out.filled.IsZero():
		c.tellUntil(c.out.filled)
	default:
		return cmd.quick
	}
	return false
}
