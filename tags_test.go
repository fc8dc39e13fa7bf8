package aside_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/wire"
)

// numbered is a loader whose values count its calls.
type numbered struct{ calls atomic.Int64 }

func (s *numbered) load(context.Context, string) (string, error) {
	return string(rune('0' + s.calls.Add(1))), nil
}

func tagged(c *aside.Client, tags ...string) *aside.TypedClient[string] {
	return aside.Typed(c, codec.String(), aside.WithTags(tags...))
}

// DelTags reaches all values with a tag, in every process, and no others.
func TestDelTagsRemovesWhatHasATag(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*aside.Options){"with memory": func(*aside.Options) {}, "untracked": untracked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			a, b, ctx := newClient(t, server.Addr(), change), newClient(t, server.Addr(), change), testContext(t)
			var db numbered
			get := func(c *aside.Client, key string, tags ...string) string {
				t.Helper()
				v, err := tagged(c, tags...).Get(ctx, time.Hour, key, db.load)
				require.NoError(t, err)
				stored(t, c, key)
				return v
			}
			require.Equal(t, "1", get(a, "k", "x", "y"))
			require.Equal(t, "2", get(a, "l", "y"))
			require.Equal(t, "3", get(a, "plain"))
			for range 2 {
				require.Equal(t, "1", get(a, "k", "x", "y"), "it is loaded once")
				require.Equal(t, "1", get(b, "k"), "a reader need not know the tags")
				require.Equal(t, "2", get(b, "l", "y"))
				require.Equal(t, "3", get(b, "plain", "z"))
			}
			require.NotEqual(t, "1", server.Do("GET", "k"), "it has a header")
			require.Equal(t, "3", server.Do("GET", "plain"), "without tags it is raw")

			require.NoError(t, a.DelTags(ctx, "x", "never heard of"))
			require.Equal(t, "4", get(a, "k", "x", "y"), "this process knows at once")
			eventually(t, "the other has heard of it", func() bool { return get(b, "k") == "4" })
			require.Equal(t, "2", get(b, "l"), "it has another tag")
			require.NoError(t, b.DelTags(ctx, "y"))
			require.Equal(t, "5", get(b, "k", "x", "y"))
			require.Equal(t, "6", get(b, "l", "y"))
			eventually(t, "the other has heard of it", func() bool { return get(a, "k") == "5" && get(a, "l") == "6" })
			require.Equal(t, "3", get(a, "plain"))

			many, err := tagged(a, "y").GetMulti(ctx, time.Hour, []string{"k", "l", "plain"}, func(context.Context, []string) (map[string]string, error) { return mustNotLoadMany() })
			require.NoError(t, err)
			require.Equal(t, map[string]string{"k": "5", "l": "6", "plain": "3"}, many)
			require.NoError(t, a.DelTags(ctx, "y"))
			_, ok, err := a.Peek(ctx, "k")
			require.NoError(t, err)
			require.False(t, ok)
			found, err := a.LookMulti(ctx, []string{"k", "l", "plain"})
			require.NoError(t, err)
			require.Len(t, found, 1)
			many, err = tagged(a, "y").GetMulti(ctx, time.Hour, []string{"k", "l", "plain"}, func(_ context.Context, keys []string) (map[string]string, error) {
				require.ElementsMatch(t, []string{"k", "l"}, keys)
				return map[string]string{"k": "7", "l": "7"}, nil
			})
			require.NoError(t, err)
			require.Equal(t, map[string]string{"k": "7", "l": "7", "plain": "3"}, many)
		})
	}
}

// What was loaded before a clearing is never served after it, by whomever.
func TestALoadThatBeganBeforeATagWasClearedIsNotServed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	db := newSource("old")
	letGo := db.HoldUp()
	early := inBackground(func() (string, error) { return tagged(a, "x").Get(ctx, time.Hour, "k", db.Load) })
	db.AwaitBegin(t)
	require.NoError(t, a.DelTags(ctx, "x"))
	late := inBackground(func() (string, error) { return tagged(a, "x").Get(ctx, time.Hour, "k", db.Load) })
	awaitShared(t, a, 1)
	db.Set("new")
	letGo()
	require.Equal(t, result{Value: "old"}, await(t, early), "it asked before")
	require.Equal(t, result{Value: "new"}, await(t, late), "it asked after")
	for _, c := range []*aside.Client{a, b} {
		v, err := tagged(c, "x").Get(ctx, time.Hour, "k", db.Load)
		require.NoError(t, err)
		require.Equal(t, "new", v)
	}
}

