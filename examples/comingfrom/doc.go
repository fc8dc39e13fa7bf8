// Package comingfrom has the code of docs/COMING-FROM.md: what a service does with another library,
// and the same with aside. Its tests run both against one Redis. It is a module of its own, because
// of the libraries that it compares.
package comingfrom

import (
	"context"
	"errors"
	"sync/atomic"
)

// User is what the examples cache.
type User struct {
	ID   int
	Name string
}

var errNoUser = errors.New("no such user")

// database stands for the database of the examples. Safe for concurrent use.
type database struct{ queries atomic.Int64 }

func (db *database) user(_ context.Context, id int) (User, error) {
	db.queries.Add(1)
	if id <= 0 {
		return User{}, errNoUser
	}
	return User{ID: id, Name: "Ada"}, nil
}

func (db *database) users(ctx context.Context, ids []int) (map[int]User, error) {
	found := make(map[int]User, len(ids))
	for _, id := range ids {
		if user, err := db.user(ctx, id); err == nil {
			found[id] = user
		}
	}
	return found, nil
}
