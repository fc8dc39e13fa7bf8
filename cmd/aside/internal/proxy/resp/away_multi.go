package resp

import (
	"errors"
	"slices"
	"strings"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// A transaction that begins while Redis is away is held here until its EXEC. Then it is done as a
// whole or not at all: reads by what is known; writes of one key as one record. Of several keys the
// records could part, if the proxy dies between them, so they are refused.

const (
	mostHeld      = 1024     // commands of a transaction
	mostHeldBytes = 16 << 20 // of their strings
)

// heldTransaction is what a client has sent since its MULTI.
type heldTransaction struct {
	calls  []call
	first  string // key; "" if there was none yet
	bytes  int
	share  proxy.Share // of what all clients may send at once: it holds bytes
	broken bool        // one was refused, so EXEC is
}

// holds begins a transaction here, if something can be kept. It reports whether it has.
func (c *conn) holds() bool {
	if !c.server.store.Client().Health().Durable {
		return false
	}
	c.transaction.here = &heldTransaction{share: c.server.store.Receiving().Share()}
	c.settle()
	c.ok()
	return true
}

// hold sees to a command of a transaction that is held.
func (c *conn) hold(name string, args []string) outcome {
	t := c.transaction.here
	c.settle()
	st := steps[name]
	switch {
	case name == "QUIT", name == "RESET":
		return notPassed
	case name == "DISCARD" && len(args) == 1:
		c.endHeld()
		c.ok()
	case name == "EXEC" && len(args) == 1:
		c.transaction.here = nil
		defer t.share.End()
		c.run(name, &command{arity: 1, run: func(c *conn, _ []string) { c.exec(t) }}, nil)
	case name == "EXEC": // which ends it, as in Redis
		c.endHeld()
		c.error(wrongNumber("exec"))
	case name == "DISCARD":
		c.error(wrongNumber("discard"))
	case name == "MULTI":
		c.error("ERR MULTI calls can not be nested")
	case name == "WATCH":
		c.error("ERR WATCH inside MULTI is not allowed")
	default:
		broken, size := t.broken, sizeOf(args)
		t.broken = true
		switch {
		case c.denied(args):
			c.error(notPassedOn(strings.ToLower(name)))
		case st == nil:
			c.fail(proxy.ErrDegraded)
		case !st.fits(len(args) - 1):
			c.error(wrongNumber(strings.ToLower(name)))
		case c.astray:
			c.error(wrongDB)
		case len(t.calls) == mostHeld || t.bytes+size > mostHeldBytes:
			c.error(tooMuchAtOnce)
		case !c.fits(st.keysOf(args[1:])...):
		case c.crosses(t.first, st.keysOf(args[1:])):
			c.error(crossSlot)
		case !t.share.Hold(size):
			c.error(tooMuchAtOnce)
		default:
			if keys := st.keysOf(args[1:]); t.first == "" && len(keys) > 0 {
				t.first = strings.Clone(keys[0])
			}
			t.calls = append(t.calls, call{name, st, cloned(args[1:])})
			t.bytes += size
			t.broken = broken
			c.simple("QUEUED")
		}
	}
	return answered
}

// endHeld forgets a transaction that is held here, if there is one.
func (c *conn) endHeld() {
	if t := c.transaction.here; t != nil {
		t.share.End()
		c.transaction.here = nil
	}
}

func cloned(args []string) []string {
	own := make([]string, len(args))
	for i, arg := range args {
		own[i] = strings.Clone(arg)
	}
	return own
}

// exec is EXEC of a transaction that was held.
func (c *conn) exec(t *heldTransaction) {
	if t.broken {
		c.error(execAbort)
		return
	}
	answers, err := c.execHeld(t.calls)
	switch {
	case errors.Is(err, aside.ErrNotAway):
		c.error("ASIDEDEGRADED Redis has come back since MULTI: nothing of the transaction was done, so do it again")
	case err != nil:
		c.failWrite(err)
	default:
		c.write(answers)
	}
}

func (c *conn) execHeld(calls []call) (answer, error) {
	if len(calls) == 0 {
		return []answer{}, nil
	}
	var keys []string
	reads := true
	for _, one := range calls {
		keys = append(keys, one.keysOf(one.args)...)
		reads = reads && one.reads
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	switch {
	case reads:
		return c.read(calls, keys)
	case len(keys) > 1:
		return nil, proxy.ErrDegraded
	case !c.server.store.Away(keys[0]):
		return nil, aside.ErrNotAway
	default:
		return c.change(calls, keys, true)
	}
}
