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

// Update calls fn to change keys in Redis with commands of its own: INCR, EXPIRE, a SET with NX, a
// script. It does around fn what Set does around its write: earlier writes of the keys that wait
// for replay are replayed first; what this process has in memory for the keys is dropped, and
// running loads of theirs are detached; and stamps are left, so that a replay knows that this write
// was later. fn must change no other keys; if keys is empty it may change nothing. It gets a
// context that ends with ctx and RedisTimeout, and the client of [Client.Redis].
//
// If fn has changed nothing, as a SET with NX may, it returns ErrUnchanged. Update then returns nil
// and leaves no stamps: they would make writes of processes that were cut off look older than this.
//
// Update returns fn's error unchanged, except that a missing reply becomes ErrUnknownOutcome: Redis
// may have applied the command, or may still apply it a little later (fn can rule that out, as
// Set's scripts do). An error of another origin, a database say, says nothing about this Redis. If
// a write of one of the keys by this client runs at the same time and Redis does not answer it, it
// counts as done before fn.
//
// While Redis is away Update does not call fn, because nobody could tell its effect, and returns
// ErrRedisAway. What fn writes must look like values: Get reads it as one.
//
// If this process ends or loses Redis between fn and the stamps, the replay of an older write, by a
// process that was cut off, may take fn's value for a loaded one, and delete or overwrite it.
func (c *Client) Update(ctx context.Context, keys []string, fn func(ctx context.Context, redis rueidis.Client) error) error {
	keys = cloned(keys)
	w := writer{c}
	if err := w.begin(ctx, keys); err != nil {
		return err
	}
	seen, ctx := c.watch(ctx, Event{Kind: EventWrite, Op: "update", Key: first(keys), Keys: len(keys)})
	err := w.update(ctx, keys, fn)
	seen.end(err)
	return err
}

// update is Update behind begin.
func (c writer) update(ctx context.Context, keys []string, fn func(ctx context.Context, redis rueidis.Client) error) error {
	defer c.end(keys)
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
			c.readBack(who, keys, ownSet{})
		}
	}()
	done = c.link.Lend(who, asked, fn)
	if errors.Is(done, ErrUnchanged) {
		return nil
	}
	if done != nil && !rueidis.IsRedisNil(done) {
		return done
	}
	if len(keys) > 0 && !c.opt.DisableStamps {
		mark := &write{writer: c, verb: "stamp", keys: keys, script: script.Mark, bare: script.Nothing, args: []string{script.InMilliseconds(wire.Endless)}}
		failed, _ := mark.perform(who)
		for _, f := range failed {
			c.warn(&c.seldomRedis, "an update was done and left no stamp", "error", mark.says(f, f.keys))
		}
	}
	return done
}

// Redis returns a rueidis client for commands of your own, or false while Redis has not been
// reached yet. It is made when it is first used, from the same options and by the same
// ClientBuilder, and has connections of its own. Its Close does nothing: Close of the Client closes
// it.
//
// Commands that change the connection for all its users return [ErrShared]: SELECT, AUTH, HELLO,
// RESET, QUIT, MONITOR, WATCH, CLIENT TRACKING, CLIENT REPLY, subscriptions outside Receive, and
// MULTI without its EXEC in the same DoMulti. Use Dedicated or Dedicate for them: a connection of
// your own.
//
// Redis tells every process, this one included, what you write here. But such writes leave no
// stamps and do not stop running loads: use [Client.Update] for keys that Get reads.
func (c *Client) Redis() (rueidis.Client, bool) {
	return c.link.OwnClient()
}
