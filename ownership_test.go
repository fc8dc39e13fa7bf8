package aside_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

// A key whose bytes are a buffer's, as fasthttp and fiber hand them out: after the call they are
// written again, and spell the next request's key.
type buffer []byte

func (b buffer) string() string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func (b buffer) rewrite() {
	for i := range b {
		b[i] = '#'
	}
}

// with calls do with strings of buffers that are written again afterwards.
func with(do func(s ...string), texts ...string) {
	all, buffers := make([]string, len(texts)), make([]buffer, len(texts))
	for i, text := range texts {
		buffers[i] = buffer(text)
		all[i] = buffers[i].string()
	}
	do(all...)
	for i := range buffers {
		buffers[i].rewrite()
		all[i] = "#"
	}
}

// The load outlives the call that began it; so do the flight, the lock, the fill and the entry in
// memory.
func TestALoadOwnsTheKeysOfACallThatHasReturned(t *testing.T) {
	server := redistest.Start(t)
	for name, begin := range map[string]func(ctx context.Context, c *aside.Client, load aside.Loader[string], keys ...string) error{
		"Get": func(ctx context.Context, c *aside.Client, load aside.Loader[string], keys ...string) error {
			_, err := c.Get(ctx, time.Minute, keys[0], load)
			return err
		},
		"typed": func(ctx context.Context, c *aside.Client, load aside.Loader[string], keys ...string) error {
			_, err := aside.Typed(c, codec.String()).Get(ctx, time.Minute, keys[0], load)
			return err
		},
		"GetMulti": func(ctx context.Context, c *aside.Client, load aside.Loader[string], keys ...string) error {
			_, err := c.GetMulti(ctx, time.Minute, keys, func(ctx context.Context, keys []string) (map[string]string, error) {
				value, err := load(ctx, keys[0])
				return map[string]string{keys[0]: value, keys[1]: value}, err
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, db := newClient(t, server.Addr()), newSource("v")
			letGo := db.HoldUp()
			ctx, leave := context.WithCancel(testContext(t))
			key := "key of " + name
			returned := make(chan error, 1)
			var waiting <-chan result
			with(func(s ...string) {
				go func() { returned <- begin(ctx, c, db.Load, s...) }()
				db.AwaitBegin(t)
				waiting = inBackground(func() (string, error) { return c.Get(testContext(t), time.Minute, key, mustNotLoad) })
				awaitShared(t, c, 1)
				leave()
				require.ErrorIs(t, await(t, returned), context.Canceled)
			}, key, key+"2")
			letGo()
			require.Equal(t, result{Value: "v"}, await(t, waiting))
			awaitNobody(t, c)
			require.Equal(t, "v", server.Do("GET", key))
			value, err := c.Get(testContext(t), time.Minute, key, mustNotLoad)
			require.NoError(t, err)
			require.Equal(t, "v", value)
			require.Empty(t, server.Do("KEYS", "#*"))
		})
	}
}

// A command without an answer may be sent after its call has returned, and its record is replayed
// later: with the bytes of then.
func TestAWriteWithoutAnAnswerOwnsItsBytes(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c := newClient(t, proxy.Addr(), func(o *aside.Options) {
		o.FallbackDir = t.TempDir()
		o.RedisTimeout, o.StaleLease = 250*time.Millisecond, time.Second
	})
	server.Do("SET", "deleted", "old")
	server.Do("SET", "touched", "v", "PX", "60000")
	proxy.CutRequests()
	ctx := testContext(t)
	with(func(s ...string) { _ = c.Set(ctx, time.Minute, s[0], s[1]) }, "set", "value")
	with(func(s ...string) { _ = c.Del(ctx, s...) }, "deleted", "deleted too")
	with(func(s ...string) { _ = c.Touch(ctx, time.Hour, s[0]) }, "touched")
	with(func(s ...string) { _, _, _ = c.Peek(ctx, s[0]) }, "peeked")
	with(func(s ...string) { _, _ = c.LookMulti(ctx, s) }, "looked", "looked too")
	with(func(s ...string) { _, _ = c.Get(ctx, time.Minute, s[0], newSource("loaded").Load) }, "loaded")
	with(func(s ...string) {
		_ = c.Update(ctx, s, func(context.Context, rueidis.Client) error { return nil })
	}, "updated")
	proxy.Heal()
	eventually(t, "healthy", func() bool { return c.Health().Mode == aside.Healthy && c.Stats().Pending == 0 })
	require.Equal(t, "value", server.Do("GET", "set"))
	require.Nil(t, server.Do("GET", "deleted"))
	require.Empty(t, server.Do("KEYS", "*#*"))
	value, ok, err := c.Peek(ctx, "set")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "value", value)
}

// What is kept is what was asked for: not the document that a value is a few bytes of, nor the
// request that a key is.
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
				_, err = c.Get(ctx, time.Hour, document[16:32], newSource("v").Load) // the key is a piece, too
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
