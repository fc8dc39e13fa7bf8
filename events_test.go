package aside_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

// spans is a Tracer that notes what it is told: of the start of a thing, and of its end. Safe for
// concurrent use.
type spans struct {
	only []aside.EventKind // which ends it notes; nil: all

	mu    sync.Mutex
	seen  []seenEvent       // guarded by mu
	kept  []context.Context // all that it was given; guarded by mu
	began int               // guarded by mu
}

type seenEvent struct {
	aside.Event
	span   string // that the context has, which Start has put there
	user   any    // what the caller's context has
	inside bool   // the event's context had not ended
}

type spanKey struct{}

type userKey struct{}

func (s *spans) Start(ctx context.Context, e aside.Event) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began++
	s.kept = append(s.kept, ctx)
	parent, _ := ctx.Value(spanKey{}).(string)
	return context.WithValue(ctx, spanKey{}, strings.TrimPrefix(parent+"/"+e.Kind.String()+" "+e.Op+" "+e.View, "/"))
}

func (s *spans) Observe(ctx context.Context, e aside.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = append(s.kept, ctx)
	if s.only != nil && !slices.Contains(s.only, e.Kind) {
		return
	}
	span, _ := ctx.Value(spanKey{}).(string)
	s.seen = append(s.seen, seenEvent{e, span, ctx.Value(userKey{}), ctx.Err() == nil})
}

// take returns what was seen since it was last called.
func (s *spans) take() (all []seenEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, s.seen = s.seen, nil
	return all
}

