package aside_test

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/wire"
)

// pod is a process of one version of a service.
type pod struct {
	*aside.Client
	view *aside.TypedClient[string]
	db   *source
}

func newPod(t *testing.T, addr string, version int64, c codec.Codec[string], opts ...aside.ViewOption) *pod {
	client := newClient(t, addr)
	opts = append(opts, aside.WithVersion(version))
	return &pod{client, aside.Typed(client, c, opts...), newSource("of " + strconv.FormatInt(version, 10))}
}

func (p *pod) get(t *testing.T, key string) string {
	t.Helper()
	value, err := p.view.Get(testContext(t), fresh, key, p.db.Load)
	require.NoError(t, err)
	return value
}

// settled waits until nothing is loaded or stored.
func settled(t *testing.T, pods ...*pod) {
	t.Helper()
	for _, p := range pods {
		awaitNobody(t, p.Client)
	}
}

// awaitKept waits until a pod has k without a load. It may load once more than for each change: what tells of
// an earlier change, and comes while a newer value is read, voids that for memory, and what is loaded beside it.
func awaitKept(t *testing.T, p *pod) {
	t.Helper()
	eventually(t, "what it has loaded is kept", func() bool {
		before := p.db.Calls.Load()
		p.get(t, "k")
		return p.db.Calls.Load() == before
	})
}

var versionCodecs = map[string]codec.Codec[string]{
	"flat":    codec.String(),
	"decoded": codec.Func(func(s string) (string, error) { return "<" + s, nil }, func(s string) (string, error) { return s[1:], nil }),
}

// Pods of two versions do not take turns: the newer replaces, the older keeps its own, and each
// loads once for a change, however many ask.
func TestPodsOfTwoVersionsDoNotTakeTurns(t *testing.T) {
	t.Parallel()
	for name, c := range versionCodecs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			older, newer := newPod(t, server.Addr(), 1, c), newPod(t, server.Addr(), 2, c)
			ctx := testContext(t)
			require.Equal(t, "of 1", older.get(t, "k"))
			settled(t, older)
			require.Equal(t, "of 2", newer.get(t, "k"), "what is older is replaced")
			settled(t, newer)
			_, h, _ := wire.Unpack(server.Do("GET", "k").(string))
			require.EqualValues(t, 2, h.Version)
			stays := server.Do("GET", "k")
			eventually(t, "the older one has heard of it", func() bool { older.get(t, "k"); return older.db.Calls.Load() >= 2 })
			awaitKept(t, older)
			loaded := older.db.Calls.Load()
			var callers sync.WaitGroup
			for range 20 {
				callers.Go(func() {
					for range 20 {
						require.Equal(t, "of 1", older.get(t, "k"))
						require.Equal(t, "of 2", newer.get(t, "k"))
					}
				})
			}
			callers.Wait()
			require.Equal(t, loaded, older.db.Calls.Load())
			require.EqualValues(t, 1, newer.db.Calls.Load())
			require.Equal(t, stays, server.Do("GET", "k"), "what is newer stays")

			for i, writer := range []*pod{older, newer} { // a Del by either reaches both
				older.db.Set("of 1 after " + strconv.Itoa(i))
				newer.db.Set("of 2 after " + strconv.Itoa(i))
				require.NoError(t, writer.Del(ctx, "k"))
				eventually(t, "both have new values", func() bool {
					return newer.get(t, "k") == "of 2 after "+strconv.Itoa(i) && older.get(t, "k") == "of 1 after "+strconv.Itoa(i)
				})
				settled(t, older, newer)
				awaitKept(t, newer)
				awaitKept(t, older)
				olds, news := older.db.Calls.Load(), newer.db.Calls.Load()
				for range 50 {
					older.get(t, "k")
					newer.get(t, "k")
				}
				require.Equal(t, olds, older.db.Calls.Load())
				require.Equal(t, news, newer.db.Calls.Load())
			}
			require.Zero(t, older.Stats().DecodeErrors+newer.Stats().DecodeErrors, "another version is no trouble")
		})
	}
}

