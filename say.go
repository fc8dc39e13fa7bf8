package aside

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// What a loader says of what it loads.

// Load is the load that a loader runs in, for what it has to say of the result: for how long it may
// be served, or that it must not be stored. [LoadFrom] returns it. Its methods report whether they
// have had an effect: they have none, and do no harm, if the context was no loader's, or once the
// loader has returned. A value that is wrong (a ttl that is not positive) makes the load fail with
// ErrInvalidArgument. The zero Load belongs to no loader. Safe for concurrent use.
type Load struct {
	l   *load
	key int // its place among the load's keys, or allKeys
}

const allKeys = -1

// LoadFrom returns the load of the loader that was given ctx, or a context from which ctx is derived.
// In a batch it is about all keys; For is about one.
//
//	func(ctx context.Context, key string) (Page, error) {
//		page, maxAge, err := fetch(ctx, key)
//		aside.LoadFrom(ctx).SetTTL(maxAge)
//		return page, err
//	}
func LoadFrom(ctx context.Context) Load {
	l, _ := ctx.Value(loadFromKey{}).(*load)
	return Load{l, allKeys}
}

// For returns the load of one of the keys that a batch loader was given (in a [Keyed] view, of the key
// with that name). What it says replaces what was said before for all keys. If the loader was not
// given the key, the result is the zero Load.
func (ld Load) For(key string) Load {
	l := ld.l
	if l == nil {
		return Load{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.saysLocked().place(l.keys, l.options.prefix+key); i >= 0 {
		return Load{l, i}
	}
	return Load{}
}

// SetTTL replaces the ttl of the call; for an absence, NegativeTTL too, unless that is -1. WithJitter
// shortens d as it would the ttl of the call. The value gets a header in Redis, which other programs
// do not know (docs/adr/0013-what-a-loader-says.md).
func (ld Load) SetTTL(d time.Duration) bool {
	return ld.say(tooShort("Load.SetTTL", d, "must be positive: use NoStore for what must not be stored"), func(s *said) { s.ttl = d })
}

// SetGrace replaces WithGrace for this value; 0: it has none. All readers of the value go by it, also
// those without a grace of their own. (Touch of a view adds the view's grace all the same.) The value
// gets a header in Redis, as by SetTTL.
func (ld Load) SetGrace(d time.Duration) bool {
	var err error
	switch {
	case d == 0:
	case d > LongestTTL:
		err = fmt.Errorf("%w: Load.SetGrace is %v: must be at most %v", ErrInvalidArgument, d, LongestTTL)
	default:
		err = tooShort("Load.SetGrace", d, "must be positive, or 0 for none")
	}
	return ld.say(err, func(s *said) { s.grace, s.graceful = d, true })
}

// SetTags gives the value tags, beside those of [WithTags]; in place of what it was given before. They
// are as for WithTags, and DelTags and ExpireTags reach the value by them. The value gets a header in
// Redis, as by SetTTL.
//
// The first value that ever has a tag may be loaded twice: whether the tag was cleared while it was
// loaded is known only if the tag was in use before. WithTags has no such limit.
func (ld Load) SetTags(tags ...string) bool {
	own, err := ownTags("Load.SetTags", tags)
	if err == nil && ld.l != nil {
		err = tooManyTags(ld.l.options.tags, own)
	}
	return ld.say(err, func(s *said) { s.tags = own })
}

// NoStore has the result given to the callers that wait for it, and stored nowhere: not in Redis, in
// memory or on disk. What a refresh was to replace is removed.
func (ld Load) NoStore() bool {
	return ld.say(nil, func(s *said) { s.noStore = true })
}

// Stale reports whether there is an old value, which the load is to replace: [StaleOf] returns it. In
// a batch that is asked of For(key).
func (ld Load) Stale() bool {
	_, ok := ld.old()
	return ok
}

// StaleOf returns the value that a loader is to replace, so that it may ask its source only whether
// that has changed (by an ETag or a time in it), and return the same value again if not. There is one
// when the loader refreshes what is there, or was called because a call wanted a younger value than
// there was; false: there is none, T is not the type of the view, ctx is not a loader's, or the loader
// has returned. The value is the loader's own. In a batch use [StaleOfKey].
func StaleOf[T any](ctx context.Context) (old T, ok bool) { return staleOf[T](LoadFrom(ctx)) }

// StaleOfKey is [StaleOf] for one of the keys that a batch loader was given.
func StaleOfKey[T any](ctx context.Context, key string) (old T, ok bool) {
	return staleOf[T](LoadFrom(ctx).For(key))
}

func staleOf[T any](ld Load) (none T, _ bool) {
	was, ok := ld.old()
	if !ok {
		return none, false
	}
	reads, ok := unwrapped(ld.l.call).(oldReader[T])
	if !ok {
		return none, false
	}
	value, err := reads.readOld(ld.l.keys[ld.of()], was)
	if err != nil { // it is counted and logged
		return none, false
	}
	return value, true
}

// oldReader is a loadCaller that decodes what its loader is to replace.
type oldReader[T any] interface {
	readOld(key string, was *old) (T, error)
}

// saysLocked returns what the loader has said. l.mu is held.
func (l *load) saysLocked() *says {
	if l.says == nil {
		l.says = &says{of: make([]said, len(l.keys))}
	}
	return l.says
}

// place returns the place of key among keys, or -1.
func (s *says) place(keys []string, key string) int {
	const few = 8
	if len(keys) <= few {
		return slices.Index(keys, key)
	}
	if s.places == nil {
		s.places = make(map[string]int, len(keys))
		for i, key := range keys {
			s.places[key] = i
		}
	}
	if i, ok := s.places[key]; ok {
		return i
	}
	return -1
}

// say notes what the loader says, or what is wrong with it.
func (ld Load) say(wrong error, what func(*said)) bool {
	l := ld.l
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	s := l.saysLocked()
	if wrong != nil {
		s.wrong = cmp.Or(s.wrong, wrong)
		return true
	}
	of := s.of
	if ld.key != allKeys {
		of = of[ld.key : ld.key+1]
	}
	for i := range of {
		what(&of[i])
	}
	return true
}

// of is the place of the one key that ld is about; -1: there are several.
func (ld Load) of() int {
	if ld.key == allKeys && len(ld.l.keys) == 1 {
		return 0
	}
	return ld.key
}

// old returns what is to be replaced, if that is a value, and Redis still had it when the lock was
// taken.
func (ld Load) old() (*old, bool) {
	if ld.l == nil || ld.of() < 0 || ld.l.over() {
		return nil, false
	}
	item := &ld.l.items[ld.of()]
	was := item.old
	if was == nil || was.absent {
		return nil, false
	}
	if item.refresh != nil && item.refresh.print != "" && item.refresh.print != fingerprint(was.stored()) {
		return nil, false
	}
	return was, true
}

// saidWrong returns what is wrong with what the loader has said.
func (l *load) saidWrong() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.says == nil {
		return nil
	}
	if l.says.wrong != nil {
		return l.says.wrong
	}
	for i := range l.says.of {
		ttl, grace := l.lives(i)
		if err := endlessGrace(ttl, grace); err != nil {
			return err
		}
	}
	return nil
}
