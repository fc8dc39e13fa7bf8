package aside

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/redaside/aside/internal/near"
)

// GetMulti is [Client.GetMulti] over T.
func (t *TypedClient[T]) GetMulti(ctx context.Context, ttl time.Duration, keys []string, load BatchLoader[T], opts ...CallOption) (map[string]T, error) {
	to := collected[T]{Client: t.c, values: make(map[string]T, len(keys))}
	err := t.fetchMulti(ctx, ttl, keys, load, &to, opts...)
	return to.values, err
}

// FetchMulti is [Client.FetchMulti] over T.
func (t *TypedClient[T]) FetchMulti(ctx context.Context, ttl time.Duration, keys []string, load BatchLoader[T], opts ...CallOption) (map[string]Result[T], error) {
	to := collected[T]{Client: t.c, results: make(map[string]Result[T], len(keys))}
	err := t.fetchMulti(ctx, ttl, keys, load, &to, opts...)
	return to.results, err
}

// fetchMulti is GetMulti and FetchMulti.
func (t *TypedClient[T]) fetchMulti(ctx context.Context, ttl time.Duration, keys []string, load BatchLoader[T], to *collected[T], opts ...CallOption) error {
	switch {
	case t.c == nil:
		return errNilClient
	case load == nil:
		return errNilLoader
	case t.wrong != nil:
		return t.wrong
	}
	options, err := t.c.check(ttl, t.calls, opts)
	if err != nil {
		return err
	}
	to.grace, to.prefix = options.grace, len(t.prefix)
	if t.prefix != "" {
		keys = t.fulls(keys)
	}
	missing, stale, due := reader{t.c}.fromMemory(ctx, ttl, options, keys, func(key string, hit near.Hit) bool {
		e := hit.Entry
		if t.audits != nil && e.FreshAt(t.c.link.Now(), options.grace) && t.audits.Draws() {
			t.auditHit(ttl, key, e, &typedBatchLoad[T]{t: t, user: load})
		}
		if !t.mayHave(e) {
			return false
		}
		if e.Absent() {
			return true
		}
		if kept := t.decodedIn(e); kept != nil {
			if t.hits.asIs {
				to.inMemory(key, *kept, &hit)
				return true
			}
			if value, ok := t.given(kept); ok {
				to.inMemory(key, value, &hit)
				return true
			}
		}
		value, err := t.decode(key, e.Raw(), e)
		if err != nil {
			t.warn(notDecoded, key, err)
			return false
		}
		to.inMemory(key, value, &hit)
		return true
	})
	if ttl >= leastTTL {
		missing = t.takeOwn(ctx, missing, options, to)
	}
	waited := false
	if len(stale)+len(due) > 0 {
		p := plan{ttl: ttl, defaults: t.calls, opts: opts, room: t.room, call: &typedBatchLoad[T]{t: t, user: load}}
		changed, _ := refresher{t.c}.hits(ctx, stale, due, &p)
		waited = p.waited
		to.drop(changed)
		to.waited(stale, &p)
		missing = append(missing, changed...)
	}
	var failed map[string]error
	bad := make(map[string]string)
	newer, missing := t.newerInMemory(missing, ttl, options)
	for round := 0; len(missing)+len(newer) > 0 && failed == nil; round++ {
		if round == undecodableRounds { // as in get
			failed = t.eachAlone(ctx, missing, load, to, opts...)
			break
		}
		p := &plan{ttl: ttl, defaults: t.calls, opts: opts, room: t.room, call: &typedBatchLoad[T]{t: t, user: load}, waited: waited, undrilled: to.undrilled}
		var undecodable []string
		err := reader{t.c}.obtainMulti(ctx, missing, bad, p, func(key string, out *outcome) {
			if out.absent {
				return
			}
			own := out.own(p.call)
			if out.err != nil { // only its own load's, that it cannot be encoded
				to.outcome(key, ownValue[T](out.by, key), out)
				return
			}
			if !own {
				switch t.versionOf(out.meta) {
				case newerVersion:
					newer[key] = out.entry
					return
				case olderVersion:
					undecodable = append(undecodable, key)
					bad[key] = fingerprint(out.stored())
					return
				}
			}
			value, err := t.decode(key, out.raw, out.entry)
			if err != nil && own { // as in get
				if value, ok := heldValue[T](out.by, key); ok {
					t.warn(notReadBack, key, err)
					to.outcome(key, value, out)
					return
				}
			}
			if err != nil {
				t.warn(notDecoded, key, err)
				undecodable = append(undecodable, key)
				bad[key] = fingerprint(out.stored())
				return
			}
			to.outcome(key, value, out)
		})
		if batch, ok := errors.AsType[*BatchError](err); ok {
			failed = batch.Failed
		} else if err != nil {
			return err
		}
		missing = undecodable
		if len(newer) > 0 {
			failed = t.fetchOwn(ctx, newer, failed, &plan{ttl: ttl, defaults: t.calls, opts: opts, options: options, room: t.room, call: &typedBatchLoad[T]{t: t, user: load}}, to)
			newer = make(map[string]*near.Entry)
		}
	}
	if len(failed) > 0 {
		for _, key := range missing { // undecodable, and not tried again because others failed
			if _, ok := failed[key]; !ok {
				failed[key] = errUndecodable
			}
		}
		return t.shortErrors(&BatchError{Failed: failed})
	}
	return nil
}