// Many callers of an older pod share one load, also those that come while it runs, and a Set wins
// whatever version it is of.
func TestAnOlderPodLoadsOnceForAllItsCallers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	older, newer, ctx := newPod(t, server.Addr(), 1, codec.String()), newPod(t, server.Addr(), 2, codec.String()), testContext(t)
	newer.get(t, "k")
	settled(t, newer)
	letGo := older.db.HoldUp()
	var callers []<-chan result
	ask := func() {
		callers = append(callers, inBackground(func() (string, error) { return older.view.Get(ctx, fresh, "k", older.db.Load) }))
	}
	ask()
	older.db.AwaitBegin(t)
	for range 50 {
		ask()
	}
	eventually(t, "they wait for it", func() bool { return older.Stats().Shared >= 50 })
	letGo()
	for _, c := range callers {
		require.Equal(t, result{Value: "of 1"}, await(t, c))
	}
	require.EqualValues(t, 1, older.db.Calls.Load())

	require.NoError(t, older.view.Set(ctx, fresh, "k", "set by 1"))
	require.Equal(t, "set by 1", older.get(t, "k"))
	eventually(t, "it is older to the newer one, which replaces it", func() bool {
		newer.get(t, "k")
		_, h, _ := wire.Unpack(server.Do("GET", "k").(string))
		return h != nil && h.Version == 2 // while it is replaced there is a lock
	})
	require.NoError(t, older.view.SetMulti(ctx, fresh, map[string]string{"k": "many"}))
	require.Equal(t, "many", older.get(t, "k"))
	_, h, _ := wire.Unpack(server.Do("GET", "k").(string))
	require.EqualValues(t, 1, h.Version)
}

// The Observer is told of what an older pod loads for itself as of any other call, also where memory has
// the newer value.
func TestAnOlderPodsLoadsBesideANewerValueAreToldAsCalls(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	tracer := &spans{only: []aside.EventKind{aside.EventGet, aside.EventLoad, aside.EventShared}}
	newer, ctx := newPod(t, server.Addr(), 2, codec.String()), testContext(t)
	c := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer = tracer })
	view := aside.Typed(c, codec.String(), aside.WithVersion(1), aside.WithName("pages"))
	takesAny := aside.Typed(c, codec.String())
	failure := errors.New("the source is down")
	for how, get := range map[string]func(key string, load aside.Loader[string]) (string, error){
		"get": func(key string, load aside.Loader[string]) (string, error) { return view.Get(ctx, fresh, key, load) },
		"get_multi": func(key string, load aside.Loader[string]) (string, error) {
			all, err := view.GetMulti(ctx, fresh, []string{key}, func(ctx context.Context, keys []string) (map[string]string, error) {
				value, err := load(ctx, keys[0])
				return map[string]string{keys[0]: value}, err
			})
			return all[key], err
		},
	} {
		for i, wanted := range []error{nil, failure} {
			key := how + strconv.Itoa(i)
			require.NoError(t, newer.view.Set(ctx, fresh, key, "new"))
			eventually(t, "memory has the newer value", func() bool {
				hits := c.Stats().MemoryHits
				value, err := takesAny.Get(ctx, fresh, key, mustNotLoad)
				require.NoError(t, err)
				return value == "new" && c.Stats().MemoryHits > hits
			})
			tracer.take()
			db := newSource("own")
			letGo := db.HoldUp()
			ask := func() (string, error) {
				return get(key, func(ctx context.Context, key string) (string, error) {
					value, err := db.Load(ctx, key)
					return value, cmp.Or(wanted, err)
				})
			}
			first := inBackground(ask)
			db.AwaitBegin(t)
			shared := c.Stats().Shared
			second := inBackground(ask)
			eventually(t, "the second waits for it", func() bool { return c.Stats().Shared > shared })
			letGo()
			for _, done := range []<-chan result{first, second} {
				require.ErrorIs(t, await(t, done).Err, wanted)
			}
			var gets, shares int
			for _, e := range tracer.take() {
				switch {
				case e.Kind == aside.EventShared:
					shares++
					require.Equal(t, key, e.Key)
				case e.Kind == aside.EventGet && e.Source != aside.SourceRedis: // that is one whose memory was not in use for a moment
					gets++
					require.Equal(t, how, e.Op)
					require.Equal(t, "pages", e.View)
					require.Equal(t, key, e.Key)
					require.Equal(t, 1, e.Keys)
					require.ErrorIs(t, e.Err, wanted)
					if wanted == nil {
						require.Equal(t, aside.SourceLoader, e.Source)
					}
				}
			}
			require.Equal(t, 2, gets, "of the two calls")
			require.Equal(t, 1, shares, "of the one that waited")
		}
	}
}

