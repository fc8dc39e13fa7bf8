package aside

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Loader loads the value of a key from where it really lives. It returns ErrNotFound, wrapped or not, when there is none.
// It may ask the Client for other keys, with its context; what it is loading itself, or what waits for it, is ErrRecursiveLoad.
//
// A loader runs in another goroutine than the call that started it, and may outlive that call: when its caller leaves, others may still wait
// for the load. So it must not write to its caller's variables, nor use what is the request's alone (a pooled *gin.Context or
// *fasthttp.RequestCtx, a transaction, a buffer). Copy what it needs before the call; what it finds, it returns.
//
// Its context ends with LoadTimeout, or when nobody waits any more, and not with its caller's. Its values are those of a caller that waits for the load and
// is still inside its call: the first one's; when that leaves, those of one that stays; none once the load is over. A caller's context is never
// asked after its call has returned, and a call does not return while its context's Value is being asked. So two calls of Value may be answered by
// different callers, and what the result depends on (a tenant, a language) belongs into the key. Where a loader has asked for values and no caller
// was there any more, its result is given to nobody.
type Loader[T any] func(ctx context.Context, key string) (T, error)

// BatchLoader loads many keys at once. Goroutine, context and values are as for [Loader]. A key that it leaves out is not found; keys that were not asked for are
// ignored, but where it returns such keys only, which is an error.
// When it returns an error the map is ignored, and nothing is concluded about any key; ErrNotFound means that all are absent.
type BatchLoader[T any] func(ctx context.Context, keys []string) (map[string]T, error)

// Get returns the value of key: from memory, from Redis, or from load, whose value is then stored for ttl. At most one
// process loads a key at a time, and only once for all its callers. load runs in another goroutine and may outlive the call: see [Loader].
//
// ttl must be a millisecond at least. It is rounded up to whole milliseconds, and applies when this call's load is stored: what is already
// stored keeps the ttl that it has. Any bytes are fine as key. The error is ErrNotFound if there is no such value (who called the loader, or waited for it, gets the error in
// which the loader has wrapped it), what load returned, or ctx's. What load returned, also an error that wraps no ErrNotFound, is for all who wait for this
// load, and for who asks within Options.ErrorTTL (50 ms) after it, so that a failing database is not asked by each of them in turn: WithErrorTTL(-1)
// for a loop that tries again at once. A value that was loaded is returned even if storing it failed, and before it is stored: Redis gets it meanwhile, and
// Close waits for that (Options.StoreFirst changes it).
func (c *Client) Get(ctx context.Context, ttl time.Duration, key string, load Loader[string], opts ...CallOption) (string, error) {
	if e := c.near.Lookup(key); e != nil && ttl >= leastTTL && load != nil {
		c.hit(key)
		if e.Absent() {
			return "", ErrNotFound
		}
		return e.Raw(), nil
	}
	if load == nil {
		return "", errNilLoader
	}
	out, err := c.obtain(ctx, key, "", &plan{ttl: ttl, opts: opts, call: &stringLoad{load}})
	if err != nil {
		return "", err
	}
	if out.absent {
		return "", out.notFound()
	}
	return out.raw, nil
}

// stringLoad is a loader of strings as loadCaller.
type stringLoad struct{ user Loader[string] }

func (l *stringLoad) load(ctx context.Context, keys []string, out []loaded) error {
	value, err := l.user(ctx, keys[0])
	out[0] = loaded{raw: strings.Clone(value), found: true}
	return err
}

var errNilLoader = fmt.Errorf("%w: the loader is nil: pass the function that loads the value, or use Peek", ErrInvalidArgument)

// obtain is the life of a Get behind memory.
//
//	join the key's flight; if there is none, lead one:
//	    if a write of the key waits to be replayed, have it replayed
//	    ask Redis, read-or-lock
//	        a value              → memory, done
//	        a lock of our own    → call the loader, fill, done
//	        somebody else's lock → wait until Redis says that the key has changed, or the lock has run out; ask again
//	        no answer            → once more, if Redis still counts as well; then what the fallback store has; else call the loader without a lock, done
//	wait for the flight, or for ctx
//
// bad is the fingerprint of what the key was found to hold and could not be decoded, else "".
func (c *Client) obtain(ctx context.Context, key, bad string, p *plan) (outcome, error) {
	var err error
	if p.options, err = c.check(p.ttl, p.opts); err == nil {
		err = c.checkKey(key)
	}
	if err != nil {
		return outcome{}, err
	}
	key = strings.Clone(key) // flights, loads and what rueidis has still to send outlive the call, whose key may be a buffer's that is written again
	who := enterCall(ctx)
	defer who.leave()
	for {
		if c.lifecycle.ctx.Err() != nil {
			return outcome{}, ErrClosed
		}
		if err := who.Err(); err != nil {
			return outcome{}, err
		}
		t, err := c.flights.join(who, key, c.near.Generation(key))
		if err != nil {
			return outcome{}, err
		}
		if t.leader {
			leader{c, who, p.room}.lead(t.f, bad, p)
		} else {
			c.shares(key)
		}
		out, err := t.wait(who)
		switch {
		case err != nil:
			return outcome{}, err
		case out.again && !who.inside():
			return outcome{}, errNoValues
		case out.again:
		case out.err != nil:
			return out, out.err
		case t.serves(&out):
			return out, nil
		}
	}
}
