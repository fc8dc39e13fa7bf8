package aside

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/wire"
)

// step is what a leader does next about a key.
type step int

const (
	finished   step = iota // nothing: its flight has its outcome, or the leader has left
	askAgain               // ask Redis once more, at once
	callLoader             // call the loader, with the lock if it is ours
	awaitLock              // wait for somebody else's lock, then ask again
)

// next decides what an answer means. A value or an absence has completed its flight already.
func (l leader) next(a *asking) step {
	f := a.f
	if a.err != nil {
		switch {
		case l.who.Err() != nil:
			return finished
		case l.mayAskAgain(a):
			return askAgain
		}
		if l.p.options.need.Proven { // whoever shares the flight starts over
			a.unproven = unproven(a.err)
			return finished
		}
		l.refusedRead(f.key, a.err)
		if l.answerFromStore(l.who, f, l.p.room) || l.who.Err() != nil {
			return finished
		}
		return callLoader
	}
	if a.large = a.found.large; a.large > 0 { // to be asked for in turn
		return askAgain
	}
	switch a.found.content {
	case wire.Value, wire.Absence:
		if a.cleared {
			a.bad = fingerprint(a.found.stored)
			return askAgain
		}
		return finished
	case wire.Unreadable:
		a.bad = fingerprint(a.found.stored)
		l.counted.decodeErrors.Add(1)
		l.observe(l.who, Event{Kind: EventDecodeFailed, View: l.p.seen.view(), Key: f.key, Keys: 1, Err: errUnknownHeader})
		l.warn(&l.seldomDecode, "a stored value has a header of another version, so it is loaded again", keyAttr(f.key))
		return askAgain
	case wire.Lock:
	default:
		return askAgain
	}
	switch {
	case a.found.mine:
		return callLoader
	case a.stuck.overdue(a.found, l.link.Now(), l.opt.LockTTL), l.orphaned(f.key, a.found.stored):
		a.bad = fingerprint(a.found.stored) // it is nobody's
		return askAgain
	}
	l.counted.lockWaits.Add(1)
	if a.waits == 0 {
		a.waits = max(l.link.Now(), 1)
	}
	return awaitLock
}

// answerFromStore completes f with what the fallback store holds, and reports whether it holds
// anything.
func (l leader) answerFromStore(ctx context.Context, f *flight, room uintptr) bool {
	c := l.Client
	s, ok := c.readStore(ctx, f.key, room)
	if group := l.p.options.clears; group != nil && !s.meta.Of(group) {
		return false // it is older than any clearing
	}
	out := s.outcome(c.link.Now())
	if !ok || out.gone(l.p.options.grace) {
		return false
	}
	c.flights.complete(f, out)
	return true
}

// outcome is that of a flight which s answers now.
func (s *storeAnswer) outcome(now int64) outcome {
	return outcome{
		raw: s.raw, absent: s.absent, proven: true, gen: s.gen, entry: s.entry, meta: s.meta, ends: now + int64(s.left),
		at: s.made, began: s.made, source: SourceDisk, bare: true, expired: s.expired,
	}
}

// waited notes that the leader waits for the lock on a key no more, if it did.
func (l leader) waited(a *asking) {
	if a.waits > 0 {
		l.p.seen.lockWait(a.f.key, a.waits)
		a.waits = 0
	}
}

var errUnknownHeader = errors.New("aside: the stored value has a header of another version")

// mayAskAgain reports whether a leader should ask once more after an error: one late answer of a
// server that is well must not call the loader while somebody else holds the lock.
func (l leader) mayAskAgain(a *asking) bool {
	if a.again || !a.shard.Asks() || !link.Unanswered(a.err) && !errors.Is(a.err, link.ErrLeftOut) {
		return false
	}
	a.again = true
	return true
}

// orphaned reports whether a marker is one of ours, of a load that has ended for this key: Redis
// went away, or refused, before it could be filled or given back.
func (l leader) orphaned(key, marker string) bool {
	return strings.HasPrefix(marker, l.tokenPrefix) && !l.loads.has(key, marker)
}

// lead asks for the key of a flight until it is done or its loader has been started. bad is as in
// asking.
func (l leader) lead(f *flight, bad string) (unproven error) {
	defer l.flights.abandon(f)
	a := asking{f: f, bad: bad}
	defer l.waited(&a)
	for {
		l.readOrLock(l.who, &a)
		l.judge(&a, grouper{l.Client}.ask(l.who, l.unknown(nil, &a)))
		l.complete(&a)
		switch l.next(&a) {
		case finished:
			return a.unproven
		case callLoader:
			if l.remembers(&a) {
				l.failAgain([]*asking{&a})
				return nil
			}
			l.newLoadOfOne(l.who, l.p, a.item()).start()
			return a.unproven
		case awaitLock:
			if !l.awaitHolder(&a) {
				return a.unproven
			}
		case askAgain:
		}
	}
}

