package aside_test

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

// All values of a view are removed with one command.
func ExampleTypedClient_Clear() {
	client, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{"127.0.0.1:6379"}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	users := aside.Typed(client, codec.JSON[string](), aside.WithPrefix("user:"), aside.Clearable())
	name, err := users.Get(context.Background(), time.Minute, "42", func(_ context.Context, id string) (string, error) {
		return "name of " + id, nil // id is "42"; in Redis the key is "user:42"
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(name)
	if err := users.Clear(context.Background()); err != nil { // after an import, say
		fmt.Println(err)
	}
}

// Tags reach values whose keys nobody knows: here, all pages that show a product.
func ExampleClient_DelTags() {
	client, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{"127.0.0.1:6379"}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	page, err := client.Get(context.Background(), time.Hour, "page:/sale", func(ctx context.Context, _ string) (string, error) {
		aside.LoadFrom(ctx).SetTags("product:7", "product:9")
		return "<html>…</html>", nil
	}, aside.WithTags("pages"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(page)
	if err := client.DelTags(context.Background(), "product:7"); err != nil { // its price has changed
		fmt.Println(err)
	}
}
