package aside

import (
	"context"
	"fmt"
	"time"
)

// Keyed is a view whose keys are of type K: a function names them in Redis, once for all calls, and
// loaders get and answer keys of type K. So no call builds a key by hand, and a batch loader cannot
// answer under a wrong name. Make it with [NewKeyed]. Safe for concurrent use.
//
// Whatever it does not have is done through its view, with [Keyed.Name]. A K that loaders are given
// is the caller's own: it must not refer to a buffer that is written again, see [Loader]. Two keys
// that are not equal must have different names; a call that is given two of the same name returns
// ErrInvalidArgument.
type Keyed[K comparable, T any] struct {
	view  *TypedClient[T]
	name  func(K) string
	wrong error // why no call can succeed, if so
}

// NewKeyed returns a view whose keys are named by name, which must return the same for the same key,
// may be called by many goroutines at once, and is called for each key of each call. If view or name
// is nil, all calls return [ErrInvalidArgument].
func NewKeyed[K comparable, T any](view *TypedClient[T], name func(K) string) *Keyed[K, T] {
	k := &Keyed[K, T]{view: view, name: name}
	switch {
	case view == nil:
		k.wrong = fmt.Errorf("%w: the view given to NewKeyed is nil: make it with aside.Typed", ErrInvalidArgument)
	case name == nil:
		k.wrong = fmt.Errorf("%w: the function given to NewKeyed is nil: pass one that returns the key in Redis", ErrInvalidArgument)
	case view.c == nil:
		k.wrong = errNilClient
	default:
		k.wrong = view.wrong
	}
	return k
}

// View returns the view of strings as keys.
func (k *Keyed[K, T]) View() *TypedClient[T] { return k.view }

// Name returns the name of a key in Redis.
func (k *Keyed[K, T]) Name(key K) string { return k.name(key) }

// Get is [Client.Get]. A hit costs no allocation beside those of the name.
func (k *Keyed[K, T]) Get(ctx context.Context, ttl time.Duration, key K, load func(ctx context.Context, key K) (T, error), opts ...CallOption) (none T, _ error) {
	if k.wrong != nil {
		return none, k.wrong
	}
	name := k.name(key)
	if k.view.ready && ttl >= leastTTL && load != nil && len(opts) == 0 { // else there would be a loader of strings for nothing
		hit := k.view.lookup(name, ttl)
		switch kept, absent := k.view.atHand(&hit); {
		case absent:
			k.view.hitShort(ctx, name)
			return none, ErrNotFound
		case kept != nil:
			if value, ok := k.view.given(kept); ok {
				k.view.hitShort(ctx, name)
				return value, nil
			}
		}
	}
	return k.view.Get(ctx, ttl, name, named(key, load), opts...)
}

// Fetch is [Client.Fetch].
func (k *Keyed[K, T]) Fetch(ctx context.Context, ttl time.Duration, key K, load func(ctx context.Context, key K) (T, error), opts ...CallOption) (Result[T], error) {
	if k.wrong != nil {
		return Result[T]{}, k.wrong
	}
	return k.view.Fetch(ctx, ttl, k.name(key), named(key, load), opts...)
}

// Refresh is [Client.Refresh].
func (k *Keyed[K, T]) Refresh(ctx context.Context, ttl time.Duration, key K, load func(ctx context.Context, key K) (T, error), opts ...CallOption) (none T, _ error) {
	if k.wrong != nil {
		return none, k.wrong
	}
	return k.view.Refresh(ctx, ttl, k.name(key), named(key, load), opts...)
}

// named is a loader of key as one of its name.
func named[K comparable, T any](key K, load func(context.Context, K) (T, error)) Loader[T] {
	if load == nil {
		return nil
	}
	return func(ctx context.Context, _ string) (T, error) { return load(ctx, key) }
}