// A clearing key that is gone, for whatever reason, clears.
func TestATagWhoseKeyIsGoneIsCleared(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	var db numbered
	get := func(c *aside.Client) string {
		v, err := tagged(c, "x").Get(ctx, time.Hour, "k", db.load)
		require.NoError(t, err)
		stored(t, c, "k")
		return v
	}
	require.Equal(t, "1", get(a))
	require.Equal(t, "1", get(b))
	for i, lose := range []func(){
		func() { server.Do("DEL", wire.TagGroup("x")) },
		func() { server.Do("PEXPIREAT", wire.TagGroup("x"), 1) },
		func() { server.Do("SET", wire.TagGroup("x"), "what") },
		func() { server.Do("DEL", wire.TagGroup("x")); server.Do("LPUSH", wire.TagGroup("x"), "what") },
		func() { server.Do("SET", wire.TagGroup("x"), "0000000000000001") },
	} {
		want := string(rune('2' + i))
		lose()
		eventually(t, "both have heard of it", func() bool { return get(a) == want && get(b) == want })
		require.Equal(t, want, get(a))
		require.Equal(t, want, get(b), "it was loaded once")
	}
	ttl := server.Do("TTL", wire.TagGroup("x")).(int64)
	require.Greater(t, ttl, int64(15*24*3600), "it does not live for ever, and long enough")
}

// ExpireTags makes stale what has a grace.
func TestExpireTagsMakesStale(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	var db numbered
	get := func(c *aside.Client, key string, opts ...aside.ViewOption) string {
		t.Helper()
		v, err := aside.Typed(c, codec.String(), append(opts, aside.WithTags("x"))...).Get(ctx, time.Hour, key, db.load)
		require.NoError(t, err)
		stored(t, c, key)
		return v
	}
	gracious := aside.WithGrace(time.Minute)
	require.Equal(t, "1", get(a, "k", gracious))
	require.Equal(t, "2", get(a, "hard"))
	require.Equal(t, "1", get(b, "k", gracious))
	require.NoError(t, b.ExpireTags(ctx, "x"))
	require.Equal(t, "1", get(b, "k", gracious), "it is served while it is refreshed")
	eventually(t, "it is refreshed", func() bool { return get(b, "k", gracious) == "3" })
	eventually(t, "the other has heard of it", func() bool { return get(a, "k", gracious) == "3" })
	require.Equal(t, "4", get(a, "hard"), "nobody would refresh it")
	require.EqualValues(t, 4, db.calls.Load(), "each once")
}

// A loader may give tags that depend on what it has loaded.
func TestSetTagsOfALoader(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	var db numbered
	get := func(c *aside.Client, key string, tags ...string) string {
		t.Helper()
		v, err := tagged(c, "view").Get(ctx, time.Hour, key, func(ctx context.Context, key string) (string, error) {
			require.True(t, aside.LoadFrom(ctx).SetTags(tags...))
			return db.load(ctx, key)
		})
		require.NoError(t, err)
		stored(t, c, key)
		return v
	}
	require.Equal(t, "1", get(a, "k", "author"))
	require.Equal(t, "2", get(a, "k", "author"), "nobody had used the tag: whether it was cleared meanwhile is unknown")
	require.Equal(t, "2", get(a, "k", "author"))
	require.Equal(t, "2", get(b, "k", "author"))
	require.Equal(t, "3", get(b, "l", "author"), "the tag is known by now")
	require.Equal(t, "3", get(a, "l", "author"))
	for i, tag := range []string{"author", "view"} {
		require.NoError(t, a.DelTags(ctx, tag))
		require.Equal(t, string(rune('4'+2*i)), get(a, "k", "author"))
		require.Equal(t, string(rune('5'+2*i)), get(a, "l", "author"))
	}
	_, err := tagged(a).Get(ctx, time.Hour, "bad", func(ctx context.Context, _ string) (string, error) {
		aside.LoadFrom(ctx).SetTags("")
		return "v", nil
	})
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	require.ErrorContains(t, err, "Load.SetTags has an empty tag")
}

