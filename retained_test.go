package aside_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

// What is kept is what was asked for: not the document that a value is a few bytes of, nor the request that a key is.
func TestShortPiecesDoNotHoldOnToWhatIsLong(t *testing.T) {
	server := redistest.Start(t)
	for name, away := range map[string]bool{"healthy": false, "away": true} {
		t.Run(name, func(t *testing.T) {
			c, ctx := newClient(t, server.Addr(), func(o *aside.Options) {
				if away {
					o.Redis, o.RequireRedis, o.ConnectTimeout = plain("127.0.0.1:1"), false, time.Millisecond
				}
			}), testContext(t)
			view := aside.Typed(c, codec.String())
			before := heapInUse()
			for i := range 100 {
				document := strings.Repeat(fmt.Sprintf("%08d", i), 128<<10)
				load := func(context.Context, string) (string, error) { return document[:8], nil }
				loadMany := func(_ context.Context, keys []string) (map[string]string, error) {
					return map[string]string{keys[0]: document[8:16]}, nil
				}
				_, err := c.Get(ctx, time.Hour, "g"+document[:8], load)
				require.NoError(t, err)
				_, err = view.Get(ctx, time.Hour, "t"+document[:8], load)
				require.NoError(t, err)
				_, err = c.GetMulti(ctx, time.Hour, []string{"m" + document[:8]}, loadMany)
				require.NoError(t, err)
				_, err = view.GetMulti(ctx, time.Hour, []string{"v" + document[:8]}, loadMany)
				require.NoError(t, err)
				_, err = c.Get(ctx, time.Hour, document[16:32], newSource("v").load) // the key is a piece, too
				require.NoError(t, err)
			}
			awaitNobody(t, c)
			grown := heapInUse() - before
			require.Less(t, grown, int64(10<<20), "of a hundred documents of 1 MiB")
			if away || !strings.HasPrefix(server.Version(), "6.0.") { // which pushes back what we have stored ourselves
				require.Positive(t, c.Stats().MemoryEntries)
			}
		})
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
