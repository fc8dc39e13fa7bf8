package aside

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// Refresh loads key now and replaces what is there, be it fresh, stale, an absence or nothing. It
// waits for its loader, which is called after Refresh was, and returns what that has loaded; other
// callers are served what is there meanwhile. At most one process refreshes a key at a time: Refresh
// waits for a load or refresh of somebody else, and then loads all the same, as that may have read
// the source before.
//
// A Set, Del or Expire of the key during the load wins: Refresh then returns what it has loaded, and
// does not store it. Where the loader returns ErrNotFound the value is replaced by the absence, or
// removed if absences are not cached; an error leaves it as it is, and, as after any failed refresh,
// holds off those of stale values for a back-off; not the next Refresh.
//
// While Redis is away there is no lock: the value is loaded, and kept in this process as that of a
// Get is. If a Set or Del of the key waits to be replayed then, the error is ErrRedisAway and nothing
// is loaded, because that write counts as newer. Redis's own error is returned where it refuses the
// lock. ttl, options and other errors are as for Get; WithoutLoad is ErrInvalidArgument.
func (c *Client) Refresh(ctx context.Context, ttl time.Duration, key string, load Loader[string], opts ...CallOption) (string, error) {
	if load == nil {
		return "", errNilLoader
	}
	out, err := refresher{c}.force(ctx, key, &plan{ttl: ttl, opts: opts, call: &stringLoad{load}})
	switch {
	case err != nil:
		return "", err
	case out.absent:
		return "", out.notFound()
	}
	return out.raw, nil
}

// Refresh is [Client.Refresh] over T.
func (t *TypedClient[T]) Refresh(ctx context.Context, ttl time.Duration, key string, load Loader[T], opts ...CallOption) (none T, _ error) {
	switch {
	case t.c == nil:
		return none, errNilClient
	case load == nil:
		return none, errNilLoader
	case t.wrong != nil:
		return none, t.wrong
	}
	key = t.full(key)
	call := &typedLoad[T]{plan: plan{ttl: ttl, defaults: t.calls, opts: opts, room: t.room}, t: t, user: load}
	call.plan.call = call
	out, err := refresher{t.c}.force(ctx, key, &call.plan)
	switch {
	case err != nil && !isEncodeError(err):
		return none, err
	case out.absent:
		return none, out.notFound()
	case err != nil:
		return ownValue[T](call.plan.call, key), nil //nolint:nilerr // it cannot be encoded; its caller has it all the same
	}
	value, err := t.decode(key, out.raw, nil)
	if err != nil {
		t.warn(notReadBack, key, err)
		return ownValue[T](call.plan.call, key), nil
	}
	return value, nil
}

// forced is the loader of a Refresh, which must be called: what others have loaded will not do.
type forced struct {
	loadCaller
	called atomic.Bool // since the latest attempt began
}

func (l *forced) load(ctx context.Context, keys []string, out []loaded) error {
	l.called.Store(true)
	return l.loadCaller.load(ctx, keys, out)
}

func (l *forced) inner() loadCaller { return l.loadCaller }

func (l *forced) another() loadCaller { return &forced{loadCaller: l.loadCaller.another()} }

