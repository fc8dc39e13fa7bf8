package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// nobody takes an answer and forgets it.
type nobody struct{ header http.Header }

func (n nobody) Header() http.Header                { return n.header }
func (nobody) Write(p []byte) (int, error)          { return len(p), nil }
func (nobody) WriteString(text string) (int, error) { return len(text), nil }
func (nobody) WriteHeader(int)                      {}

// What a hot key costs here, beside what net/http takes for a request.
func BenchmarkGet(b *testing.B) {
	f := newFront(b, setup{web: Options{Token: token}})
	for name, size := range map[string]int{"memory-200B": 200, "memory-100KiB": 100 << 10} {
		require.Equal(b, http.StatusNoContent, f.send("PUT", "/v1/keys/"+name, strings.Repeat("v", size), "Authorization", "Bearer "+token).StatusCode)
		eventually(b, "it is in memory", func() bool {
			return strings.Contains(f.send("GET", "/get?key="+name, "", "Authorization", "Bearer "+token).Header.Get("Cache-Status"), "memory")
		})
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodGet, "/get?key="+name, nil)
			r.Header.Set("Authorization", "Bearer "+token)
			w := nobody{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				f.server.ServeHTTP(w, r)
			}
			require.Equal(b, "aside; hit; detail=memory", w.header.Get("Cache-Status"))
		})
	}
}

// What it costs the other front end to have a command counted.
func BenchmarkObserveRESP(b *testing.B) {
	f := newFront(b, setup{})
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f.server.ObserveRESP(answered("GET", 100*time.Microsecond, false))
		}
	})
}