// Clearing is kept in an outage, holds there, and is replayed.
func TestATagThatIsClearedInAnOutageStaysCleared(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	dir, option := durable(t)
	a, b, ctx := newClient(t, proxy.Addr(), hasty, option), newClient(t, server.Addr()), testContext(t)
	var db numbered
	get := func(c *aside.Client, key string) string {
		t.Helper()
		v, err := tagged(c, "x").Get(ctx, time.Hour, key, db.load)
		require.NoError(t, err)
		return v
	}
	require.Equal(t, "1", get(a, "k"))
	stored(t, a, "k")
	require.Equal(t, "1", get(b, "k"))
	proxy.Refuse()
	awaitMode(t, a, aside.Degraded)
	require.Equal(t, "1", get(a, "k"), "what memory has is served unverified")
	require.Equal(t, "2", get(a, "l"))
	require.Equal(t, "2", get(a, "l"), "what was loaded meanwhile, too")
	require.NoError(t, a.DelTags(ctx, "x"))
	require.Equal(t, "3", get(a, "k"))
	require.Equal(t, "4", get(a, "l"))
	for range 3 {
		require.Equal(t, "3", get(a, "k"), "what was loaded since is served")
		require.Equal(t, "4", get(a, "l"))
	}
	require.Equal(t, "1", get(b, "k"), "nobody has told the other")
	closeClient(t, a, dir)

	next, err := aside.New(aside.Options{Redis: plain(proxy.Addr()), FallbackDir: dir, Logger: quiet})
	require.NoError(t, err)
	defer next.Close()
	require.NotContains(t, []string{"1", "2"}, get(next, "k"), "it stays cleared")
	require.NotContains(t, []string{"1", "2"}, get(next, "l"))
	proxy.Heal()
	awaitMode(t, next, aside.Healthy)
	eventually(t, "the other has heard of it", func() bool { return get(b, "k") != "1" })
	v := get(b, "k")
	require.NotEqual(t, "1", v)
	eventually(t, "they agree", func() bool { return get(next, "k") == get(b, "k") })
}

// A loader that is stopped while its tag is cleared stores what nobody is served.
func TestALoaderThatWasStoppedBringsBackNothingThatWasCleared(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	stopped := startChild(t, "tagged", server.Addr())
	stopped.say("k")
	require.Equal(t, "loading", stopped.line())
	require.NoError(t, stopped.cmd.Process.Signal(syscall.SIGSTOP))
	require.NoError(t, c.DelTags(ctx, "x"))
	require.NoError(t, stopped.cmd.Process.Signal(syscall.SIGCONT))
	stopped.say("go on")
	require.Equal(t, "got old <nil>", stopped.line(), "it asked before")
	v, err := tagged(c, "x").Get(ctx, time.Minute, "k", newSource("new").Load)
	require.NoError(t, err)
	require.Equal(t, "new", v)
	stored(t, c, "k")
	stopped.say("k")
	require.Equal(t, "got new <nil>", stopped.line())
}

// GetMulti asks for all groups that it does not know at once.
func TestTheStatesOfManyGroupsAreAskedForAtOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := counted(t, server)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, proxy.Addr()), testContext(t)
	var keys []string
	for i := range 20 {
		key := string(rune('a' + i))
		keys = append(keys, key)
		_, err := tagged(a, "t"+key, "u"+key).Get(ctx, time.Hour, key, newSource("v").Load)
		require.NoError(t, err)
	}
	stored(t, a, keys...)
	sent := proxy.Commands()
	many, err := b.GetMulti(ctx, time.Hour, keys, func(context.Context, []string) (map[string]string, error) { return mustNotLoadMany() })
	require.NoError(t, err)
	require.Len(t, many, 20)
	require.LessOrEqual(t, proxy.Commands()-sent, 4, "the values, and 80 states in two calls that go together; perhaps a script once more")
}

// A value has so many tags at most as its header has room for, whoever gives them: more fail the load.
func TestACallAndItsLoaderGiveTooManyTags(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	for name, most := range map[string]int{"more than others read": 60, "longer than a header": wire.MostTags} {
		for way, n := range map[string]int{"too many": wire.MostTags + 1, "as many as may be": wire.MostTags} {
			of, said := manyTags("a", most), manyTags("b", n-most+10)
			said = append(said[:n-most], of[:5]...) // those that both give count once
			key := name + way
			_, err := c.Get(ctx, time.Hour, key, func(ctx context.Context, _ string) (string, error) {
				aside.LoadFrom(ctx).SetTags(said...)
				return "v", nil
			}, aside.WithTags(of...))
			if n > wire.MostTags {
				require.ErrorIs(t, err, aside.ErrInvalidArgument, key)
				require.ErrorContains(t, err, "101 tags together: must be at most 100", key)
				require.Nil(t, server.Do("GET", key), key)
				continue
			}
			require.NoError(t, err, key)
			stored(t, c, key)
			if most == wire.MostTags { // else what the loader says is used for the first time
				v, err := newClient(t, server.Addr()).Get(ctx, time.Hour, key, mustNotLoad)
				require.NoError(t, err, key)
				require.Equal(t, "v", v, key)
			}
		}
	}
}

