package aside

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/near"
)

// Loader loads the value of a key from where it really lives. It returns ErrNotFound, wrapped or
// not, when there is none. With its context it may ask the Client for other keys. If it asks for
// the key that it is loading, or for one whose loader waits for it, that call returns
// ErrRecursiveLoad.
//
// A loader runs in another goroutine than the call that started it, and may outlive that call: when
// its caller leaves, others may still wait for the load. So it must not write to its caller's
// variables, nor use what belongs to one request (a pooled *gin.Context or *fasthttp.RequestCtx, a
// transaction, a buffer). Copy what it needs before the call, and return what it finds.
//
// Its context ends with LoadTimeout, when nobody waits for the load any more, or, with the cause
// ErrLockLost, when the lock of the load is found to be lost; it does not end with its caller's
// context. Its values come from a caller that waits for the load and is still
// inside its call: from the first one; when that leaves, from one that stays; from none once the
// load is over. A caller's context is never used after its call has returned, and a call does not
// return while Value of its context is running. So different callers may answer two calls of Value:
// whatever the result depends on (a tenant, a language) belongs in the key. If a loader asks for a
// value when no caller is left, its result is given to nobody.
type Loader[T any] func(ctx context.Context, key string) (T, error)

// BatchLoader loads many keys at once. Goroutine, context and values are as for [Loader]. A key
// that is missing from its map is not found. Keys that were not asked for are ignored; if the map
// has only such keys, that is an error. When it returns an error, the map is ignored and nothing is
// concluded about any key, except that ErrNotFound means that all are absent.
type BatchLoader[T any] func(ctx context.Context, keys []string) (map[string]T, error)

// Get returns the value of key: from memory, from Redis, or from load, whose value is then stored
// for ttl. At most one process loads a key at a time, with one loader call for all its callers.
// load runs in another goroutine and may outlive the call: see [Loader].
//
// ttl must be at least a millisecond and is rounded up to whole milliseconds. It applies when this
// call's load is stored; a value that is already stored keeps its ttl. Any bytes are fine as key.
//
// The error is ErrNotFound if there is no value, load's own error, or ctx's. Callers that wait for
// a load get its error as load returned it, also one that wraps ErrNotFound. An error also answers
// callers that ask within Options.ErrorTTL (50 ms) after it, so that a failing database is not
// asked by each of them in turn; use WithErrorTTL(-1) in a loop that retries at once.
//
// Get returns a loaded value before it is stored, and even if storing it fails. It is stored in the
// background, and Close waits for that; Options.StoreFirst makes Get wait.
func (c *Client) Get(ctx context.Context, ttl time.Duration, key string, load Loader[string], opts ...CallOption) (string, error) {
	return reader{c}.fetch(ctx, ttl, key, load, nil, opts...)
}

// Fetch is [Client.Get] that also tells where the value is from, how old it is and whether it is
// stale. With ErrNotFound it tells the same of the absence.
func (c *Client) Fetch(ctx context.Context, ttl time.Duration, key string, load Loader[string], opts ...CallOption) (Result[string], error) {
	var how provenance
	value, err := reader{c}.fetch(ctx, ttl, key, load, &how, opts...)
	return resultOf(value, &how), err
}

// fetch is Get, and Fetch where how is not nil.
func (c reader) fetch(ctx context.Context, ttl time.Duration, key string, load Loader[string], how *provenance, opts ...CallOption) (string, error) {
	waited := false
	if hit := c.near.LookupFor(key, ttl, &anyValue); hit.Entry != nil && ttl >= leastTTL && load != nil {
		serves := len(opts) == 0 && hit.Verdict == freshness.Good
		if !serves {
			var err error
			if serves, waited, err = c.takes(ctx, ttl, key, load, &hit, opts...); err != nil {
				return "", err
			}
		}
		if serves {
			c.hit(ctx, key, "")
			if how != nil {
				how.waited = waited
				asked{c.Client, key, 0}.inMemory(how, &hit)
			}
			if hit.Absent() {
				return "", ErrNotFound
			}
			return hit.Raw(), nil
		}
	}
	if load == nil {
		return "", errNilLoader
	}
	p := &plan{ttl: ttl, opts: opts, call: &stringLoad{load}, waited: waited}
	out, err := c.obtain(ctx, key, "", p)
	if err != nil {
		return "", err
	}
	if how != nil {
		asked{c.Client, key, p.options.grace}.outcome(how, &out)
	}
	if out.absent {
		return "", out.notFound()
	}
	return out.raw, nil
}

// anyValue is what a call without options needs.
var anyValue freshness.Need