// brief says what was seen, in lines that can be compared.
func brief(all []seenEvent) (lines []string) {
	for _, e := range all {
		line := fmt.Sprintf("%v %s %s view=%s keys=%d", e.Kind, e.Op, e.Key, e.View, e.Keys)
		if e.Source != aside.SourceNone {
			line += " from=" + e.Source.String()
		}
		for name, set := range map[string]bool{"shared": e.Shared, "stale": e.Stale, "refresh": e.Refresh, "waited": e.Waited > 0, "failed": e.Err != nil} {
			if set {
				line += " " + name
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// user's calls are made with a context that has a value, which each event of the call has, too.
func userContext(t *testing.T) context.Context {
	t.Helper()
	return context.WithValue(testContext(t), userKey{}, "user")
}

// what happens in calls is told once for each thing: a relapse would count a Get twice, or never end
// a span.
func TestEachThingIsToldOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	tracer := &spans{only: []aside.EventKind{
		aside.EventHit, aside.EventLoad, aside.EventFillRefused, aside.EventStoreFailed, aside.EventDecodeFailed, aside.EventJournaled,
		aside.EventShared, aside.EventLockWait, aside.EventGet, aside.EventWrite, aside.EventRefresh,
	}}
	c := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer, o.StoreFirst = tracer, true })
	view := aside.Typed(c, codec.JSON[[]int](), aside.WithName("numbers"))
	unnamed := aside.Typed(c, codec.JSON[map[string]int]())
	ctx := userContext(t)
	numbers := func(context.Context, string) ([]int, error) { return []int{1}, nil }
	nothing := func(context.Context, string) ([]int, error) { return nil, aside.ErrNotFound }
	ignore := func(_ any, _ error) {}
	for _, test := range []struct {
		name string
		do   func()
		told []string
	}{
		{"a miss", func() { ignore(view.Get(ctx, time.Minute, "a", numbers)) }, []string{"load  a view=numbers keys=1 from=loader", "get get a view=numbers keys=1 from=loader"}},
		{"a hit in memory", func() {
			eventually(t, "memory has it", func() bool { // on old servers what was loaded is read once
				before := c.Stats().MemoryHits
				ignore(view.Get(ctx, time.Minute, "a", numbers))
				return c.Stats().MemoryHits > before
			})
			tracer.take()
			ignore(view.Get(ctx, time.Minute, "a", numbers))
		}, nil},
		{"a hit in Redis", func() {
			server.Do("SET", "r", "[2]")
			ignore(view.Get(ctx, time.Minute, "r", numbers))
		}, []string{"hit  r view=numbers keys=1 from=redis", "get get r view=numbers keys=1 from=redis"}},
		{"an absence", func() { ignore(view.Get(ctx, time.Minute, "none", nothing)) }, []string{"load  none view=numbers keys=1 from=loader failed", "get get none view=numbers keys=1 from=loader failed"}},
		{"a view without a name", func() {
			ignore(unnamed.Get(ctx, time.Minute, "m", func(context.Context, string) (map[string]int, error) { return nil, nil }))
		}, []string{"load  m view=map[string]int keys=1 from=loader", "get get m view=map[string]int keys=1 from=loader"}},
		{"what cannot be decoded", func() {
			server.Do("SET", "bad", "{")
			ignore(view.Get(ctx, time.Minute, "bad", numbers))
		}, []string{
			"hit  bad view=numbers keys=1 from=redis", "get get bad view=numbers keys=1 from=redis", "decode-failed  bad view=numbers keys=1 failed",
			"load  bad view=numbers keys=1 from=loader", "get get bad view=numbers keys=1 from=loader",
		}},
		{"many", func() {
			ignore(c.GetMulti(ctx, time.Minute, []string{"x", "y", "x", "a"}, newSource("v").LoadMany))
		}, []string{"load  x view= keys=2 from=loader", "get get_multi x view= keys=2 from=loader"}},
		{"a peek", func() { _, _, _ = c.Peek(ctx, "p") }, []string{"get peek p view= keys=1"}},
		{"a look", func() { ignore(c.Look(ctx, "p")) }, []string{"get look p view= keys=1"}},
		{"looks", func() { ignore(c.LookMulti(ctx, []string{"p", "q", "a"})) }, []string{"get look_multi p view= keys=2"}},
		{"a get without its loader", func() { ignore(view.Get(ctx, time.Minute, "p", numbers, aside.WithoutLoad())) }, []string{"get get p view=numbers keys=1"}},
		{"a set", func() { ignore(nil, view.Set(ctx, time.Minute, "s", []int{1})) }, []string{"write set s view=numbers keys=1"}},
		{"sets", func() { ignore(nil, view.SetMulti(ctx, time.Minute, map[string][]int{"s": {1}, "s2": {2}})) }, []string{"write set_multi s view=numbers keys=2"}},
		{"an expire", func() { ignore(nil, view.Expire(ctx, "s2")) }, []string{"write delete s2 view=numbers keys=1"}},
		{"a del", func() { ignore(nil, view.Del(ctx, "s", "a")) }, []string{"write delete s view=numbers keys=2"}},
		{"a touch", func() { ignore(nil, view.Touch(ctx, time.Minute, "r")) }, []string{"write touch r view=numbers keys=1"}},
		{"an update", func() {
			ignore(nil, c.Update(ctx, []string{"n"}, func(ctx context.Context, redis rueidis.Client) error {
				require.Equal(t, "write update ", ctx.Value(spanKey{}), "what it does is within the span")
				return redis.Do(ctx, redis.B().Incr().Key("n").Build()).Error()
			}))
		}, []string{"write update n view= keys=1"}},
		{"a fill that is refused", func() {
			ignore(view.Get(ctx, time.Minute, "refused", func(context.Context, string) ([]int, error) {
				server.Do("SET", "refused", "[3]")
				return []int{1}, nil
			}))
		}, []string{"load  refused view=numbers keys=1 from=loader", "fill-refused  refused view=numbers keys=1", "get get refused view=numbers keys=1 from=loader"}},
		{"a call that is wrong", func() { ignore(view.Get(ctx, 0, "a", numbers)) }, nil},
	} {
		test.do()
		told := tracer.take()
		if test.name == "a fill that is refused" { // which is told once the caller has its answer
			eventually(t, "all of it is told", func() bool { told = append(told, tracer.take()...); return len(told) >= len(test.told) })
			require.ElementsMatch(t, test.told, brief(told), test.name)
			continue
		}
		require.Equal(t, test.told, brief(told), test.name)
		for _, e := range told {
			if e.Kind != aside.EventDecodeFailed && e.Kind != aside.EventLoad && e.Kind != aside.EventFillRefused {
				require.Equal(t, "user", e.user, "%s: %v", test.name, e.Kind)
			}
		}
	}
}

// The load that a call begins is within the call, and what the loader does is within the load.
func TestALoaderRunsWithinTheSpanOfItsLoad(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	tracer := &spans{only: []aside.EventKind{aside.EventLoad, aside.EventGet}}
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer = tracer }), userContext(t)
	inner := ""
	_, err := c.Get(ctx, time.Minute, "k", func(ctx context.Context, _ string) (string, error) {
		require.Equal(t, "get get /load  ", ctx.Value(spanKey{}))
		require.Equal(t, "user", ctx.Value(userKey{}))
		nested, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		return c.Get(nested, time.Minute, "inner", func(ctx context.Context, _ string) (string, error) {
			inner, _ = ctx.Value(spanKey{}).(string)
			_, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
			require.ErrorIs(t, err, aside.ErrRecursiveLoad, "its calls are known to be this load's")
			return "v", nil
		})
	})
	require.NoError(t, err)
	require.Equal(t, "get get /load  /get get /load  ", inner)
	told := tracer.take()
	require.Len(t, told, 5)
	for i, span := range []string{"get get /load  /get get /load  /get get ", "get get /load  /get get /load  ", "get get /load  /get get ", "get get /load  ", "get get "} {
		require.Equal(t, span, told[i].span)
	}
	require.Equal(t, 5, tracer.began, "each of them has begun once")
}

