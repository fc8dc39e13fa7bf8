package asidehttp_test

import (
	"crypto/subtle"
	"net/http"
	"os"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidehttp"
)

// The status page of a service's cache, for those who know a password.
func ExampleHandler() {
	var client *aside.Client // your cache
	mayLook := func(r *http.Request) bool {
		_, password, _ := r.BasicAuth()
		want := os.Getenv("CACHE_PAGE_PASSWORD")
		return want != "" && subtle.ConstantTimeCompare([]byte(password), []byte(want)) == 1
	}
	http.Handle("/debug/cache/", http.StripPrefix("/debug/cache", asidehttp.Handler(client, mayLook)))
}