// What an older pod has loaded for itself is its own however often the newer value is read meanwhile and
// afterwards, and however long the load takes; until the key changes.
func TestWhatAnOlderPodHasLoadedOutlivesReadingTheNewerValueAnew(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	const lease = 50 * time.Millisecond // for which a load without a lock is shared where no changes are told
	client, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.StaleLease, o.RedisTimeout = lease, 2*time.Second }), testContext(t)
	older := &pod{client, aside.Typed(client, codec.String(), aside.WithVersion(1)), newSource("of 1")}
	newer := newPod(t, server.Addr(), 2, codec.String())
	plain := aside.Typed(client, codec.String())
	newer.get(t, "k")
	settled(t, newer)
	anew := func() {
		t.Helper()
		value, err := plain.Get(ctx, fresh, "k", mustNotLoad, aside.WithFresh())
		require.NoError(t, err)
		require.Equal(t, "of 2", value)
	}
	letGo := older.db.HoldUp()
	first := inBackground(func() (string, error) { return older.view.Get(ctx, fresh, "k", older.db.Load) })
	older.db.AwaitBegin(t)
	began := time.Now()
	anew()
	eventually(t, "the lease is over", func() bool { return time.Since(began) > 2*lease })
	second := inBackground(func() (string, error) {
		all, err := older.view.GetMulti(ctx, fresh, []string{"k"}, older.db.LoadMany)
		return all["k"], err
	})
	eventually(t, "it waits for the first", func() bool { return older.Stats().Shared >= 1 })
	anew()
	letGo()
	require.Equal(t, result{Value: "of 1"}, await(t, first))
	require.Equal(t, result{Value: "of 1"}, await(t, second))
	for range 10 {
		require.Equal(t, "of 1", older.get(t, "k"))
		anew()
	}
	require.EqualValues(t, 1, older.db.Calls.Load())

	letGo = older.db.HoldUp()
	defer letGo()
	require.NoError(t, newer.Del(ctx, "k"))
	newer.db.Set("of 2 again")
	newer.get(t, "k")
	settled(t, newer)
	older.db.Set("of 1 again")
	letGo()
	eventually(t, "it has heard of it", func() bool { return older.get(t, "k") == "of 1 again" })
}

// A load beside a newer value that began before a change does not answer who asks after that was heard.
func TestALoadBesideANewerValueThatHasChangedIsNotKept(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, older, newer *pod, proxy *faultproxy.Proxy){
		"deleted": func(t *testing.T, older, newer *pod, _ *faultproxy.Proxy) {
			heard := older.Stats().Invalidations
			newer.db.Set("of 2 again")
			require.NoError(t, newer.Del(testContext(t), "k"))
			newer.get(t, "k")
			settled(t, newer)
			eventually(t, "it is heard of", func() bool { return older.Stats().Invalidations > heard })
		},
		"connection lost": func(t *testing.T, older, _ *pod, proxy *faultproxy.Proxy) {
			flushes := older.Stats().Flushes
			proxy.Reset()
			eventually(t, "it is noticed", func() bool { return older.Stats().Flushes > flushes && older.Health().Mode == aside.Healthy })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			older, newer := newPod(t, proxy.Addr(), 1, codec.String()), newPod(t, server.Addr(), 2, codec.String())
			ctx := testContext(t)
			newer.get(t, "k")
			settled(t, newer)
			letGo := older.db.HoldUp()
			first := inBackground(func() (string, error) { return older.view.Get(ctx, fresh, "k", older.db.Load) })
			older.db.AwaitBegin(t)
			older.db.Set("of 1 again")
			change(t, older, newer, proxy)
			second := inBackground(func() (string, error) { return older.view.Get(ctx, fresh, "k", older.db.Load) })
			older.db.AwaitBegin(t)
			letGo()
			require.Equal(t, result{Value: "of 1"}, await(t, first))
			require.Equal(t, result{Value: "of 1 again"}, await(t, second))
			require.Equal(t, "of 1 again", older.get(t, "k"))
		})
	}
}

