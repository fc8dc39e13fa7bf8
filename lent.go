package aside

import (
	"context"
	"time"
)

// What callers have been given and Redis has not answered for is lent. A load lends when its loader has returned, to those who joined before it was
// called; what else this process asks about the key, or does to it, waits until the fill is answered; but for Set and Del, after which it is refused. See docs/adr/0007.

// maxLent bounds what callers have and Redis does not, in bytes; but for what a single load has, which is lent if nothing else is. Callers that ask
// for keys faster than Redis can take their values would else fill our memory with them, and see their locks run out.
const (
	maxLent  = 1 << 20
	lentItem = 1 << 10 // what an item counts beside its value
)

// lend gives those who wait since before the loader was called what it has returned, without having them wait until it is stored.
// The others have to: nothing else says that nobody has changed the key since the load began.
func (l *load) lend() {
	c := l.c
	if all := c.lent.Add(l.lent); c.opt.StoreFirst || all > maxLent && all > l.lent {
		c.lent.Add(-l.lent)
		l.lent = 0
		return
	}
	for i, item := range l.items {
		if item.marker != "" {
			c.hand(item.f, l.outcome(i, outcome{entry: item.entry}))
		}
	}
}

// hand gives what was loaded to those who joined before the loader was called. complete follows, for the others.
func (c *Client) hand(f *flight, out outcome) {
	s := c.flights.stripe(f.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	f.handed, f.early = true, out
	if out.absent && f.load.options.negativeTTL < 0 && s.byKey[f.key] == f {
		delete(s.byKey, f.key) // who asks from now on is not to get it
	}
	s.lent = append(s.lent, f)
	if f.loaded != nil {
		close(f.loaded)
	}
}

// awaitStored waits until what was loaded for keys, and lent, is stored or cannot be: who has something from Get must find it in Redis, too. It
// waits for RedisTimeout at most, and not for a shard that is away.
func (c *Client) awaitStored(ctx context.Context, keys ...string) error {
	if c.lent.Load() == 0 {
		return nil
	}
	var all []<-chan struct{}
	for _, key := range keys {
		s := c.flights.stripe(key)
		s.mu.Lock()
		for _, f := range s.lent {
			if f.key == key && c.shardOf(key).asks() {
				all = append(all, f.waitLocked(false))
			}
		}
		s.mu.Unlock()
	}
	if len(all) == 0 {
		return nil
	}
	enough := time.NewTimer(c.opt.RedisTimeout)
	defer enough.Stop()
	for _, stored := range all {
		select {
		case <-stored:
		case <-enough.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-c.closing.Done():
			return ErrClosed
		}
	}
	return nil
}
