package resp

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/slot"
)

// Commands that need more than one look or one write are done here while Redis is away (steps.go).
//
// A read goes by all that is known: what is kept, and what memory has for as long as a GET is answered
// from it; of a hash, set or list the one done on the other. A write goes by what this proxy has kept itself: what it had read before, another may have
// changed since, and to act on that would be wrong where to show it is merely late.

// doneAway reports whether conn.away looks at a command that is served here.
func doneAway(name string) bool {
	switch outages[name] {
	case Answered, KeptIfKnown, KeptAsOperation:
		return true
	case Kept: // with options
		return name == "SET"
	default:
		return false
	}
}

// errSettled means that a step was answered and has changed nothing, so that nothing is to be kept.
var errSettled = errors.New("resp: nothing is to be kept")

// away does a command that may be done here while Redis is away, and answers it. false: Redis is to
// be asked, or the command's own function does without it.
func (c *conn) away(name string, args []string) bool {
	if len(args) == 0 || !c.server.store.Away(args[0]) {
		return false
	}
	st := steps[name]
	if st == nil {
		return false
	}
	kind := outageOf(name, args)
	if kind == Kept {
		return false
	}
	keys := st.keysOf(args)
	if !c.fits(keys...) {
		return true
	}
	if commands[name].run == nil && c.crosses("", keys) {
		c.error(crossSlot)
		return true
	}
	var reply answer
	var err error
	calls := []call{{name, st, args}}
	switch kind {
	case Answered:
		reply, err = c.read(calls, keys)
	case KeptAsOperation:
		reply, err = c.change(calls, keys, true)
	default:
		reply, err = c.change(calls, keys, false)
	}
	switch {
	case errors.Is(err, aside.ErrNotAway):
		return false
	case err != nil:
		c.error(c.describePassed(err, kind != Answered))
	default:
		c.write(reply.([]answer)[0])
	}
	return true
}

// crosses reports whether Redis is a cluster that has keys in several slots, or in another than that of first, if
// that is not "". Redis would not do one command, or one transaction, with them.
func (c *conn) crosses(first string, keys []string) bool {
	return c.server.inCluster() && slices.ContainsFunc(keys, func(key string) bool { return slot.Of(key) != slot.Of(cmp.Or(first, keys[0])) })
}

// call is a step with its arguments.
type call struct {
	name string
	*step
	args []string
}

// doAll does calls, one after the other, and returns their answers. The error is ErrDegraded if one of
// them needs what is not known. changed: some key was.
func (s *stage) doAll(calls []call, local bool) (answers []answer, changed bool, err error) {
	for _, one := range calls {
		answers = append(answers, s.do(one.step, one.args))
	}
	if s.missing || s.inexact && !local {
		return nil, false, proxy.ErrDegraded
	}
	return answers, len(s.changed) > 0, nil
}

// read does calls that only read, by all that is known of keys: of a write of several of them it sees all or nothing.
func (c *conn) read(calls []call, keys []string) (answer, error) {
	s := newStage(c.server.options.MaxValueBytes)
	if err := c.learnTogether(s, keys); err != nil {
		return nil, err
	}
	answers, _, err := s.doAll(calls, false)
	return answers, err
}

// change does calls by what this proxy has kept of keys itself, and has that kept, all or nothing. operations: if that
// is not known, they may be kept as they are.
func (c *conn) change(calls []call, keys []string, operations bool) (answer, error) {
	held, err := c.counted(calls, keys)
	if err != nil {
		return nil, err
	}
	var answers []answer
	err = c.server.store.UpdateAway(c.ctx, keys, func(known map[string]proxy.Known) (next map[string]proxy.Known, err error) {
		s := newStage(c.server.options.MaxValueBytes)
		s.held = held
		for key, k := range known {
			s.known[key] = knownAs(k.Value, !k.Deleted)
		}
		if answers, _, err = s.doAll(calls, false); err != nil {
			return nil, err
		}
		next = make(map[string]proxy.Known, len(s.changed))
		for key := range s.changed {
			e := s.known[key]
			if e.exists && e.kind != aString {
				return nil, proxy.ErrDegraded // of these, operations are kept
			}
			next[key] = proxy.Known{Value: e.Value, Deleted: !e.exists}
		}
		return next, nil
	})
	if err == nil || !operations || !errors.Is(err, proxy.ErrDegraded) {
		return answers, err
	}
	if len(keys) > 1 {
		return c.keepAll(calls, keys, held)
	}
	return c.keep(calls, keys[0])
}

