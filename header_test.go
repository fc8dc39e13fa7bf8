package aside_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/wire"
)

// A value with a header is served as its value, wherever it is found.
func TestAValueWithAHeaderIsServedAsItsValue(t *testing.T) {
	t.Parallel()
	full := wire.Header{Began: 1795000000000000, TTL: time.Hour, Grace: time.Minute, Took: time.Second, Version: 1}
	none := wire.Header{Began: 1795000000000000, Absent: true}
	for name, change := range map[string]func(*aside.Options){"with memory": func(*aside.Options) {}, "untracked": untracked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := newClient(t, proxy.Addr(), hasty, change), testContext(t)
			for _, key := range []string{"k", "l", "m"} {
				server.Do("SET", key, wire.PackHeader(full, "value of "+key), "EX", "3600")
			}
			server.Do("SET", "gone", wire.PackHeader(none, ""), "EX", "3600")
			server.Do("SET", "bytes", wire.PackHeader(full, wire.Absent))
			loadNone := func(context.Context, []string) (map[string]string, error) { return mustNotLoadMany() }
			check := func(when string) {
				t.Helper()
				for range 2 { // from Redis, and from memory
					v, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
					require.NoError(t, err, when)
					require.Equal(t, "value of k", v, when)
				}
				v, err := c.Get(ctx, time.Minute, "bytes", mustNotLoad)
				require.NoError(t, err, when)
				require.Equal(t, wire.Absent, v, when)
				_, err = c.Get(ctx, time.Minute, "gone", mustNotLoad)
				require.ErrorIs(t, err, aside.ErrNotFound, when)
				many, err := c.GetMulti(ctx, time.Minute, []string{"k", "l", "m", "gone"}, loadNone)
				require.NoError(t, err, when)
				require.Equal(t, map[string]string{"k": "value of k", "l": "value of l", "m": "value of m"}, many, when)
				v, ok, err := c.Peek(ctx, "l")
				require.NoError(t, err, when)
				require.True(t, ok, when)
				require.Equal(t, "value of l", v, when)
				_, ok, err = c.Peek(ctx, "gone")
				require.NoError(t, err, when)
				require.False(t, ok, when)
				found, err := c.Look(ctx, "m")
				require.NoError(t, err, when)
				require.Equal(t, "value of m", found.Value, when)
				require.InDelta(t, 3600, found.TTL.Seconds(), 60, when)
				all, err := c.LookMulti(ctx, []string{"k", "gone"})
				require.NoError(t, err, when)
				require.Len(t, all, 1, when)
				require.Equal(t, "value of k", all["k"].Value, when)
			}
			check("at first")
			require.Zero(t, c.Stats().DecodeErrors)
			require.NoError(t, c.Touch(ctx, 2*time.Hour, "k", "gone"))
			require.Greater(t, server.Do("PTTL", "k"), (90 * time.Minute).Milliseconds())
			require.Less(t, server.Do("PTTL", "gone"), (90 * time.Minute).Milliseconds(), "an absence keeps its own")
			if name == "untracked" {
				return
			}
			require.NoError(t, c.Touch(ctx, time.Hour, "k"))
			check("after the touch")
			proxy.Refuse()
			awaitMode(t, c, aside.Degraded)
			check("in an outage")
		})
	}
}

func mustNotLoadMany() (map[string]string, error) {
	_, err := mustNotLoad(nil, "")
	return nil, err
}

// What cannot be read is replaced, be it the header or the value behind it.
func TestWhatAHeaderHidesIsReplaced(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.JSON[int]())
	for name, stored := range map[string]string{
		"unknown field": wire.HeaderPrefix + "\x00\x02x\x011",
		"not a number":  wire.PackHeader(wire.Header{Version: 1}, "what"),
	} {
		server.Do("SET", name, stored)
		calls := 0
		load := func(context.Context, string) (int, error) { calls++; return 7, nil }
		for range 2 {
			v, err := view.Get(ctx, time.Minute, name, load)
			require.NoError(t, err)
			require.Equal(t, 7, v)
		}
		awaitNobody(t, c)
		require.Equal(t, "7", server.Do("GET", name))
		require.Equal(t, 1, calls, name)
		server.Do("SET", name, stored)
		eventually(t, "the batch has heard of it", func() bool {
			many, err := view.GetMulti(ctx, time.Minute, []string{name}, func(context.Context, []string) (map[string]int, error) {
				return map[string]int{name: 8}, nil
			})
			return err == nil && many[name] == 8
		})
	}
}

// The ttl and the grace that a header states decide whether its value is fresh, whatever the reader
// would give it.
func TestTheGraceOfAHeaderDecides(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*aside.Options){"with memory": func(*aside.Options) {}, "untracked": untracked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			c, ctx := newClient(t, server.Addr(), change), testContext(t)
			h := wire.Header{TTL: time.Hour, Grace: 10 * time.Minute}
			set := func(key string, left time.Duration) {
				server.Do("SET", key, wire.PackHeader(h, "old"), "PX", left.Milliseconds())
			}
			db := newSource("new")
			for _, by := range []struct {
				name string
				get  func(key string) (string, error)
			}{
				{"client", func(key string) (string, error) { return c.Get(ctx, time.Hour, key, db.Load) }},
				{"view", func(key string) (string, error) {
					return aside.Typed(c, codec.String()).Get(ctx, time.Hour, key, db.Load)
				}},
				{"batch", func(key string) (string, error) {
					m, err := c.GetMulti(ctx, time.Hour, []string{key}, db.LoadMany)
					return m[key], err
				}},
				{"with a grace", func(key string) (string, error) { return graceful(c).Get(ctx, time.Hour, key, db.Load) }},
			} {
				t.Run(by.name, func(t *testing.T) {
					key, before := by.name, db.Calls.Load()
					set(key, 11*time.Minute)
					for range 2 {
						v, err := by.get(key)
						require.NoError(t, err)
						require.Equal(t, "old", v, "more than the grace is left")
					}
					require.Equal(t, before, db.Calls.Load())
					key += " stale"
					set(key, 9*time.Minute)
					v, err := by.get(key)
					require.NoError(t, err)
					require.Equal(t, "old", v, "it is served while it is refreshed")
					eventually(t, "it is refreshed", func() bool {
						v, err := by.get(key)
						return err == nil && v == "new"
					})
				})
			}
		})
	}
}
