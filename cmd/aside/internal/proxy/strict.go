package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/wire"
)

// A strict key is Redis's alone: what is read of it is asked of Redis at that moment, what is written is in Redis or
// refused, and nothing of it is kept for later. It is for what must not be answered by one proxy for itself: a lock
// that two proxies granted in an outage would be none.

// Strict makes those keys strict for which is returns true. It must be called before the Store is served.
func (s *Store) Strict(is func(key string) bool) { s.strict = is }

// IsStrict reports whether one of keys is strict.
func (s *Store) IsStrict(keys ...string) bool {
	return s.strict != nil && slices.ContainsFunc(keys, s.strict)
}

// getMultiFromRedis is GetMulti that asks Redis for each key.
func (s *Store) getMultiFromRedis(ctx context.Context, keys []string) (map[string]Value, error) {
	found, err := s.client.FetchMulti(ctx, time.Hour, keys, loadNone, aside.WithoutLoad(), aside.WithFresh())
	if err != nil && !errors.Is(err, aside.ErrNotCached) {
		return nil, s.noted(degraded(err))
	}
	values := make(map[string]Value, len(found))
	for _, key := range keys {
		f, ok := found[key]
		switch {
		case !ok:
			s.misses.Add(1)
		case f.Degraded:
			return nil, s.noted(ErrDegraded)
		default:
			values[key] = fetched(f)
		}
	}
	return values, nil
}

func loadNone(context.Context, []string) (map[string]string, error) { return nil, nil }

// fetched is what Redis has said of a key.
func fetched(f aside.Result[string]) Value {
	v := open(f.Value)
	v.TTL, v.Source, v.At = left(f.TTL), f.Source, f.At
	return v
}

// setInRedis is Set that keeps nothing: the error says so if Redis does not have it.
func (s *Store) setInRedis(ctx context.Context, key string, v Value) error {
	args := []string{wire.Pack(seal(v.Data, v.ContentType))}
	if v.TTL != NoExpiry {
		args = append(args, "PX", strconv.FormatInt(max(v.TTL.Milliseconds(), 1), 10))
	}
	_, err := s.Do(ctx, Command{Name: []string{"SET"}, Key: key, Args: args})
	return err
}

// delInRedis is Del that keeps nothing. An error may come when some of keys are removed.
func (s *Store) delInRedis(ctx context.Context, keys []string) error {
	for i, key := range keys {
		if _, err := s.Do(ctx, Command{Name: []string{"UNLINK"}, Key: key}); err != nil {
			if i > 0 {
				err = fmt.Errorf("%d of %d keys were removed: %w", i, len(keys), err)
			}
			return err
		}
	}
	return nil
}