// GetMulti is [Client.GetMulti]. load answers for the keys that it was given; keys that it leaves out
// are not found, and others are ignored. The keys of a *BatchError are names.
func (k *Keyed[K, T]) GetMulti(ctx context.Context, ttl time.Duration, keys []K, load func(ctx context.Context, keys []K) (map[K]T, error), opts ...CallOption) (map[K]T, error) {
	found := make(map[K]T, len(keys))
	if k.wrong != nil {
		return found, k.wrong
	}
	names, byName, err := k.names(keys)
	if err != nil {
		return found, err
	}
	var loadNamed BatchLoader[T]
	if load != nil {
		loadNamed = k.namedBatch(byName, load)
	}
	values, err := k.view.GetMulti(ctx, ttl, names, loadNamed, opts...)
	for name, value := range values {
		found[byName[name]] = value
	}
	return found, err
}

// namedBatch is a batch loader of those keys as one of their names.
func (k *Keyed[K, T]) namedBatch(byName map[string]K, load func(context.Context, []K) (map[K]T, error)) BatchLoader[T] {
	return func(ctx context.Context, names []string) (map[string]T, error) {
		keys := make([]K, len(names))
		for i, name := range names {
			keys[i] = byName[name]
		}
		found, err := load(ctx, keys)
		if err != nil {
			return nil, err
		}
		values := make(map[string]T, len(found))
		for key, value := range found {
			name := k.name(key)
			if asked, ok := byName[name]; !ok || asked == key { // an answer for another key is none for this one
				values[name] = value
			}
		}
		return values, nil
	}
}

// names returns the names of keys, each once, and which is whose.
func (k *Keyed[K, T]) names(keys []K) (names []string, byName map[string]K, _ error) {
	names, byName = make([]string, 0, len(keys)), make(map[string]K, len(keys))
	for _, key := range keys {
		name := k.name(key)
		if other, ok := byName[name]; ok {
			if other != key {
				return nil, nil, fmt.Errorf("%w: keys %v and %v have the same name, %s: the function given to NewKeyed must tell them apart", ErrInvalidArgument, other, key, quoted(name))
			}
			continue
		}
		byName[name] = key
		names = append(names, name)
	}
	return names, byName, nil
}

// Peek is [Client.Peek].
func (k *Keyed[K, T]) Peek(ctx context.Context, key K) (none T, _ bool, _ error) {
	if k.wrong != nil {
		return none, false, k.wrong
	}
	return k.view.Peek(ctx, k.name(key))
}

// Set is [Client.Set].
func (k *Keyed[K, T]) Set(ctx context.Context, ttl time.Duration, key K, value T, opts ...CallOption) error {
	if k.wrong != nil {
		return k.wrong
	}
	return k.view.Set(ctx, ttl, k.name(key), value, opts...)
}

// SetMulti is [Client.SetMulti]. The keys of a *BatchError are names.
func (k *Keyed[K, T]) SetMulti(ctx context.Context, ttl time.Duration, values map[K]T, opts ...CallOption) error {
	if k.wrong != nil {
		return k.wrong
	}
	keys := make([]K, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	_, byName, err := k.names(keys)
	if err != nil {
		return err
	}
	all := make(map[string]T, len(values))
	for name, key := range byName {
		all[name] = values[key]
	}
	return k.view.SetMulti(ctx, ttl, all, opts...)
}

// Del is [Client.Del].
func (k *Keyed[K, T]) Del(ctx context.Context, keys ...K) error {
	if k.wrong != nil {
		return k.wrong
	}
	names, _, err := k.names(keys)
	if err != nil {
		return err
	}
	return k.view.Del(ctx, names...)
}

// Forget is [Client.Forget].
func (k *Keyed[K, T]) Forget(keys ...K) {
	if k.wrong != nil {
		return
	}
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = k.name(key)
	}
	k.view.Forget(names...)
}

// Expire is [TypedClient.Expire].
func (k *Keyed[K, T]) Expire(ctx context.Context, keys ...K) error {
	if k.wrong != nil {
		return k.wrong
	}
	names, _, err := k.names(keys)
	if err != nil {
		return err
	}
	return k.view.Expire(ctx, names...)
}
