package aside

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// The writes. Each drops what this process remembers of its keys before it returns, whatever came of it, so that a process
// reads its own writes; and takes their flights off the table, so that no load that began before it answers anybody who
// asks after it.

// Set stores value under key for ttl. nil means that Redis has it. A load of the key that is under way, here or in
// another process, will not overwrite it.
//
// ttl must be positive and is rounded up to whole milliseconds. Errors: ErrRedisAway (nothing was done),
// ErrUnknownOutcome (no answer; it may or may not have been done), ErrTooLarge, or what Redis refused it with.
func (c *Client) Set(ctx context.Context, ttl time.Duration, key, value string) error {
	if _, err := c.check(ttl, nil); err != nil {
		return err
	}
	if len(value) > c.opt.MaxValueBytes {
		return fmt.Errorf("%w: the value for key %s has %d bytes, more than Options.MaxValueBytes (%d): nothing was written; Del removes the old value", ErrTooLarge, quoted(key), len(value), c.opt.MaxValueBytes)
	}
	return c.write(ctx, "set", scriptSet, []string{key}, func(notAfter string) []string {
		return []string{notAfter, pack(value), milliseconds(ttl)}
	})
}

// Del removes keys. After it returned nil this process never serves what they held; another does not once Redis's push has
// reached it, and never longer than StaleLease. Loads that are under way will not bring it back. Keys that do not exist
// are no error. Errors are those of Set; with many keys they say which failed, the others are removed.
func (c *Client) Del(ctx context.Context, keys ...string) error {
	return c.write(ctx, "delete", scriptDel, keys, func(notAfter string) []string { return []string{notAfter} })
}

// Touch gives those of keys that hold a value a new ttl, counted from now. Keys that do not exist stay so, remembered
// absences keep their own ttl. ttl and errors are those of Set.
func (c *Client) Touch(ctx context.Context, ttl time.Duration, keys ...string) error {
	if _, err := c.check(ttl, nil); err != nil {
		return err
	}
	return c.write(ctx, "touch", scriptTouch, keys, func(notAfter string) []string {
		return []string{notAfter, milliseconds(ttl), lockPrefix, wireAbsent}
	})
}

func (c *Client) write(ctx context.Context, verb string, s *script, keys []string, args func(notAfter string) []string) error {
	for _, key := range keys {
		if err := c.checkKey(key); err != nil {
			return err
		}
	}
	if c.closing.Err() != nil {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	defer func() {
		for _, key := range keys {
			c.near.drop(key)
			c.bump(key)
		}
	}()
	all := c.batches(s, nil, len(keys), func(i int) (string, *shard) { return keys[i], c.shardOf(keys[i]) }, nil)
	c.execute(ctx, all, args)
	var late []*batch
	for _, b := range all {
		if done, err := b.reply.AsInt64(); b.err == nil && err == nil && done == 0 {
			late = append(late, b)
		}
	}
	if len(late) > 0 { // the server's clock is ahead of what we take it for: look at it and try again, once
		c.lookAtClocks(ctx, late)
		if ctx.Err() == nil {
			c.execute(ctx, late, args)
		}
	}
	var errs []error
	for _, b := range all {
		if err := c.writeError(&b.call); err != nil {
			what := quoted(b.keys[0])
			if len(b.keys) > 1 {
				what = fmt.Sprintf("%s and %d more", what, len(b.keys)-1)
			}
			errs = append(errs, fmt.Errorf("aside: cannot %s %s: %w", verb, what, err))
		}
	}
	return errors.Join(errs...)
}

// lookAtClocks probes the shards of batches, all at once, and returns when it knows or ctx has ended.
func (c *Client) lookAtClocks(ctx context.Context, late []*batch) {
	seen := make(map[*shard]bool, 1)
	var probes sync.WaitGroup
	for _, b := range late {
		if seen[b.shard] {
			continue
		}
		seen[b.shard] = true
		probes.Add(1)
		if !c.inBackground(func() { // ends within its timeout
			defer probes.Done()
			c.probe(b.shard)
		}) {
			probes.Done()
		}
	}
	done := make(chan struct{})
	go func() { // ends with the probes
		probes.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// execute sends writes, each with the time after which its server must not do it any more: a command that timed out
// may otherwise be executed much later, even after this process has gone.
func (c *Client) execute(ctx context.Context, all []*batch, args func(notAfter string) []string) {
	patience := c.opt.RedisTimeout
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline))
	}
	for _, b := range all {
		if b.shard != nil {
			notAfter := c.serverTime(b.shard) + (patience + lateMargin).Microseconds()
			b.args = args(strconv.FormatInt(notAfter, 10))
		}
	}
	c.runBatches(ctx, all, nil)
}

// writeError says what an answer to a write means to the caller.
func (c *Client) writeError(q *call) error {
	err := q.err
	if err == nil {
		done, err := q.reply.AsInt64()
		if err == nil && done == 0 {
			err = fmt.Errorf("%w: the server's clock jumps, it took the write for late", ErrRedisAway)
		}
		return err
	}
	if reply, ok := rueidis.IsRedisErr(err); ok {
		for _, word := range []string{"LOADING", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN"} {
			// Redis 6 wraps what a command in a script said: "ERR Error running script …: -READONLY …".
			if strings.HasPrefix(reply.Error(), word) || strings.Contains(reply.Error(), "-"+word+" ") {
				return fmt.Errorf("%w: %w", ErrRedisAway, err)
			}
		}
		return fmt.Errorf("refused by Redis: %w", err)
	}
	if neverSent(err) {
		if errors.Is(err, ErrRedisAway) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrRedisAway, err)
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}