// A batch meets all three at once.
func TestABatchOfSeveralVersions(t *testing.T) {
	t.Parallel()
	for name, c := range versionCodecs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			p, newer, ctx := newPod(t, server.Addr(), 2, c), newPod(t, server.Addr(), 3, c), testContext(t)
			raw, err := c.Encode("old")
			require.NoError(t, err)
			server.Do("SET", "none", raw, "EX", 3600)
			server.Do("SET", "older", wire.PackHeader(wire.Header{Version: 1}, raw), "EX", 3600)
			server.Do("SET", "same", wire.PackHeader(wire.Header{Version: 2}, raw), "EX", 3600)
			newer.get(t, "newer")
			settled(t, newer)
			stays := server.Do("GET", "newer")
			keys := []string{"none", "older", "same", "newer", "missing"}
			loads := func() int64 {
				before := p.db.Calls.Load()
				all, err := p.view.GetMulti(ctx, fresh, keys, p.db.LoadMany)
				require.NoError(t, err)
				require.Equal(t, map[string]string{"none": "of 2", "older": "of 2", "same": "old", "newer": "of 2", "missing": "of 2"}, all)
				settled(t, p)
				return p.db.Calls.Load() - before
			}
			require.LessOrEqual(t, loads(), int64(3), "one for the missing, one for the older, one for the newer")
			eventually(t, "nothing is loaded any more: once more at most, if what is pushed of another key voids what was kept of the newer", func() bool { return loads() == 0 })
			for range 5 {
				require.Zero(t, loads())
			}
			require.Equal(t, stays, server.Do("GET", "newer"))
			_, ok, err := p.view.Peek(ctx, "newer")
			require.NoError(t, err)
			require.True(t, ok, "its own")
			other := aside.Typed(newer.Client, c) // no version: it takes any
			value, err := other.Get(ctx, fresh, "older", mustNotLoad)
			require.NoError(t, err)
			require.Equal(t, "of 2", value)
		})
	}
}

// A newer value that is stale is refreshed by those that know its version.
func TestAnOlderPodRefreshesNothingNewer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	older, newer := newPod(t, server.Addr(), 1, codec.String(), aside.WithGrace(grace)), newPod(t, server.Addr(), 2, codec.String(), aside.WithGrace(grace))
	newer.get(t, "k")
	settled(t, newer)
	makeStale(t, server, "k")
	awaitStale(t, older.Client, "k")
	stays := server.Do("GET", "k")
	for range 20 {
		require.Equal(t, "of 1", older.get(t, "k"))
	}
	settled(t, older)
	require.Equal(t, stays, server.Do("GET", "k"))
	require.LessOrEqual(t, older.db.Calls.Load(), int64(2))
	newer.db.Set("refreshed")
	eventually(t, "the newer one refreshes it", func() bool { return newer.get(t, "k") == "refreshed" })
}

// A call of an older pod that needs something younger than what a newer one has stored loads for
// itself, and has that again as long as it is young enough.
func TestAnOlderPodReplacesNothingNewerThatIsTooOld(t *testing.T) {
	t.Parallel()
	needs := map[string]aside.Option{"too old": aside.WithMaxAge(time.Hour), "too stale": aside.WithMaxStale(0)}
	for name, need := range needs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			older, newer := newPod(t, server.Addr(), 1, codec.String(), aside.WithGrace(grace)), newPod(t, server.Addr(), 2, codec.String(), aside.WithGrace(grace))
			began := time.Now().Add(-2 * time.Hour).UnixMicro()
			stays := wire.PackHeader(wire.Header{Began: began, Version: 2}, "old")
			for _, key := range []string{"k", "m"} {
				server.Do("SET", key, stays, "PX", (grace / 2).Milliseconds())
			}
			for range 5 {
				value, err := older.view.Get(testContext(t), fresh, "k", older.db.Load, need)
				require.NoError(t, err)
				require.Equal(t, "of 1", value)
				all, err := older.view.GetMulti(testContext(t), fresh, []string{"m"}, older.db.LoadMany, need)
				require.NoError(t, err)
				require.Equal(t, map[string]string{"m": "of 1"}, all)
				settled(t, older)
			}
			require.EqualValues(t, 2, older.db.Calls.Load(), "one for each key")
			require.Equal(t, stays, server.Do("GET", "k"))
			require.Equal(t, stays, server.Do("GET", "m"))

			older.db.Set("younger")
			eventually(t, "what it has is too old for it", func() bool {
				result, err := older.view.Fetch(testContext(t), fresh, "k", older.db.Load, aside.WithMaxAge(time.Millisecond))
				require.NoError(t, err)
				return result.Value == "younger" && result.Source == aside.SourceLoader
			})
			require.Equal(t, stays, server.Do("GET", "k"))

			value, err := newer.view.Get(testContext(t), fresh, "k", newer.db.Load, need)
			require.NoError(t, err)
			require.Equal(t, "of 2", value, "those that know the version replace it")
			settled(t, newer)
			require.NotEqual(t, stays, server.Do("GET", "k"))
		})
	}
}

