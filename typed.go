package aside

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
)

// Get is [Client.Get] over T.
func (t *TypedClient[T]) Get(ctx context.Context, ttl time.Duration, key string, load Loader[T], opts ...CallOption) (T, error) {
	if !t.ready || ttl < leastTTL || load == nil || len(opts) > 0 {
		return t.fetch(ctx, ttl, key, load, nil, opts...)
	}
	hit := t.lookup(key, ttl)
	kept, absent := t.atHand(&hit)
	switch {
	case absent:
		t.hitShort(ctx, key)
		var none T
		return none, ErrNotFound
	case kept == nil:
	case t.hits.asIs: // here, as each function that returns a T copies it once more
		t.hitShort(ctx, key)
		return *kept, nil
	default:
		if value, ok := t.given(kept); ok {
			t.hitShort(ctx, key)
			return value, nil
		}
	}
	return t.get(ctx, ttl, inMemory{t.full(key), hit}, load, nil)
}

// Fetch is [Client.Fetch] over T.
func (t *TypedClient[T]) Fetch(ctx context.Context, ttl time.Duration, key string, load Loader[T], opts ...CallOption) (Result[T], error) {
	var how provenance
	value, err := t.fetch(ctx, ttl, key, load, &how, opts...)
	return resultOf(value, &how), err
}

// fetch is Get, and Fetch where how is not nil.
func (t *TypedClient[T]) fetch(ctx context.Context, ttl time.Duration, key string, load Loader[T], how *provenance, opts ...CallOption) (T, error) {
	if t.c == nil {
		var none T
		return none, errNilClient
	}
	key = t.full(key)
	return t.get(ctx, ttl, inMemory{key, t.inMemory(key, ttl)}, load, how, opts...)
}

// inMemory is a key as Redis has it, and what memory has for it; a Hit without an Entry: nothing.
type inMemory struct {
	key string
	hit near.Hit
}

// get is fetch once memory was asked.
func (t *TypedClient[T]) get(ctx context.Context, ttl time.Duration, at inMemory, load Loader[T], how *provenance, opts ...CallOption) (T, error) {
	key, hit, waited := at.key, at.hit, false
	e := hit.Entry
	if e != nil && ttl >= leastTTL && load != nil && (hit.Verdict != freshness.Good || len(opts) > 0) {
		var err error
		if e, waited, err = t.take(ctx, ttl, key, load, &hit, opts...); err != nil {
			var none T
			return none, err
		}
	}
	if e != nil && ttl >= leastTTL && load != nil {
		if t.audits != nil && hit.Verdict == freshness.Good && t.audits.Draws() {
			t.auditHit(ttl, key, e, &typedLoad[T]{t: t, user: load})
		}
		if how != nil {
			how.waited = waited
			asked{t.c, key, 0}.inMemory(how, &hit)
		}
		if e.Absent() {
			t.hit(ctx, key)
			var none T
			return none, ErrNotFound
		}
		if t.hits.asIs {
			if value := t.decodedIn(e); value != nil {
				t.hit(ctx, key)
				return *value, nil
			}
		}
		value, err := t.decode(key, e.Raw(), e)
		if err == nil {
			t.hit(ctx, key)
			return value, nil
		}
		if t.wrong == nil {
			t.warn(notDecoded, key, err)
		}
		if t.wrong == nil && isNewer(e.Meta(), t.version) {
			return t.getBeside(ctx, key, e, plan{ttl: ttl, defaults: t.calls, opts: opts, call: &typedLoad[T]{t: t, user: load}, room: t.room, waited: waited}, how)
		}
	}
	return t.obtain(ctx, key, load, how, plan{ttl: ttl, defaults: t.calls, opts: opts, room: t.room, waited: waited})
}

// take returns what memory has for the key of a Get, if the call may have it; nil: it needs more, or
// that has changed while it waited for the refresh.
func (t *TypedClient[T]) take(ctx context.Context, ttl time.Duration, key string, load Loader[T], hit *near.Hit, opts ...CallOption) (_ *near.Entry, waited bool, _ error) {
	if t.wrong != nil {
		return nil, false, t.wrong
	}
	options, err := t.c.callOptions(t.calls, opts)
	if err != nil {
		return nil, false, err
	}
	if len(opts) > 0 {
		hit.Judge(t.c.link.Now(), ttl, &options.need)
	}
	if hit.Verdict == freshness.Unfit && t.ownFits(hit.Entry, &options.need) {
		hit.Verdict = freshness.Good
	}
	r := refresher{t.c}
	nothing, serves := r.leaves(key, hit.Verdict, options)
	if !nothing {
		call := &typedLoad[T]{plan: plan{ttl: ttl, defaults: t.calls, opts: opts, room: t.room}, t: t, user: load}
		call.plan.call = call
		serves, err = r.hit(ctx, key, hit.Verdict, &call.plan)
		if waited = call.plan.waited; waited {
			hit.Now = t.c.link.Now()
		}
	}
	if !serves {
		return nil, waited, err
	}
	return hit.Entry, waited, nil
}