// force is the life of a Refresh.
//
//	the key holds a value     take its refresh lock, load, and replace what is there
//	somebody refreshes it     wait until that may be over; again
//	it holds nothing          load as for a Get
//	somebody is loading it    so does this, which waits for the lock; again, unless this has loaded it then
func (r refresher) force(ctx context.Context, key string, p *plan) (outcome, error) {
	var err error
	if p.options, err = r.check(p.ttl, p.defaults, p.opts); err == nil {
		err = r.checkKey(key)
	}
	if err == nil && p.options.withoutLoad {
		err = fmt.Errorf("%w: Refresh was given WithoutLoad, and does nothing but load: leave it out, or use Get or Peek", ErrInvalidArgument)
	}
	if err != nil {
		return outcome{}, err
	}
	key = strings.Clone(key)                                                // see obtain
	p.call, p.undrilled, p.forced = &forced{loadCaller: p.call}, true, true // what it loads replaces what is there
	who := enterCall(ctx)
	defer who.leave()
	lost := false
	for polls := 0; ; polls++ {
		switch {
		case r.lifecycle.ctx.Err() != nil:
			return outcome{}, ErrClosed
		case who.Err() != nil:
			return outcome{}, who.Err()
		}
		if err := who.recursion(r.Client, key); err != nil {
			return outcome{}, err
		}
		items, left, err := r.lockAnyway(who, key, p)
		switch {
		case err != nil && who.Err() != nil:
			return outcome{}, who.Err()
		case err != nil:
			return outcome{}, fmt.Errorf("aside: cannot refresh %s: %w", quoted(key), reason.Of(err))
		case len(items) > 0:
			l := r.newLoad(who, p, items)
			l.special = refreshEnd{}
			r.counted.refreshes.Add(1)
			if lost {
				items[0].f.insist()
			}
			l.start()
			t := ticket{f: items[0].f, of: &r.flights, leader: true}
			out, err := t.wait(who)
			switch {
			case err != nil:
				return outcome{}, err
			case !out.again:
				return out, out.err
			case !who.inside():
				return outcome{}, errNoValues
			}
			lost = lost || out.lost
			p.call = p.call.another()
		case left > 0:
			if err := r.lifecycle.pause(who, min(left, again(polls))); err != nil {
				return outcome{}, err
			}
		default:
			p.call.(*forced).called.Store(false)
			r.flights.dropError(key)
			out, err := reader(r).obtain(ctx, key, "", p)
			call := p.call.(*forced)
			if err == nil && call.called.Load() && out.own(call) || err != nil && (call.called.Load() || p.led) || p.ended(err) {
				return out, err
			}
			if err := r.lifecycle.pause(who, again(polls)); err != nil {
				return outcome{}, err
			}
		}
	}
}

// again is how long a Refresh rests before it starts over for the nth time, counted from 0.
func again(n int) time.Duration {
	return link.Jitter(min(time.Millisecond<<min(n, 10), 50*time.Millisecond))
}

// ended reports whether an error is that of a call rather than of another caller's load.
func (p *plan) ended(err error) bool {
	return errors.Is(err, ErrClosed) || errors.Is(err, ErrRecursiveLoad) || errors.Is(err, errNoValues)
}

// lockAnyway takes the refresh lock of key, whose value may be fresh, and returns what is to be
// loaded; or for how long somebody else has the lock. Neither: there is no value to be replaced.
func (r refresher) lockAnyway(who *caller, key string, p *plan) (load []loadItem, left time.Duration, err error) {
	newItem := func() *refreshItem {
		f := &flight{key: key, stripe: r.flights.stripe(key), waiting: 1}
		f.callers = append(f.first[:0], who)
		return &refreshItem{f: f, gen: r.near.Generation(key), lock: stamp.RefreshLock(key), old: r.oldOf(key, p), loads: true}
	}
	for range 2 { // one late answer of a server that is well is no outage
		sh := r.link.Shard(key)
		if r.unsettled(who, key) {
			return nil, 0, errPending
		}
		item := newItem()
		if !sh.Asks() {
			return []loadItem{{f: item.f, free: true, refresh: item, old: item.old}}, 0, nil
		}
		item.marker = r.newMarker(sh)
		b := &link.Batch{Shard: sh, Call: link.Call{
			Script: script.Refresh, Keys: []string{key, item.lock}, Stamped: true, Args: []string{item.marker, r.lockTTL, "", wire.LockPrefix},
		}}
		r.link.Run(who, sh, &b.Call)
		var mine bool
		if mine, err = item.locked(b); err != nil {
			if !link.Unanswered(err) {
				break
			}
			r.disown(sh, []string{item.lock}, item.marker)
			continue
		}
		if mine {
			return []loadItem{{f: item.f, shard: sh, marker: item.marker, refresh: item, old: item.old}}, 0, nil
		}
		if item.busy {
			return nil, item.rest, nil
		}
		return nil, 0, nil
	}
	if sh := r.link.Shard(key); !sh.Asks() && who.Err() == nil {
		item := newItem()
		return []loadItem{{f: item.f, free: true, refresh: item, old: item.old}}, 0, nil
	}
	if link.Refused(err) {
		err = fmt.Errorf("refused by Redis: %w", err)
	} else if !errors.Is(err, ErrRedisAway) {
		err = fmt.Errorf("%w: %w", ErrRedisAway, reason.Of(err))
	}
	return nil, 0, err
}