// What a call that needs something younger must not have is the load of one that came before it.
func TestAnOlderPodDoesNotShareALoadThatBeganTooEarly(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	older := newPod(t, server.Addr(), 1, codec.String())
	server.Do("SET", "k", wire.PackHeader(wire.Header{Began: time.Now().Add(-time.Hour).UnixMicro(), Version: 2}, "old"), "EX", 3600)
	letGo := older.db.HoldUp()
	first := inBackground(func() (string, error) { return older.view.Get(testContext(t), fresh, "k", older.db.Load) })
	older.db.AwaitBegin(t)
	began := time.Now()
	eventually(t, "it is too old", func() bool { return time.Since(began) > 10*time.Millisecond })
	own := func(context.Context, string) (string, error) { return "its own", nil }
	second := inBackground(func() (string, error) {
		return older.view.Get(testContext(t), fresh, "k", own, aside.WithMaxAge(time.Millisecond))
	})
	eventually(t, "it waits for the first, which has begun too early for it", func() bool { return older.Stats().Shared >= 1 })
	letGo()
	require.Equal(t, result{Value: "of 1"}, await(t, first))
	require.Equal(t, result{Value: "its own"}, await(t, second))
}

// A view with a prefix, too, tells versions apart, and its loaders see the keys as callers have them.
func TestAVersionedViewWithAPrefix(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	prefix := []aside.ViewOption{aside.WithPrefix("p:"), aside.Clearable()}
	older, newer := newPod(t, server.Addr(), 1, codec.String(), prefix...), newPod(t, server.Addr(), 2, codec.String(), prefix...)
	ctx := testContext(t)
	short := func(p *pod) aside.Loader[string] {
		return func(ctx context.Context, key string) (string, error) {
			require.Equal(t, "k", key)
			return p.db.Load(ctx, key)
		}
	}
	many := func(p *pod) aside.BatchLoader[string] {
		return func(ctx context.Context, keys []string) (map[string]string, error) {
			require.Equal(t, []string{"k"}, keys)
			return p.db.LoadMany(ctx, keys)
		}
	}
	both := func(p *pod, want string) {
		t.Helper()
		value, err := p.view.Get(ctx, fresh, "k", short(p))
		require.NoError(t, err)
		require.Equal(t, want, value)
		all, err := p.view.GetMulti(ctx, fresh, []string{"k"}, many(p))
		require.NoError(t, err)
		require.Equal(t, map[string]string{"k": want}, all)
		settled(t, p)
	}
	both(newer, "of 2")
	stays := server.Do("GET", "p:k")
	_, h, _ := wire.Unpack(stays.(string))
	require.EqualValues(t, 2, h.Version)
	require.Equal(t, 2, h.Prefix.Length)
	both(older, "of 1")
	both(newer, "of 2")
	both(older, "of 1")
	require.Equal(t, stays, server.Do("GET", "p:k"))
	require.EqualValues(t, 1, newer.db.Calls.Load())
	require.LessOrEqual(t, older.db.Calls.Load(), int64(2))

	fails := func(context.Context, []string) (map[string]string, error) { return nil, errDown }
	_, err := aside.Typed(older.Client, codec.Func(func(s string) (string, error) { return s, nil }, func(s string) (string, error) { return s, nil }), append(prefix, aside.WithVersion(1))...).GetMulti(ctx, fresh, []string{"k"}, fails)
	batch, ok := errors.AsType[*aside.BatchError](err)
	require.True(t, ok)
	require.ErrorIs(t, batch.Failed["k"], errDown)

	require.NoError(t, older.view.Clear(ctx))
	older.db.Set("of 1 after")
	newer.db.Set("of 2 after")
	eventually(t, "what was cleared is gone for both", func() bool {
		return older.get(t, "k") == "of 1 after" && newer.get(t, "k") == "of 2 after"
	})
}