// leadMulti is lead for many flights, those of asked. It returns when each is done or its loader
// has been started: one call of the loader for what was locked in a round, one for what could not be
// locked, which needs a place of MaxLoaders, and one for what a drill has loaded, before anybody else
// is waited for.
func (l leader) leadMulti(asked []asking) {
	defer func() {
		for i := range asked {
			l.waited(&asked[i])
			l.flights.abandon(asked[i].f)
		}
	}()
	ask := pointers(asked)
	waits := heldLocks{leader: l}
	defer waits.leave()
	for ; len(ask) > 0; ask = waits.ready() {
		l.readOrLockMulti(ask)
		if l.who.Err() != nil { // nobody will load what was locked
			for _, a := range ask {
				if a.err == nil && a.found.mine {
					l.disown(a.shard, []string{a.f.key}, a.found.stored)
				}
			}
			return
		}
		var load, bare, drilled []loadItem
		var failing []*asking
		for _, a := range ask {
			switch l.next(a) {
			case finished:
				l.waited(a)
			case callLoader:
				l.waited(a)
				if l.remembers(a) {
					failing = append(failing, a)
					continue
				}
				to := &load
				switch { // the wait for a place of MaxLoaders, and the drill's end, are no matter of the others
				case a.drill != nil:
					to = &drilled
				case a.err != nil:
					to = &bare
				}
				if *to == nil {
					*to = make([]loadItem, 0, len(ask))
				}
				*to = append(*to, a.item())
			case awaitLock:
				waits.add(a)
			case askAgain:
				waits.again = append(waits.again, a)
			}
		}
		l.failAgain(failing)
		for _, items := range [][]loadItem{load, bare, drilled} {
			if len(items) > 0 {
				l.newLoad(l.who, l.p, items).start()
			}
		}
	}
}

// remembers reports whether what was locked failed to load a moment ago, so that its loader is not to be
// called: its flight holds that error then.
func (l leader) remembers(a *asking) bool {
	if a.err != nil || !a.found.mine || a.bad != "" || l.p.forced {
		return false
	}
	a.err = l.flights.remember(a.f)
	return a.err != nil
}

// failAgain gives back the locks of what failed a moment ago, and gives its callers the errors.
func (l leader) failAgain(asked []*asking) {
	if len(asked) == 0 {
		return
	}
	items := make([]loadItem, len(asked))
	for i, a := range asked {
		items[i] = loadItem{f: a.f, shard: a.shard, marker: a.found.stored}
	}
	l.giveUp(items, script.ReleaseFailed, func(i int) outcome { return outcome{err: asked[i].err} })
}

// awaitHolder waits until somebody else's lock has changed hands; false: the caller or the client
// has ended first.
func (l leader) awaitHolder(a *asking) bool {
	changed, leave, ok := l.near.Wait(a.f.key, a.reserved, nil)
	if !ok {
		return l.who.Err() == nil // it has changed while the answer was on its way
	}
	defer leave()
	timer := time.NewTimer(l.patience(a))
	defer timer.Stop()
	select {
	case <-changed:
		return true
	case <-timer.C:
		return true
	case <-l.who.Done():
		return false
	case <-l.lifecycle.ctx.Done():
		return false
	}
}

// patience is how long to wait for a push about a lock, by its ttl. Where nothing is pushed, it is
// the time until the next look.
func (l leader) patience(a *asking) time.Duration {
	const slack = 10 * time.Millisecond // Redis removes an expired key when it is asked for it
	ttl, polls := a.found.ttl, a.polls
	a.polls++
	end := min(max(ttl, 0), l.opt.LockTTL) + slack
	if ttl < 0 { // a marker that does not expire was not made by us; never wait for it for ever
		end = l.opt.LockTTL
	}
	if !a.reserved.Pushes() {
		return min(end, link.Jitter(min(time.Millisecond<<min(polls, 10), 50*time.Millisecond)))
	}
	return end
}

// heldLocks are the keys of a leadMulti that somebody else is loading.
type heldLocks struct {
	leader
	changed chan struct{} // gets a token when one of them changes; buffered, made with the first
	held    []heldLock
	again   []*asking // to be asked for at once
}

type heldLock struct {
	*asking
	changed <-chan struct{}
	leave   func()
	due     int64 // when to look again in any case, in link.Now's time
}

func (w *heldLocks) add(a *asking) {
	if w.changed == nil {
		w.changed = make(chan struct{}, 1)
	}
	changed, leave, ok := w.near.Wait(a.f.key, a.reserved, w.changed)
	if !ok {
		w.again = append(w.again, a)
		return
	}
	w.held = append(w.held, heldLock{asking: a, changed: changed, leave: leave, due: w.link.Now() + int64(w.patience(a))})
}

// ready waits until there is something to ask for again, and returns it; nil: nothing is held any
// more, or the caller or the client has ended.
func (w *heldLocks) ready() []*asking {
	found := w.again
	w.again = nil
	for len(found) == 0 && len(w.held) > 0 {
		due := int64(math.MaxInt64)
		for _, h := range w.held {
			due = min(due, h.due)
		}
		timer := time.NewTimer(time.Duration(due - w.link.Now()))
		select {
		case <-w.changed:
		case <-timer.C:
		case <-w.who.Done():
		case <-w.lifecycle.ctx.Done():
		}
		timer.Stop()
		if w.who.Err() != nil || w.lifecycle.ctx.Err() != nil {
			return nil
		}
		now := w.link.Now()
		w.held = slices.DeleteFunc(w.held, func(h heldLock) bool {
			select {
			case <-h.changed:
			default:
				if now < h.due {
					return false
				}
			}
			h.leave()
			found = append(found, h.asking)
			return true
		})
	}
	return found
}

func (w *heldLocks) leave() {
	for _, h := range w.held {
		h.leave()
	}
}
