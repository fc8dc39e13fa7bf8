package resp

import (
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// A transaction that begins while Redis is away is held here until its EXEC. Then it is done as a
// whole or not at all: reads by what is known, writes as one record of the journal. When Redis is back each
// key is replayed by itself.

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
	case slices.ContainsFunc(keys, func(key string) bool { return !c.server.store.Away(key) }):
		return nil, aside.ErrNotAway
	default:
		return c.change(calls, keys, true)
	}
}

// keepAll has calls kept as operations on several keys, all or none, if their answers follow from what is known, or need
// not. held is as of counted.
func (c *conn) keepAll(calls []call, keys []string, held map[string]bool) (answer, error) {
	changes, err := c.changesOf(calls, keys)
	if err != nil {
		return nil, err
	}
	supposed := newStage(c.server.options.MaxValueBytes) // see keep
	supposed.held = held
	for _, key := range keys {
		supposed.known[key] = c.supposed(key, supposed.now)
	}
	answers, changed, err := supposed.doAll(calls, c.server.options.LocalAnswers)
	if err != nil || !changed {
		return answers, err
	}
	err = c.server.store.KeepAll(c.ctx, changes, func(waits map[string]proxy.Kept) (err error) {
		s := newStage(c.server.options.MaxValueBytes)
		s.held = held
		for key, k := range waits {
			s.known[key] = fold(k, s.now, nil)
		}
		answers, err = c.decide(s, calls, false)
		return err
	})
	return decided(answers, err)
}

// changesOf are the operations that calls come to, by key; of a key that is only read none. The error is ErrDegraded if one of calls
// can be kept by what is known only.
func (c *conn) changesOf(calls []call, keys []string) ([]aside.Change, error) {
	changes := make([]aside.Change, len(keys))
	for i, key := range keys {
		changes[i].Key = key
	}
	for _, one := range calls {
		for name, args := range one.perKey() {
			op, ok := aside.Operation{"DEL"}, true
			blank := newStage(c.server.options.MaxValueBytes)
			blank.do(steps[name], args)
			if e := blank.known[args[0]]; !blank.changed[args[0]] || e.exists || e.part { // else it is over at once
				op, ok = c.operationOf(name, args)
			}
			if !ok {
				return nil, proxy.ErrDegraded
			}
			i, _ := slices.BinarySearch(keys, args[0])
			changes[i].Operations = append(changes[i].Operations, op)
		}
	}
	return changes, nil
}

// perKey yields a command that writes as commands of one key each, if it can be divided.
func (one call) perKey() iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		switch {
		case one.reads:
		case one.name == "DEL" || one.name == "UNLINK":
			for _, key := range one.args {
				if !yield(one.name, []string{key}) {
					return
				}
			}
		case one.name == "MSET" && len(one.args)%2 == 0:
			for pair := range slices.Chunk(one.args, 2) {
				if !yield(one.name, pair) {
					return
				}
			}
		default:
			yield(one.name, one.args)
		}
	}
}
