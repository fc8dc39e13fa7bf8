package comingfrom

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidisaside"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

type withRueidisaside struct {
	client rueidisaside.CacheAsideClient
	users  rueidisaside.TypedCacheAsideClient[User]
	db     *database
}

func newWithRueidisaside(addr string, db *database) (*withRueidisaside, error) {
	// before: making it
	client, err := rueidisaside.NewClient(rueidisaside.ClientOption{
		ClientOption: rueidis.ClientOption{InitAddress: []string{addr}},
	})
	if err != nil { // also where Redis is away
		return nil, err
	}
	users := rueidisaside.NewTypedCacheAsideClient(client,
		func(u *User) (string, error) { b, err := json.Marshal(u); return string(b), err },
		func(s string) (*User, error) { u := new(User); return u, json.Unmarshal([]byte(s), u) })
	// end
	return &withRueidisaside{client, users, db}, nil
}

func (s *withRueidisaside) user(ctx context.Context) (*User, error) {
	db, users := s.db, s.users
	// before: reading
	return users.Get(ctx, time.Hour, "user:42", func(ctx context.Context, _ string) (*User, error) {
		user, err := db.user(ctx, 42)
		if errors.Is(err, errNoUser) {
			rueidisaside.OverrideCacheTTL(ctx, time.Minute)
			return nil, nil // stored as "null"
		}
		return &user, err
	})
	// end
}

func (s *withRueidisaside) changed(ctx context.Context) error { return s.client.Del(ctx, "user:42") }

// like is what replaces it.
type likeRueidisaside struct {
	client *aside.Client
	users  *aside.TypedClient[User]
	db     *database
}

func newLikeRueidisaside(addr string, db *database) (*likeRueidisaside, error) {
	// after: making it
	client, err := aside.New(aside.Options{
		Redis: rueidis.ClientOption{InitAddress: []string{addr}},
	})
	if err != nil { // an option is wrong; a Redis that is away is no error
		return nil, err
	}
	users := aside.Typed(client, codec.JSON[User]())
	// end
	return &likeRueidisaside{client, users, db}, nil
}

func (s *likeRueidisaside) user(ctx context.Context) (User, error) {
	db, users := s.db, s.users
	// after: reading
	return users.Get(ctx, time.Hour, "user:42", func(ctx context.Context, _ string) (User, error) {
		user, err := db.user(ctx, 42)
		if errors.Is(err, errNoUser) {
			return user, aside.ErrNotFound
		}
		return user, err
	}, aside.WithNegativeTTL(time.Minute))
	// end
}

func (s *likeRueidisaside) changed(ctx context.Context) error { return s.client.Del(ctx, "user:42") }