// eachAlone loads keys for one call only, and returns which failed.
func (t *TypedClient[T]) eachAlone(ctx context.Context, keys []string, load BatchLoader[T], to *collected[T], opts ...CallOption) (failed map[string]error) {
	began := t.c.link.Now()
	found, err := alone(ctx, t.c, t.calls, opts, func(ctx context.Context) (map[string]T, error) { return load(ctx, t.shorts(keys)) })
	for _, key := range keys {
		if value, ok := found[t.short(key)]; ok && err == nil && !t.isNil(&value) {
			to.alone(key, t.copied(value), began)
		}
	}
	if err != nil && !isNotFound(err) {
		failed = make(map[string]error)
		for _, key := range keys {
			failed[key] = err
		}
	}
	return failed
}

// typedBatchLoad is a batch loader of T as loadCaller.
type typedBatchLoad[T any] struct {
	t    *TypedClient[T]
	user BatchLoader[T]

	mu     sync.Mutex
	loaded map[string]T // what the loader returned and may not be read back; guarded by mu, for a call may load more than once
}

func (l *typedBatchLoad[T]) load(ctx context.Context, keys []string, out []loaded) error {
	short := l.t.shorts(keys)
	found, err := l.user(ctx, slices.Clone(short))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, key := range keys {
		if value, ok := found[short[i]]; ok && !l.t.isNil(&value) {
			out[i] = l.t.encode(key, value)
			if l.t.readsBack(&out[i]) {
				continue
			}
			if l.loaded == nil {
				l.loaded = make(map[string]T, len(found))
			}
			l.loaded[key] = value
		}
	}
	return strangers(short, found)
}

func (l *typedBatchLoad[T]) readOld(key string, was *old) (T, error) {
	return l.t.decode(key, was.raw, was.entry)
}

func (l *typedBatchLoad[T]) another() loadCaller { return &typedBatchLoad[T]{t: l.t, user: l.user} }

func (l *typedBatchLoad[T]) value(key string) (value T, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	value, ok = l.loaded[key]
	return value, ok
}

var errUndecodable = errors.New("aside: the stored value cannot be decoded, and was not loaded again because other keys of the call failed")

// takeOwn hands to a GetMulti what the view has loaded beside newer values that do not have what the
// call needs, and returns the keys of which there is nothing.
func (t *TypedClient[T]) takeOwn(ctx context.Context, keys []string, options *callOptions, to *collected[T]) []string {
	if t.version == 0 || options.need.MaxAge == 0 && !options.need.Bounded {
		return keys
	}
	return slices.DeleteFunc(keys, func(key string) bool {
		e := t.c.near.Lookup(key)
		if !t.ownFits(e, &options.need) || !t.mayHave(e) {
			return false
		}
		value, err := t.decode(key, e.Raw(), e)
		if err != nil {
			return false
		}
		t.hit(ctx, key)
		to.inMemory(key, value, &near.Hit{Entry: e, Now: t.c.link.Now()})
		return true
	})
}

// fetchOwn is the rest of a GetMulti that has found newer versions, and returns failed and what has
// failed here; nil for none.
func (t *TypedClient[T]) fetchOwn(ctx context.Context, entries map[string]*near.Entry, failed map[string]error, p *plan, to *collected[T]) map[string]error {
	if p.options.withoutLoad {
		return failed
	}
	for key, err := range t.loadOwn(ctx, "get_multi", entries, p, func(key string, out *outcome) error {
		switch {
		case out.absent:
			return nil
		case out.err != nil && out.own(p.call):
			to.outcome(key, ownValue[T](out.by, key), out)
			return nil
		case out.err != nil:
			return out.err
		}
		value, err := t.decodeAnew(key, out.raw)
		if err == nil {
			to.outcome(key, value, out)
		}
		return err
	}) {
		if failed == nil {
			failed = make(map[string]error)
		}
		failed[key] = err
	}
	return failed
}

// SetMulti is [Client.SetMulti] over T. A value that cannot be encoded, or is a nil pointer or
// interface, is an error of its key.
func (t *TypedClient[T]) SetMulti(ctx context.Context, ttl time.Duration, values map[string]T, opts ...CallOption) error {
	switch {
	case t.c == nil:
		return errNilClient
	case t.wrong != nil:
		return t.wrong
	}
	options, err := t.c.check(ttl, t.calls, opts)
	if err != nil {
		return err
	}
	encoded, failed := make(map[string]string, len(values)), make(map[string]error)
	for key, value := range values {
		key = t.full(key)
		raw, err := t.encodeSet(key, value)
		if err != nil {
			failed[key] = err
			continue
		}
		encoded[key] = raw
	}
	ttl, err = t.withGrace(ttl)
	if err != nil {
		return err
	}
	return t.shortErrors(writer{t.c}.setMulti(ctx, options.with(t.grace), ttl, encoded, failed))
}
