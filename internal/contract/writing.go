package contract

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/harness"
)

// What a write does to loads and to other processes, and what it may be of.

// Promise 2, in its four forms: a Set or Del that returned is not undone by a load that began
// before it, whoever made it.
func aWriteDuringALoadIsNotUndone(t *testing.T, start Start) {
	for _, from := range []string{"the same client", "another client"} {
		for _, verb := range []string{"Set", "Del"} {
			t.Run(verb+" from "+from, func(t *testing.T) {
				server := start(t)
				c, db, ctx := harness.NewClient(t, server.Addr()), harness.NewSource("old"), harness.Context(t)
				writer := c
				if from == "another client" {
					writer = harness.NewClient(t, server.Addr())
				}
				letGo := db.HoldUp()
				loading := harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
				db.AwaitBegin(t)
				db.Set("new")
				if verb == "Set" {
					require.NoError(t, writer.Set(ctx, time.Minute, "k", "new"))
				} else {
					require.NoError(t, writer.Del(ctx, "k"))
				}
				// A caller that asks after the write must not be given what was read before it. In
				// the process that wrote, a new flight starts; in another the caller joins the old
				// one, whose fill will be refused.
				var late <-chan harness.Result
				if from == "another client" {
					late = harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
					harness.AwaitShared(t, c, 1)
					letGo()
				} else {
					done := make(chan struct{})
					late = harness.InBackground(func() (string, error) {
						defer close(done)
						return c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "new", nil })
					})
					harness.Await(t, done) // it does not wait for the old load
					letGo()
				}
				require.Equal(t, harness.Result{Value: "old"}, harness.Await(t, loading), "who asked before the write may have either")
				require.Equal(t, harness.Result{Value: "new"}, harness.Await(t, late))
				harness.Stored(t, c, "k")
				require.Equal(t, "new", server.Do("GET", "k"))
				value, err := c.Get(ctx, time.Minute, "k", harness.MustNotLoad)
				require.NoError(t, err)
				require.Equal(t, "new", value)
				harness.Eventually(t, "the fill of the old value is refused", func() bool { return c.Stats().FillsRefused == 1 })
				require.Equal(t, "new", server.Do("GET", "k"))
			})
		}
	}
}

// A refused value goes to the callers that asked before the loader was called: it was read after
// they asked.
func aRefusedFillAnswersWhoeverAskedBeforeTheLoad(t *testing.T, start Start) {
	server := start(t)
	holder, c := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr())
	db, ctx := harness.NewSource("theirs"), harness.Context(t)
	db.Fail(errors.New("no"))
	letGo := db.HoldUp()
	first := harness.InBackground(func() (string, error) { return holder.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)

	// Three callers of c wait for the holder's lock. Its load fails, so that one of them gets to
	// load.
	own := harness.NewSource("mine")
	letOwnGo := own.HoldUp()
	var waiting []<-chan harness.Result
	for range 3 {
		waiting = append(waiting, harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", own.Load) }))
	}
	harness.AwaitShared(t, c, 2)
	letGo()
	require.Error(t, harness.Await(t, first).Err)
	own.AwaitBegin(t)
	require.NoError(t, holder.Del(ctx, "k")) // voids c's load
	letOwnGo()
	for _, w := range waiting {
		require.Equal(t, harness.Result{Value: "mine"}, harness.Await(t, w))
	}
	require.EqualValues(t, 1, own.Calls.Load())
	require.Nil(t, server.Do("GET", "k"), "it was refused")
}

func aProcessReadsItsOwnWrites(t *testing.T, start Start) {
	server := start(t)
	c, other, ctx := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr()), harness.Context(t)
	for i := range 300 {
		want := fmt.Sprint(i)
		require.NoError(t, c.Set(ctx, time.Minute, "k", want))
		value, err := c.Get(ctx, time.Minute, "k", harness.MustNotLoad)
		require.NoError(t, err)
		require.Equal(t, want, value)
		_, err = other.Get(ctx, time.Minute, "k", harness.MustNotLoad)
		require.NoError(t, err)
	}
	require.NoError(t, c.Del(ctx, "k"))
	_, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "", aside.ErrNotFound })
	require.ErrorIs(t, err, aside.ErrNotFound)
}