// counted are the keys that are there by what is known for reading, if one of calls counts them: DEL
// alone does.
func (c *conn) counted(calls []call, keys []string) (map[string]bool, error) {
	if !slices.ContainsFunc(calls, func(one call) bool { return one.name == "DEL" || one.name == "UNLINK" }) {
		return nil, nil
	}
	s := newStage(c.server.options.MaxValueBytes)
	if err := c.learn(s, keys); err != nil {
		return nil, err
	}
	held := make(map[string]bool, len(keys))
	for _, key := range keys {
		held[key] = s.entry(key).exists
	}
	return held, nil
}

// keep has calls kept as operations on key, if their answers follow from what is known, or need not.
func (c *conn) keep(calls []call, key string) (answer, error) {
	var ops []aside.Operation
	for _, one := range calls {
		blank := newStage(c.server.options.MaxValueBytes)
		if wrong, ok := blank.do(one.step, one.args).(failure); ok && !blank.missing && len(calls) == 1 {
			return []answer{wrong}, nil // whatever the key holds
		}
		if one.reads {
			continue
		}
		if e := blank.known[key]; blank.changed[key] && !e.exists && !e.part { // it is over at once
			ops = append(ops, aside.Operation{"DEL"})
			continue
		}
		op, ok := c.operationOf(one.name, one.args)
		if !ok {
			return nil, proxy.ErrDegraded
		}
		ops = append(ops, op)
	}
	// What is refused, or changes nothing, leaves what memory has, which a call of Keep drops.
	blank := newStage(c.server.options.MaxValueBytes)
	blank.known[key] = c.supposed(key, blank.now)
	answers, changed, err := blank.doAll(calls, c.server.options.LocalAnswers)
	if err != nil || !changed {
		return answers, err
	}
	redis, err := c.server.store.Keep(c.ctx, key, ops, func(k proxy.Kept) (err error) {
		s := newStage(c.server.options.MaxValueBytes)
		s.known[key] = fold(k, s.now, nil)
		answers, err = c.decide(s, calls, len(calls) == 1)
		return err
	})
	switch {
	case err != nil || redis == nil:
		return decided(answers, err)
	case len(redis) != len(calls):
		return nil, aside.ErrUnknownOutcome // it was done, and what the others read is not known
	}
	for i, one := range redis { // Redis was back
		if answers = answers[:i]; calls[i].name == "HMSET" {
			one = "OK"
		}
		answers = append(answers, answerOf(one))
	}
	return answers, nil
}

// decide does calls by what s knows, and returns nil if they are to be kept; errSettled if the answers are all that comes of
// them. alone: they are one command, so nothing is left to be done where that fails.
func (c *conn) decide(s *stage, calls []call, alone bool) ([]answer, error) {
	answers, changed, err := s.doAll(calls, c.server.options.LocalAnswers)
	failed := slices.ContainsFunc(answers, func(a answer) bool { _, ok := a.(failure); return ok })
	switch {
	case err != nil:
		return answers, err
	case failed && !alone: // Redis would do the others
		return answers, proxy.ErrDegraded
	case failed, !changed:
		return answers, errSettled
	}
	return answers, nil
}

// decided is what a client gets after decide, and what became of its calls.
func decided(answers []answer, err error) (answer, error) {
	switch {
	case errors.Is(err, errSettled):
		return answers, nil
	case errors.Is(err, aside.ErrInvalidArgument): // what Redis has to say of an argument, only it knows
		return nil, proxy.ErrDegraded
	}
	return answers, err
}

