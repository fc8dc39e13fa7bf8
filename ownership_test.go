package aside_test

import (
	"context"
	"testing"
	"time"
	"unsafe"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

// A key whose bytes are a buffer's, as fasthttp and fiber hand them out: after the call they are written again, and spell the next request's key.
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

// The load outlives the call that began it; so do the flight, the lock, the fill and the entry in memory.
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
			letGo := db.holdUp()
			ctx, leave := context.WithCancel(testContext(t))
			key := "key of " + name
			returned := make(chan error, 1)
			var waiting <-chan result
			with(func(s ...string) {
				go func() { returned <- begin(ctx, c, db.load, s...) }()
				db.awaitBegin(t)
				waiting = inBackground(func() (string, error) { return c.Get(testContext(t), time.Minute, key, mustNotLoad) })
				awaitShared(t, c, 1)
				leave()
				require.ErrorIs(t, await(t, returned), context.Canceled)
			}, key, key+"2")
			letGo()
			require.Equal(t, result{value: "v"}, await(t, waiting))
			awaitNobody(t, c)
			require.Equal(t, "v", server.Do("GET", key))
			value, err := c.Get(testContext(t), time.Minute, key, mustNotLoad)
			require.NoError(t, err)
			require.Equal(t, "v", value)
			require.Empty(t, server.Do("KEYS", "#*"))
		})
	}
}

// A command without an answer may be sent after its call has returned, and its record is replayed later: with the bytes of then.
func TestAWriteWithoutAnAnswerOwnsItsBytes(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c := newClient(t, proxy.Addr(), func(o *aside.Options) {
		o.FallbackDir = t.TempDir()
		o.RedisTimeout, o.StaleLease = 50*time.Millisecond, time.Second
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
	with(func(s ...string) { _, _ = c.Get(ctx, time.Minute, s[0], newSource("loaded").load) }, "loaded")
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

// A batch loader that answers for other keys only says nothing about those it was asked for.
func TestABatchLoaderThatAnswersForOtherKeysIsAnError(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	load := func(context.Context, []string) (map[string]string, error) {
		return map[string]string{"1": "v", "2": "v"}, nil
	}
	for name, get := range map[string]func() (map[string]string, error){
		"GetMulti": func() (map[string]string, error) { return c.GetMulti(ctx, time.Minute, []string{"u:1", "u:2"}, load) },
		"typed": func() (map[string]string, error) {
			return aside.Typed(c, codec.String()).GetMulti(ctx, time.Minute, []string{"u:3", "u:4"}, load)
		},
	} {
		values, err := get()
		require.Empty(t, values, name)
		var batch *aside.BatchError
		require.ErrorAs(t, err, &batch, name)
		require.Len(t, batch.Failed, 2, name)
		require.NotErrorIs(t, err, aside.ErrNotFound, name)
		require.ErrorContains(t, err, `"1"`, name)
	}
	awaitNobody(t, c)
	require.EqualValues(t, 0, server.Do("EXISTS", "u:1", "u:2", "u:3", "u:4"))
	value, err := c.Get(ctx, time.Minute, "u:1", newSource("v").load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
}
