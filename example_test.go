package aside_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

// The examples run without Redis: what they print is the same with one, except that the loaders are
// called less often.

func exampleClient() *aside.Client {
	client, err := aside.New(aside.Options{
		Redis:  rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}}, // nobody is there
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	return client
}

func ExampleNew() {
	_, err := aside.New(aside.Options{LockTTL: 10 * time.Millisecond, MaxKeyBytes: -1})
	fmt.Println(err)
	// Output:
	// aside: Options.LockTTL is 10ms: must be at least twice RedisTimeout (250ms), or a renewal comes too late
	// aside: Options.MaxKeyBytes is -1: must be positive and at most 512 MiB, or 0 for the default
}

func ExampleClient_Get() {
	client := exampleClient()
	defer client.Close()
	ctx := context.Background()

	greeting, err := client.Get(ctx, time.Minute, "greeting:en", func(ctx context.Context, key string) (string, error) {
		return "hello", nil // from the database
	})
	fmt.Println(greeting, err)

	_, err = client.Get(ctx, time.Minute, "greeting:xx", func(ctx context.Context, key string) (string, error) {
		return "", fmt.Errorf("language xx: %w", aside.ErrNotFound)
	})
	fmt.Println(errors.Is(err, aside.ErrNotFound))
	// Output:
	// hello <nil>
	// true
}

// A loader may outlive the call that began it: it gets copies of what it needs, and returns what it
// finds, a reason for refusing too.
func ExampleLoader() {
	client := exampleClient()
	defer client.Close()

	// What a request has: its bytes are another request's when the handler has returned.
	path := []byte("/orders/42")

	id := string(path[len("/orders/"):]) // a copy, made before the call
	status, err := client.Get(context.Background(), time.Minute, "order:"+id, func(ctx context.Context, key string) (string, error) {
		if id == "" { // not: refused = true, in a variable of the caller
			return "", errors.New("no order")
		}
		return "order " + id + " is shipped", nil
	})
	fmt.Println(status, err)
	// Output: order 42 is shipped <nil>
}

func ExampleClient_GetMulti() {
	client := exampleClient()
	defer client.Close()

	names, err := client.GetMulti(context.Background(), time.Minute, []string{"user:1", "user:2", "user:3"},
		func(ctx context.Context, keys []string) (map[string]string, error) {
			return map[string]string{"user:1": "Ada", "user:2": "Bob"}, nil // one query; user:3 does not exist
		})
	fmt.Println(names, err)
	// Output: map[user:1:Ada user:2:Bob] <nil>
}

func ExampleClient_Peek() {
	client := exampleClient()
	defer client.Close()

	_, ok, err := client.Peek(context.Background(), "user:1")
	fmt.Println(ok, errors.Is(err, aside.ErrRedisAway))
	// Output: false true
}

func ExampleClient_Set() {
	client := exampleClient()
	defer client.Close()

	// Write the source first, then the cache.
	err := client.Set(context.Background(), time.Minute, "user:1", "Ada")
	if errors.Is(err, aside.ErrRedisAway) {
		fmt.Println("nothing was written")
	}
	// Output: nothing was written
}

func ExampleClient_Del() {
	client := exampleClient()
	defer client.Close()

	err := client.Del(context.Background(), "user:1", "user:2")
	fmt.Println(errors.Is(err, aside.ErrRedisAway))
	// Output: true
}

func ExampleClient_Touch() {
	client := exampleClient()
	defer client.Close()

	err := client.Touch(context.Background(), time.Hour, "session:1")
	fmt.Println(errors.Is(err, aside.ErrRedisAway))
	// Output: true
}

func ExampleClient_Stats() {
	client := exampleClient()
	defer client.Close()
	_, _ = client.Get(context.Background(), time.Minute, "k", func(context.Context, string) (string, error) { return "v", nil })

	s := client.Stats()
	fmt.Println(s.Loads, s.MemoryHits, s.RedisConnected)
	// Output: 1 0 false
}

func ExampleClient_Close() {
	client := exampleClient()
	fmt.Println(client.Close())
	_, err := client.Get(context.Background(), time.Minute, "k", func(context.Context, string) (string, error) { return "v", nil })
	fmt.Println(err)
	// Output:
	// <nil>
	// aside: client is closed
}

func ExampleTyped() {
	type User struct {
		ID   int
		Name string
	}
	client := exampleClient()
	defer client.Close()
	users := aside.Typed(client, codec.JSON[User]())

	user, err := users.Get(context.Background(), time.Minute, "user:42", func(ctx context.Context, key string) (User, error) {
		return User{ID: 42, Name: "Ada"}, nil // from the database
	})
	fmt.Printf("%+v %v\n", user, err)
	// Output: {ID:42 Name:Ada} <nil>
}

func ExampleNewTypedClient() {
	client := exampleClient()
	defer client.Close()
	tags := aside.NewTypedClient(client,
		func(tags []string) (string, error) { return strings.Join(tags, ","), nil },
		func(s string) ([]string, error) { return strings.Split(s, ","), nil })

	got, err := tags.Get(context.Background(), time.Minute, "tags:42", func(ctx context.Context, key string) ([]string, error) {
		return []string{"go", "redis"}, nil
	})
	fmt.Println(got, err)
	// Output: [go redis] <nil>
}

func ExampleObserverFunc() {
	client, err := aside.New(aside.Options{
		Redis:  rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}},
		Logger: slog.New(slog.DiscardHandler),
		Observer: aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			if e.Kind == aside.EventLoad {
				fmt.Println(e.Kind, e.Key, e.Err)
			}
		}),
	})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	_, _ = client.Get(context.Background(), time.Minute, "k", func(context.Context, string) (string, error) { return "v", nil })
	// Output: load k <nil>
}

func ExampleBatchError() {
	client := exampleClient()
	defer client.Close()
	got, err := client.GetMulti(context.Background(), time.Minute, []string{"a", strings.Repeat("k", 2000)},
		func(ctx context.Context, keys []string) (map[string]string, error) {
			return map[string]string{"a": "1"}, nil
		})
	var batch *aside.BatchError
	fmt.Println(got, errors.As(err, &batch), len(batch.Failed), errors.Is(err, aside.ErrTooLarge))
	// Output: map[a:1] true 1 true
}