func anotherProcessSeesAWriteByThePush(t *testing.T, start Start) {
	server := start(t)
	c, other, ctx := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr()), harness.Context(t)
	for i := range 50 {
		want := fmt.Sprint(i)
		require.NoError(t, c.Set(ctx, time.Minute, "k", want))
		harness.Eventually(t, "the other client reads "+want, func() bool {
			value, err := other.Get(ctx, time.Minute, "k", harness.MustNotLoad)
			require.NoError(t, err)
			return value == want
		})
	}
	require.GreaterOrEqual(t, other.Stats().Invalidations, int64(49))
}

func touchMovesTheEndOfValuesOnly(t *testing.T, start Start) {
	server := start(t)
	c, db, ctx := harness.NewClient(t, server.Addr()), harness.NewSource("v"), harness.Context(t)
	require.NoError(t, c.Set(ctx, time.Minute, "value", "v"))
	_, _, err := c.Peek(ctx, "value")
	require.NoError(t, err)
	_, err = c.Get(ctx, time.Minute, "absent", func(context.Context, string) (string, error) { return "", aside.ErrNotFound })
	require.ErrorIs(t, err, aside.ErrNotFound)
	letGo := db.HoldUp()
	loading := harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "locked", db.Load) })
	db.AwaitBegin(t)
	require.NoError(t, c.Set(ctx, time.Minute, "like an absence", "\x00aside:1n"))
	require.NoError(t, c.Touch(ctx, time.Hour, "value", "absent", "locked", "nothing", "like an absence"))
	require.Greater(t, server.Do("PTTL", "value"), int64(60_000))
	require.Greater(t, server.Do("PTTL", "like an absence"), int64(60_000))
	require.LessOrEqual(t, server.Do("PTTL", "absent"), int64(30_000))
	require.LessOrEqual(t, server.Do("PTTL", "locked"), int64(10_000))
	require.Equal(t, int64(0), server.Do("EXISTS", "nothing"))
	letGo()
	require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, loading), "the lock was not lost")
	require.NoError(t, c.Touch(ctx, 50*time.Millisecond, "value"))
	harness.Eventually(t, "memory follows", func() bool { _, ok, err := c.Peek(ctx, "value"); require.NoError(t, err); return !ok })
}

func setMultiIsSetForEachKey(t *testing.T, start Start) {
	server := start(t)
	c, other, ctx := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr()), harness.Context(t)
	values := map[string]string{"": "empty key", "empty": "", "like a lock": "\x00aside:lock:a:1:0", "k\x00": "v"}
	for i := range 100 {
		values[fmt.Sprint("k", i)] = fmt.Sprint("v", i)
	}
	for range 2 {
		require.NoError(t, c.SetMulti(ctx, time.Minute, values))
		for key, want := range values {
			for _, client := range []*aside.Client{c, other} {
				value, err := client.Get(ctx, time.Minute, key, harness.MustNotLoad)
				require.NoError(t, err)
				require.Equal(t, want, value)
			}
		}
	}
	values["k7"] = "changed"
	require.NoError(t, c.SetMulti(ctx, time.Minute, values))
	harness.Eventually(t, "another hears of it", func() bool {
		value, err := other.Get(ctx, time.Minute, "k7", harness.MustNotLoad)
		return err == nil && value == "changed"
	})
}

