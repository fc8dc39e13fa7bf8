package aside_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/wire"
)

// elsewhere is a cluster with a tag and a prefix whose groups are not where the keys "k" and "p:k"
// are. behind leads a client to the nodes of the groups through proxies.
type elsewhere struct {
	cluster     *redistest.Cluster
	tag, prefix string
	proxies     map[string]*faultproxy.Proxy // by address, of the nodes of the groups
}

func startElsewhere(t *testing.T) *elsewhere {
	e := &elsewhere{cluster: redistest.StartCluster(t), proxies: make(map[string]*faultproxy.Proxy)}
	node := e.cluster.NodeOf("k")
	for i := 0; e.tag == "" || e.prefix == ""; i++ {
		tag, prefix := fmt.Sprint("t", i), fmt.Sprint("p", i, ":")
		if e.cluster.NodeOf(wire.TagGroup(tag)) != node {
			e.tag = tag
		}
		if e.cluster.NodeOf(wire.PrefixGroup(prefix)) != e.cluster.NodeOf(prefix+"k") {
			e.prefix = prefix
		}
	}
	for _, group := range []string{wire.TagGroup(e.tag), wire.PrefixGroup(e.prefix)} {
		if addr := e.cluster.Node(e.cluster.NodeOf(group)).Addr(); e.proxies[addr] == nil {
			e.proxies[addr] = faultproxy.New(t, addr)
		}
	}
	return e
}

func (e *elsewhere) direct(o *aside.Options) {
	o.Redis.InitAddress = e.cluster.Addrs()
	o.RedisTimeout = 2 * time.Second
}

func (e *elsewhere) behind(o *aside.Options) {
	e.direct(o)
	o.Redis.DialCtxFn = func(ctx context.Context, dst string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
		if p := e.proxies[dst]; p != nil {
			dst = p.Addr()
		}
		return d.DialContext(ctx, "tcp", dst)
	}
}

func (e *elsewhere) proxyOf(key string) *faultproxy.Proxy {
	return e.proxies[e.cluster.Node(e.cluster.NodeOf(key)).Addr()]
}

// WithFresh hears of what was cleared on another shard, although that shard's push is still on its way.
func TestWithFreshHearsOfWhatWasClearedOnAnotherShard(t *testing.T) { //nolint:tparallel // its parts have one cluster
	t.Parallel()
	e := startElsewhere(t)
	a := newClient(t, "", e.direct)
	for name, row := range map[string]struct {
		key, group string
		option     []aside.ViewOption
		clear      func(ctx context.Context, view *aside.TypedClient[string]) error
	}{
		"a tag is cleared": {"k", wire.TagGroup(e.tag), []aside.ViewOption{aside.WithTags(e.tag)}, func(ctx context.Context, _ *aside.TypedClient[string]) error { return a.DelTags(ctx, e.tag) }},
		"a tag is expired": {"k", wire.ExpiredGroup(e.tag), []aside.ViewOption{aside.WithTags(e.tag)}, func(ctx context.Context, _ *aside.TypedClient[string]) error { return a.ExpireTags(ctx, e.tag) }},
		"a view is cleared": {"k", wire.PrefixGroup(e.prefix), []aside.ViewOption{aside.WithPrefix(e.prefix), aside.Clearable()}, func(ctx context.Context, view *aside.TypedClient[string]) error {
			return view.Clear(ctx)
		}},
	} {
		for how, get := range map[string]func(ctx context.Context, view *aside.TypedClient[string], db *numbered) (string, error){
			"Get": func(ctx context.Context, view *aside.TypedClient[string], db *numbered) (string, error) {
				return view.Get(ctx, time.Hour, row.key, db.load, aside.WithFresh())
			},
			"GetMulti": func(ctx context.Context, view *aside.TypedClient[string], db *numbered) (string, error) {
				all, err := view.GetMulti(ctx, time.Hour, []string{row.key}, func(ctx context.Context, keys []string) (map[string]string, error) {
					value, err := db.load(ctx, keys[0])
					return map[string]string{keys[0]: value}, err
				}, aside.WithFresh())
				return all[row.key], err
			},
			"without a load": func(ctx context.Context, view *aside.TypedClient[string], db *numbered) (string, error) {
				value, err := view.Get(ctx, time.Hour, row.key, db.load, aside.WithFresh(), aside.WithoutLoad())
				if err == nil {
					return "there is " + value, nil
				}
				require.ErrorIs(t, err, aside.ErrNotCached)
				return view.Get(ctx, time.Hour, row.key, db.load)
			},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				b, ctx := newClient(t, "", e.behind), testContext(t)
				views := make([]*aside.TypedClient[string], 2)
				for i, c := range []*aside.Client{a, b} {
					views[i] = aside.Typed(c, codec.String(), row.option...)
				}
				var db numbered
				require.NoError(t, views[0].Del(ctx, row.key))
				require.NoError(t, row.clear(ctx, views[0]))
				value, err := views[1].Get(ctx, time.Hour, row.key, db.load)
				for i := 1; i < 3; i++ {
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint(i), value)
					awaitNobody(t, b)
					eventually(t, "it is in memory, and so are its groups", func() bool {
						hits := b.Stats().MemoryHits
						_, err := views[1].Get(ctx, time.Hour, row.key, mustNotLoad)
						require.NoError(t, err)
						return b.Stats().MemoryHits > hits
					})
					e.proxyOf(row.group).Delay(100 * time.Millisecond)
					require.NoError(t, row.clear(ctx, views[0]))
					value, err = get(ctx, views[1], &db)
					e.proxyOf(row.group).Delay(0)
				}
			})
		}
	}
}