// supposed is what is known of key before it is kept from others.
func (c *conn) supposed(key string, now time.Time) *entry {
	k, _, err := c.server.store.Kept(c.ctx, key)
	if err != nil {
		return unknown()
	}
	e := fold(k, now, nil)
	if v, ok := c.server.store.Held(c.ctx, key); ok && e.part && !e.exists && e.kind == "" {
		e.kind, e.Value, e.vague = aString, v, true
	}
	return e
}

// answerOf is what Redis has answered to an operation.
func answerOf(a any) answer {
	switch a := a.(type) {
	case error:
		return failure(withCode(a.Error()))
	case string:
		if a == "OK" {
			return done
		}
		return a
	case int64:
		return a
	}
	return nil
}

// knownAs is a string that is known as a whole, or that there is none.
func knownAs(v proxy.Value, exists bool) *entry {
	if !exists {
		return &entry{}
	}
	return &entry{Value: v, kind: aString, exists: true}
}

// learn has s know what the proxy knows of keys for reading.
func (c *conn) learn(s *stage, keys []string) error {
	for _, key := range keys {
		if err := c.learnBy(c.server.store.Get, s, key); err != nil {
			return err
		}
	}
	return nil
}

// learnTogether is learn of what all keys hold between two writes of several of them.
func (c *conn) learnTogether(s *stage, keys []string) error {
	if len(keys) < 2 {
		return c.learn(s, keys)
	}
	return c.server.store.Together(c.ctx, keys, func(get func(ctx context.Context, key string) (proxy.Value, error)) error {
		for _, key := range keys {
			if err := c.learnBy(get, s, key); err != nil {
				return err
			}
		}
		return nil
	})
}

// getter gets the string under a key, as proxy.Store.Get does.
type getter func(ctx context.Context, key string) (proxy.Value, error)

// learnBy has s know what the proxy knows of a key for reading; get is for strings. The error is ErrNotAway if
// Redis has come back meanwhile, and holds no string there.
func (c *conn) learnBy(get getter, s *stage, key string) error {
	switch v, err := get(c.ctx, key); {
	case err == nil:
		s.known[key] = knownAs(v, true)
		return nil
	case errors.Is(err, aside.ErrNotFound):
		s.known[key] = &entry{}
		return nil
	case isWrongType(err): // it is Redis that says so: it is back
		return aside.ErrNotAway
	case !errors.Is(err, proxy.ErrDegraded):
		return err
	}
	return c.learnKept(s, key)
}

// learnKept has s know what the proxy knows of a key that holds no string, or of which only operations are known.
func (c *conn) learnKept(s *stage, key string) error {
	before, content := c.server.heardBefore(key)
	k, ok, err := c.server.store.Kept(c.ctx, key)
	if ok && before != nil {
		// Meanwhile the key may have changed; or Redis was back, and other operations wait now, behind something else that was read.
		if again, now := c.server.heardBefore(key); again == nil || now != content {
			before = nil
		}
	}
	switch {
	case err != nil:
		return err
	case ok:
		s.known[key] = fold(k, s.now, before)
	default:
		if e := c.server.heard(key); e != nil {
			s.known[key] = e
		}
	}
	return nil
}

// passAway does a command here that would be passed on if Redis were there.
func (c *conn) passAway(args []string) outcome {
	s := c.server
	if len(args) < 2 || !s.store.Away(args[1]) {
		return notPassed
	}
	name := strings.ToUpper(args[0])
	st := steps[name]
	if st == nil || commands[name].run != nil {
		return notPassed
	}
	if s.deny.Names(name) {
		return c.refuse(notPassedOn(strings.ToLower(name)))
	}
	if s.deny.Categories() { // what is in them, only Redis can tell
		command, err := c.commandOf(args)
		if err != nil {
			return c.refuse(c.describeError(err, false))
		}
		if command != nil && s.deny.Denies(command, args) {
			return c.refuse(notPassedOn(strings.ToLower(name)))
		}
	}
	c.settle()
	lower := strings.ToLower(name)
	c.uses(&lower)
	here := answeredHere
	c.run(name, &command{arity: st.arity, flags: "write", run: func(c *conn, args []string) {
		if !c.away(name, args) {
			here = notPassed
		}
	}}, slices.Clone(args[1:]))
	return here
}
