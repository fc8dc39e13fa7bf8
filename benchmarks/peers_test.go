package benchmarks

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidisaside"
	"github.com/viccon/sturdyc"

	"github.com/redaside/aside/benchmarks/internal/bench"
)

// rueidisasideUsers is rueidisaside, with encoding/json for what is typed.
type rueidisasideUsers struct {
	rueidisaside.CacheAsideClient
	typed rueidisaside.TypedCacheAsideClient[bench.User]
}

func newRueidisaside(tb testing.TB, addr string) users {
	tb.Helper()
	c, err := rueidisaside.NewClient(rueidisaside.ClientOption{ClientOption: rueidis.ClientOption{InitAddress: []string{addr}}})
	if err != nil {
		tb.Fatal(err)
	}
	typed := rueidisaside.NewTypedCacheAsideClient(c, func(u *bench.User) (string, error) { return bench.Encode(*u), nil }, func(s string) (*bench.User, error) {
		u, err := bench.Decode(s)
		return &u, err
	})
	return &rueidisasideUsers{c, typed}
}

func (r *rueidisasideUsers) get(ctx context.Context, key string, load func(context.Context, string) (bench.User, error)) (bench.User, error) {
	u, err := r.typed.Get(ctx, bench.TTL, key, func(ctx context.Context, key string) (*bench.User, error) {
		u, err := load(ctx, key)
		return &u, err
	})
	if err != nil {
		return bench.User{}, err
	}
	return *u, nil
}

func (r *rueidisasideUsers) Get(ctx context.Context, key string, load func(context.Context, string) (string, error)) (string, error) {
	return r.CacheAsideClient.Get(ctx, bench.TTL, key, load)
}

func (r *rueidisasideUsers) stored(context.Context, string) error { return nil }

func (r *rueidisasideUsers) Close() error { r.CacheAsideClient.Close(); return nil }

// goRedisUsers is go-redis/cache with a local TinyLFU for a minute, which nobody tells of changes.
// It takes no lock in Redis: callers of one process share a load, processes do not.
type goRedisUsers struct {
	*cache.Cache
	redis *redis.Client
}

func newGoRedisUsers(tb testing.TB, addr string) users {
	tb.Helper()
	r := redis.NewClient(&redis.Options{Addr: addr})
	return &goRedisUsers{cache.New(&cache.Options{
		Redis: r, LocalCache: cache.NewTinyLFU(100_000, time.Minute),
		Marshal: func(v any) ([]byte, error) {
			switch v := v.(type) {
			case bench.User:
				return []byte(bench.Encode(v)), nil
			case string:
				return []byte(v), nil
			}
			return nil, fmt.Errorf("a %T", v)
		},
		Unmarshal: func(data []byte, v any) (err error) {
			switch v := v.(type) {
			case *bench.User:
				*v, err = bench.Decode(string(data))
			case *string:
				*v = string(data)
			}
			return err
		},
	}), r}
}

func (g *goRedisUsers) get(ctx context.Context, key string, load func(context.Context, string) (bench.User, error)) (u bench.User, err error) {
	err = g.Once(&cache.Item{Ctx: ctx, Key: key, Value: &u, TTL: bench.TTL, Do: func(*cache.Item) (any, error) { return load(ctx, key) }})
	return u, err
}

func (g *goRedisUsers) Get(ctx context.Context, key string, load func(context.Context, string) (string, error)) (v string, err error) {
	err = g.Once(&cache.Item{Ctx: ctx, Key: key, Value: &v, TTL: bench.TTL, Do: func(*cache.Item) (any, error) { return load(ctx, key) }})
	return v, err
}

func (g *goRedisUsers) stored(context.Context, string) error { return nil }

func (g *goRedisUsers) Close() error { return g.redis.Close() }

// sturdycUsers is sturdyc in front of Redis, as its distributed storage, by way of rueidis. It takes
// no lock in Redis either, and stores what was loaded in the background.
type sturdycUsers struct {
	typed   *sturdyc.Client[bench.User]
	strings *sturdyc.Client[string]
	storage *sturdycStorage
}

func newSturdyc(tb testing.TB, addr string) users {
	tb.Helper()
	s := &sturdycStorage{redis: bench.RedisAt(tb, addr)}
	const capacity, shards, evicted = 1_000_000, 64, 10
	return &sturdycUsers{
		sturdyc.New[bench.User](capacity, shards, bench.TTL, evicted, sturdyc.WithDistributedStorage(s)),
		sturdyc.New[string](capacity, shards, bench.TTL, evicted, sturdyc.WithDistributedStorage(s)),
		s,
	}
}

func (s *sturdycUsers) get(ctx context.Context, key string, load func(context.Context, string) (bench.User, error)) (bench.User, error) {
	return s.typed.GetOrFetch(ctx, key, func(ctx context.Context) (bench.User, error) {
		s.storage.storing.Add(1)
		return load(ctx, key)
	})
}

func (s *sturdycUsers) Get(ctx context.Context, key string, load func(context.Context, string) (string, error)) (string, error) {
	return s.strings.GetOrFetch(ctx, key, func(ctx context.Context) (string, error) {
		s.storage.storing.Add(1)
		return load(ctx, key)
	})
}

func (s *sturdycUsers) stored(context.Context, string) error { s.storage.storing.Wait(); return nil }

func (s *sturdycUsers) Close() error { s.storage.redis.Close(); return nil }

// sturdycStorage has what sturdyc stores in Redis.
type sturdycStorage struct {
	redis   rueidis.Client
	storing sync.WaitGroup // of loads whose values are not stored yet
}

func (s *sturdycStorage) Get(ctx context.Context, key string) ([]byte, bool) {
	b, err := s.redis.Do(ctx, s.redis.B().Get().Key(key).Build()).AsBytes()
	return b, err == nil
}

func (s *sturdycStorage) Set(ctx context.Context, key string, value []byte) {
	defer s.storing.Done()
	s.redis.Do(ctx, s.redis.B().Set().Key(key).Value(rueidis.BinaryString(value)).Px(bench.TTL).Build())
}

func (s *sturdycStorage) GetBatch(context.Context, []string) map[string][]byte { return nil }

func (s *sturdycStorage) SetBatch(context.Context, map[string][]byte) {}

// Every peer does what the benchmarks take for granted: it loads once, serves that, and has stored
// it when it says so.
func TestPeersStoreWhatTheyLoad(t *testing.T) {
	for name, open := range newUsers {
		t.Run(name, func(t *testing.T) {
			key, ctx := bench.Keys(1)[0], t.Context()
			for process := range 2 { // the second one finds it in Redis
				c := open(t, bench.Addr())
				loads := 0
				for range 3 {
					got, err := c.Get(ctx, key, func(context.Context, string) (string, error) { loads++; return raw, nil })
					if err != nil || got != raw {
						t.Fatalf("%q, %v", got, err)
					}
					must(t, c.stored(ctx, key))
				}
				if loads != 1-process {
					t.Errorf("client %d has loaded %d times", process, loads)
				}
				u, err := c.get(ctx, key+":typed", trivial)
				if err != nil || u != bench.NewUser(1) {
					t.Fatalf("%v, %v", u, err)
				}
				must(t, c.stored(ctx, key+":typed"))
				must(t, c.Close())
			}
		})
	}
}
