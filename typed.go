package aside

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/wire"
)

// Get is [Client.Get] over T.
func (t *TypedClient[T]) Get(ctx context.Context, ttl time.Duration, key string, load Loader[T], opts ...CallOption) (T, error) {
	if t.c == nil {
		var none T
		return none, errNilClient
	}
	waited := false
	e, fresh := t.c.near.LookupFresh(key, t.grace)
	if e != nil && ttl >= leastTTL && load != nil && (!fresh || len(opts) > 0) {
		var err error
		if e, err = t.take(ctx, ttl, key, load, e, opts...); err != nil {
			var none T
			return none, err
		}
		waited = e == nil
	}
	if e != nil && ttl >= leastTTL && load != nil {
		if e.Absent() {
			t.c.hit(key)
			var none T
			return none, ErrNotFound
		}
		if t.hits.asIs {
			if value := t.decodedIn(e); value != nil {
				t.c.hit(key)
				return *value, nil
			}
		}
		value, err := t.decode(key, e.Raw(), e)
		if err == nil {
			t.c.hit(key)
			return value, nil
		}
		if t.wrong == nil {
			t.warn(notDecoded, key, err)
		}
	}
	return t.get(ctx, key, load, plan{ttl: ttl, defaults: t.calls, opts: opts, room: t.room, waited: waited})
}

// take returns e, which memory has for the key of a Get, if it may be served; nil: it has changed
// while the call waited for its refresh.
func (t *TypedClient[T]) take(ctx context.Context, ttl time.Duration, key string, load Loader[T], e *near.Entry, opts ...CallOption) (*near.Entry, error) {
	if t.wrong != nil {
		return nil, t.wrong
	}
	r := refresher{t.c}
	serves, err := r.serves(key, e, t.calls, opts)
	if err == nil && !serves {
		call := &typedLoad[T]{plan: plan{ttl: ttl, defaults: t.calls, opts: opts, room: t.room}, t: t, user: load}
		call.plan.call = call
		serves, err = r.hit(ctx, key, &call.plan)
	}
	if !serves {
		return nil, err
	}
	return e, nil
}

// get is Get behind memory. p has no loader yet.
func (t *TypedClient[T]) get(ctx context.Context, key string, load Loader[T], p plan) (none T, _ error) {
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
		out, err := t.c.obtain(ctx, key, bad, &call.plan)
		switch {
		case err != nil && !(out.own(call) && isEncodeError(err)):
			return none, err
		case out.absent:
			return none, out.notFound()
		case err != nil:
			return *call.value, nil //nolint:nilerr // it cannot be encoded; this caller has it all the same
		}
		value, err := t.decode(key, out.raw, out.entry)
		if err == nil {
			return value, nil
		}
		if out.own(call) {
			t.warn(notReadBack, key, err)
			return *call.value, nil // nobody would read the next one either
		}
		t.warn(notDecoded, key, err)
		bad = fingerprint(wire.Pack(out.raw))
	}
	// Whoever fills this key writes what we cannot read: another type shares it.
	return alone(ctx, t.c, t.calls, p.opts, func(ctx context.Context) (none T, _ error) {
		value, err := load(ctx, key)
		switch {
		case err != nil:
			return none, err
		case t.isNil(&value):
			return none, ErrNotFound
		}
		return t.copied(value), nil
	})
}

// alone calls a loader for one call only, with the deadline and the shelter from panics that a
// shared load has.
func alone[R any](ctx context.Context, c *Client, defaults *callOptions, opts []CallOption, load func(context.Context) (R, error)) (value R, err error) {
	options, err := c.callOptions(defaults, opts)
	if err != nil {
		return value, err
	}
	if options.withoutLoad {
		return value, ErrNotCached
	}
	who := enterCall(ctx)
	defer who.leave()
	ctx, cancel := context.WithTimeout(who, options.loadTimeout)
	defer cancel()
	if failed := c.contained("the loader", func() {
		value, err = load(ctx)
		examine(err)
	}); failed != nil {
		return value, failed
	}
	return value, err
}

// typedLoad is a loader of T as loadCaller.
type typedLoad[T any] struct {
	plan
	t     *TypedClient[T]
	user  Loader[T]
	value *T // what the loader returned, to be read once the load has an outcome
}

func (l *typedLoad[T]) load(ctx context.Context, keys []string, out []loaded) error {
	value, err := l.user(ctx, keys[0])
	if err != nil {
		return err
	}
	if l.t.isNil(&value) {
		return ErrNotFound
	}
	out[0] = l.t.encode(keys[0], value)
	l.value = &value
	return nil
}

func (l *typedLoad[T]) another() loadCaller { return &typedLoad[T]{t: l.t, user: l.user} }

// undecodableRounds is how often a call tries to replace what it cannot read before it leaves the
// cache alone.
const undecodableRounds = 3

