package aside_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

// The price has changed. Callers get the old one while the new one is loaded, and as long as the
// loader fails; after a Del they would wait, and get its error.
func ExampleTypedClient_Expire() {
	client := exampleClient()
	defer client.Close()
	prices := aside.Typed(client, codec.JSON[int](), aside.WithGrace(10*time.Minute))
	if err := prices.Expire(context.Background(), "price:7"); err != nil {
		fmt.Println("kept in memory only, as Redis is away and there is no directory")
	}
	// Output: kept in memory only, as Redis is away and there is no directory
}

// Each key is stored or fails by itself.
func ExampleClient_SetMulti() {
	client := exampleClient()
	defer client.Close()
	err := client.SetMulti(context.Background(), time.Minute, map[string]string{"a": "1", "b": "2"})
	if failed, ok := errors.AsType[*aside.BatchError](err); ok {
		for _, key := range slices.Sorted(maps.Keys(failed.Failed)) {
			fmt.Println(key, errors.Is(failed.Failed[key], aside.ErrNotDurable)) // no Redis, and no directory
		}
	}
	// Output:
	// a true
	// b true
}

// Somebody has pressed the button that says "load again".
func ExampleClient_Refresh() {
	client := exampleClient()
	defer client.Close()
	price, err := client.Refresh(context.Background(), time.Minute, "price:7", func(context.Context, string) (string, error) {
		return "42", nil // from the database
	})
	fmt.Println(price, err)
	// Output: 42 <nil>
}

// Keys are of a type of the application; one function names them.
func ExampleKeyed() {
	client := exampleClient()
	defer client.Close()
	prices := aside.NewKeyed(aside.Typed(client, codec.JSON[int]()), func(product int) string { return fmt.Sprintf("price:%d", product) })
	all, err := prices.GetMulti(context.Background(), time.Minute, []int{1, 2, 3}, func(_ context.Context, products []int) (map[int]int, error) {
		return map[int]int{1: 10, 3: 30}, nil // from the database; there is no 2
	})
	fmt.Println(all, err)
	// Output: map[1:10 3:30] <nil>
}

// Before a deployment takes calls, what Redis lacks is loaded, 500 keys a second.
func ExampleTypedClient_Warm() {
	client, err := aside.New(aside.Options{})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	prices := aside.Typed(client, codec.JSON[int]())
	done, err := prices.Warm(context.Background(), time.Hour, slices.Values([]string{"price:1", "price:2"}), func(_ context.Context, keys []string) (map[string]int, error) {
		return map[string]int{"price:1": 10, "price:2": 20}, nil // from the database
	}, aside.Warming{Rate: 500, Progress: func(soFar aside.Warmed) { fmt.Println(soFar.Loaded, "loaded") }})
	fmt.Println(done.Keys, done.Failed, err)
}

// The type has changed in a way that older code would misread. While old and new pods run beside each
// other, each reads what suits it, and they do not overwrite each other's values in turn.
func ExampleWithVersion() {
	client := exampleClient()
	defer client.Close()
	type price struct{ Cents int } // version 1 had euros
	prices := aside.Typed(client, codec.JSON[price](), aside.WithVersion(2))
	value, err := prices.Get(context.Background(), time.Minute, "price:7", func(context.Context, string) (price, error) {
		return price{4200}, nil // from the database
	})
	fmt.Println(value.Cents, err)
	// Output: 4200 <nil>
}
