package resp

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// BenchmarkGet asks for a key that is in memory, over a real connection. An operation is one GET.
func BenchmarkGet(b *testing.B) {
	store, _ := newStore(b, redistest.Start(b).Addr(), "")
	_, addr := serve(b, store, Options{})
	value := strings.Repeat("v", 200)
	for name, depth := range map[string]int{"one by one": 1, "16 at once": 16, "256 at once": 256} {
		b.Run(name, func(b *testing.B) {
			p := dial(b, addr)
			require.NoError(b, p.SetDeadline(time.Time{}))
			require.Equal(b, "+OK", p.do("SET", "hot", value))
			require.Equal(b, "$"+value, p.do("GET", "hot"))
			batch := strings.Repeat(encoded("GET", "hot"), depth)
			replies := make([]byte, depth*(len("$200\r\n\r\n")+len(value)))
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += depth {
				p.send(batch)
				if _, err := io.ReadFull(p.r, replies); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
