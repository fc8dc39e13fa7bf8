package aside

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/wire"
)

// GetMulti returns the values of keys: from memory, from Redis, and from one call of load for all that this process has
// to load. Keys that are not found are absent from the map, which is never nil. Keys may repeat. load runs in another goroutine and may outlive
// the call: see [Loader].
//
// The locks are those of Get, so that a key is loaded once for all its callers, single or batched. Keys that others load
// are waited for. Where some keys fail the error is a *BatchError, and the map has the others; ttl, options and errors
// of a key are as for Get.
func (c *Client) GetMulti(ctx context.Context, ttl time.Duration, keys []string, load BatchLoader[string], opts ...CallOption) (map[string]string, error) {
	values := make(map[string]string, len(keys))
	if load == nil {
		return values, errNilLoader
	}
	missing := c.fromMemory(ttl, keys, func(key string, e *near.Entry) bool {
		if !e.Absent() {
			values[key] = e.Raw()
		}
		return true
	})
	p := &plan{ttl: ttl, opts: opts, call: &stringBatchLoad{load}}
	err := c.obtainMulti(ctx, missing, nil, p, func(key string, out outcome) {
		if !out.absent {
			values[key] = out.raw
		}
	})
	return values, err
}

// stringBatchLoad is a batch loader of strings as loadCaller.
type stringBatchLoad struct{ user BatchLoader[string] }

func (l *stringBatchLoad) load(ctx context.Context, keys []string, out []loaded) error {
	found, err := l.user(ctx, slices.Clone(keys))
	if err != nil {
		return err
	}
	for i, key := range keys {
		if value, ok := found[key]; ok {
			out[i] = loaded{raw: strings.Clone(value), found: true}
		}
	}
	return strangers(keys, found)
}

// strangers returns an error if a batch loader has answered for other keys only than it was asked for: that says nothing of those.
func strangers[T any](keys []string, found map[string]T) error {
	asked := func(key string) bool {
		_, ok := found[key]
		return ok
	}
	if len(found) == 0 || slices.ContainsFunc(keys, asked) {
		return nil
	}
	other := slices.Min(slices.Collect(maps.Keys(found)))
	return fmt.Errorf("%w: it returned %s and not %s: the map's keys must be those that it was given", errStrangers, quoted(other), quotedKeys(keys))
}

var errStrangers = errors.New("aside: the batch loader answered for keys that it was not asked for, and for none that it was")

// cloned returns keys that own their bytes.
func cloned(keys []string) []string {
	own := make([]string, len(keys))
	for i, key := range keys {
		own[i] = strings.Clone(key)
	}
	return own
}

// fromMemory hands what is in memory to use, and returns the keys that are not, each once. use says whether it could.
func (c *Client) fromMemory(ttl time.Duration, keys []string, use func(key string, e *near.Entry) bool) (missing []string) {
	for i, key := range keys {
		if e := c.near.Lookup(key); e != nil && ttl >= leastTTL && use(key, e) {
			c.hit(key)
			continue
		}
		if missing == nil {
			missing = make([]string, 0, len(keys)-i)
		}
		missing = append(missing, key)
	}
	if len(missing) < 2 {
		return missing
	}
	seen := make(map[string]struct{}, len(missing))
	return slices.DeleteFunc(missing, func(key string) bool {
		_, again := seen[key]
		seen[key] = struct{}{}
		return again
	})
}

// obtainMulti is obtain for many keys: it leads all flights that nobody leads yet with one question per shard, and calls
// the loader once for what it has locked, before it waits for anybody else: two GetMulti with crossed keys cannot block each
// other. use is called for each key that has an outcome.
//
// keys has each key once; bad has fingerprints of what keys were found to hold and could not be decoded.
func (c *Client) obtainMulti(ctx context.Context, keys []string, bad map[string]string, p *plan, use func(key string, out outcome)) error {
	var err error
	if p.options, err = c.check(p.ttl, p.opts); err != nil || len(keys) == 0 {
		return err
	}
	failed := make(map[string]error)
	keys = slices.DeleteFunc(cloned(keys), func(key string) bool {
		err := c.checkKey(key)
		if err != nil {
			failed[key] = err
		}
		return err != nil
	})
	who := enterCall(ctx)
	defer who.leave()
	for len(keys) > 0 {
		err := who.Err()
		if c.lifecycle.ctx.Err() != nil {
			err = ErrClosed
		}
		if err != nil {
			for _, key := range keys {
				failed[key] = err
			}
			break
		}
		tickets := make([]ticket, 0, len(keys))
		var led []*flight
		for _, key := range keys {
			t, err := c.flights.join(who, key, c.near.Generation(key))
			if err != nil {
				failed[key] = err
				continue
			}
			if t.leader {
				led = append(led, t.f)
			}
			tickets = append(tickets, t)
		}
		c.leadMulti(who, led, bad, p)
		for i := range tickets { // not before: an Observer may ask for what we lead
			if !tickets[i].leader {
				c.shares(tickets[i].f.key)
			}
		}
		keys = keys[:0]
		for i := range tickets {
			t := &tickets[i]
			key := t.f.key
			out, err := t.wait(who)
			switch {
			case err != nil:
				failed[key] = err
			case out.again && !who.inside():
				failed[key] = errNoValues
			case out.again:
				keys = append(keys, key)
			case out.err != nil && !(out.own(p.call) && isEncodeError(out.err)):
				failed[key] = out.err
			case t.serves(&out):
				use(key, out)
			default:
				keys = append(keys, key)
			}
		}
	}
	if len(failed) > 0 {
		return &BatchError{Failed: failed}
	}
	return nil
}

