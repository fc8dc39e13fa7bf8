package aside

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/wire"
)

// Update has do change keys in Redis with commands of its own: INCR, EXPIRE, a SET with NX, a script. Around it happens what happens
// around a Set: earlier writes of the keys that wait to be replayed are replayed first; what this process remembers of the keys, and loads
// of theirs that are under way, are given up; and stamps are left, so that a replay knows that this was later. do must not change other keys
// than these; with none it may change nothing. It gets a context that ends with ctx and RedisTimeout, and the client of [Client.Redis].
//
// do returns ErrUnchanged if it has changed nothing, as a SET with NX may: then no stamps are left, which would make what others have written
// while they were cut off look older than this, and Update returns nil. An error of its own, of a database or another Redis, say, is returned unchanged, and says nothing about this Redis. A write of one of the keys at the same time, by this client, for which
// Redis has no answer, counts as done before do.
//
// Where Redis is away do is not called, as nobody could tell its effect: the error is ErrRedisAway. What do returns is returned as it
// is, but for an answer that did not come: then it is ErrUnknownOutcome, and Redis may have done it, or may still do it a little later (do can
// see to it that it does not: Set's scripts do). What do has written must be what values look like: Get takes it for one.
//
// If this process ends, or loses Redis, between do and the stamps, then a replay of an older write, by a process that was cut off, may
// take it for a loaded value, and delete it or write over it.
func (c *Client) Update(ctx context.Context, keys []string, do func(ctx context.Context, redis rueidis.Client) error) error {
	keys = cloned(keys)
	if err := c.beginWrite(ctx, keys); err != nil {
		return err
	}
	defer c.endWrite(keys)
	who := enterCall(ctx)
	defer who.leave()
	if _, later := c.settleFirst(who, keys); len(later) > 0 {
		return fmt.Errorf("aside: cannot update %s: %w", quotedKeys(later), reason.Of(errPending))
	}
	if err := c.awaitStored(who, keys...); err != nil {
		return err
	}
	shards := c.link.ShardsOf(keys)
	asked := slices.DeleteFunc(slices.Clone(shards), func(sh *link.Shard) bool { return !sh.Asks() })
	if len(asked) == 0 || len(keys) > 0 && len(asked) < len(shards) {
		return link.ErrNotAsked
	}
	if err := c.link.ConnectOwn(who); err != nil {
		return fmt.Errorf("%w: %w", link.ErrNotAsked, reason.Of(err))
	}
	c.drop(keys)
	var done error
	defer func() {
		if c.drop(keys); done == nil || rueidis.IsRedisNil(done) {
			c.readBack(who, keys)
		}
	}()
	done = c.link.Lend(who, asked, do)
	if errors.Is(done, ErrUnchanged) {
		return nil
	}
	if done != nil && !rueidis.IsRedisNil(done) {
		return done
	}
	if len(keys) > 0 && !c.opt.DisableStamps {
		mark := &write{Client: c, verb: "stamp", keys: keys, script: script.Mark, bare: script.Nothing, args: []string{script.InMilliseconds(wire.Endless)}}
		errs, _ := mark.perform(who)
		for _, err := range errs {
			c.warn(&c.seldomRedis, "an update was done and left no stamp", "error", err)
		}
	}
	return done
}

// Redis returns a rueidis client for commands of your own, or false while Redis has not been reached yet. It is made from the same options,
// by the same ClientBuilder, when it is first used, and has its own connections. Its Close does nothing: Close of the Client closes it.
//
// Commands that change the connection for everybody who uses it return [ErrShared]: SELECT, AUTH, HELLO, RESET, QUIT, MONITOR, WATCH, CLIENT TRACKING,
// CLIENT REPLY, subscriptions outside Receive, and MULTI without its EXEC in the same DoMulti. They belong on a connection of your own: Dedicated, or Dedicate.
//
// What is written here is pushed to every process, this one included, but leaves no stamps and does not end loads that are under way: use
// [Client.Update] for keys that Get reads.
func (c *Client) Redis() (rueidis.Client, bool) {
	return c.link.OwnClient()
}