// A call that waits for another's load is told which.
func TestACallThatSharesALoadIsToldWhich(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	tracer := &spans{only: []aside.EventKind{aside.EventGet, aside.EventShared}}
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer = tracer }), userContext(t)
	db := newSource("v")
	letGo := db.HoldUp()
	first := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	second := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", mustNotLoad) })
	many := inBackground(func() (string, error) {
		values, err := c.GetMulti(ctx, time.Minute, []string{"k", "j"}, newSource("v").LoadMany)
		return values["k"], err
	})
	eventually(t, "both share", func() bool { return c.Stats().Shared == 2 })
	letGo()
	for _, done := range []<-chan result{first, second, many} {
		require.Equal(t, result{Value: "v"}, await(t, done))
	}
	shared, waited := 0, 0
	for _, e := range tracer.take() {
		switch {
		case e.Kind == aside.EventShared:
			waited++
			require.Equal(t, "k", e.Key)
			require.Equal(t, "get get /load  ", e.Load.Value(spanKey{}))
			require.Positive(t, e.Duration)
			require.False(t, e.At.IsZero())
			require.Equal(t, "user", e.user)
		case e.Kind == aside.EventGet && e.Shared:
			shared++
			require.Positive(t, e.Waited)
			require.Equal(t, aside.SourceLoader, e.Source)
		}
	}
	require.Equal(t, 2, shared)
	require.Equal(t, 2, waited)
}

// A wait for another process is told when it is over, once, before the call.
func TestAWaitForAnotherProcessIsToldWithItsLength(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	tracer := &spans{only: []aside.EventKind{aside.EventGet, aside.EventLockWait}}
	c, holder, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer = tracer }), newClient(t, server.Addr()), userContext(t)
	for _, many := range []bool{false, true} {
		key := fmt.Sprint("k", many)
		db := newSource("v")
		letGo := db.HoldUp()
		loading := inBackground(func() (string, error) { return holder.Get(ctx, time.Minute, key, db.Load) })
		db.AwaitBegin(t)
		before := c.Stats().LockWaits
		waiting := inBackground(func() (string, error) {
			if many {
				values, err := c.GetMulti(ctx, time.Minute, []string{key, "other"}, newSource("w").LoadMany)
				return values[key], err
			}
			return c.Get(ctx, time.Minute, key, mustNotLoad)
		})
		eventually(t, "it waits", func() bool { return c.Stats().LockWaits > before })
		letGo()
		require.Equal(t, result{Value: "v"}, await(t, loading))
		require.Equal(t, result{Value: "v"}, await(t, waiting))
		told := tracer.take()
		require.Len(t, told, 2)
		require.Equal(t, aside.EventLockWait, told[0].Kind)
		require.Equal(t, key, told[0].Key)
		require.Positive(t, told[0].Duration)
		require.False(t, told[0].At.IsZero())
		require.Equal(t, "user", told[0].user)
		require.Equal(t, aside.EventGet, told[1].Kind)
		require.GreaterOrEqual(t, told[1].Waited, told[0].Duration)
	}
}