// GetMulti is [Client.GetMulti] over T.
func (t *TypedClient[T]) GetMulti(ctx context.Context, ttl time.Duration, keys []string, load BatchLoader[T], opts ...CallOption) (map[string]T, error) {
	values := make(map[string]T, len(keys))
	switch {
	case t.c == nil:
		return values, errNilClient
	case load == nil:
		return values, errNilLoader
	case t.wrong != nil:
		return values, t.wrong
	}
	options, err := t.c.check(ttl, t.calls, opts)
	if err != nil {
		return values, err
	}
	missing, stale := t.c.fromMemory(ttl, options.grace, keys, func(key string, e *near.Entry) bool {
		if e.Absent() {
			return true
		}
		if t.hits.asIs {
			if value := t.decodedIn(e); value != nil {
				values[key] = *value
				return true
			}
		}
		value, err := t.decode(key, e.Raw(), e)
		if err != nil {
			t.warn(notDecoded, key, err)
			return false
		}
		values[key] = value
		return true
	})
	waited := false
	if len(stale) > 0 {
		p := plan{ttl: ttl, defaults: t.calls, opts: opts, room: t.room, call: &typedBatchLoad[T]{t: t, user: load}}
		changed, _ := refresher{t.c}.hits(ctx, stale, &p)
		waited = p.waited
		for _, key := range changed {
			delete(values, key)
		}
		missing = append(missing, changed...)
	}
	var failed map[string]error
	bad := make(map[string]string)
	for round := 0; len(missing) > 0 && failed == nil; round++ {
		if round == undecodableRounds { // as in get
			found, err := alone(ctx, t.c, t.calls, opts, func(ctx context.Context) (map[string]T, error) { return load(ctx, slices.Clone(missing)) })
			for _, key := range missing {
				if value, ok := found[key]; ok && err == nil && !t.isNil(&value) {
					values[key] = t.copied(value)
				}
			}
			if err != nil && !isNotFound(err) {
				failed = make(map[string]error)
				for _, key := range missing {
					failed[key] = err
				}
			}
			break
		}
		call := &typedBatchLoad[T]{t: t, user: load}
		var undecodable []string
		err := t.c.obtainMulti(ctx, missing, bad, &plan{ttl: ttl, defaults: t.calls, opts: opts, room: t.room, call: call, waited: waited}, func(key string, out outcome) {
			if out.absent {
				return
			}
			if out.err != nil { // only its own load's, that it cannot be encoded
				values[key] = call.value(key)
				return
			}
			value, err := t.decode(key, out.raw, out.entry)
			if err != nil && out.own(call) { // as in get
				t.warn(notReadBack, key, err)
				values[key] = call.value(key)
				return
			}
			if err != nil {
				t.warn(notDecoded, key, err)
				undecodable = append(undecodable, key)
				bad[key] = fingerprint(wire.Pack(out.raw))
				return
			}
			values[key] = value
		})
		if batch, ok := errors.AsType[*BatchError](err); ok {
			failed = batch.Failed
		} else if err != nil {
			return values, err
		}
		missing = undecodable
	}
	if len(failed) > 0 {
		for _, key := range missing { // undecodable, and not tried again because others failed
			if _, ok := failed[key]; !ok {
				failed[key] = errUndecodable
			}
		}
		return values, &BatchError{Failed: failed}
	}
	return values, nil
}

// typedBatchLoad is a batch loader of T as loadCaller.
type typedBatchLoad[T any] struct {
	t    *TypedClient[T]
	user BatchLoader[T]

	mu     sync.Mutex
	loaded map[string]T // what the loader returned; guarded by mu, for a call may load more than once
}

func (l *typedBatchLoad[T]) load(ctx context.Context, keys []string, out []loaded) error {
	found, err := l.user(ctx, slices.Clone(keys))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.loaded == nil {
		l.loaded = make(map[string]T, len(found))
	}
	for i, key := range keys {
		if value, ok := found[key]; ok && !l.t.isNil(&value) {
			out[i] = l.t.encode(key, value)
			l.loaded[key] = value
		}
	}
	return strangers(keys, found)
}

func (l *typedBatchLoad[T]) another() loadCaller { return &typedBatchLoad[T]{t: l.t, user: l.user} }

func (l *typedBatchLoad[T]) value(key string) T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loaded[key]
}

var errUndecodable = errors.New("aside: the stored value cannot be decoded, and was not loaded again because other keys of the call failed")

// Peek is [Client.Peek] over T. A value that cannot be decoded counts as none.
func (t *TypedClient[T]) Peek(ctx context.Context, key string) (none T, _ bool, _ error) {
	switch {
	case t.c == nil:
		return none, false, errNilClient
	case t.wrong != nil:
		return none, false, t.wrong
	}
	found, e, ok, err := t.c.look(ctx, key)
	if err != nil || !ok {
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
func (t *TypedClient[T]) Set(ctx context.Context, ttl time.Duration, key string, value T) error {
	switch {
	case t.c == nil:
		return errNilClient
	case t.wrong != nil:
		return t.wrong
	case t.isNil(&value):
		return fmt.Errorf("%w: cannot set %s: the value is nil: use Del, or a T that is not a pointer", ErrInvalidArgument, quoted(key))
	}
	raw, err := t.tryEncode(value)
	if err != nil {
		return fmt.Errorf("aside: cannot set %s: it cannot be encoded: %w", quoted(key), reason.Of(err))
	}
	ttl, err = t.withGrace(ttl)
	if err != nil {
		return err
	}
	return t.c.Set(ctx, ttl, key, raw)
}

// Del is [Client.Del].
func (t *TypedClient[T]) Del(ctx context.Context, keys ...string) error {
	if t.c == nil {
		return errNilClient
	}
	return t.c.Del(ctx, keys...)
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
	return t.c.Touch(ctx, ttl, keys...)
}

// withGrace is for how long a value lives that is to be fresh for ttl. A ttl that is too short stays
// so.
func (t *TypedClient[T]) withGrace(ttl time.Duration) (time.Duration, error) {
	if ttl < leastTTL {
		return ttl, nil
	}
	return freshness.Sum(ttl, t.grace), endlessGrace(ttl, t.grace)
}
