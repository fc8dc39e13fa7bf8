package aside

import (
	"context"
	"iter"
	"strings"
)

// What this process knows of all keys, without Redis.

// KnownKeys yields the keys of which this process's memory or its fallback store has something: in no
// order, some of them twice, and some that hold nothing any more, which LookAway and Kept tell. A key
// that they have all the time is yielded; one that comes or goes meanwhile may be. It asks nobody
// else, reads no value, and changes nothing.
//
// An Options.Store of your own that has a method Keys, as those of package fallback do, is asked by it for the
// keys of its records; of another one all records are read.
func (c *Client) KnownKeys() iter.Seq[string] {
	return func(yield func(string) bool) {
		for key := range c.near.Keys() {
			if !yield(key) {
				return
			}
		}
		for key := range c.store.keys() {
			if !yield(key) {
				return
			}
		}
	}
}

// LookAway is Look by what this process's memory and its fallback store have, for whoever looks at many
// keys: it asks nobody else, counts nothing, and leaves in memory what is there. The error is
// ErrNotFound if they say that there is no value, ErrRedisAway if only Redis can tell, as it always is for a key
// that memory does not have while Redis is not away.
func (c *Client) LookAway(ctx context.Context, key string) (Found, error) {
	if err := c.checkKey(key); err != nil {
		return Found{}, err
	}
	if c.lifecycle.ctx.Err() != nil {
		return Found{}, ErrClosed
	}
	var found Found
	var ok bool
	if e := c.near.Peek(key); e != nil {
		found, ok = c.inMemory(e), !e.Absent()
	} else {
		who := enterCall(ctx)
		defer who.leave()
		s, known := c.askStore(who, strings.Clone(key))
		var err error
		if found, ok, err = c.foundInStore(who, key, &s, known); err != nil {
			return Found{}, cannotRead(key, err)
		}
	}
	if !ok || found.gone(0) {
		return Found{}, ErrNotFound
	}
	return found, nil
}
