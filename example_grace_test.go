package aside_test

import (
	"context"
	"fmt"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

// A value is fresh for a minute. For ten more it is served while one process refreshes it, or while
// the source fails. Give all views of a key the same grace.
func ExampleWithGrace() {
	client, err := aside.New(aside.Options{})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	prices := aside.Typed(client, codec.JSON[int](),
		aside.WithGrace(10*time.Minute), // stale-while-revalidate, and stale-if-error
		aside.WithJitter(0.1),           // what is loaded together does not go stale together
		aside.WithMaxLoads(20))          // and is not loaded at once
	price, err := prices.Get(context.Background(), time.Minute, "price:7", func(context.Context, string) (int, error) {
		return 42, nil // a slow query
	}, aside.WithSoftTimeout(50*time.Millisecond)) // rather wait so long than take a stale price
	fmt.Println(price, err)
}