// obtain is fetch behind memory. p has no loader yet.
func (t *TypedClient[T]) obtain(ctx context.Context, key string, load Loader[T], how *provenance, p plan) (none T, _ error) {
	switch {
	case load == nil:
		return none, errNilLoader
	case t.wrong != nil:
		return none, t.wrong
	}
	bad := ""
	for range undecodableRounds {
		call := &typedLoad[T]{plan: p, t: t, user: load}
		call.plan.call = call
		out, err := reader{t.c}.obtain(ctx, key, bad, &call.plan)
		own := out.own(call.plan.call)
		if err != nil && !(own && isEncodeError(err)) {
			return none, err
		}
		if how != nil {
			asked{t.c, key, call.options.grace}.outcome(how, &out)
		}
		switch {
		case out.absent:
			return none, out.notFound()
		case err != nil:
			return ownValue[T](out.by, key), nil //nolint:nilerr // it cannot be encoded; this caller has it all the same
		}
		if !own {
			switch t.versionOf(out.meta) {
			case newerVersion:
				return t.getOwn(ctx, map[string]*near.Entry{key: out.entry}, &call.plan, how)
			case olderVersion:
				bad = fingerprint(out.stored())
				continue
			}
		}
		value, err := t.decode(key, out.raw, out.entry)
		if err == nil {
			return value, nil
		}
		if own {
			t.warn(notReadBack, key, err)
			return ownValue[T](out.by, key), nil // nobody would read the next one either
		}
		t.warn(notDecoded, key, err)
		bad = fingerprint(out.stored())
	}
	// Whoever fills this key writes what we cannot read: another type shares it.
	began := t.c.link.Now()
	value, err := alone(ctx, t.c, t.calls, p.opts, func(ctx context.Context) (none T, _ error) {
		value, err := load(ctx, t.short(key))
		switch {
		case err != nil:
			return none, err
		case t.isNil(&value):
			return none, ErrNotFound
		}
		return t.copied(value), nil
	})
	if how != nil {
		asked{t.c, key, 0}.alone(how, began)
	}
	return value, err
}

// getBeside is a Get of a key of which memory has a newer version, e.
func (t *TypedClient[T]) getBeside(ctx context.Context, key string, e *near.Entry, p plan, how *provenance) (none T, err error) {
	if p.options, err = t.c.check(p.ttl, p.defaults, p.opts); err != nil {
		return none, err
	}
	return t.getOwn(ctx, map[string]*near.Entry{strings.Clone(key): e}, &p, how)
}

// getOwn is the rest of a Get that has found a newer version; entries has its key.
func (t *TypedClient[T]) getOwn(ctx context.Context, entries map[string]*near.Entry, p *plan, how *provenance) (value T, err error) {
	if p.options.withoutLoad {
		return value, ErrNotCached
	}
	failed := t.loadOwn(ctx, "get", entries, p, func(key string, out *outcome) (err error) {
		if how != nil {
			asked{t.c, key, 0}.outcome(how, out)
		}
		switch {
		case out.absent:
			return out.notFound()
		case out.err != nil && out.own(p.call):
			value = ownValue[T](out.by, key)
			return nil
		case out.err != nil:
			return out.err
		}
		value, err = t.decodeAnew(key, out.raw)
		return err
	})
	for _, err = range failed {
		break
	}
	return value, err
}

// typedLoad is a loader of T as loadCaller.
type typedLoad[T any] struct {
	plan
	t     *TypedClient[T]
	user  Loader[T]
	value atomic.Pointer[T] // what the loader returned, to be read once the load has an outcome
}

// ownValue returns what by's loader has returned for key: where it cannot be encoded, or read back, its
// own caller has it all the same.
func ownValue[T any](by loadCaller, key string) T {
	value, _ := heldValue[T](by, key)
	return value
}

// heldValue is ownValue, and reports whether by has it: a batch keeps no value that can be read back for certain.
func heldValue[T any](by loadCaller, key string) (value T, ok bool) {
	switch l := unwrapped(by).(type) {
	case *typedLoad[T]:
		return *l.value.Load(), true
	case *typedBatchLoad[T]:
		return l.value(key)
	}
	return value, false
}

