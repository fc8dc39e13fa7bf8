package ledger

import (
	"slices"
	"strconv"

	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/fakeredis"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

const (
	key = "k"

	second    = int64(1_000_000) // times are in µs
	minute    = 60 * second
	hour      = 60 * minute
	stampTTL  = hour
	ledgerTTL = 7 * 24 * hour          // as the root's
	epoch     = 4_000_000_000 * second // long after now, so that no store finds that something has ended

	mostKept = 5 // states of the server that a replica may have
)

var ledgerKey, bucketKey = stamp.Ledger(key), stamp.Bucket(key)

// server is Redis, and what has happened there. It does the scripts as internal/fakeredis has them, which are
// compared with those in Lua on real servers.
type server struct {
	*fakeredis.Simulated
	run   int // changes when it restarts, or another takes over
	held  history
	was   []saved // before the latest commands that changed something, the latest last
	older saved   // as of some time; what is on the disk of a server that has not written all
	has   bool    // older is there
}

type saved struct {
	data fakeredis.Held
	held history
}

// history is what has happened to what a server holds: it is lost and restored with that.
type history struct {
	times    [mostActs]uint8 // how often each act was done
	marked   [mostActs]bool  // Updates that have left their stamp
	present  []int8          // operations of which the value has the effect, in their order
	standing int             // the Set or Del that was done last, if nothing was after it; -1: none
	at       int64           // when that was, as its stamp has it, in true time
	blind    bool            // stamps were lost
	hides    int             // the process, from 1, of which a late command has left the stamp; 0: none
}

func (h *history) clone() history {
	c := *h
	c.present = slices.Clone(h.present)
	return c
}

func (w *world) save() saved { return saved{w.server.Save(), w.server.held.clone()} }

func (w *world) load(s saved) {
	w.server.Load(s.data)
	w.server.held = s.held.clone()
}

// message is a command on its way to the server.
type message struct {
	from, life int
	run        int // of the server that it is for
	script     *script.Script
	keys, args []string
	command    []string      // in place of a script: what an Update does
	marks      int           // the Update of which this is the stamp; -1: none
	cause      int           // the act for which what is there is overwritten; -1: none
	at         int64         // when that was, if it is repeated
	list       deferred.List // of operate
	direct     bool          // an Apply that is not kept
	begins     bool          // a missing entry is begun by the same step: what comes of leaving step 1 out
	repeats    bool          // it replays a record
	flushes    int           // of how many flushes its process knew, where these count
	late       bool          // nobody waits for its answer any more
}

// The calls, as the root makes them.

// ledgerCall is that of ledgers.open.
func ledgerCall(window, id string) *message {
	packed, _ := stamp.Packed(id)
	return &message{script: script.Ledger, keys: []string{ledgerKey}, args: []string{window, millis(ledgerTTL), packed}, cause: -1}
}

// operateCall is that of ledgers.call. Without an id the operations are not kept.
func operateCall(window, id string, u int64, l deferred.List) *message {
	name := ""
	if id != "" {
		name, _ = stamp.Packed(id)
	}
	packed, _ := l.Packed()
	return &message{
		script: script.Operate, keys: []string{key, ledgerKey, bucketKey, bucketKey}, list: l, cause: -1,
		args: []string{window, millis(stampTTL), millis(ledgerTTL), name, strconv.FormatInt(u, 10), packed, "2"},
	}
}

// replayCall is that of replayer.batches.
func replayCall(window string, op byte, by stamp.Stamp, u, ends int64, value string) *message {
	deed, _ := stamp.AppendDeed(nil, op, by, u, ends)
	return &message{script: script.Replay, keys: []string{key, bucketKey}, args: []string{window, millis(stampTTL), wire.LockPrefix, string(deed), value, "1"}}
}

// setCall and delCall are those of write.appendHead and write.appendItems.
func setCall(window, by, value string, ttl int64) *message {
	packed, _ := stamp.Packed(by)
	return &message{script: script.Set, keys: []string{key, bucketKey}, args: []string{window, millis(stampTTL), "", packed, value, strconv.FormatInt(ttl, 10), "1"}}
}

func delCall(window, by string) *message {
	packed, _ := stamp.Packed(by)
	return &message{script: script.Del, keys: []string{key, bucketKey}, args: []string{window, millis(stampTTL), "", packed, "1"}}
}

// markCall is that of writer.update.
func markCall(window, by string) *message {
	packed, _ := stamp.Packed(by)
	return &message{script: script.Mark, keys: []string{key, bucketKey}, args: []string{window, millis(stampTTL), packed, script.InMilliseconds(wire.Endless), "1"}, cause: -1}
}

func millis(us int64) string { return strconv.FormatInt(us/1000, 10) }

// window is until when the server may do what process i sends now.
func (w *world) window(i int) (window string, notAfter int64) {
	return link.WriteWindow(w.clock(i), w.procs[i].slack, patience(w.give))
}

const anyTime = "0-9007199254740991"

// arrive is a message at the server.
func (w *world) arrive(m *message) (answer any) {
	w.instant()
	s := w.server
	w.lookForEnd()
	before := w.save()
	w.doing = m
	var err error
	switch {
	case m.command != nil:
		answer, err = s.Do(m.command...)
	default:
		if m.begins {
			_, _ = s.Do(append([]string{"EVALSHA", script.Ledger.SHA(), "1", ledgerKey, anyTime, millis(ledgerTTL)}, m.args[3])...)
		}
		entry, _ := s.Do("HGET", ledgerKey, first(m.args, 3))
		answer, err = s.Do(append(append([]string{"EVALSHA", m.script.SHA(), strconv.Itoa(len(m.keys))}, m.keys...), m.args...)...)
		if m.script == script.Ledger && answer == int64(1) {
			w.begun(m.args[2])
		}
		if all, ok := answer.([]any); ok && m.script == script.Replay && all[0] == int64(2) { // it has left no stamp
			s.held.standing, s.held.at = before.held.standing, before.held.at
		}
		if m.script == script.Operate {
			if s.held.standing = -1; !m.direct { // the stamp says that the key was changed
				w.operated(m, entry)
			}
		}
		if m.script == script.Mark && answer == int64(1) {
			s.held.marked[m.marks], s.held.standing = true, -1
		}
		if m.direct || m.script == script.Mark { // not of what is repeated, nor of a Set or Del, whose caller waits until it cannot come late
			s.held.hides = 0
			if m.late {
				s.held.hides = m.from + 1
			}
		}
	}
	w.doing = nil
	if err != nil {
		answer = err
	}
	if w.log != nil {
		w.say("server  %s: %v; holds %s", w.tell(m), answer, w.content())
	}
	s.was = append(s.was, before)
	if len(s.was) > mostKept {
		s.was = s.was[1:]
	}
	return answer
}

func first(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

// operated does to an entry of the ledger what is done where a rule is left out.
func (w *world) operated(m *message, before any) {
	if w.without(doneAndNotedAtOnce) && w.percent(10) { // the server dies in between
		if was, ok := before.(string); ok {
			_, _ = w.server.Do("HSET", ledgerKey, m.args[3], was)
		}
	}
}

// begun notes when the server began an entry.
func (w *world) begun(packed string) { w.begunAt[packed] = w.now }

// lookForEnd notes that the key has ended.
func (w *world) lookForEnd() {
	h := &w.server.held
	if len(h.present) == 0 {
		return
	}
	if left, _ := w.server.Do("PTTL", key); left == int64(-2) {
		h.present = nil
	}
}

// watch is told of each command that the server has done. It must not ask it.
func (w *world) watch(command []string, answer any) {
	if w.doing == nil || len(command) < 2 || command[1] != key {
		return
	}
	_, failed := answer.(error)
	switch command[0] {
	case "INCRBY", "RPUSH":
		var asOf int
		for _, o := range w.actsOf(command[0], command[2]) {
			asOf = o
		}
		for _, o := range w.actsOf(command[0], command[2]) {
			if failed {
				w.acts[o].refused, w.server.held.standing = true, -1
				continue
			}
			w.done(o, asOf)
		}
	case "SET", "PSETEX", "UNLINK", "DEL":
		if !failed {
			w.overwritten()
		}
	case "PEXPIREAT":
		if answer == int64(1) {
			w.done(w.byEnd[command[2]], -1)
			if ends, _ := strconv.ParseInt(command[2], 10, 64); ends <= w.time()/1000 {
				w.server.held.present = nil
			}
		}
	}
}

// evict takes something of what the server holds.
func (w *world) evict() {
	switch w.n(4) {
	case 0, 3:
		_, _ = w.server.Do("DEL", ledgerKey)
		w.ledgerLost()
	case 1:
		_, _ = w.server.Do("DEL", bucketKey)
		w.server.held.blind = true
		w.server.held.standing = -1
	case 2:
		_, _ = w.server.Do("DEL", key)
		w.server.held.present = nil
		w.server.held.standing = -1
	}
	if w.log != nil {
		w.say("server  evicts something; holds %s", w.content())
	}
}

// flush is FLUSHALL by somebody. Whoever has been connected to this life of the server learns of it.
func (w *world) flush() {
	_, _ = w.server.Do("FLUSHALL")
	w.server.held.present, w.server.held.blind, w.server.held.standing = nil, true, -1
	w.ledgerLost()
	w.flushes = append(w.flushes, w.now)
	for i := range w.procs {
		if p := &w.procs[i]; p.run == w.server.run {
			p.flush = flush{w.time(), unnoticed, len(w.flushes)}
			if p.online {
				w.notice(i)
			}
		}
	}
	if w.log != nil {
		w.say("server  is flushed")
	}
}

func (w *world) ledgerLost() { w.lostAt = w.now }

// fail ends the server. What comes next has what is given.
func (w *world) fail(next saved, what string) {
	lost := next.data != nil
	if lost {
		w.load(next)
		w.ledgerLost()
		w.losses++
	}
	w.server.run++
	w.server.was = w.server.was[:0]
	w.ahead = w.off(w.apart)
	w.server.Load(w.server.Save()) // its clock may be behind the one before
	w.wires = w.wires[:0]
	for i := range w.procs {
		p := &w.procs[i]
		if !p.online {
			continue
		}
		if w.percent(50) {
			w.offline(i)
		} else {
			p.run, p.flush = w.server.run, flush{}
		}
		w.newClock(i)
	}
	if w.log != nil {
		w.say("server  %s; holds %s", what, w.content())
	}
}
