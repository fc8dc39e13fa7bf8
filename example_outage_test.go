package aside_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

// awayClient is a client of a Redis that is away, with a directory. In a service the directory is a
// place that stays.
func awayClient() (client *aside.Client, done func()) {
	dir, err := os.MkdirTemp("", "aside-example-")
	if err != nil {
		panic(err)
	}
	client, err = aside.New(aside.Options{
		Redis:       rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}}, // nobody is there
		FallbackDir: dir,
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	return client, func() {
		_ = client.Close()
		_ = os.RemoveAll(dir)
	}
}

// While Redis is away, what is set and deleted is on disk before the call returns, and is replayed
// when Redis is back: by this process, or by the next one that has the directory.
func ExampleOptions_fallbackDir() {
	client, done := awayClient()
	defer done()
	ctx := context.Background()

	fmt.Println(client.Set(ctx, time.Hour, "cart:7", "3 pears"))
	fmt.Println(client.Del(ctx, "cart:8"))
	value, ok, err := client.Peek(ctx, "cart:7")
	fmt.Println(value, ok, err)
	fmt.Println("to be replayed:", client.Stats().Pending)
	// Output:
	// <nil>
	// <nil>
	// 3 pears true <nil>
	// to be replayed: 2
}

func ExampleClient_Look() {
	client, done := awayClient()
	defer done()
	ctx := context.Background()
	_ = client.Set(ctx, time.Hour, "cart:7", "3 pears")

	found, err := client.Look(ctx, "cart:7")
	fmt.Println(found.Value, "for another", found.TTL.Round(time.Minute), err)

	_ = client.Del(ctx, "cart:7")
	_, err = client.Look(ctx, "cart:7")
	fmt.Println(errors.Is(err, aside.ErrNotFound))
	// Output:
	// 3 pears for another 1h0m0s <nil>
	// true
}

func ExampleClient_LookMulti() {
	client, done := awayClient()
	defer done()
	ctx := context.Background()
	_ = client.Set(ctx, time.Hour, "cart:7", "3 pears")
	_ = client.Del(ctx, "cart:8")

	found, err := client.LookMulti(ctx, []string{"cart:7", "cart:8"})
	fmt.Println(len(found), found["cart:7"].Value, err)
	// Output: 1 3 pears <nil>
}

// Update is for Redis's own commands. It is not called while Redis is away, as nobody could tell
// what it would do.
func ExampleClient_Update() {
	client, done := awayClient()
	defer done()

	var visits int64
	err := client.Update(context.Background(), []string{"visits:7"}, func(ctx context.Context, redis rueidis.Client) (err error) {
		visits, err = redis.Do(ctx, redis.B().Incr().Key("visits:7").Build()).AsInt64()
		return err
	})
	fmt.Println(visits, errors.Is(err, aside.ErrRedisAway))
	// Output: 0 true
}

// A readiness probe should not ask for a healthy cache: the service works without one. It is worth
// an alarm.
// While Redis is away an addition is kept, and done once when it is back. The sum is known here where it
// follows from what this process has set.
func ExampleClient_Incr() {
	client := exampleClient()
	defer client.Close()
	ctx := context.Background()

	_, err := client.Incr(ctx, "visits", 1)
	fmt.Println(errors.Is(err, aside.ErrKept) || errors.Is(err, aside.ErrNotDurable)) // the latter without a FallbackDir

	_ = client.Set(ctx, time.Hour, "stock", "10")
	n, _ := client.Incr(ctx, "stock", -3)
	fmt.Println(n)
	// Output:
	// true
	// 7
}

func ExampleClient_Apply() {
	client := exampleClient()
	defer client.Close()

	_, err := client.Apply(context.Background(), "user:42", []aside.Operation{{"HSET", "seen", "today"}, {"HINCRBY", "visits", "1"}}, nil)
	if err != nil && !errors.Is(err, aside.ErrKept) {
		fmt.Println("not done, and not durably kept")
	}
	// Output: not done, and not durably kept
}

func ExampleClient_Health() {
	client, done := awayClient()
	defer done()

	h := client.Health()
	fmt.Println(h.Mode, h.Err != nil, "durable:", h.Durable)
	// Output: degraded true durable: true
}

func ExampleClient_OnModeChange() {
	client, done := awayClient()
	defer done()

	remove := client.OnModeChange(func(m aside.ModeChange) {
		fmt.Printf("shard %q: from %v to %v: %v\n", m.Shard, m.From, m.To, m.Err) // tell the operator
	})
	defer remove()
	// Output:
}

// A view that is Shared hands one decoded value to everybody. It is for values that nobody changes.
func ExampleShared() {
	type Menu struct{ Dishes []string }
	client := exampleClient()
	defer client.Close()
	menus := aside.Typed(client, codec.JSON[*Menu](), aside.Shared())

	load := func(context.Context, string) (*Menu, error) { return &Menu{[]string{"soup", "rice"}}, nil }
	_, _ = menus.Get(context.Background(), time.Minute, "menu:today", load)
	one, _ := menus.Get(context.Background(), time.Minute, "menu:today", load)
	two, _ := menus.Get(context.Background(), time.Minute, "menu:today", load)
	fmt.Println(one.Dishes, one == two)
	// Output: [soup rice] true
}