func (l *typedLoad[T]) load(ctx context.Context, keys []string, out []loaded) error {
	value, err := l.user(ctx, l.t.short(keys[0]))
	if err != nil {
		return err
	}
	if l.t.isNil(&value) {
		return ErrNotFound
	}
	out[0] = l.t.encode(keys[0], value)
	l.value.Store(&value)
	return nil
}

func (l *typedLoad[T]) readOld(key string, was *old) (T, error) {
	return l.t.decode(key, was.raw, was.entry)
}

func (l *typedLoad[T]) another() loadCaller { return &typedLoad[T]{t: l.t, user: l.user} }

// undecodableRounds is how often a call tries to replace what it cannot read before it leaves the
// cache alone.
const undecodableRounds = 3

// Peek is [Client.Peek] over T. A value that cannot be decoded counts as none.
func (t *TypedClient[T]) Peek(ctx context.Context, key string) (none T, _ bool, _ error) {
	switch {
	case t.c == nil:
		return none, false, errNilClient
	case t.wrong != nil:
		return none, false, t.wrong
	}
	key = t.full(key)
	found, e, ok, err := t.c.look(ctx, key, "peek", t.viewName())
	if err != nil || !ok || t.clears() != nil && !found.meta.Of(t.clears()) || found.gone(t.grace) || e == nil && t.versionOf(found.meta) != itsVersion {
		return none, false, err
	}
	value, err := t.decode(key, found.Value, e)
	if err != nil {
		t.warn(notDecoded, key, err)
	}
	return value, err == nil, nil // decode has counted it: for Peek there is no value then
}

// Set is [Client.Set] over T. A value that cannot be encoded, or is a nil pointer or interface, is
// an error, and nothing is written.
func (t *TypedClient[T]) Set(ctx context.Context, ttl time.Duration, key string, value T, opts ...CallOption) error {
	switch {
	case t.c == nil:
		return errNilClient
	case t.wrong != nil:
		return t.wrong
	}
	key = t.full(key)
	raw, err := t.encodeSet(key, value)
	if err != nil {
		return err
	}
	ttl, err = t.withGrace(ttl)
	if err != nil {
		return err
	}
	options := t.calls
	if len(opts) > 0 {
		changed, err := t.c.callOptions(t.calls, opts)
		if err != nil {
			return err
		}
		options = changed.with(t.grace)
	}
	return writer{t.c}.set(ctx, options, ttl, key, raw)
}

// encodeSet encodes a value that is to be set.
func (t *TypedClient[T]) encodeSet(key string, value T) (string, error) {
	if t.isNil(&value) {
		return "", fmt.Errorf("%w: cannot set %s: the value is nil: use Del, or a T that is not a pointer", ErrInvalidArgument, quoted(key))
	}
	raw, err := t.tryEncode(value)
	if err != nil {
		return "", fmt.Errorf("aside: cannot set %s: it cannot be encoded: %w", quoted(key), reason.Of(err))
	}
	return raw, nil
}

// Del is [Client.Del].
func (t *TypedClient[T]) Del(ctx context.Context, keys ...string) error {
	if t.c == nil {
		return errNilClient
	}
	return writer{t.c}.del(ctx, t.viewName(), t.fulls(keys))
}

// Forget is [Client.Forget] for keys of the view: where it has a prefix, the client's would take them
// for others.
func (t *TypedClient[T]) Forget(keys ...string) {
	if t.c != nil && t.wrong == nil {
		t.c.Forget(t.fulls(keys)...)
	}
}

// Touch is [Client.Touch].
func (t *TypedClient[T]) Touch(ctx context.Context, ttl time.Duration, keys ...string) error {
	if t.c == nil {
		return errNilClient
	}
	ttl, err := t.withGrace(ttl)
	if err != nil {
		return err
	}
	return writer{t.c}.touch(ctx, t.viewName(), ttl, t.fulls(keys))
}

// Expire is [Client.Expire] with the view's grace: what is there is stale, and is served once more
// while it is refreshed. In a view without WithGrace it is Del.
func (t *TypedClient[T]) Expire(ctx context.Context, keys ...string) error {
	switch {
	case t.c == nil:
		return errNilClient
	case t.wrong != nil:
		return t.wrong
	}
	return writer{t.c}.expire(ctx, t.viewName(), t.grace, t.fulls(keys))
}

// withGrace is for how long a value lives that is to be fresh for ttl. A ttl that is too short stays
// so.
func (t *TypedClient[T]) withGrace(ttl time.Duration) (time.Duration, error) {
	if ttl < leastTTL {
		return ttl, nil
	}
	return freshness.Sum(ttl, t.grace), endlessGrace(ttl, t.grace)
}
