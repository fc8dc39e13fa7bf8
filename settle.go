package aside

import (
	"context"
	"sync"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
)

// settle has the pending records of keys replayed, as far as their shards can be asked, and returns
// the keys that are pending all the same.
func (c *Client) settle(ctx context.Context, keys []string) (pending []string) {
	byShard := make(map[*link.Shard][]fallback.Record, 1)
	for _, key := range keys {
		sh := c.link.Shard(key)
		if !sh.Asks() {
			continue
		}
		if record, ok, _ := c.store.read(ctx, key); ok && record.Op != fallback.OpFill {
			byShard[sh] = append(byShard[sh], record)
		}
	}
	var shards sync.WaitGroup
	for sh, records := range byShard {
		shards.Go(func() { replayer{Client: c, sh: sh}.Replay(ctx, records) }) // ends within the time of a replay
	}
	shards.Wait()
	for _, key := range keys {
		if c.store.Pending(key) {
			pending = append(pending, key)
		}
	}
	return pending
}

// unsettled reports whether key has a record that could not be replayed just now.
func (c *Client) unsettled(ctx context.Context, key string) bool {
	if c.store.Pending(key) && len(c.settle(ctx, []string{key})) > 0 {
		return true
	}
	return c.doubtful(ctx, key)
}

// unsettledOf says which of the keys that are pending could not be replayed just now.
func (c *Client) unsettledOf(ctx context.Context, pending []string) map[string]bool {
	if len(pending) == 0 {
		return nil
	}
	unsettled := make(map[string]bool)
	for _, key := range c.settle(ctx, pending) {
		unsettled[key] = true
	}
	for _, key := range pending {
		if c.doubtful(ctx, key) {
			unsettled[key] = true
		}
	}
	return unsettled
}

// mayBeUnsettled reports whether it is worth asking.
func (c *Client) mayBeUnsettled(key string) bool {
	return c.store.Pending(key) || c.doubts.about(c.link.Home(key))
}

// doubtful reports whether key's server may still lack what it was told by its predecessor's
// client, see takeover.go.
func (c *Client) doubtful(ctx context.Context, key string) bool {
	sh := c.link.Home(key)
	return c.doubts.about(sh) && sh.Asks() && !c.makeSure(ctx, sh, key)
}
