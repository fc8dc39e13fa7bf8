package aside

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/near"
)

// Versions of a type. While pods of two versions of a service run beside each other, each finds what
// the other has stored. Were both to replace it, they would take turns, and load all the time. So the
// newer wins:
//
//	a view finds an older version    a miss: it loads, and replaces what is there
//	a view finds a newer version     a miss: it loads, and keeps that for itself, beside the newer value
//	                                 in memory. What ends the one ends the other
//
// A load beside a newer value is shared by all callers of the process until a change of the key is
// heard of, and so is what it leaves, however often the newer value is read meanwhile.
//
// A view without a version takes any.

// WithVersion says of which version the type of a view is: n, which must be positive and grow with
// each change of T that older code would misread. Values then have a header that says so. What an
// older version has stored, or a view without one, is a miss, and is replaced. What a newer one has
// stored is a miss, too, but stays: the view loads for itself, once for all callers of its process,
// and keeps that in memory, for ttl at most, until the key changes. So pods of two versions do not
// take turns, and a Del by either reaches both.
//
// A Set, SetMulti or Refresh replaces whatever is there, also what is newer. Views of one key that
// state no version read values of any, and their loads replace none that is there. Without local
// memory a view loads at each call while a newer version is there. Absences have no version.
func WithVersion(n int64) ViewOption {
	return viewOption(func(o *viewOptions) {
		if n < 1 {
			o.invalid = fmt.Errorf("%w: WithVersion is %d: must be positive; leave the option out for a type that has no versions", ErrInvalidArgument, n)
			return
		}
		o.version = n
	})
}

// ownFits reports whether what the view has loaded beside e is there, and is what a call needs that
// e is unfit for.
func (t *TypedClient[T]) ownFits(e *near.Entry, need *freshness.Need) bool {
	if e == nil || need.Proven || !isNewer(e.Meta(), t.version) {
		return false
	}
	now := t.c.link.Now()
	own, ok := e.DecodedBy(t.id).(*ownVersion)
	return ok && now < own.ends && (need.MaxAge == 0 || now-own.began <= int64(need.MaxAge)) && !(need.Bounded && e.Expired(now))
}

// ownOutcome is what the view has loaded beside e, if that fits, as an outcome; nil: it does not.
func (t *TypedClient[T]) ownOutcome(e *near.Entry, need *freshness.Need) *outcome {
	if !t.ownFits(e, need) {
		return nil
	}
	own, ok := e.DecodedBy(t.id).(*ownVersion)
	if !ok {
		return nil
	}
	out := &outcome{raw: own.raw, at: own.began, began: own.began, source: SourceMemory}
	if own.ends < math.MaxInt64 {
		out.ends = own.ends
	}
	return out
}

// ownLoad is a load of a view that has found newer versions. Its loader's results are kept beside
// them, if memory has them.
type ownLoad[T any] struct {
	loadCaller
	t   *TypedClient[T]
	ttl time.Duration
}

func (l *ownLoad[T]) inner() loadCaller { return l.loadCaller }

func (l *ownLoad[T]) load(ctx context.Context, keys []string, out []loaded) error {
	c := l.t.c
	began, gens := c.link.Now(), make([]uint64, len(keys))
	for i, key := range keys {
		gens[i] = c.near.Generation(key)
	}
	err := l.loadCaller.load(ctx, keys, out)
	if err != nil {
		return err
	}
	now := c.link.Now()
	for i, key := range keys {
		if out[i].found && out[i].err == nil {
			own := &ownVersion{raw: out[i].raw, began: began, ends: math.MaxInt64}
			if l.ttl < math.MaxInt64-time.Duration(now) {
				own.ends = now + int64(l.ttl)
			}
			c.near.KeepBeside(key, gens[i], &near.Decoded{By: l.t.id, Value: own}, len(own.raw), func(e *near.Entry) bool {
				return isNewer(e.Meta(), l.t.version) && (!e.Untracked() || e.At() <= began) // else it would outlast UntrackedTTL
			})
		}
	}
	return nil
}

