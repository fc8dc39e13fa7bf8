package link

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// What Client.Redis returns, and what Update hands to its function. It has connections of its own,
// made when they are first needed, with the user's options and without our tracking. So what the
// service reads is not tracked for us, what it writes is pushed to us like anybody's write, and
// nothing that it does to a connection happens to ours.
//
// Its connections are shared by all of its callers. What would change a connection for the others
// is refused.

// OwnClient returns the client for the user's own commands, or false while Redis has not been
// reached yet.
func (l *Link) OwnClient() (rueidis.Client, bool) {
	if l.topo.Load() == nil {
		return nil, false
	}
	return &guardedClient{&l.lateClient}, true
}

// ConnectOwn sees to it that it is there. It takes ConnectTimeout at most.
func (l *Link) ConnectOwn(ctx context.Context) error { return l.lateClient.connect(ctx) }

// lateClient is a rueidis client that is made when it is first needed. Safe for concurrent use.
type lateClient struct {
	l *Link // immutable

	mu      sync.Mutex    // guards all below; never held while calling out
	session *session      // nil until it is there
	making  chan struct{} // closed at the end of an attempt; nil if there is none
	err     error         // of the latest attempt
}

// get returns the client.
func (c *lateClient) get(ctx context.Context) (rueidis.Client, error) {
	for first := true; ; first = false {
		c.mu.Lock()
		if c.session != nil {
			c.mu.Unlock()
			return c.session.redis, nil
		}
		if !first && c.making == nil && c.err != nil {
			err := c.err
			c.mu.Unlock()
			return nil, err
		}
		if c.making == nil {
			c.making, c.err = make(chan struct{}), nil
			if !c.l.up.InBackground(c.make) { // ends with its dial
				c.making = nil
				c.mu.Unlock()
				return nil, ErrClosed
			}
		}
		making := c.making
		c.mu.Unlock()
		select {
		case <-making:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrNotAsked, ctx.Err())
		}
	}
}

func (c *lateClient) make() {
	made := &session{roads: new(roads)} // what passes there says nothing of ours
	option := c.l.baseOption()
	if t := c.l.topo.Load(); t != nil && !t.session.tracked {
		option.DisableCache, option.OnInvalidations = true, nil
	}
	option.DialCtxFn = c.l.dialer(option, made)
	redis, err := c.l.callBuilder(option, func(late rueidis.Client) { made.close(late) })
	made.redis = redis
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err = err; err == nil {
		c.session = made
	}
	close(c.making)
	c.making = nil
}

// end closes it for good; nobody makes it any more.
func (c *lateClient) end() {
	c.mu.Lock()
	made := c.session
	c.mu.Unlock()
	if made != nil {
		made.close(made.redis)
	}
}

// now is get for what has no context.
func (c *lateClient) now() (rueidis.Client, error) {
	ctx, cancel := context.WithTimeout(c.l.closing, c.l.opt.ConnectTimeout)
	defer cancel()
	return c.get(ctx)
}

// connect sees to it that the client is there. It takes ConnectTimeout at most.
func (c *lateClient) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.l.opt.ConnectTimeout)
	defer cancel()
	for {
		_, err := c.get(ctx)
		if err == nil || ctx.Err() != nil || !c.l.Connected() || !c.l.Sleep(Jitter(20*time.Millisecond)) {
			return err
		}
	}
}

// shared is the client that everybody uses, for what needs no connection.
func (c *lateClient) shared() rueidis.Client { return c.l.topo.Load().redis }

func (c *lateClient) B() rueidis.Builder       { return c.shared().B() }
func (c *lateClient) Mode() rueidis.ClientMode { return c.shared().Mode() }
func (c *lateClient) Close()                   {}

func (c *lateClient) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	redis, err := c.get(ctx)
	if err != nil {
		return rueidis.NewErrorResult(err)
	}
	return redis.Do(ctx, cmd)
}

func (c *lateClient) DoMulti(ctx context.Context, multi ...rueidis.Completed) []rueidis.RedisResult {
	redis, err := c.get(ctx)
	if err != nil {
		return errorResults(len(multi), err)
	}
	return redis.DoMulti(ctx, multi...)
}

func (c *lateClient) DoCache(ctx context.Context, cmd rueidis.Cacheable, ttl time.Duration) rueidis.RedisResult {
	redis, err := c.get(ctx)
	if err != nil {
		return rueidis.NewErrorResult(err)
	}
	return redis.DoCache(ctx, cmd, ttl)
}

func (c *lateClient) DoMultiCache(ctx context.Context, multi ...rueidis.CacheableTTL) []rueidis.RedisResult {
	redis, err := c.get(ctx)
	if err != nil {
		return errorResults(len(multi), err)
	}
	return redis.DoMultiCache(ctx, multi...)
}

func (c *lateClient) DoStream(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResultStream {
	redis, err := c.get(ctx)
	if err != nil {
		return rueidis.NewErrorResultStream(err)
	}
	return redis.DoStream(ctx, cmd)
}

func (c *lateClient) DoMultiStream(ctx context.Context, multi ...rueidis.Completed) rueidis.MultiRedisResultStream {
	redis, err := c.get(ctx)
	if err != nil {
		return rueidis.NewErrorResultStream(err)
	}
	return redis.DoMultiStream(ctx, multi...)
}

func (c *lateClient) Receive(ctx context.Context, subscribe rueidis.Completed, fn func(rueidis.PubSubMessage)) error {
	redis, err := c.get(ctx)
	if err != nil {
		return err
	}
	return redis.Receive(ctx, subscribe, fn)
}

func (c *lateClient) Dedicated(fn func(rueidis.DedicatedClient) error) error {
	redis, err := c.now()
	if err != nil {
		return err
	}
	return redis.Dedicated(fn)
}

func (c *lateClient) Dedicate() (rueidis.DedicatedClient, func()) {
	redis, err := c.now()
	if err != nil {
		return unconnected{c.B, err}, func() {}
	}
	return redis.Dedicate()
}

func (c *lateClient) Nodes() map[string]rueidis.Client {
	redis, err := c.now()
	if err != nil {
		return nil
	}
	return redis.Nodes()
}

func errorResults(n int, err error) []rueidis.RedisResult {
	results := make([]rueidis.RedisResult, n)
	for i := range results {
		results[i] = rueidis.NewErrorResult(err)
	}
	return results
}

// unconnected is a dedicated client of a Redis that cannot be reached.
type unconnected struct {
	b   func() rueidis.Builder
	err error
}

func (u unconnected) B() rueidis.Builder { return u.b() }
func (u unconnected) Close()             {}
func (u unconnected) Do(context.Context, rueidis.Completed) rueidis.RedisResult {
	return rueidis.NewErrorResult(u.err)
}
func (u unconnected) DoMulti(_ context.Context, multi ...rueidis.Completed) []rueidis.RedisResult {
	return errorResults(len(multi), u.err)
}
func (u unconnected) Receive(context.Context, rueidis.Completed, func(rueidis.PubSubMessage)) error {
	return u.err
}
func (u unconnected) SetPubSubHooks(rueidis.PubSubHooks) <-chan error { return u.closed() }
func (u unconnected) SetOnInvalidations(func([]rueidis.RedisMessage)) <-chan error {
	return u.closed()
}
func (u unconnected) closed() <-chan error {
	failed := make(chan error, 1)
	failed <- u.err
	close(failed)
	return failed
}