// A flight that is held up, as another shard has not told the state of a tag yet, must not give a value
// from before a push to a caller from after it.
func TestAFlightThatAwaitsTheStateOfATagDoesNotBecomeStale(t *testing.T) {
	t.Parallel()
	e := startElsewhere(t)
	a, b, ctx := newClient(t, "", e.direct), newClient(t, "", e.behind, patient), testContext(t)
	require.NoError(t, a.Set(ctx, time.Hour, "k", "old", aside.WithTags(e.tag)))
	get := func() (string, error) { return b.Get(ctx, time.Hour, "k", mustNotLoad) }
	proxy := e.proxyOf(wire.TagGroup(e.tag))
	proxy.Ignore("PING", "TIME", "HELLO", "CLIENT", "CLUSTER", "INFO", "CONFIG")
	asked := proxy.Commands()
	proxy.CutReplies()
	first := inBackground(get)
	eventually(t, "it has read the key, and asks for the tag", func() bool { return proxy.Commands() > asked })
	heard := b.Stats().Invalidations
	require.NoError(t, a.Set(ctx, time.Hour, "k", "new"))
	eventually(t, "the push has come", func() bool { return b.Stats().Invalidations > heard })
	second := inBackground(get)
	awaitShared(t, b, 1)
	proxy.Heal()
	require.Equal(t, result{Value: "old"}, await(t, first), "it asked before")
	require.Equal(t, result{Value: "new"}, await(t, second), "it asked after")
}

// A call with WithFresh asks for no groups of the shard that answers with the value: what their keys
// say was told before that answer.
func TestWithFreshAsksForNoGroupsOfTheShardThatAnswers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := counted(t, server)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, proxy.Addr()), testContext(t)
	for call, opts := range map[string][]aside.CallOption{"Get": {aside.WithFresh()}, "without a load": {aside.WithFresh(), aside.WithoutLoad()}} {
		for change, do := range map[string]func(context.Context, ...string) error{"cleared": a.DelTags, "expired": a.ExpireTags} {
			name := call + ", " + change
			_, err := tagged(b, "t", "u").Get(ctx, time.Hour, name, newSource("v").Load)
			require.NoError(t, err, name)
			stored(t, b, name)
			eventually(t, name+", takes one command", func() bool { // more, where memory does not know the states
				sent := proxy.Commands()
				value, err := tagged(b, "t", "u").Get(ctx, time.Hour, name, mustNotLoad, opts...)
				require.NoError(t, err, name)
				require.Equal(t, "v", value, name)
				return proxy.Commands()-sent == 1
			})
			require.NoError(t, do(ctx, "u"))
			value, err := tagged(b, "t", "u").Get(ctx, time.Hour, name, newSource("new").Load, opts...)
			if len(opts) > 1 {
				require.ErrorIs(t, err, aside.ErrNotCached, name)
			} else {
				require.NoError(t, err, name)
				require.Equal(t, "new", value, name)
			}
		}
	}
}

