package aside_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

// Document is what a source has answered, and by what it can tell whether that has changed.
type Document struct {
	Body, ETag string
}

// A loader asks only whether what is there has changed, and keeps what the source says of the ttl.
func ExampleStaleOf() {
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Cache-Control", "max-age=600")
		if r.Header.Get("If-None-Match") == `"v1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = io.WriteString(w, "a large document")
	}))
	defer source.Close()

	load := func(ctx context.Context, key string) (Document, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, source.URL, http.NoBody)
		if err != nil {
			return Document{}, err
		}
		old, ok := aside.StaleOf[Document](ctx)
		if ok {
			request.Header.Set("If-None-Match", old.ETag)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return Document{}, err
		}
		defer response.Body.Close()
		say := aside.LoadFrom(ctx)
		control := response.Header.Get("Cache-Control")
		if seconds, err := strconv.Atoi(strings.TrimPrefix(control, "max-age=")); err == nil && seconds > 0 {
			say.SetTTL(time.Duration(seconds) * time.Second)
		} else if control == "no-store" {
			say.NoStore()
		}
		if response.StatusCode == http.StatusNotModified && ok {
			return old, nil
		}
		body, err := io.ReadAll(response.Body)
		return Document{string(body), response.Header.Get("ETag")}, err
	}

	client := exampleClient()
	defer client.Close()
	documents := aside.Typed(client, codec.JSON[Document](), aside.WithGrace(time.Hour))
	document, err := documents.Get(context.Background(), time.Minute, "document:7", load)
	fmt.Println(document.Body, document.ETag, err)
	// Output: a large document "v1" <nil>
}

// In a batch each key may have a ttl of its own.
func ExampleLoad_For() {
	client := exampleClient()
	defer client.Close()
	prices, err := client.GetMulti(context.Background(), time.Minute, []string{"price:1", "price:2"}, func(ctx context.Context, keys []string) (map[string]string, error) {
		say := aside.LoadFrom(ctx)
		say.SetTTL(10 * time.Minute)
		say.For("price:2").NoStore() // it changes all the time
		return map[string]string{"price:1": "42", "price:2": "17"}, nil
	})
	fmt.Println(prices, err)
	// Output: map[price:1:42 price:2:17] <nil>
}