// newerInMemory returns what memory has of a newer version, as far as a call could have it, and the
// keys of which it has none.
func (t *TypedClient[T]) newerInMemory(keys []string, ttl time.Duration, options *callOptions) (newer map[string]*near.Entry, others []string) {
	newer = make(map[string]*near.Entry)
	if t.version == 0 || ttl < leastTTL {
		return newer, keys
	}
	others = slices.DeleteFunc(keys, func(key string) bool {
		hit := t.allowed(t.c.near.LookupFor(key, ttl, &options.need))
		found := hit.Entry != nil && hit.Verdict != freshness.Unfit && !hit.Absent() && isNewer(hit.Meta(), t.version)
		if found {
			newer[strings.Clone(key)] = hit.Entry
		}
		return found
	})
	return newer, others
}

// loadOwn loads keys for a view that has found newer versions of them, once for all callers of this
// process that have; entries has them, as they were read, or nil. use is called for each key that has
// an outcome; p is of a call that has begun, and has the loader then that outcomes are compared with.
// To the Observer it is a call like any other (op): it asks again for what the one before could not
// read.
func (t *TypedClient[T]) loadOwn(ctx context.Context, op string, entries map[string]*near.Entry, p *plan, use func(key string, out *outcome) error) (failed map[string]error) {
	e := Event{Kind: EventGet, Op: op, View: p.options.view, Keys: len(entries)}
	for e.Key = range entries {
		break
	}
	seen, ctx := t.c.watch(ctx, e)
	p.seen = seen
	failed = t.loadBeside(ctx, entries, p, func(key string, out *outcome) error {
		seen.found(out.source, false)
		return use(key, out)
	})
	err := batchError(failed)
	if op == "get" {
		err = failed[e.Key]
	}
	seen.end(err)
	return failed
}

// loadBeside is loadOwn for a call that the Observer knows of.
func (t *TypedClient[T]) loadBeside(ctx context.Context, entries map[string]*near.Entry, p *plan, use func(key string, out *outcome) error) (failed map[string]error) {
	c := t.c
	p.call = &ownLoad[T]{loadCaller: p.call, t: t, ttl: p.ttl}
	failed = make(map[string]error)
	who := enterCall(ctx)
	defer who.leave()
	if err := who.Err(); err != nil { // as in find
		for key := range entries {
			failed[key] = err
		}
		return failed
	}
	var tickets []ticket
	var load []loadItem
	for key := range entries {
		tk, err := c.older.join(who, key, c.near.Generation(key), nil)
		if err != nil {
			failed[key] = err
			continue
		}
		if own := t.ownOutcome(cmp.Or(c.near.Lookup(key), entries[key]), &p.options.need); own != nil && tk.leader { // another load has ended since the newer value was found
			c.older.complete(tk.f, outcome{again: true})
			if err := use(key, own); err != nil {
				failed[key] = err
			}
			continue
		}
		tickets = append(tickets, tk)
		if tk.leader {
			load = append(load, loadItem{f: tk.f, free: true}) // shared until a change is heard of; for StaleLease at most where none would be
		} else {
			c.counted.shared.Add(1)
		}
	}
	if len(load) > 0 {
		c.newLoad(who, p, load).start()
	}
	r := refresher{c}
	var late []string                     // what others have begun to load too early for this call
	again := make(map[string]*near.Entry) // to be loaded by another load
	since := p.seen.now()
	for i := range tickets {
		tk := &tickets[i]
		out, err := tk.wait(who)
		if p.seen != nil && !tk.leader {
			p.seen.shared(tk.f.observedLoad(), tk.f.key, since)
			since = p.seen.now() // as in findMulti
		}
		switch {
		case err != nil:
		case out.again && !who.inside():
			err = errNoValues
		case out.again: // all that waited for it had left before this has joined
			again[tk.f.key] = entries[tk.f.key]
		case out.err != nil && !isEncodeError(out.err):
			err = out.err
		case r.judge(tk, &out, p) == freshness.Unfit:
			late = append(late, tk.f.key)
		default:
			err = use(tk.f.key, &out)
		}
		if err != nil {
			failed[tk.f.key] = err
		}
	}
	d := demanded{make(map[string]*outcome), failed}
	r.loadAlone(who, late, p, d)
	for key, out := range d.got {
		if err := use(key, out); err != nil {
			failed[key] = err
		}
	}
	if len(again) > 0 {
		p.call = unwrapped(p.call).another()
		maps.Copy(failed, t.loadBeside(ctx, again, p, use))
	}
	return failed
}
