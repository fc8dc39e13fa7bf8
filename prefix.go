package aside

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/near"
)

// WithPrefix puts prefix before the keys of a view: its calls take keys without, give keys without in
// their maps and in the Failed of a *BatchError, and so do its loaders; in Redis, in the texts of
// errors, in logs, in what an Observer is told, and to the Client itself the key is prefix + key.
// Values stay raw. Defaults to no prefix.
func WithPrefix(prefix string) ViewOption {
	prefix = strings.Clone(prefix)
	return viewOption(func(o *viewOptions) { o.prefix = prefix })
}

// Clearable lets [TypedClient.Clear] remove all values of a view that has WithPrefix. Its values have
// a header in Redis (docs/adr/0012), which other programs do not know; a value without one, of a view
// that is not Clearable or of an older process, counts as older than any clearing: it is loaded and
// replaced. A first Clearable view of a prefix therefore finds nothing cached.
func Clearable() ViewOption { return viewOption(func(o *viewOptions) { o.clear = true }) }

var errNotClearable = fmt.Errorf("%w: Clear needs a view that was made with WithPrefix and Clearable", ErrInvalidArgument)

// Clear removes all values of a [Clearable] view, and those of all Clearable views with the same
// prefix in any process, with one command, however many there are: what was loaded or set before
// Clear returns is not served any more, as after a [Client.Del] of each key, and by the same
// promises. Loads that began before do not bring it back. While Redis is away it is kept and replayed
// as a Del is. The bytes stay in Redis until their keys are read or expire. Values under a longer
// prefix of another view are that view's own. The errors are those of Del.
func (t *TypedClient[T]) Clear(ctx context.Context) error {
	switch {
	case t.c == nil:
		return errNilClient
	case t.wrong != nil:
		return t.wrong
	case t.clears() == nil:
		return errNotClearable
	}
	return grouper{t.c}.clearKeys(ctx, t.clears().Key())
}

// full is a key as Redis has it, short as callers do.
func (t *TypedClient[T]) full(key string) string {
	if t.prefix == "" {
		return key
	}
	return t.prefix + key
}

func (t *TypedClient[T]) short(key string) string { return key[len(t.prefix):] }

// fulls is full for many keys.
func (t *TypedClient[T]) fulls(keys []string) []string {
	if t.prefix == "" {
		return keys
	}
	full := make([]string, len(keys))
	for i, key := range keys {
		full[i] = t.prefix + key
	}
	return full
}

// shorts is short for many keys, which it copies.
func (t *TypedClient[T]) shorts(keys []string) []string {
	short := slices.Clone(keys)
	for i, key := range short {
		short[i] = t.short(key)
	}
	return short
}

// shortErrors gives the keys of a *BatchError as callers have them.
func (t *TypedClient[T]) shortErrors(err error) error {
	batch, ok := errors.AsType[*BatchError](err)
	if !ok || t.prefix == "" {
		return err
	}
	short := make(map[string]error, len(batch.Failed))
	for key, err := range batch.Failed {
		short[t.short(key)] = err
	}
	return &BatchError{Failed: short, prefix: t.prefix}
}

// mayHave reports whether e may be served to callers of the view: in a Clearable one, a value that
// does not belong to its group counts as older than any clearing.
func (t *TypedClient[T]) mayHave(e *near.Entry) bool {
	group := t.clears()
	return group == nil || e.Meta().Of(group)
}

// inMemory returns what memory has for a key as Redis has it, for a call without options.
func (t *TypedClient[T]) inMemory(key string, ttl time.Duration) near.Hit {
	return t.allowed(t.c.near.LookupFor(key, ttl, &t.need))
}

// lookup is inMemory for a key as callers have it. It allocates nothing for keys up to a length.
func (t *TypedClient[T]) lookup(key string, ttl time.Duration) near.Hit {
	if t.prefix == "" {
		return t.inMemory(key, ttl)
	}
	return t.allowed(t.c.near.LookupJoined(&t.joined, key, ttl, &t.need))
}

// allowed is hit, if callers of the view may have it; else none.
func (t *TypedClient[T]) allowed(hit near.Hit) near.Hit {
	if hit.Entry != nil && !t.mayHave(hit.Entry) {
		return near.Hit{}
	}
	return hit
}

// atHand returns the decoded value that memory has, or that there is none, if a call without options
// has nothing more to do for hit than to hand that out; else nil and false.
func (t *TypedClient[T]) atHand(hit *near.Hit) (kept *T, absent bool) {
	switch {
	case hit.Entry == nil || hit.Verdict != freshness.Good:
		return nil, false
	case hit.Absent():
		return nil, true
	}
	return t.decodedIn(hit.Entry), false
}

// given is what a caller gets of a value that memory has; false: it must be decoded for this one.
func (t *TypedClient[T]) given(kept *T) (T, bool) {
	value, err := t.hits.give(kept)
	return value, err == nil && !t.isNil(&value)
}

// hitShort is hit for a key as callers have it.
func (t *TypedClient[T]) hitShort(ctx context.Context, key string) {
	t.c.counted.memoryHits.add()
	if t.c.allHits {
		t.c.observeHit(ctx, t.full(key), t.viewName())
	}
}
