package aside

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/zstd"
	"github.com/redaside/aside/internal/near"
)

// Memory stays within MemoryBytes (internal/near has the test of that) also where values are small
// as they are stored and large as they are decoded: compressed, or a short piece of a long string.
func TestMemoryStaysWithinItsBytesWhateverIsDecoded(t *testing.T) {
	type page struct{ Title, Body string }
	type deep struct {
		Tags []string
		By   map[string]any
		At   *time.Time
	}
	text := func(i int) string { return strings.Repeat(fmt.Sprintf("%08d ", i), 30_000) }
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for name, decodeAll := range map[string]func(t *testing.T, c *Client, valid *near.Validity){
		"compressed":         keeps(zstd.New(codec.JSON[page](), 0), func(i int) page { return page{fmt.Sprint(i), text(i)} }),
		"compressed strings": keeps(zstd.New(codec.String(), 0), text),
		"shared": keeps(zstd.New(codec.JSON[*deep](), 0), func(i int) *deep {
			d := &deep{By: make(map[string]any), At: &at}
			for n := range 1000 {
				d.Tags = append(d.Tags, "tag")
				d.By[fmt.Sprint(n)] = []any{float64(i), "v"}
			}
			return d
		}, Shared()),
		"a piece of what was decoded": keeps(codec.Func(func(s string) (string, error) { return s, nil }, func(s string) (string, error) {
			return strings.Repeat(s, 100_000)[:8], nil
		}), func(i int) string { return fmt.Sprintf("%08d", i) }),
		"plain": keeps(codec.String(), func(i int) string { return text(i)[:100_000] }),
	} {
		t.Run(name, func(t *testing.T) {
			const bound = 8 << 20
			c, valid := &Client{}, near.NewValidity(true)
			c.near = near.New(near.Options{MaxBytes: bound, Now: func() int64 { return 1 }})
			zstd := zstd.New(codec.String(), 0) // its working memory is not ours
			for range 4 {
				s, err := zstd.Encode(text(0))
				require.NoError(t, err)
				_, err = zstd.Decode(s)
				require.NoError(t, err)
			}
			before := heap()
			decodeAll(t, c, valid)
			c.near.CleanUp()
			grown := heap() - before
			entries, bytes := c.near.Size()
			t.Logf("%d entries, estimated at %d bytes, take %d bytes of heap", entries, bytes, grown)
			require.LessOrEqual(t, grown, int64(bound)*9/8, "zstd keeps what it decoded last")
			require.Positive(t, entries)
			runtime.KeepAlive(c)
		})
	}
}

// keeps commits four hundred values and decodes them, as hits do.
func keeps[T any](co codec.Codec[T], value func(i int) T, opts ...ViewOption) func(t *testing.T, c *Client, valid *near.Validity) {
	return func(t *testing.T, c *Client, valid *near.Validity) {
		view := Typed(c, co, opts...)
		for i := range 400 {
			raw, err := co.Encode(value(i))
			require.NoError(t, err)
			raw = strings.Clone(raw) // as it comes from Redis
			key := fmt.Sprint("k", i)
			e := c.near.Commit(key, c.near.Reserve(key, valid), near.Value{Raw: raw, TTL: time.Hour, Room: view.room})
			_, err = view.decode(key, raw, e)
			require.NoError(t, err)
		}
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