// A refresh is told of with no caller's context, and its load is within it.
func TestARefreshIsTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	tracer := &spans{only: []aside.EventKind{aside.EventRefresh, aside.EventLoad}}
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer = tracer }), userContext(t)
	server.Do("SET", "k", "v", "PX", 60_000)
	_, err := c.Get(ctx, time.Minute, "k", newSource("new").Load, aside.WithGrace(time.Hour))
	require.NoError(t, err)
	var told []seenEvent
	eventually(t, "it is over", func() bool { told = append(told, tracer.take()...); return len(told) == 2 })
	require.Equal(t, []string{"load  k view= keys=1 from=loader refresh", "refresh  k view= keys=1"}, brief(told))
	require.Equal(t, "refresh  /load  ", told[0].span)
	require.Equal(t, "refresh  ", told[1].span)
	require.Nil(t, told[1].user, "it is nobody's")
}

// An outage is told: each change of the mode, each probe, what is kept, what comes from the store,
// and the replay.
func TestAnOutageIsTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	tracer := &spans{}
	dir := t.TempDir()
	c := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer, o.FallbackDir, o.MemoryBytes = tracer, dir, -1 })
	ctx := userContext(t)
	require.NoError(t, c.Set(ctx, time.Minute, "before", "v"))
	server.Kill()
	eventually(t, "degraded", func() bool { return c.Health().Mode == aside.Degraded })
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	server.RestartKeepingData()
	eventually(t, "healthy", func() bool { return c.Health().Mode == aside.Healthy })
	closeClient(t, c, dir) // which waits until all is told
	counts := map[string]int{}
	for _, e := range tracer.take() {
		name := e.Kind.String() + " " + e.Op
		switch e.Kind {
		case aside.EventMode:
			name = fmt.Sprint("mode ", e.From, " ", e.To)
		case aside.EventHit, aside.EventGet:
			name += " " + e.Source.String()
		case aside.EventProbe:
			name += fmt.Sprint(" ", e.Err == nil)
		case aside.EventReplay:
			require.Equal(t, 1, e.Replay.Report.Applied)
			require.NoError(t, e.Err)
		case aside.EventJournaled:
			require.ErrorIs(t, e.Err, aside.ErrRedisAway)
			require.Equal(t, "user", e.user)
		}
		counts[name]++
	}
	for name, n := range map[string]int{
		"mode degraded healthy": 1, "mode healthy degraded": 1, "mode degraded recovering": 1, "mode recovering healthy": 1,
		"redis-away ": 1, "redis-back ": 2, "journaled ": 1, "hit  disk": 1, "get get disk": 1, "write set": 2, "replay ": 1, "command set": 1,
	} {
		require.Equal(t, n, counts[name], "%s of %v", name, counts)
	}
	require.Positive(t, counts["probe  true"])
	require.Positive(t, counts["probe  false"])
}

// What an Observer keeps of a call is nobody's once the call is over: by then a server may have given
// the context to another request.
func TestAContextThatAnObserverKeepsIsEmpty(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	tracer := &spans{}
	c := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer, o.StoreFirst = tracer, true })
	for i := range 3 {
		ctx := userContext(t)
		key := fmt.Sprint("k", i)
		_, err := c.Get(ctx, time.Minute, key, newSource("v").Load)
		require.NoError(t, err)
		_, err = c.GetMulti(ctx, time.Minute, []string{"m" + key, "n" + key}, newSource("v").LoadMany)
		require.NoError(t, err)
		_, _, err = c.Peek(ctx, "peek")
		require.NoError(t, err)
		require.NoError(t, c.Set(ctx, time.Minute, key, "v"))
		require.NoError(t, c.Del(ctx, key))
	}
	tracer.mu.Lock()
	defer tracer.mu.Unlock()
	require.Greater(t, len(tracer.kept), 20)
	for _, ctx := range tracer.kept {
		require.Nil(t, ctx.Value(userKey{}))
	}
}