// manyTags are n tags, as long as tags may be.
func manyTags(prefix string, n int) []string {
	tags := make([]string, n)
	for i := range tags {
		tags[i] = fmt.Sprintf("%s%0511d", prefix, i)
	}
	return tags
}

func TestTagsThatAreWrong(t *testing.T) {
	t.Parallel()
	c, ctx := newClient(t, redistest.Start(t).Addr()), testContext(t)
	for tag, says := range map[string]string{"": "empty tag", strings.Repeat("x", 513): "must be at most 512"} {
		require.ErrorContains(t, c.DelTags(ctx, "ok", tag), says)
		require.ErrorContains(t, c.ExpireTags(ctx, tag), says)
		_, err := c.Get(ctx, time.Minute, "k", mustNotLoad, aside.WithTags("ok", tag))
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
		require.ErrorContains(t, err, says)
	}
	require.NoError(t, c.DelTags(ctx))
}

// A call that loads nothing has what ExpireTags has made stale only if it has a grace for it, and knows
// that it is stale; so do Peek, Look and LookMulti.
func TestACallWithoutLoadHeedsExpireTags(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, change := range map[string]func(*aside.Options){"with memory": func(*aside.Options) {}, "untracked": untracked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, ctx := newClient(t, server.Addr(), change), testContext(t)
			none := func(context.Context, []string) (map[string]string, error) { return mustNotLoadMany() }
			for _, withGrace := range []time.Duration{0, time.Hour} {
				key, tag := fmt.Sprint(t.Name(), withGrace), fmt.Sprint(name, withGrace)
				view := aside.Typed(c, codec.String(), aside.WithTags(tag), aside.WithGrace(withGrace))
				_, err := view.Get(ctx, time.Hour, key, newSource("old").Load)
				require.NoError(t, err)
				stored(t, c, key)
				require.NoError(t, c.ExpireTags(ctx, tag))
				_, err = view.Get(ctx, time.Hour, key, mustNotLoad, aside.WithoutLoad(), aside.WithMaxStale(0))
				require.ErrorIs(t, err, aside.ErrNotCached, "it is stale")
				many, err := view.GetMulti(ctx, time.Hour, []string{key}, none, aside.WithoutLoad(), aside.WithMaxStale(0))
				require.NoError(t, err)
				require.Empty(t, many, "it is stale")
				got, err := view.Fetch(ctx, time.Hour, key, mustNotLoad, aside.WithoutLoad())
				many, multiErr := view.GetMulti(ctx, time.Hour, []string{key}, none, aside.WithoutLoad())
				require.NoError(t, multiErr)
				_, ok, peekErr := view.Peek(ctx, key)
				require.NoError(t, peekErr)
				require.Equal(t, withGrace > 0, ok, "Peek has the view's grace")
				if withGrace > 0 {
					require.NoError(t, err)
					require.True(t, got.Stale)
					require.Equal(t, map[string]string{key: "old"}, many)
				} else {
					require.ErrorIs(t, err, aside.ErrNotCached, "nobody would refresh it")
					require.Empty(t, many)
				}
				_, ok, err = c.Peek(ctx, key)
				require.NoError(t, err)
				require.False(t, ok, "the client has no grace")
				_, err = c.Look(ctx, key)
				require.ErrorIs(t, err, aside.ErrNotFound)
				found, err := c.LookMulti(ctx, []string{key})
				require.NoError(t, err)
				require.Empty(t, found)
			}
		})
	}
}

