package resp

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// What an ordinary application does with its Redis, by the client that it has: each by itself, on an
// empty database.
var ordinary = []struct {
	name string
	do   func(ctx context.Context, c *goredis.Client) (any, error)
	want any
}{
	{"SET and GET", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.Set(ctx, "k", "v", time.Minute)
		return c.Get(ctx, "k").Result()
	}, "v"},
	{"SET NX", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.SetNX(ctx, "k", "v", time.Minute)
		return c.SetNX(ctx, "k", "w", time.Minute).Result()
	}, false},
	{"MSET and MGET", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.MSet(ctx, "k", "v", "l", "w")
		return c.MGet(ctx, "k", "l", "m").Result()
	}, []any{"v", "w", nil}},
	{"INCR", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.Incr(ctx, "k")
		return c.IncrBy(ctx, "k", 4).Result()
	}, int64(5)},
	{"INCRBYFLOAT", func(ctx context.Context, c *goredis.Client) (any, error) {
		return c.IncrByFloat(ctx, "k", 1.5).Result()
	}, 1.5},
	{"APPEND", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.Append(ctx, "k", "ab")
		return c.Append(ctx, "k", "c").Result()
	}, int64(3)},
	{"GETSET", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.Set(ctx, "k", "v", 0)
		return c.Do(ctx, "GETSET", "k", "w").Result()
	}, "v"},
	{"GETRANGE and SETRANGE", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.Set(ctx, "k", "hello", 0)
		c.SetRange(ctx, "k", 0, "j")
		return c.GetRange(ctx, "k", 0, 2).Result()
	}, "jel"},
	{"EXPIRE and TTL", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.Set(ctx, "k", "v", 0)
		c.Expire(ctx, "k", time.Hour)
		return c.TTL(ctx, "k").Result()
	}, time.Hour},
	{"EXPIREAT, PEXPIREAT and TOUCH", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.MSet(ctx, "k", "v", "l", "w")
		c.ExpireAt(ctx, "k", time.Unix(4_000_000_000, 0))
		c.PExpireAt(ctx, "l", time.Unix(4_000_000_000, 0))
		return c.Touch(ctx, "k", "l", "m").Result()
	}, int64(2)},
	{"SCAN", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.MSet(ctx, "k", "v", "l", "w")
		keys, _, err := c.Scan(ctx, 0, "*", 1000).Result()
		return len(keys), err
	}, 2},
	{"a pipeline", func(ctx context.Context, c *goredis.Client) (any, error) {
		all, err := c.Pipelined(ctx, func(p goredis.Pipeliner) error {
			p.Set(ctx, "k", "v", 0)
			p.HSet(ctx, "h", "f", "v")
			p.Get(ctx, "k")
			return nil
		})
		return all[2].(*goredis.StringCmd).Val(), err
	}, "v"},
	{"a hash, as sessions are", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.HSet(ctx, "session:1", map[string]any{"user": "ann", "visits": 1})
		c.HIncrBy(ctx, "session:1", "visits", 2)
		c.Expire(ctx, "session:1", time.Hour)
		return c.HGetAll(ctx, "session:1").Result()
	}, map[string]string{"user": "ann", "visits": "3"}},
	{"a list, as queues are", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.LPush(ctx, "queue", "1", "2")
		c.Do(ctx, "RPOPLPUSH", "queue", "working")
		return c.BRPop(ctx, time.Second, "queue").Result()
	}, []string{"queue", "2"}},
	{"a set", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.SAdd(ctx, "s", "a", "b")
		c.SRem(ctx, "s", "a")
		return c.SMembers(ctx, "s").Result()
	}, []string{"b"}},
	{"a sorted set, as leaderboards are", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.ZAdd(ctx, "z", goredis.Z{Score: 1, Member: "ann"}, goredis.Z{Score: 2, Member: "bob"})
		return c.ZRevRangeWithScores(ctx, "z", 0, 0).Result()
	}, []goredis.Z{{Score: 2, Member: "bob"}}},
	{"a stream", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.XAdd(ctx, &goredis.XAddArgs{Stream: "x", ID: "1-1", Values: []string{"f", "v"}})
		return c.XLen(ctx, "x").Result()
	}, int64(1)},
	{"a rate limit by a script", func(ctx context.Context, c *goredis.Client) (any, error) {
		limit := goredis.NewScript("local n = redis.call('INCR', KEYS[1]) if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end return n")
		if _, err := limit.Run(ctx, c, []string{"limit"}, 10_000).Result(); err != nil { // EVALSHA, NOSCRIPT, EVAL
			return nil, err
		}
		return limit.Run(ctx, c, []string{"limit"}, 10_000).Result()
	}, int64(2)},
	{"a lock that is released by a script", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.SetNX(ctx, "lock", "me", time.Minute)
		release := goredis.NewScript("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")
		if n, err := release.Run(ctx, c, []string{"lock"}, "you").Result(); err != nil || n != int64(0) {
			return n, err
		}
		if _, err := release.Run(ctx, c, []string{"lock"}, "me").Result(); err != nil {
			return nil, err
		}
		return c.Exists(ctx, "lock").Result()
	}, int64(0)},
	{"MULTI and EXEC", func(ctx context.Context, c *goredis.Client) (any, error) {
		all, err := c.TxPipelined(ctx, func(p goredis.Pipeliner) error {
			p.Set(ctx, "k", "1", 0)
			p.Incr(ctx, "k")
			p.SAdd(ctx, "s", "a")
			return nil
		})
		return all[1].(*goredis.IntCmd).Val(), err
	}, int64(2)},
	{"WATCH", func(ctx context.Context, c *goredis.Client) (any, error) {
		err := c.Watch(ctx, func(tx *goredis.Tx) error {
			c.Set(ctx, "k", "other", 0)
			_, err := tx.TxPipelined(ctx, func(p goredis.Pipeliner) error {
				p.Set(ctx, "k", "mine", 0)
				return nil
			})
			return err
		}, "k")
		if !errors.Is(err, goredis.TxFailedErr) {
			return nil, fmt.Errorf("it was done: %w", err)
		}
		return c.Get(ctx, "k").Result()
	}, "other"},
	{"PUBLISH and SUBSCRIBE", func(ctx context.Context, c *goredis.Client) (any, error) {
		s := c.Subscribe(ctx, "news")
		defer s.Close()
		if _, err := s.Receive(ctx); err != nil {
			return nil, err
		}
		c.Publish(ctx, "news", "hello")
		message, err := s.ReceiveMessage(ctx)
		if err != nil {
			return nil, err
		}
		return message.Payload, nil
	}, "hello"},
	{"RENAME", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.Set(ctx, "k", "v", 0)
		c.Rename(ctx, "k", "l")
		return c.Get(ctx, "l").Result()
	}, "v"},
	{"OBJECT", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.Set(ctx, "k", "1", 0)
		return c.ObjectEncoding(ctx, "k").Result()
	}, "int"},
	{"FLUSHDB", func(ctx context.Context, c *goredis.Client) (any, error) {
		c.Set(ctx, "k", "v", 0)
		c.FlushDB(ctx)
		return c.Exists(ctx, "k").Result()
	}, int64(0)},
}

// Each check passes against Redis itself, or it is wrong; and through the proxy, in both versions of
// the protocol.
func TestAnOrdinaryApplicationWorks(t *testing.T) {
	server := redistest.Start(t)
	for name, addr := range map[string]string{"Redis": redistest.Start(t).Addr(), "proxy": passOn(t, server.Addr())} {
		for _, protocol := range []int{2, 3} {
			c := goredis.NewClient(&goredis.Options{Addr: addr, Protocol: protocol, MaxRetries: -1})
			t.Cleanup(func() { _ = c.Close() })
			for _, check := range ordinary {
				t.Run(fmt.Sprintf("%s/RESP%d/%s", name, protocol, check.name), func(t *testing.T) {
					ctx := testContext(t)
					require.NoError(t, c.FlushDB(ctx).Err())
					got, err := check.do(ctx, c)
					require.NoError(t, err)
					require.Equal(t, check.want, got)
				})
			}
		}
	}
}
