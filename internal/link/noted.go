package link

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// answers are what Redis has answered during one Update. The function that Update is given also
// talks to others, whose errors look the same, so only these say anything about Redis. Safe for
// concurrent use.
type answers struct {
	mu   sync.Mutex
	ok   bool    // one at least was no error; guarded by mu
	errs []error // guarded by mu
}

func (a *answers) note(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil || rueidis.IsRedisNil(err) {
		a.ok = true
	} else {
		a.errs = append(a.errs, err)
	}
	return err
}

func (a *answers) noteResult(result rueidis.RedisResult) rueidis.RedisResult {
	_ = a.note(result.Error())
	return result
}

func (a *answers) noteAll(results []rueidis.RedisResult) []rueidis.RedisResult {
	for i := range results {
		_ = a.note(results[i].Error())
	}
	return results
}

// all returns the errors so far, and whether there was an answer that was none.
func (a *answers) all() (errs []error, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clip(a.errs), a.ok
}

// origin returns the one of errs that err is or wraps, or nil. rueidis makes a reply's error anew
// each time it is asked for it.
func origin(err error, errs []error) error {
	reply, isReply := replyOf(err)
	for _, of := range errs {
		if other, ok := replyOf(of); ok && isReply && other.Error() == reply.Error() || errors.Is(err, of) {
			return of
		}
	}
	return nil
}

// askedClient is a client whose answers are noted.
type askedClient struct {
	rueidis.Client
	answers *answers
}

func (c *askedClient) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	return c.answers.noteResult(c.Client.Do(ctx, cmd))
}

func (c *askedClient) DoMulti(ctx context.Context, multi ...rueidis.Completed) []rueidis.RedisResult {
	return c.answers.noteAll(c.Client.DoMulti(ctx, multi...))
}

func (c *askedClient) DoCache(ctx context.Context, cmd rueidis.Cacheable, ttl time.Duration) rueidis.RedisResult {
	return c.answers.noteResult(c.Client.DoCache(ctx, cmd, ttl))
}

func (c *askedClient) DoMultiCache(ctx context.Context, multi ...rueidis.CacheableTTL) []rueidis.RedisResult {
	return c.answers.noteAll(c.Client.DoMultiCache(ctx, multi...))
}

func (c *askedClient) DoStream(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResultStream {
	stream := c.Client.DoStream(ctx, cmd)
	_ = c.answers.note(stream.Error())
	return stream
}

func (c *askedClient) DoMultiStream(ctx context.Context, multi ...rueidis.Completed) rueidis.MultiRedisResultStream {
	stream := c.Client.DoMultiStream(ctx, multi...)
	_ = c.answers.note(stream.Error())
	return stream
}

func (c *askedClient) Receive(ctx context.Context, subscribe rueidis.Completed, fn func(rueidis.PubSubMessage)) error {
	return c.answers.note(c.Client.Receive(ctx, subscribe, fn))
}

func (c *askedClient) Dedicated(fn func(rueidis.DedicatedClient) error) error {
	return c.Client.Dedicated(func(d rueidis.DedicatedClient) error { return fn(&askedDedicated{d, c.answers}) })
}

func (c *askedClient) Dedicate() (rueidis.DedicatedClient, func()) {
	d, cancel := c.Client.Dedicate()
	return &askedDedicated{d, c.answers}, cancel
}

func (c *askedClient) Nodes() map[string]rueidis.Client {
	theirs := c.Client.Nodes()
	nodes := make(map[string]rueidis.Client, len(theirs))
	for addr, node := range theirs {
		nodes[addr] = &askedClient{node, c.answers}
	}
	return nodes
}

// askedDedicated is the same for a connection of one's own.
type askedDedicated struct {
	rueidis.DedicatedClient
	answers *answers
}

func (d *askedDedicated) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	return d.answers.noteResult(d.DedicatedClient.Do(ctx, cmd))
}

func (d *askedDedicated) DoMulti(ctx context.Context, multi ...rueidis.Completed) []rueidis.RedisResult {
	return d.answers.noteAll(d.DedicatedClient.DoMulti(ctx, multi...))
}

func (d *askedDedicated) Receive(ctx context.Context, subscribe rueidis.Completed, fn func(rueidis.PubSubMessage)) error {
	return d.answers.note(d.DedicatedClient.Receive(ctx, subscribe, fn))
}
