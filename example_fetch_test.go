package aside_test

import (
	"context"
	"fmt"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

// Fetch tells what Get does not: an HTTP handler can set Age and Cache-Status, and log why it has
// served a stale value.
func ExampleTypedClient_Fetch() {
	client, err := aside.New(aside.Options{})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	prices := aside.Typed(client, codec.JSON[int](), aside.WithGrace(10*time.Minute))
	price, err := prices.Fetch(context.Background(), time.Minute, "price:7", func(context.Context, string) (int, error) {
		return 42, nil // a slow query
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(price.Value, price.Source, price.Age >= 0)
	if price.Stale {
		fmt.Println("stale:", price.StaleErr)
	}
}

// FetchMulti tells it of each key.
func ExampleTypedClient_FetchMulti() {
	client, err := aside.New(aside.Options{})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	prices := aside.Typed(client, codec.JSON[int]())
	found, err := prices.FetchMulti(context.Background(), time.Minute, []string{"price:7", "price:8"}, func(_ context.Context, keys []string) (map[string]int, error) {
		return map[string]int{"price:7": 42}, nil // one query for all
	})
	if err != nil {
		panic(err)
	}
	for key, price := range found { // without price:8, which is not found
		fmt.Println(key, price.Value, price.Source)
	}
}