func isEncodeError(err error) bool {
	_, is := err.(*encodeError) //nolint:errorlint // ours, never wrapped; and no method of the user's is called
	return is
}

// leadMulti is lead for many flights. It returns when each is done or its loader has been started.
func (c *Client) leadMulti(ctx *caller, flights []*flight, bad map[string]string, p *plan) {
	defer func() {
		for _, f := range flights {
			c.flights.abandon(f)
		}
	}()
	bad = maps.Clone(bad)
	if bad == nil {
		bad = make(map[string]string)
	}
	waits := heldLocks{changed: make(chan struct{}, 1)}
	defer waits.leave()
	for ask := flights; len(ask) > 0; ask = waits.next(ctx, c) {
		answers := c.readOrLockMulti(ctx, ask, bad, p.room)
		if ctx.Err() != nil { // nobody will load what was locked
			for _, a := range answers {
				if a.err == nil && a.found.mine {
					c.disown(a.shard, []string{a.f.key}, a.found.stored)
				}
			}
			return
		}
		var load []loadItem
		add := func(item loadItem) {
			if load == nil {
				load = make([]loadItem, 0, len(answers))
			}
			load = append(load, item)
		}
		for _, a := range answers {
			switch {
			case a.err != nil && c.askAgain(a.f, a.shard, a.err):
				waits.again = append(waits.again, a.f)
			case a.err != nil:
				c.refusedRead(a.f.key, a.err)
				if !c.answerFromStore(ctx, a.f, p.room) {
					add(loadItem{f: a.f, shard: a.shard, free: errors.Is(a.err, link.ErrNotAsked)})
				}
			case a.found.content == wire.Unreadable:
				bad[a.f.key] = fingerprint(a.found.stored)
				c.counted.decodeErrors.Add(1)
				c.observe(Event{Kind: EventDecodeFailed, Key: a.f.key, Err: errUnknownHeader})
				waits.again = append(waits.again, a.f)
			case a.found.large > 0:
				a.f.large = a.found.large
				waits.again = append(waits.again, a.f)
			case a.found.mine:
				add(loadItem{f: a.f, shard: a.shard, marker: a.found.stored, locked: a.reserved.At()})
			case a.found.content == wire.Lock:
				waits.add(c, a, bad)
			}
		}
		if len(load) > 0 {
			c.newLoad(ctx, p, load).start()
		}
	}
}

// heldLocks are the keys of a leadMulti that somebody else is loading.
type heldLocks struct {
	changed chan struct{} // gets a token when one of them changes; buffered
	held    []heldLock
	again   []*flight // to be asked for at once
}

type heldLock struct {
	f       *flight
	changed <-chan struct{}
	leave   func()
	due     int64 // when to look again in any case, in Client.now's time
}

func (w *heldLocks) add(c *Client, a asking, bad map[string]string) {
	if a.f.stuck.overdue(a.found, c.link.Now(), c.opt.LockTTL) || c.orphaned(a.f.key, a.found.stored) {
		bad[a.f.key] = fingerprint(a.found.stored) // see lead
		w.again = append(w.again, a.f)
		return
	}
	c.waitsForLock(a.f.key)
	changed, leave, ok := c.near.Wait(a.f.key, a.reserved, w.changed)
	if !ok {
		w.again = append(w.again, a.f)
		return
	}
	w.held = append(w.held, heldLock{
		f: a.f, changed: changed, leave: leave, due: c.link.Now() + int64(c.patience(a.reserved.Pushes(), a.found.ttl, a.f.polls)),
	})
	a.f.polls++
}

