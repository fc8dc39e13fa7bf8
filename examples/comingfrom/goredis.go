package comingfrom

import (
	"context"
	"errors"
	"time"

	"github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

type withGoRedisCache struct {
	users *cache.Cache
	db    *database
}

func newWithGoRedisCache(addr string, db *database) *withGoRedisCache {
	// before: go-redis/cache, making it
	users := cache.New(&cache.Options{
		Redis:      redis.NewClient(&redis.Options{Addr: addr}),
		LocalCache: cache.NewTinyLFU(10_000, time.Minute), // nobody tells it of changes
	})
	// end
	return &withGoRedisCache{users, db}
}

func (s *withGoRedisCache) user(ctx context.Context) (User, error) {
	db, users := s.db, s.users
	// before: go-redis/cache, reading
	var user User
	err := users.Once(&cache.Item{
		Ctx: ctx, Key: "user:42", Value: &user, TTL: time.Hour,
		Do: func(item *cache.Item) (any, error) { return db.user(item.Ctx, 42) },
	})
	return user, err
	// end
}

func (s *withGoRedisCache) set(ctx context.Context, user User) error {
	users := s.users
	// before: go-redis/cache, writing
	return users.Set(&cache.Item{Ctx: ctx, Key: "user:42", Value: user, TTL: time.Hour})
	// end
}

func (s *withGoRedisCache) peek(ctx context.Context) (User, bool, error) {
	users := s.users
	// before: go-redis/cache, looking
	var user User
	err := users.Get(ctx, "user:42", &user)
	if errors.Is(err, cache.ErrCacheMiss) {
		return user, false, nil
	}
	return user, err == nil, err
	// end
}

type likeGoRedisCache struct {
	users *aside.TypedClient[User]
	db    *database
}

func newLikeGoRedisCache(addr string, db *database) (*likeGoRedisCache, error) {
	// after: go-redis/cache, making it
	client, err := aside.New(aside.Options{
		Redis:       rueidis.ClientOption{InitAddress: []string{addr}},
		MemoryBytes: 64 << 20, // Redis tells it of changes
	})
	if err != nil {
		return nil, err
	}
	users := aside.Typed(client, codec.JSON[User]())
	// end
	return &likeGoRedisCache{users, db}, nil
}

func (s *likeGoRedisCache) user(ctx context.Context) (User, error) {
	db, users := s.db, s.users
	// after: go-redis/cache, reading
	return users.Get(ctx, time.Hour, "user:42", func(ctx context.Context, _ string) (User, error) {
		return db.user(ctx, 42)
	})
	// end
}

func (s *likeGoRedisCache) set(ctx context.Context, user User) error {
	users := s.users
	// after: go-redis/cache, writing
	return users.Set(ctx, time.Hour, "user:42", user)
	// end
}

func (s *likeGoRedisCache) peek(ctx context.Context) (User, bool, error) {
	users := s.users
	// after: go-redis/cache, looking
	return users.Peek(ctx, "user:42")
	// end
}