func expireMakesStaleWhatDelWouldRemove(t *testing.T, start Start) {
	const ttl, grace = time.Hour, time.Minute
	server := start(t)
	c, other, ctx := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr()), harness.Context(t)
	db := harness.NewSource("1")
	get := func(c *aside.Client) string {
		value, err := c.Get(ctx, ttl, "k", db.Load, aside.WithGrace(grace))
		require.NoError(t, err)
		return value
	}
	require.Equal(t, "1", get(c))
	harness.Stored(t, c, "k")
	require.Equal(t, "1", get(other))
	db.AwaitBegin(t)
	db.Set("2")
	letGo := db.HoldUp()
	require.NoError(t, c.Expire(ctx, grace, "k", "nothing"))
	require.LessOrEqual(t, server.Do("PTTL", "k"), grace.Milliseconds())
	require.Equal(t, "1", get(c), "it is served once more")
	db.AwaitBegin(t)
	require.NoError(t, other.Expire(ctx, grace, "k"))
	letGo()
	harness.Eventually(t, "a refresh that began before is refused", func() bool { return c.Stats().FillsRefused == 1 })
	require.Equal(t, "1", server.Do("GET", "k"))
	for _, client := range []*aside.Client{c, other} {
		harness.Eventually(t, "the next one is stored", func() bool { return get(client) == "2" })
	}
	require.NoError(t, c.Expire(ctx, 0, "k"))
	require.Nil(t, server.Do("GET", "k"), "without a grace it is a Del")
}