// next waits until there is something to ask for again; nil: nothing is held any more, or ctx or the client has ended.
func (w *heldLocks) next(ctx context.Context, c *Client) []*flight {
	ready := w.again
	w.again = nil
	for len(ready) == 0 && len(w.held) > 0 {
		due := int64(math.MaxInt64)
		for _, h := range w.held {
			due = min(due, h.due)
		}
		timer := time.NewTimer(time.Duration(due - c.link.Now()))
		select {
		case <-w.changed:
		case <-timer.C:
		case <-ctx.Done():
		case <-c.lifecycle.ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil || c.lifecycle.ctx.Err() != nil {
			return nil
		}
		now := c.link.Now()
		w.held = slices.DeleteFunc(w.held, func(h heldLock) bool {
			select {
			case <-h.changed:
			default:
				if now < h.due {
					return false
				}
			}
			h.leave()
			ready = append(ready, h.f)
			return true
		})
	}
	return ready
}

func (w *heldLocks) leave() {
	for _, h := range w.held {
		h.leave()
	}
}

// asking is one key of a readOrLockMulti and what came of it.
type asking struct {
	f        *flight
	shard    *link.Shard
	reserved near.Reservation // void if the answer must not be kept
	found    finding
	err      error
}

// readOrLockMulti asks for many keys at once. What is found completes its flight as soon as its shard has answered. Keys of
// a question share a marker: with the key it still is unique.
func (c *Client) readOrLockMulti(ctx context.Context, flights []*flight, bad map[string]string, room uintptr) []asking {
	asked := make([]asking, len(flights))
	plain := make([]int, 0, len(flights))
	var replace []int
	var pending []string
	for _, f := range flights {
		if c.mayBeUnsettled(f.key) {
			pending = append(pending, f.key)
		}
	}
	unsettled := c.unsettledOf(ctx, pending)
	for i, f := range flights {
		a := &asked[i]
		a.f, a.shard = f, c.link.Shard(f.key)
		if a.shard == nil || unsettled[f.key] {
			a.err = link.ErrNotAsked
			continue
		}
		a.reserved = c.near.Reserve(f.key, a.shard.Valid)
		if bad[f.key] != "" {
			replace = append(replace, i)
		} else {
			plain = append(plain, i)
		}
	}
	all := c.link.BatchesOf(script.ReadOrLockMany, nil, len(plain),
		func(i int) (string, *link.Shard) { return asked[plain[i]].f.key, asked[plain[i]].shard }, nil,
		func(i int) int64 { return asked[plain[i]].f.large })
	for _, b := range all {
		for n, i := range b.Of {
			b.Of[n] = plain[i]
		}
	}
	for _, i := range replace {
		key := asked[i].f.key
		all = append(all, &link.Batch{Shard: asked[i].shard, Of: []int{i},
			Call: link.Call{Script: script.ReplaceOrLock, Keys: []string{key}, Args: []string{bad[key]}}})
	}
	for _, b := range all {
		last := mostAnswered
		if len(b.Args) > 0 {
			last = b.Args[0]
		}
		b.Args = []string{c.newMarker(b.Shard), c.lockTTL, last}
		b.Head = len(b.Args)
	}
	c.link.RunBatches(ctx, all, &link.Pieces{}, func(b *link.Batch) {
		marker := b.Args[0]
		found, err := findingsOf(&b.Call, marker)
		if err != nil && link.Unanswered(err) {
			c.disown(b.Shard, b.Keys, marker)
		}
		for n, i := range b.Of {
			a := &asked[i]
			if a.err = err; err != nil {
				continue
			}
			a.found, a.err = found[n], found[n].err
			if b.Moved {
				a.reserved.Void()
			}
			if a.err == nil && (a.found.content == wire.Value || a.found.content == wire.Absence) {
				c.found(a.f, a.reserved, a.found, room)
			}
		}
	})
	return asked
}

// unsettledOf says which of the keys that are pending could not be replayed just now.
func (c *Client) unsettledOf(ctx context.Context, pending []string) map[string]bool {
	if len(pending) == 0 {
		return nil
	}
	unsettled := make(map[string]bool)
	for _, key := range c.settle(ctx, pending) {
		unsettled[key] = true
	}
	for _, key := range pending {
		if c.doubtful(ctx, key) {
			unsettled[key] = true
		}
	}
	return unsettled
}