// An Observer may ask for the key that it is told of, whatever it is told.
func TestAnObserverMayAskForTheKeyOfAnyEvent(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var client atomic.Pointer[aside.Client] // nil while it is made
	var mu sync.Mutex
	asked := map[aside.EventKind]bool{} // guarded by mu
	c := newClient(t, server.Addr(), func(o *aside.Options) {
		o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			mu.Lock()
			again := asked[e.Kind]
			asked[e.Kind] = true
			mu.Unlock()
			c := client.Load()
			if c == nil || again || !strings.HasPrefix(e.Key, "k") {
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			_, _ = c.Get(ctx, time.Minute, e.Key, newSource("v").Load)
			_ = c.Set(ctx, time.Minute, e.Key, "v")
		})
	})
	client.Store(c)
	ctx := testContext(t)
	for i := range 3 {
		key := fmt.Sprint("k", i)
		got := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, key, newSource("v").Load) })
		require.Equal(t, result{Value: "v"}, await(t, got))
		both := inBackground(func() (string, error) {
			values, err := c.GetMulti(ctx, time.Minute, []string{key, key + "b"}, newSource("v").LoadMany)
			return values[key+"b"], err
		})
		require.Equal(t, result{Value: "v"}, await(t, both))
		set := inBackground(func() (string, error) { return "", c.Set(ctx, time.Minute, key, "v") })
		require.Equal(t, result{}, await(t, set))
	}
	mu.Lock()
	defer mu.Unlock()
	for _, kind := range []aside.EventKind{aside.EventLoad, aside.EventGet, aside.EventWrite, aside.EventCommand} {
		require.True(t, asked[kind], "%v", kind)
	}
}

// A Tracer that panics, or returns what is not the load's context, harms nobody.
func TestATracerThatIsWrongHarmsNobody(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, start := range map[string]func(context.Context) context.Context{
		"panics":      func(context.Context) context.Context { panic("spite") },
		"nil":         func(context.Context) context.Context { return nil },
		"another":     func(context.Context) context.Context { return context.Background() },
		"has no span": func(ctx context.Context) context.Context { return ctx },
	} {
		c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer = wrongTracer(start) }), testContext(t)
		value, err := c.Get(ctx, time.Minute, name, func(ctx context.Context, key string) (string, error) {
			_, err := c.Get(ctx, time.Minute, key, mustNotLoad)
			require.ErrorIs(t, err, aside.ErrRecursiveLoad)
			return "v", nil
		})
		require.NoError(t, err, name)
		require.Equal(t, "v", value, name)
	}
}

type wrongTracer func(context.Context) context.Context

func (f wrongTracer) Start(ctx context.Context, _ aside.Event) context.Context { return f(ctx) }
func (wrongTracer) Observe(context.Context, aside.Event)                       {}

// A memory hit tells nobody unless asked to, and without an Observer nothing costs anything.
func TestHitEventsAreAskedFor(t *testing.T) {
	server := redistest.Start(t)
	for _, all := range []bool{false, true} {
		tracer := &spans{only: []aside.EventKind{aside.EventHit}}
		c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer, o.HitEvents = tracer, all }), userContext(t)
		view := aside.Typed(c, codec.JSON[int](), aside.WithName("int"))
		server.Do("SET", "k", "1")
		for range 3 {
			_, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (int, error) { return 1, nil })
			require.NoError(t, err)
		}
		_, err := c.GetMulti(ctx, time.Minute, []string{"k"}, newSource("other").LoadMany)
		require.NoError(t, err)
		var sources []string
		for _, e := range tracer.take() {
			sources = append(sources, e.Source.String()+" "+e.View)
		}
		if all {
			require.Equal(t, []string{"redis int", "memory int", "memory int", "memory "}, sources)
		} else {
			require.Equal(t, []string{"redis int"}, sources)
		}
		require.EqualValues(t, 3, c.Stats().MemoryHits)
	}
}