// A view without a version reads values of any, and replaces none.
func TestAViewWithoutAVersionTakesAny(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	versioned := newPod(t, server.Addr(), 3, codec.String())
	versioned.get(t, "k")
	settled(t, versioned)
	stays := server.Do("GET", "k")
	for _, c := range []*aside.Client{versioned.Client, newClient(t, server.Addr())} {
		view := aside.Typed(c, codec.String())
		value, err := view.Get(testContext(t), fresh, "k", mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "of 3", value)
		all, err := view.GetMulti(testContext(t), fresh, []string{"k"}, func(context.Context, []string) (map[string]string, error) { panic("not to be loaded") })
		require.NoError(t, err)
		require.Equal(t, map[string]string{"k": "of 3"}, all)
		value, err = c.Get(testContext(t), fresh, "k", mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "of 3", value)
	}
	require.Equal(t, stays, server.Do("GET", "k"))
}

// An outage keeps the version: on disk, and when it is replayed.
func TestAVersionInAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), hasty, option), testContext(t)
	view := aside.Typed(c, codec.String(), aside.WithVersion(2))
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, view.Set(ctx, fresh, "k", "v"))
	require.NoError(t, view.SetMulti(ctx, fresh, map[string]string{"m": "v"}))
	for _, key := range []string{"k", "m"} {
		value, err := view.Get(ctx, fresh, key, mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "v", value)
	}
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
	for _, key := range []string{"k", "m"} {
		value, h, _ := wire.Unpack(server.Do("GET", key).(string))
		require.Equal(t, "v", value)
		require.EqualValues(t, 2, h.Version)
	}
	_, err := aside.Typed(c, codec.String(), aside.WithVersion(0)).Get(ctx, fresh, "k", func(context.Context, string) (string, error) { return "", nil })
	require.ErrorContains(t, err, "WithVersion is 0")
}

// While a newer value is in memory a call of an older view is refused like any other: it does not get
// as far as its loader.
func TestAnOlderPodIsRefusedAsOthersAre(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, newer := newClient(t, server.Addr()), newPod(t, server.Addr(), 2, codec.String())
	newer.get(t, "k")
	settled(t, newer)
	_, err := aside.Typed(client, codec.String()).Get(testContext(t), fresh, "k", mustNotLoad)
	require.NoError(t, err, "it is in memory")
	older := aside.Typed(client, codec.String(), aside.WithVersion(1))

	wrong := aside.Typed[string](client, nil, aside.WithVersion(1))
	_, err = wrong.Get(testContext(t), fresh, "k", mustNotLoad)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)

	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	_, err = older.Get(ctx, fresh, "k", mustNotLoad)
	require.ErrorIs(t, err, context.Canceled)
	_, err = older.GetMulti(ctx, fresh, []string{"k"}, func(context.Context, []string) (map[string]string, error) {
		return nil, errors.New("the loader was called")
	})
	require.ErrorIs(t, err, context.Canceled)

	require.NoError(t, client.Close())
	_, err = older.Get(testContext(t), fresh, "k", mustNotLoad)
	require.ErrorIs(t, err, aside.ErrClosed)
	_, err = older.GetMulti(testContext(t), fresh, []string{"k"}, func(context.Context, []string) (map[string]string, error) {
		return nil, errors.New("the loader was called")
	})
	require.ErrorIs(t, err, aside.ErrClosed)
}

// Where no changes are told, only time ends what is in memory, also what an older pod has loaded beside
// a newer value.
func TestWhatAnOlderPodHasLoadedEndsWithTimeWhereNoChangesAreTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	const d = 100 * time.Millisecond
	client, ctx := newClient(t, server.Addr(), untrackedFor(d)), testContext(t)
	older := &pod{client, aside.Typed(client, codec.String(), aside.WithVersion(1)), newSource("of 1")}
	newer := newPod(t, server.Addr(), 2, codec.String())
	newer.get(t, "k")
	settled(t, newer)
	require.Equal(t, "of 1", older.get(t, "k"))
	settled(t, older)
	older.db.Set("of 1 again")
	require.NoError(t, newer.Del(ctx, "k"))
	newer.get(t, "k") // and that is the same as before
	settled(t, newer)
	eventually(t, "it is loaded again", func() bool { return older.get(t, "k") == "of 1 again" })
}
