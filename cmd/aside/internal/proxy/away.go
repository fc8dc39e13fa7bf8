package proxy

import (
	"context"
	"errors"
	"hash/maphash"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/wire"
)

// Away reports whether Redis is away for key. It asks nobody.
func (s *Store) Away(key string) bool { return s.client.Away(key) }

// Known is what this proxy has kept of a key while Redis is away.
type Known struct {
	Value // not if it is Deleted

	Deleted bool // it holds nothing
}

// UpdateAway changes keys while Redis is away: fn gets what this proxy has kept of them, by key, and
// returns what is to be kept instead. A key that is not in the map is not known here. No other write
// of the keys through this proxy comes between, and all of it is kept, and seen by readers, or nothing. Errors are those of aside.Client.UpdateAway,
// ErrReserved, and fn's.
func (s *Store) UpdateAway(ctx context.Context, keys []string, fn func(known map[string]Known) (map[string]Known, error)) error {
	if err := allowed(keys...); err != nil {
		return err
	}
	if s.IsStrict(keys...) {
		return s.noted(ErrDegraded)
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.turns.Leave()
	defer s.alone(keys)()
	return s.noted(degraded(s.client.UpdateAway(ctx, keys, func(kept map[string]aside.Known) (map[string]aside.Known, error) {
		known := make(map[string]Known, len(kept))
		for key, k := range kept {
			v := open(k.Value)
			v.TTL = left(k.TTL)
			known[key] = Known{Value: v, Deleted: k.Deleted}
		}
		next, err := fn(known)
		changed := make(map[string]aside.Known, len(next))
		for key, k := range next {
			ttl := k.TTL
			if was := kept[key]; left(was.TTL) == ttl {
				ttl = was.TTL // it ends when it would have ended
			} else if ttl == NoExpiry {
				ttl = wire.Endless
			}
			changed[key] = aside.Known{Value: seal(k.Data, k.ContentType), TTL: ttl, Deleted: k.Deleted}
			if k.Deleted {
				changed[key] = aside.Known{Deleted: true}
			}
		}
		return changed, err
	})))
}

// order keeps a write that depends on what is kept of its keys apart from all other writes of them:
// one that came between would be lost. Keys share locks. Safe for concurrent use.
type order struct {
	seed  maphash.Seed // immutable
	locks [256]sync.RWMutex
}

func newOrder() *order { return &order{seed: maphash.MakeSeed()} }

// of are the locks of keys, in the order in which everybody takes them, each once.
func (o *order) of(keys []string) []int {
	locks := make([]int, len(keys))
	for i, key := range keys {
		locks[i] = o.lock(key)
	}
	slices.Sort(locks)
	return slices.Compact(locks)
}

func (o *order) lock(key string) int { return int(maphash.String(o.seed, key) % uint64(len(o.locks))) }

// alone waits until nobody writes keys; no other write of them begins before the caller calls what
// it returns.
func (o *order) alone(keys ...string) (done func()) {
	locks := o.of(keys)
	for _, i := range locks {
		o.locks[i].Lock()
	}
	return func() {
		for _, i := range locks {
			o.locks[i].Unlock()
		}
	}
}

// beside waits until nobody is alone with keys. Others may write them, too, until the caller calls
// end with the same keys.
func (o *order) beside(keys ...string) {
	if len(keys) == 1 {
		o.locks[o.lock(keys[0])].RLock()
		return
	}
	for _, i := range o.of(keys) {
		o.locks[i].RLock()
	}
}

func (o *order) end(keys ...string) {
	if len(keys) == 1 {
		o.locks[o.lock(keys[0])].RUnlock()
		return
	}
	for _, i := range o.of(keys) {
		o.locks[i].RUnlock()
	}
}

// alone waits until nobody writes keys, nor reads them, if they are several.
func (s *Store) alone(keys []string) (done func()) {
	written := s.order.alone(keys...)
	if len(keys) < 2 {
		return written
	}
	read := s.whole.alone(keys...)
	return func() {
		read()
		written()
	}
}

// beside waits until no write of several keys is under way, while Redis is away, of which one is among keys. None begins before the caller calls
// what it returns. Who calls it has entered, as writers have, and does not call it again before that.
func (s *Store) beside(keys ...string) (done func()) {
	s.whole.beside(keys...)
	return func() { s.whole.end(keys...) }
}

// Together calls fn between two writes of several keys, while Redis is away, of which one is among keys, as one call that is served.
// get is Get for fn, which may call no other methods that wait for their turn. The error is fn's, or ErrConcurrency.
func (s *Store) Together(ctx context.Context, keys []string, fn func(get func(ctx context.Context, key string) (Value, error)) error) error {
	return s.InTurn(ctx, func() error {
		defer s.beside(keys...)()
		return fn(func(ctx context.Context, key string) (Value, error) {
			switch err := allowed(key); {
			case err != nil:
				return Value{}, err
			case s.IsStrict(key):
				return s.getFromRedis(ctx, key)
			}
			return s.get(ctx, key)
		})
	})
}

// KnownKeys yields the keys that something may be known of here, without Redis: those of aside.Client.KnownKeys
// that are not the library's own.
func (s *Store) KnownKeys() iter.Seq[string] {
	return func(yield func(string) bool) {
		for key := range s.client.KnownKeys() {
			if !Reserved(key) && !s.IsStrict(key) && !yield(key) {
				return
			}
		}
	}
}

// LookAway returns what key holds by what is known here, as Get does while Redis is away. It counts as
// no call, waits for no turn, and leaves in memory what is there.
func (s *Store) LookAway(ctx context.Context, key string) (Value, error) {
	if err := allowed(key); err != nil {
		return Value{}, err
	}
	if s.IsStrict(key) {
		return Value{}, ErrDegraded
	}
	found, err := s.client.LookAway(ctx, key)
	if err != nil {
		return Value{}, degraded(err)
	}
	return valueOf(found), nil
}

// InTurn calls fn as one call that is served. The error is fn's, or ErrConcurrency.
func (s *Store) InTurn(ctx context.Context, fn func() error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.turns.Leave()
	return fn()
}

// Kept is what waits for a key that this proxy has kept operations of.
type Kept struct {
	aside.Kept

	Value Value // of BaseString
	Now   Known // where Kept.Now is known
}

func (s *Store) keptOf(k aside.Kept) Kept {
	k.Operations = slices.Clone(k.Operations)
	for i, o := range k.Operations {
		if o[0] == "SET" {
			o = slices.Clone(o)
			v, _ := s.Open(o[1])
			o[1], k.Operations[i] = v.Data, o
		}
	}
	return Kept{Kept: k, Value: opened(k.Value, k.Expires), Now: Known{Value: opened(k.Now.Text, k.Now.Ends), Deleted: !k.Now.Exists}}
}

// opened is the value that the library has as text, with what is left of its life.
func opened(text string, ends time.Time) Value {
	v := open(text)
	if v.TTL = NoExpiry; !ends.IsZero() {
		v.TTL = left(max(time.Until(ends), 0))
	}
	return v
}

// Held is what this proxy would answer of key while Redis is away; false: nothing. It counts as no call.
func (s *Store) Held(ctx context.Context, key string) (Value, bool) {
	if s.IsStrict(key) {
		return Value{}, false
	}
	found, err := s.client.Look(ctx, key)
	return valueOf(found), err == nil
}

// Kept returns what waits for key; false: no operations do.
func (s *Store) Kept(ctx context.Context, key string) (Kept, bool, error) {
	if err := allowed(key); err != nil {
		return Kept{}, false, err
	}
	if s.IsStrict(key) { // none
		return Kept{}, false, nil
	}
	k, ok, err := s.client.Kept(ctx, key)
	return s.keptOf(k), ok && err == nil, err
}

// Keep keeps operations on key for when Redis is back, unless decide, which gets what waits for the
// key, returns an error: then that is returned. No other write of the key through this proxy comes
// between. answers is nil if they are kept; else Redis was back, and these are its answers. Errors are
// those of aside.Client.Apply, decide's, ErrReserved, and ErrDegraded if there is no fallback
// directory: what adds must not be kept and called refused.
func (s *Store) Keep(ctx context.Context, key string, operations []aside.Operation, decide func(Kept) error) (answers []any, err error) {
	if err := allowed(key); err != nil {
		return nil, err
	}
	if s.IsStrict(key) || !s.client.Health().Durable {
		return nil, s.noted(ErrDegraded)
	}
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.turns.Leave()
	defer s.order.alone(key)()
	answers, err = s.client.Apply(ctx, key, operations, func(k aside.Kept) error { return decide(s.keptOf(k)) })
	if errors.Is(err, aside.ErrKept) {
		return nil, nil
	}
	return answers, s.noted(degraded(err))
}

// KeepAll keeps operations on several keys as one, while Redis is away, unless decide, which gets what waits for each,
// returns an error: then that is returned. All is kept, and seen by readers, or nothing; no other write of the keys through this proxy comes
// between. Errors are those of aside.Client.ApplyAway, decide's, ErrReserved, and ErrDegraded if there is no fallback directory.
func (s *Store) KeepAll(ctx context.Context, changes []aside.Change, decide func(map[string]Kept) error) error {
	keys := make([]string, len(changes))
	for i, change := range changes {
		keys[i] = change.Key
	}
	if err := allowed(keys...); err != nil {
		return err
	}
	if s.IsStrict(keys...) || !s.client.Health().Durable {
		return s.noted(ErrDegraded)
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.turns.Leave()
	defer s.alone(keys)()
	return s.noted(degraded(s.client.ApplyAway(ctx, changes, func(kept map[string]aside.Kept) error {
		waits := make(map[string]Kept, len(kept))
		for key, k := range kept {
			waits[key] = s.keptOf(k)
		}
		return decide(waits)
	})))
}