func refreshReplacesWhatIsThere(t *testing.T, start Start) {
	server := start(t)
	c, other, ctx := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr()), harness.Context(t)
	for i, ttl := range []time.Duration{time.Hour, math.MaxInt64, 0} { // 0: nothing is there
		want := fmt.Sprint("new ", i)
		if ttl > 0 {
			require.NoError(t, c.Set(ctx, ttl, "k", "old"))
		} else {
			require.NoError(t, c.Del(ctx, "k"))
		}
		value, err := c.Refresh(ctx, time.Minute, "k", harness.NewSource(want).Load)
		require.NoError(t, err)
		require.Equal(t, want, value)
		harness.Stored(t, c, "k")
		for _, client := range []*aside.Client{c, other} {
			harness.Eventually(t, "all have it", func() bool {
				value, err := client.Get(ctx, time.Minute, "k", harness.MustNotLoad)
				return err == nil && value == want
			})
		}
	}
	db := harness.NewSource("refreshed")
	letGo := db.HoldUp()
	refreshing := harness.InBackground(func() (string, error) { return c.Refresh(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	value, err := c.Get(ctx, time.Minute, "k", harness.MustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "new 2", value, "others do not wait")
	require.NoError(t, other.Set(ctx, time.Minute, "k", "set"))
	letGo()
	require.Equal(t, harness.Result{Value: "refreshed"}, harness.Await(t, refreshing))
	require.Equal(t, "set", server.Do("GET", "k"), "a Set meanwhile wins")
}

func keysMayBeAnyBytes(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	keys := []string{"", " ", "{}", "}{", "}", "{", "a{b}c", "{}x", "\x00aside:lock:", "\xff\xfe", "ключ", "\r\n$3\r\n", string(all), strings.Repeat("k", 1023), strings.Repeat("k", 1024)}
	for _, key := range keys {
		value, err := c.Get(ctx, time.Minute, key, func(_ context.Context, asked string) (string, error) { return "of " + asked, nil })
		require.NoError(t, err, "%q", key)
		require.Equal(t, "of "+key, value)
		harness.Stored(t, c, key)
		require.Equal(t, "of "+key, server.Do("GET", key))
		require.NoError(t, c.Touch(ctx, time.Hour, key))
		require.NoError(t, c.Set(ctx, time.Minute, key, "set"))
		value, ok, err := c.Peek(ctx, key)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "set", value)
		require.NoError(t, c.Del(ctx, key))
		require.Nil(t, server.Do("GET", key))
	}
	many, err := c.GetMulti(ctx, time.Minute, keys, harness.NewSource("m").LoadMany)
	require.NoError(t, err)
	require.Len(t, many, len(keys))

	tooLong := strings.Repeat("k", 1025)
	_, err = c.Get(ctx, time.Minute, tooLong, harness.MustNotLoad)
	require.ErrorIs(t, err, aside.ErrTooLarge)
	require.ErrorContains(t, err, "MaxKeyBytes (1024)")
	require.Less(t, len(err.Error()), 500, "not the whole key")
	require.ErrorIs(t, c.Set(ctx, time.Minute, tooLong, "v"), aside.ErrTooLarge)
	require.ErrorIs(t, c.Del(ctx, tooLong), aside.ErrTooLarge)
	require.ErrorIs(t, c.Touch(ctx, time.Minute, tooLong), aside.ErrTooLarge)
	_, _, err = c.Peek(ctx, tooLong)
	require.ErrorIs(t, err, aside.ErrTooLarge)
	m, err := c.GetMulti(ctx, time.Minute, []string{"ok", tooLong}, harness.NewSource("v").LoadMany)
	require.ErrorIs(t, err, aside.ErrTooLarge)
	require.Equal(t, map[string]string{"ok": "v"}, m)
}

// A value that begins as our markers and headers do is a value: it is never taken for a lock and
// never lost.
func valuesMayBeAnyBytes(t *testing.T, start Start) {
	server := start(t)
	c, other, ctx := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr()), harness.Context(t)
	values := []string{"", " ", "\x00", "\x00aside:", "\x00aside:lock:", "\x00aside:lock:a:1:0", "\x00aside:1n", "\x00aside:1e", "\x00aside:1e\x00aside:1e", "\x00aside:2", `"quoted"`, "null", "\xff\x00\xfe", strings.Repeat("x", 100_000)}
	for i, want := range values {
		key := fmt.Sprint("loaded", i)
		for range 2 {
			for _, client := range []*aside.Client{c, other} {
				got, err := client.Get(ctx, time.Minute, key, func(context.Context, string) (string, error) { return want, nil })
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
		}
		require.EqualValues(t, i+1, c.Stats().Loads, "%q is loaded once", want)
		require.NoError(t, c.Set(ctx, time.Minute, "set", want))
		harness.Eventually(t, "the push has reached the other", func() bool {
			got, ok, err := other.Peek(ctx, "set")
			require.NoError(t, err)
			require.True(t, ok)
			return got == want
		})
		many, err := other.GetMulti(ctx, time.Minute, []string{key}, harness.NewSource("never").LoadMany)
		require.NoError(t, err)
		require.Equal(t, map[string]string{key: want}, many)
	}
	require.Zero(t, other.Stats().Loads)
}

func aValueThatIsTooLargeIsReturnedAndNotStored(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr(), func(o *aside.Options) { o.MaxValueBytes = 1000 }), harness.Context(t)
	for size, kept := range map[int]bool{999: true, 1000: true, 1001: false} {
		key := fmt.Sprint(size)
		want := strings.Repeat("x", size)
		value, err := c.Get(ctx, time.Minute, key, harness.NewSource(want).Load)
		require.NoError(t, err)
		require.Equal(t, want, value)
		harness.Stored(t, c, key)
		require.Equal(t, kept, server.Do("GET", key) != nil, "%d bytes", size)
	}
	require.EqualValues(t, 1, c.Stats().TooLarge)
	err := c.Set(ctx, time.Minute, "set", strings.Repeat("x", 1001))
	require.ErrorIs(t, err, aside.ErrTooLarge)
	require.ErrorContains(t, err, "1001 bytes")
	// Escaping does not make a value too large.
	require.NoError(t, c.Set(ctx, time.Minute, "set", "\x00aside:"+strings.Repeat("x", 993)))
}