// takes reports whether a call may have what memory has for its key, and whether it has waited for a
// refresh of that.
func (c reader) takes(ctx context.Context, ttl time.Duration, key string, load Loader[string], hit *near.Hit, opts ...CallOption) (serves, waited bool, _ error) {
	options, err := c.callOptions(nil, opts)
	if err != nil {
		return false, false, err
	}
	r := refresher(c)
	if len(opts) > 0 {
		hit.Judge(c.link.Now(), ttl, &options.need)
	}
	nothing, serves := r.leaves(key, hit.Verdict, options)
	if nothing {
		return serves, false, nil
	}
	p := &plan{ttl: ttl, opts: opts, call: &stringLoad{load}}
	serves, err = r.hit(ctx, key, hit.Verdict, p)
	if p.waited {
		hit.Now = c.link.Now()
	}
	return serves, p.waited, err
}

// stringLoad is a loader of strings as loadCaller.
type stringLoad struct{ user Loader[string] }

func (l *stringLoad) load(ctx context.Context, keys []string, out []loaded) error {
	value, err := l.user(ctx, keys[0])
	out[0] = loaded{raw: strings.Clone(value), found: true}
	return err
}

func (l *stringLoad) readOld(_ string, was *old) (string, error) { return was.raw, nil }

func (l *stringLoad) another() loadCaller { return l }

var errNilLoader = fmt.Errorf("%w: the loader is nil: pass the function that loads the value, or use Peek", ErrInvalidArgument)

// obtain is the life of a Get behind memory.
//
//	join the key's flight; if there is none, lead one:
//	    if a write of the key waits to be replayed, have it replayed
//	    ask Redis, read-or-lock
//	        a value              → memory, done
//	        a lock of our own    → call the loader, fill, done
//	        somebody else's lock → wait until the key changes or the lock runs out; ask again
//	        no answer            → once more, if Redis still counts as healthy; then the fallback store;
//	                               else call the loader without a lock, done
//	wait for the flight, or for ctx
//
// bad is the fingerprint of what the key was found to hold and could not be decoded, else "".
func (c reader) obtain(ctx context.Context, key, bad string, p *plan) (outcome, error) {
	var err error
	if p.options, err = c.check(p.ttl, p.defaults, p.opts); err == nil {
		err = c.checkKey(key)
	}
	if err != nil {
		return outcome{}, err
	}
	key = strings.Clone(key) // flights, loads and what rueidis has still to send outlive the call, whose key may be a buffer's that is written again
	if p.options.withoutLoad {
		return c.obtainKept(ctx, key, bad, p)
	}
	if p.options.need.Proven {
		c.flights.detach(key) // what others have asked for is older than the call
	}
	seen, ctx := c.watch(ctx, Event{Kind: EventGet, Op: "get", View: p.options.view, Key: key, Keys: 1})
	p.seen = seen
	out, err := c.find(ctx, key, bad, p)
	if seen != nil {
		seen.end(toldOf(&out, err))
	}
	return out, err
}

// notFound is what a caller gets for an absence: what the loader has returned, which may wrap an
// error of the caller's domain.
func (o *outcome) notFound() error { return cmp.Or(o.missing, ErrNotFound) }

// toldOf is the error of a reading call that the Observer is told.
func toldOf(out *outcome, err error) error {
	if err == nil && out.absent {
		return out.notFound()
	}
	return err
}

// find is obtain for what is in order.
func (c reader) find(ctx context.Context, key, bad string, p *plan) (outcome, error) {
	who := enterCall(ctx)
	defer who.leave()
	for lost := false; ; {
		if c.lifecycle.ctx.Err() != nil {
			return outcome{}, ErrClosed
		}
		if err := who.Err(); err != nil {
			return outcome{}, err
		}
		t, err := c.flights.join(who, key, c.near.Generation(key), nil)
		if err != nil {
			return outcome{}, err
		}
		if lost {
			t.f.insist()
		}
		since := p.seen.now()
		if p.led = t.leader; t.leader {
			if err := (leader{c.Client, who, p}).lead(t.f, bad); err != nil {
				return outcome{}, err
			}
		} else {
			c.counted.shared.Add(1)
		}
		out, err := t.wait(who)
		out.waited = out.waited || p.waited || !t.leader && out.by != nil
		if p.seen != nil && !t.leader {
			p.seen.shared(t.f.observedLoad(), key, since)
		}
		switch {
		case err != nil:
			return outcome{}, err
		case out.again && !who.inside():
			return outcome{}, errNoValues
		case out.again:
			lost = lost || out.lost
			p.call = p.call.another() // a loader that does not heed its end may still return something
		case out.err != nil:
			return out, out.err
		case t.serves(&out) && grouper(c).mayHave(who, &t, &out, p):
			var again bool
			if out, again, err = refresher(c).settle(who, &t, out, p); err != nil || !again {
				p.seen.found(out.source, p.seen != nil && isStale(&out, out.judged, p.options.grace))
				return out, err
			}
		}
	}
}