// While the shard of a group does not answer, nothing proves that a value was not cleared.
func TestWithFreshNeedsTheShardsOfGroups(t *testing.T) {
	t.Parallel()
	e := startElsewhere(t)
	c, ctx := newClient(t, "", e.behind, func(o *aside.Options) { o.RedisTimeout = time.Second }), testContext(t)
	view, db := tagged(c, e.tag), newSource("v")
	_, err := view.Get(ctx, time.Hour, "k", db.Load)
	require.NoError(t, err)
	stored(t, c, "k")
	value, err := view.Get(ctx, time.Hour, "k", mustNotLoad, aside.WithFresh())
	require.NoError(t, err)
	require.Equal(t, "v", value)
	e.proxyOf(wire.TagGroup(e.tag)).BlackHole()
	defer e.proxyOf(wire.TagGroup(e.tag)).Heal()
	for name, get := range map[string]func(opts ...aside.CallOption) error{
		"Get": func(opts ...aside.CallOption) error {
			_, err := view.Get(ctx, time.Hour, "k", mustNotLoad, opts...)
			return err
		},
		"GetMulti": func(opts ...aside.CallOption) error {
			_, err := view.GetMulti(ctx, time.Hour, []string{"k"}, db.LoadMany, opts...)
			return err
		},
		"without a load": func(opts ...aside.CallOption) error {
			_, err := view.Get(ctx, time.Hour, "k", mustNotLoad, append(opts, aside.WithoutLoad())...)
			return err
		},
	} {
		require.ErrorIs(t, get(aside.WithFresh()), aside.ErrRedisAway, name)
	}
	require.EqualValues(t, 1, db.Calls.Load())
	eventually(t, "that shard counts as away", func() bool { return c.Health().Mode == aside.Degraded })
	value, err = view.Get(ctx, time.Hour, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "v", value, "others are content with what was known last")
}

// While the state of a value's group cannot be known although Redis answers, nothing can be cached: a
// value is loaded as often as a source that fails is asked, however many ask for it. What this process
// clears itself ends that at once.
func TestWhatCannotBeCachedIsNotLoadedByEachCaller(t *testing.T) {
	server := redistest.Start(t)
	server.Do("ACL", "SETUSER", "default", "resetkeys", "~k*", "~p:*", "~aside:stamps:*", "~aside:probe*")
	t.Cleanup(func() { server.Do("ACL", "SETUSER", "default", "allkeys") })
	for name, view := range map[string]func(c *aside.Client) *aside.TypedClient[string]{
		"a tag": func(c *aside.Client) *aside.TypedClient[string] { return tagged(c, "t") },
		"a view": func(c *aside.Client) *aside.TypedClient[string] {
			return aside.Typed(c, codec.String(), aside.WithPrefix("p:"), aside.Clearable())
		},
		"a loader's tag": func(c *aside.Client) *aside.TypedClient[string] { return tagged(c) },
	} {
		says := func(ctx context.Context) {
			if name == "a loader's tag" {
				aside.LoadFrom(ctx).SetTags("t")
			}
		}
		for how, get := range map[string]func(ctx context.Context, view *aside.TypedClient[string], db *source) (string, error){
			"Get": func(ctx context.Context, view *aside.TypedClient[string], db *source) (string, error) {
				return view.Get(ctx, time.Hour, "k", func(ctx context.Context, key string) (string, error) {
					says(ctx)
					return db.Load(ctx, key)
				})
			},
			"GetMulti": func(ctx context.Context, view *aside.TypedClient[string], db *source) (string, error) {
				all, err := view.GetMulti(ctx, time.Hour, []string{"k"}, func(ctx context.Context, keys []string) (map[string]string, error) {
					says(ctx)
					return db.LoadMany(ctx, keys)
				})
				return all["k"], err
			},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				c, db, ctx := newClient(t, server.Addr()), newSource("v"), testContext(t)
				view := view(c)
				began := time.Now()
				for range 100 {
					value, err := get(ctx, view, db)
					require.NoError(t, err)
					require.Equal(t, "v", value)
				}
				if !oldRedis(server) { // that tells of our own fill, as if somebody had changed the key
					require.LessOrEqual(t, db.Calls.Load(), 2+time.Since(began).Milliseconds()/50)
				}

				for i := range 5 {
					db.Set(fmt.Sprint("v", i))
					if name == "a view" {
						require.Error(t, view.Clear(ctx), "it is refused, too")
					} else {
						require.Error(t, c.DelTags(ctx, "t"))
					}
					value, err := get(ctx, view, db)
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint("v", i), value, "what was loaded before is not served after that")
				}
			})
		}
	}
}

// What a loader has loaded under a tag is not held for others if this process has cleared the tag
// meanwhile, although nothing here had the tag then.
func TestWhatCannotBeCachedIsNotHeldOnceALoadersTagWasCleared(t *testing.T) {
	server := redistest.Start(t)
	server.Do("ACL", "SETUSER", "default", "resetkeys", "~k*", "~aside:stamps:*", "~aside:probe*")
	t.Cleanup(func() { server.Do("ACL", "SETUSER", "default", "allkeys") })
	c, db, ctx := newClient(t, server.Addr()), newSource("old"), testContext(t)
	get := func() (string, error) {
		return tagged(c).Get(ctx, time.Hour, "k", func(ctx context.Context, key string) (string, error) {
			aside.LoadFrom(ctx).SetTags("t")
			return db.Load(ctx, key)
		})
	}
	letGo := db.HoldUp()
	defer letGo()
	first := inBackground(get)
	db.AwaitBegin(t)
	require.Error(t, c.DelTags(ctx, "t"), "it is refused, too")
	letGo()
	require.Equal(t, result{Value: "old", Err: nil}, await(t, first), "it had asked before")
	db.Set("new")
	value, err := get()
	require.NoError(t, err)
	require.Equal(t, "new", value)
}

