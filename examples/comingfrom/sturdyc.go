package comingfrom

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/viccon/sturdyc"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

type withSturdyc struct {
	cache *sturdyc.Client[User]
	db    *database
}

func newWithSturdyc(db *database) *withSturdyc {
	// before: sturdyc, making it
	cache := sturdyc.New[User](10_000, 10, time.Hour, 10,
		sturdyc.WithEarlyRefreshes(48*time.Minute, 54*time.Minute, time.Hour, time.Second),
		sturdyc.WithMissingRecordStorage())
	// end
	return &withSturdyc{cache, db}
}

func (s *withSturdyc) user(ctx context.Context) (User, error) {
	db, cache := s.db, s.cache
	// before: sturdyc, reading
	return cache.GetOrFetch(ctx, "user-42", func(ctx context.Context) (User, error) {
		user, err := db.user(ctx, 42)
		if errors.Is(err, errNoUser) {
			return user, sturdyc.ErrNotFound
		}
		return user, err
	})
	// end
}

func (s *withSturdyc) many(ctx context.Context) (map[string]User, error) {
	db, cache := s.db, s.cache
	// before: sturdyc, reading many
	return cache.GetOrFetchBatch(ctx, []string{"42", "43"}, cache.BatchKeyFn("user"),
		func(ctx context.Context, missing []string) (map[string]User, error) {
			ids := make([]int, len(missing))
			for i, id := range missing {
				ids[i], _ = strconv.Atoi(id)
			}
			found, err := db.users(ctx, ids)
			byID := make(map[string]User, len(found))
			for id, user := range found {
				byID[strconv.Itoa(id)] = user
			}
			return byID, err
		})
	// end
}

type likeSturdyc struct {
	users *aside.Keyed[int, User]
	db    *database
}

func newLikeSturdyc(client *aside.Client, db *database) *likeSturdyc {
	// after: sturdyc, making it
	view := aside.Typed(client, codec.JSON[User](), aside.WithRefreshAhead(0.2), aside.WithGrace(time.Hour))
	users := aside.NewKeyed(view, func(id int) string { return "user:" + strconv.Itoa(id) })
	// end
	return &likeSturdyc{users, db}
}

func (s *likeSturdyc) user(ctx context.Context) (User, error) {
	db, users := s.db, s.users
	// after: sturdyc, reading
	return users.Get(ctx, time.Hour, 42, func(ctx context.Context, id int) (User, error) {
		user, err := db.user(ctx, id)
		if errors.Is(err, errNoUser) {
			return user, aside.ErrNotFound
		}
		return user, err
	})
	// end
}

func (s *likeSturdyc) many(ctx context.Context) (map[int]User, error) {
	db, users := s.db, s.users
	// after: sturdyc, reading many
	return users.GetMulti(ctx, time.Hour, []int{42, 43}, db.users)
	// end
}
