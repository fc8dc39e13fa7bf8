// Package peer is a cache-aside client after the protocol that rueidisaside publishes, written here
// from its description: the protocol, not the library. The library is not served by the Go module
// proxy, and a comparison needs something that does the same work on the same connection. What can
// be read off it is what the protocol costs: round trips, commands, who is woken when. The
// library's own overhead may be a little more or less.
//
//	DoCache GET key                         a value: done. The client-side cache is rueidis's
//	nothing there: SET key id NX GET PX     we put our id there: we are the holder. Somebody's id: wait. A value: done
//	holder: loader; then a script           SET key value PX, if the key still holds our id
//	waiter: DoCache GET id                  the id of a holder is a key that it keeps alive: gone means the holder is dead
//	        until the key or the id changes, as Redis's invalidations tell; then from the top
package peer

import (
	"context"
	"crypto/rand"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// Client is safe for concurrent use.
type Client struct {
	redis rueidis.Client
	id    string // this client's, and what stands in a key that it is loading
	stop  chan struct{}
	done  chan struct{} // the id is no longer kept alive

	mu      sync.Mutex
	changes map[string]chan struct{} // guarded by mu; closed when the key changes
}

const (
	idPrefix = "bench:peer:"
	idTTL    = 10 * time.Second
)

var (
	fill    = rueidis.NewLuaScript(`return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])`)
	release = rueidis.NewLuaScript(`return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1])`)
)

// New connects with rueidis's own defaults, apart from o and what the protocol needs.
func New(o rueidis.ClientOption) (*Client, error) {
	c := &Client{
		id: idPrefix + rand.Text(), stop: make(chan struct{}), done: make(chan struct{}),
		changes: make(map[string]chan struct{}),
	}
	o.OnInvalidations = c.invalidated
	o.PipelineMultiplex = -1 // one connection, as rueidisaside has
	var err error
	if c.redis, err = rueidis.NewClient(o); err != nil {
		return nil, err
	}
	if err := c.keepAlive(); err != nil {
		c.redis.Close()
		return nil, err
	}
	go func() { // ends with Close
		defer close(c.done)
		for tick := time.NewTicker(idTTL / 2); ; {
			select {
			case <-tick.C:
				_ = c.keepAlive()
			case <-c.stop:
				tick.Stop()
				return
			}
		}
	}()
	return c, nil
}

// Close ends the client.
func (c *Client) Close() {
	close(c.stop)
	<-c.done
	c.redis.Do(context.Background(), c.redis.B().Del().Key(c.id).Build())
	c.redis.Close()
}

func (c *Client) keepAlive() error {
	return c.redis.Do(context.Background(), c.redis.B().Set().Key(c.id).Value("").Px(idTTL).Build()).Error()
}

// Get returns the value of key, which load provides if there is none.
func (c *Client) Get(ctx context.Context, ttl time.Duration, key string, load func(context.Context, string) (string, error)) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, ttl) // rueidisaside ends a call after ttl at the latest
	defer cancel()
	for {
		changed := c.change(key) // before the request, so that no change is missed
		held, err := c.redis.DoCache(ctx, c.redis.B().Get().Key(key).Cache(), ttl).ToString()
		if rueidis.IsRedisNil(err) {
			held, err = c.redis.Do(ctx, c.redis.B().Set().Key(key).Value(c.id).Nx().Get().Px(ttl).Build()).ToString()
			if rueidis.IsRedisNil(err) {
				return c.load(ctx, ttl, key, load)
			}
		}
		switch {
		case err != nil:
			return "", err
		case !strings.HasPrefix(held, idPrefix):
			return held, nil
		}
		if err := c.wait(ctx, key, held, changed); err != nil {
			return "", err
		}
	}
}

// load is for the holder.
func (c *Client) load(ctx context.Context, ttl time.Duration, key string, load func(context.Context, string) (string, error)) (string, error) {
	value, err := load(ctx, key)
	if err == nil {
		err = fill.Exec(ctx, c.redis, []string{key}, []string{c.id, value, strconv.FormatInt(ttl.Milliseconds(), 10)}).Error()
		if rueidis.IsRedisNil(err) { // refused: somebody has written meanwhile
			err = nil
		}
	}
	if err != nil {
		release.Exec(context.WithoutCancel(ctx), c.redis, []string{key}, []string{c.id})
	}
	return value, err
}

// wait returns when key may hold something else, or its holder is gone.
func (c *Client) wait(ctx context.Context, key, holder string, changed <-chan struct{}) error {
	gone := c.change(holder)
	err := c.redis.DoCache(ctx, c.redis.B().Get().Key(holder).Cache(), idTTL).Error()
	if rueidis.IsRedisNil(err) {
		err = release.Exec(ctx, c.redis, []string{key}, []string{holder}).Error()
		if rueidis.IsRedisNil(err) {
			err = nil
		}
		return err
	}
	if err != nil {
		return err
	}
	select {
	case <-changed:
	case <-gone:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// change returns a channel that is closed when key changes. A key that is never changed stays in
// the table: this is a yardstick, which is thrown away after the measurement.
func (c *Client) change(key string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := c.changes[key]
	if ch == nil {
		ch = make(chan struct{})
		c.changes[key] = ch
	}
	return ch
}

func (c *Client) invalidated(keys []rueidis.RedisMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if keys == nil { // the connection is lost
		for key, ch := range c.changes {
			close(ch)
			delete(c.changes, key)
		}
	}
	for i := range keys {
		key, err := keys[i].ToString()
		if err == nil && c.changes[key] != nil {
			close(c.changes[key])
			delete(c.changes, key)
		}
	}
}