// A shard that is away costs a GetMulti its own keys only: what has a lock needs no place of MaxLoaders.
func TestAShardThatIsAwayTakesNoPlaceForTheOthers(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	if !cluster.Node(1).CanSignal() {
		t.Skip("the nodes cannot be frozen")
	}
	c, ctx := newClient(t, "", func(o *aside.Options) {
		o.Redis.InitAddress, o.RedisTimeout, o.MaxLoaders = cluster.Addrs(), time.Second, 1
	}), testContext(t)
	var away, there []string
	for i := 0; len(away) < 2 || len(there) < 2; i++ {
		key := fmt.Sprint("k", i)
		if cluster.NodeOf(key) == 1 {
			away = append(away, key)
		} else {
			there = append(there, key)
		}
	}
	cluster.Node(1).Freeze()
	defer cluster.Node(1).Thaw()
	eventually(t, "it is noticed", func() bool {
		_, _ = c.Look(ctx, away[0])
		return c.Health().Mode == aside.Degraded
	})
	db := newSource("v")
	letGo := db.HoldUp()
	first := inBackground(func() (string, error) { return c.Get(ctx, time.Hour, away[0], db.Load) })
	db.AwaitBegin(t) // and has the only place
	all, err := c.GetMulti(ctx, time.Hour, []string{there[0], away[1], there[1]}, func(_ context.Context, keys []string) (map[string]string, error) {
		values := make(map[string]string)
		for _, key := range keys {
			values[key] = "of " + key
		}
		return values, nil
	})
	require.Equal(t, map[string]string{there[0]: "of " + there[0], there[1]: "of " + there[1]}, all)
	var batch *aside.BatchError
	require.ErrorAs(t, err, &batch)
	require.Len(t, batch.Failed, 1)
	require.ErrorIs(t, batch.Failed[away[1]], aside.ErrOverloaded)
	letGo()
	require.Equal(t, result{Value: "v"}, await(t, first))
}

// Who only looks is not told that there is nothing where nobody could ask whether it was cleared.
func TestAGroupThatCannotBeAskedIsNotAMiss(t *testing.T) { //nolint:tparallel // its parts have one cluster
	t.Parallel()
	e := startElsewhere(t)
	a, ctx := newClient(t, "", e.direct), testContext(t)
	key := e.prefix + "k"
	seen := aside.Typed(a, codec.String(), aside.WithPrefix(e.prefix), aside.Clearable())
	require.NoError(t, seen.Set(ctx, time.Hour, "k", "v"))
	loadsNothing := func(context.Context, []string) (map[string]string, error) { return mustNotLoadMany() }
	for name, look := range map[string]func(c *aside.Client, view *aside.TypedClient[string]) (string, error){
		"Peek": func(c *aside.Client, _ *aside.TypedClient[string]) (string, error) {
			value, _, err := c.Peek(ctx, key)
			return value, err
		},
		"Peek of a view": func(_ *aside.Client, view *aside.TypedClient[string]) (string, error) {
			value, _, err := view.Peek(ctx, "k")
			return value, err
		},
		"Look": func(c *aside.Client, _ *aside.TypedClient[string]) (string, error) {
			found, err := c.Look(ctx, key)
			return found.Value, err
		},
		"LookMulti": func(c *aside.Client, _ *aside.TypedClient[string]) (string, error) {
			found, err := c.LookMulti(ctx, []string{key})
			return found[key].Value, err
		},
		"Get without a load": func(_ *aside.Client, view *aside.TypedClient[string]) (string, error) {
			return view.Get(ctx, time.Hour, "k", mustNotLoad, aside.WithoutLoad())
		},
		"GetMulti without a load": func(_ *aside.Client, view *aside.TypedClient[string]) (string, error) {
			all, err := view.GetMulti(ctx, time.Hour, []string{"k"}, loadsNothing, aside.WithoutLoad())
			return all["k"], err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newClient(t, "", e.behind, hasty)
			view := aside.Typed(b, codec.String(), aside.WithPrefix(e.prefix), aside.Clearable())
			proxy := e.proxyOf(wire.PrefixGroup(e.prefix))
			proxy.BlackHole()
			defer proxy.Heal()
			value, err := look(b, view)
			if err == nil { // its shard counts as away, so it is served as in an outage
				require.Equal(t, "v", value)
			} else {
				require.ErrorIs(t, err, aside.ErrRedisAway)
			}
		})
	}
}