func whatATTLMeans(t *testing.T, start Start) {
	server := start(t)
	c, db, ctx := harness.NewClient(t, server.Addr()), harness.NewSource("v"), harness.Context(t)
	for _, ttl := range []time.Duration{0, -1, -time.Hour, math.MinInt64} {
		_, err := c.Get(ctx, ttl, "k", db.Load)
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
		require.ErrorContains(t, err, ttl.String())
		require.ErrorIs(t, c.Set(ctx, ttl, "k", "v"), aside.ErrInvalidArgument)
		require.ErrorIs(t, c.Touch(ctx, ttl, "k"), aside.ErrInvalidArgument)
		_, err = c.GetMulti(ctx, ttl, []string{"k"}, db.LoadMany)
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
	}
	require.Zero(t, db.Calls.Load())
	// A ttl is checked even where memory could answer.
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	_, _, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	_, err = c.Get(ctx, 0, "k", db.Load)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)

	for _, ttl := range []time.Duration{time.Millisecond, time.Millisecond + 1} { // part of a millisecond is a whole one
		require.NoError(t, c.Set(ctx, ttl, "short", "v"))
		harness.Eventually(t, "it expires", func() bool { return server.Do("EXISTS", "short") == int64(0) })
		_, err := c.Get(ctx, ttl, "short", db.Load)
		require.NoError(t, err)
		harness.Eventually(t, "it expires in memory as well", func() bool {
			_, ok, err := c.Peek(ctx, "short")
			require.NoError(t, err)
			return !ok
		})
	}
	require.NoError(t, c.Set(ctx, math.MaxInt64, "long", "v"))
	require.EqualValues(t, -1, server.Do("PTTL", "long"), "longer than LongestTTL is none")
	value, err := c.Get(ctx, math.MaxInt64, "longer", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	_, err = c.Get(ctx, time.Minute, "longer", harness.MustNotLoad)
	require.NoError(t, err)
	// A value without expiry, written by somebody else, is fine.
	server.Do("SET", "forever", "v")
	for range 2 {
		_, err = c.Get(ctx, time.Minute, "forever", harness.MustNotLoad)
		require.NoError(t, err)
	}
}

func aKeyOfAnotherTypeIsLoadedAndLeftAlone(t *testing.T, start Start) {
	server := start(t)
	c, db, ctx := harness.NewClient(t, server.Addr()), harness.NewSource("v"), harness.Context(t)
	server.Do("RPUSH", "list", "x")
	value, err := c.Get(ctx, time.Minute, "list", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	require.Equal(t, int64(1), server.Do("LLEN", "list"))
	require.NoError(t, c.Del(ctx, "list"))
	require.Equal(t, int64(0), server.Do("EXISTS", "list"))
}

func scriptFlushCostsARoundTripAndNothingElse(t *testing.T, start Start) {
	server := start(t)
	c, db, ctx := harness.NewClient(t, server.Addr()), harness.NewSource("v"), harness.Context(t)
	for i := range 10 {
		server.Do("SCRIPT", "FLUSH")
		letGo := db.HoldUp()
		loading := harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.Load) })
		db.AwaitBegin(t)
		server.Do("SCRIPT", "FLUSH")
		letGo()
		require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, loading))
		harness.Stored(t, c, fmt.Sprint("k", i))
		require.Equal(t, "v", server.Do("GET", fmt.Sprint("k", i)))
		server.Do("SCRIPT", "FLUSH")
		_, err := c.GetMulti(ctx, time.Minute, []string{fmt.Sprint("k", i), fmt.Sprint("m", i)}, db.LoadMany)
		require.NoError(t, err)
		server.Do("SCRIPT", "FLUSH")
		require.NoError(t, c.Set(ctx, time.Minute, "s", "v"))
		server.Do("SCRIPT", "FLUSH")
		require.NoError(t, c.Touch(ctx, time.Minute, "s"))
		server.Do("SCRIPT", "FLUSH")
		require.NoError(t, c.Del(ctx, "s"))
	}
	require.Zero(t, c.Stats().FillsRefused)
}