// Who asks after ExpireTags does not take for fresh what a load brings that had begun before.
func TestWhoAsksAfterExpireTagsSharesNoEarlierLoad(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, withGrace := range []time.Duration{0, time.Hour} {
		for _, multi := range []bool{false, true} {
			t.Run(fmt.Sprint(withGrace, multi), func(t *testing.T) {
				t.Parallel()
				c, ctx, key := newClient(t, server.Addr()), testContext(t), t.Name()
				view := aside.Typed(c, codec.String(), aside.WithTags(key), aside.WithGrace(withGrace))
				var opts []aside.CallOption
				if withGrace > 0 {
					opts = append(opts, aside.WithMaxStale(0))
				}
				db := newSource("old")
				letGo := db.HoldUp()
				early := inBackground(func() (string, error) { return view.Get(ctx, time.Hour, key, db.Load) })
				db.AwaitBegin(t)
				require.NoError(t, c.ExpireTags(ctx, key))
				late := inBackground(func() (string, error) {
					if multi {
						m, err := view.GetMulti(ctx, time.Hour, []string{key}, db.LoadMany, opts...)
						return m[key], err
					}
					return view.Get(ctx, time.Hour, key, db.Load, opts...)
				})
				awaitShared(t, c, 1)
				db.Set("new")
				letGo()
				require.Equal(t, result{Value: "old"}, await(t, early))
				require.Equal(t, result{Value: "new"}, await(t, late), "it asked after ExpireTags")
			})
		}
	}
}

// What only the fallback store has is made stale in an outage as it is removed in one, also when memory
// has forgotten that there was such a tag.
func TestTagsAreClearedInAnOutageForWhatOnlyTheStoreHas(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, clearTags := range map[string]func(c *aside.Client, ctx context.Context, tags ...string) error{"DelTags": (*aside.Client).DelTags, "ExpireTags": (*aside.Client).ExpireTags} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy := faultproxy.New(t, server.Addr())
			c, ctx, key := newClient(t, proxy.Addr(), hasty, func(o *aside.Options) { o.MemoryBytes, o.FallbackDir = -1, t.TempDir() }), testContext(t), t.Name()
			proxy.Refuse()
			awaitMode(t, c, aside.Degraded)
			require.NoError(t, c.Set(ctx, time.Hour, key, "old", aside.WithTags(name)))
			runtime.GC() // nothing refers to the tag's state any more
			v, ok, err := c.Peek(ctx, key)
			require.NoError(t, err)
			require.True(t, ok && v == "old", "it is there")
			runtime.GC()
			require.NoError(t, clearTags(c, ctx, name))
			v, err = c.Get(ctx, time.Hour, key, newSource("new").Load)
			require.NoError(t, err)
			require.Equal(t, "new", v)
		})
	}
}

// A loader that names a tag which was cleared while it ran, in an outage, when nothing knew of the tag, or
// what did is gone by then: who asked after the clearing has nothing of that load.
func TestATagThatALoaderNamesWasClearedInAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, clearTags := range map[string]func(c *aside.Client, ctx context.Context, tags ...string) error{"DelTags": (*aside.Client).DelTags, "ExpireTags": (*aside.Client).ExpireTags} {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, known %t", name, known), func(t *testing.T) {
				t.Parallel()
				proxy := faultproxy.New(t, server.Addr())
				_, option := durable(t)
				c, ctx, key := newClient(t, proxy.Addr(), hasty, option), testContext(t), t.Name()
				proxy.Refuse()
				awaitMode(t, c, aside.Degraded)
				db := newSource("old")
				letGo := db.HoldUp()
				get := func() (string, error) {
					return c.Get(ctx, time.Hour, key, func(ctx context.Context, key string) (string, error) {
						aside.LoadFrom(ctx).SetTags(name)
						return db.Load(ctx, key)
					})
				}
				early := inBackground(get)
				db.AwaitBegin(t)
				if known {
					require.NoError(t, c.Set(ctx, time.Hour, "of "+key, "v", aside.WithTags(name)))
				}
				runtime.GC() // nothing else refers to the tag
				require.NoError(t, clearTags(c, ctx, name))
				if known {
					c.Forget("of " + key)
					runtime.GC() // nothing refers to the tag
				}
				db.Set("new")
				late := inBackground(get)
				eventually(t, "it waits for the same load, unless its key shares a generation with one that was changed", func() bool { return c.Stats().Shared > 0 || db.Calls.Load() > 1 })
				letGo()
				require.Equal(t, result{Value: "old"}, await(t, early), "it asked before")
				require.Equal(t, result{Value: "new"}, await(t, late), "it asked after")
				for range 2 {
					value, err := get()
					require.NoError(t, err)
					require.Equal(t, "new", value)
				}
			})
		}
	}
}
