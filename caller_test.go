package aside_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

// pooled is a context as servers keep them in a pool: when the call that got it has returned, it
// belongs to the next request. Its fields are plain, so that the race detector sees who still looks
// at it then; and late counts those.
type pooled struct {
	tenant string
	done   chan struct{}
	err    error

	reused atomic.Bool
	late   atomic.Int64
}

type tenantKey struct{}

func newPooled(tenant string) *pooled { return &pooled{tenant: tenant, done: make(chan struct{})} }

func (p *pooled) touched() {
	if p.reused.Load() {
		p.late.Add(1)
	}
}

func (p *pooled) Deadline() (time.Time, bool) {
	p.touched()
	return time.Time{}, false
}

// Done takes its time, so that a goroutine that is left behind with the context calls it too late.
func (p *pooled) Done() <-chan struct{} {
	time.Sleep(time.Millisecond)
	p.touched()
	return p.done
}

func (p *pooled) Err() error {
	p.touched()
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

func (p *pooled) Value(key any) any {
	p.touched()
	if key == (tenantKey{}) {
		return p.tenant
	}
	return nil
}

// hangUp is what the server does when the client has gone.
func (p *pooled) hangUp() {
	p.err = context.Canceled
	close(p.done)
}

// reuse gives the context to a request of another tenant: no call of the first one uses it any
// more.
func (p *pooled) reuse(tenant string) {
	p.reused.Store(true)
	p.tenant, p.err, p.done = tenant, nil, make(chan struct{})
}

// tenantOf is what a loader reads.
func tenantOf(ctx context.Context) string {
	tenant, _ := ctx.Value(tenantKey{}).(string)
	return tenant
}

// A loader that reads whose settings it loads when the first caller has gone, and its context is
// the third tenant's.
func TestALoadersValuesAreOfACallerThatIsInside(t *testing.T) {
	type get = func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (string, error)
	one := func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (string, error) {
		return c.Get(ctx, time.Minute, "settings", load)
	}
	batch := func(keys ...string) get {
		return func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (string, error) {
			values, err := c.GetMulti(ctx, time.Minute, keys, func(ctx context.Context, keys []string) (map[string]string, error) {
				value, err := load(ctx, "settings")
				found := make(map[string]string)
				for _, key := range keys {
					found[key] = value
				}
				return found, err
			})
			return values["settings"], err
		}
	}
	typed := func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (string, error) {
		return aside.Typed(c, codec.String()).Get(ctx, time.Minute, "settings", load)
	}
	nested := func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (string, error) {
		return c.Get(ctx, time.Minute, "outer", func(ctx context.Context, _ string) (string, error) {
			return c.Get(ctx, time.Minute, "settings", load)
		})
	}
	for name, call := range map[string]struct{ first, second get }{
		"Get":                         {one, one},
		"GetMulti":                    {batch("settings", "more"), batch("settings", "more")},
		"GetMulti, then Get":          {batch("more", "settings"), one},
		"Get, then GetMulti":          {one, batch("more", "settings")},
		"typed":                       {typed, typed},
		"nested":                      {nested, nested},
		"nested, its own key shared":  {nested, one},
		"a flight that a nested uses": {one, nested},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			c := newClient(t, server.Addr())
			began, gone := make(chan struct{}), make(chan struct{})
			var loads atomic.Int64
			load := func(ctx context.Context, _ string) (string, error) {
				before := tenantOf(ctx)
				if loads.Add(1) > 1 {
					return before, nil // of another key of the second caller
				}
				close(began)
				<-gone
				return fmt.Sprintf("%s, then %s", before, tenantOf(ctx)), nil
			}
			a, b := newPooled("a"), newPooled("b")
			first := inBackground(func() (string, error) { return call.first(a, c, load) })
			await(t, began)
			second := inBackground(func() (string, error) { return call.second(b, c, load) })
			awaitShared(t, c, 1)
			a.hangUp()
			require.ErrorIs(t, await(t, first).Err, context.Canceled)
			a.reuse("c")
			close(gone)
			require.Equal(t, result{Value: "a, then b"}, await(t, second))
			b.reuse("c")
			stored(t, c, "settings")
			require.Equal(t, "a, then b", server.Do("GET", "settings"))
			awaitNobody(t, c)
			require.Zero(t, a.late.Load())
			require.Zero(t, b.late.Load())
		})
	}
}

// A load that nobody waits for any more has no values, and none of it is cached; neither has what
// its loader leaves behind.
func TestWithoutCallersALoaderHasNoValues(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr())
	began, gone, saw := make(chan struct{}), make(chan struct{}), make(chan string, 2)
	a := newPooled("a")
	deserted := inBackground(func() (string, error) {
		return c.Get(a, time.Minute, "k", func(ctx context.Context, _ string) (string, error) {
			close(began)
			<-gone
			saw <- tenantOf(ctx)
			return "nobody's", nil
		})
	})
	await(t, began)
	a.hangUp()
	require.ErrorIs(t, await(t, deserted).Err, context.Canceled)
	a.reuse("c")
	close(gone)
	require.Empty(t, await(t, saw))

	returned := make(chan struct{})
	b := newPooled("b")
	value, err := c.Get(b, time.Minute, "k", func(ctx context.Context, _ string) (string, error) {
		go func() {
			<-returned
			saw <- tenantOf(ctx)
		}()
		return tenantOf(ctx), nil
	})
	require.NoError(t, err)
	require.Equal(t, "b", value)
	b.reuse("c")
	close(returned)
	require.Empty(t, await(t, saw))
	awaitNobody(t, c)
	require.Equal(t, "b", server.Do("GET", "k"))
	require.Zero(t, a.late.Load())
	require.Zero(t, b.late.Load())
}

// One flight of a batch is deserted and revived, the other never was: the values follow those who
// wait for either.
func TestARevivedLoadHasTheValuesOfWhoRevivedIt(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr())
	began, steps, saw := make(chan struct{}), make(chan struct{}), make(chan string)
	a, b, d := newPooled("a"), newPooled("b"), newPooled("d")
	first := make(chan error, 1)
	go func() {
		_, err := c.GetMulti(a, time.Minute, []string{"x", "y"}, func(ctx context.Context, _ []string) (map[string]string, error) {
			close(began)
			for range steps {
				saw <- tenantOf(ctx)
			}
			return map[string]string{"x": "x", "y": "y"}, nil
		})
		first <- err
	}()
	await(t, began)
	look := func() string {
		steps <- struct{}{}
		return await(t, saw)
	}
	require.Equal(t, "a", look())
	second := inBackground(func() (string, error) { return c.Get(b, time.Minute, "x", mustNotLoad) })
	awaitShared(t, c, 1)
	a.hangUp()
	require.ErrorIs(t, await(t, first), context.Canceled)
	a.reuse("c")
	require.Equal(t, "b", look())
	third := inBackground(func() (string, error) { return c.Get(d, time.Minute, "y", mustNotLoad) })
	awaitShared(t, c, 2)
	b.hangUp()
	require.ErrorIs(t, await(t, second).Err, context.Canceled)
	b.reuse("c")
	require.Equal(t, "d", look())
	close(steps)
	require.Equal(t, result{Value: "y"}, await(t, third))
	d.reuse("c")
	awaitNobody(t, c)
	for _, p := range []*pooled{a, b, d} {
		require.Zero(t, p.late.Load())
	}
}

// slowValue is a context whose Value takes its time.
type slowValue struct {
	context.Context
	asked, answer chan struct{}
}

func (s slowValue) Value(key any) any {
	if key != (tenantKey{}) {
		return s.Context.Value(key)
	}
	close(s.asked)
	<-s.answer
	return "a"
}

func TestAValueUnderWayIsOverBeforeItsCallerReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := aside.New(aside.Options{
			ClientBuilder: func(rueidis.ClientOption) (rueidis.Client, error) { return nil, errors.New("nobody is there") },
			Logger:        quiet,
		})
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
		ctx, cancel := context.WithCancel(t.Context())
		slow := slowValue{ctx, make(chan struct{}), make(chan struct{})}
		saw := make(chan string, 1)
		got := inBackground(func() (string, error) {
			return c.Get(slow, time.Minute, "k", func(ctx context.Context, _ string) (string, error) {
				saw <- tenantOf(ctx)
				return "v", nil
			})
		})
		<-slow.asked
		cancel()
		synctest.Wait()
		select {
		case r := <-got:
			t.Fatalf("it has returned: %v", r)
		default:
		}
		close(slow.answer)
		require.ErrorIs(t, (<-got).Err, context.Canceled)
		require.Equal(t, "a", <-saw)
	})
}

// Whatever a call does with its context, also through package context and rueidis, it has done when
// it returns.
func TestNoCallTouchesItsContextAfterItHasReturned(t *testing.T) { //nolint:tparallel // its parts have one proxy
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	proxy := counted(t, server)
	load := func(context.Context, string) (string, error) { return "v", nil }
	loadMany := func(_ context.Context, keys []string) (map[string]string, error) {
		return map[string]string{keys[0]: "v"}, nil
	}
	calls := map[string]func(ctx context.Context, c *aside.Client, key string){
		"Get": func(ctx context.Context, c *aside.Client, key string) { _, _ = c.Get(ctx, time.Minute, key, load) },
		"GetMulti": func(ctx context.Context, c *aside.Client, key string) {
			_, _ = c.GetMulti(ctx, time.Minute, []string{key, key + "2"}, loadMany)
		},
		"Peek": func(ctx context.Context, c *aside.Client, key string) { _, _, _ = c.Peek(ctx, key) },
		"Look": func(ctx context.Context, c *aside.Client, key string) { _, _ = c.Look(ctx, key) },
		"LookMulti": func(ctx context.Context, c *aside.Client, key string) {
			_, _ = c.LookMulti(ctx, []string{key, key + "2"})
		},
		"Set":   func(ctx context.Context, c *aside.Client, key string) { _ = c.Set(ctx, time.Minute, key, "v") },
		"Del":   func(ctx context.Context, c *aside.Client, key string) { _ = c.Del(ctx, key, key+"2") },
		"Touch": func(ctx context.Context, c *aside.Client, key string) { _ = c.Touch(ctx, time.Minute, key) },
		"Update": func(ctx context.Context, c *aside.Client, key string) {
			_ = c.Update(ctx, []string{key}, func(ctx context.Context, r rueidis.Client) error {
				return r.Do(ctx, r.B().Set().Key(key).Value("v").Build()).Error()
			})
		},
		"typed, undecodable": func(ctx context.Context, c *aside.Client, key string) {
			view := aside.NewTypedClient(c, func(string) (string, error) { return "v", nil }, func(string) (string, error) { return "", errors.New("no") })
			_, _ = view.Get(ctx, time.Minute, key, load)
		},
	}
	for _, silent := range []bool{false, true} {
		t.Run(fmt.Sprintf("silent=%v", silent), func(t *testing.T) {
			for name, call := range calls {
				t.Run(name, func(t *testing.T) {
					proxy.Heal()
					var all []*pooled
					t.Cleanup(func() { // after Close
						for _, p := range all {
							require.Zero(t, p.late.Load())
						}
					})
					c := newClient(t, proxy.Addr(), func(o *aside.Options) {
						o.FallbackDir = t.TempDir()
						o.RedisTimeout = time.Second
						if silent {
							o.RedisTimeout = 20 * time.Millisecond
						}
						o.LockTTL = 3 * time.Second
					})
					if silent {
						proxy.CutRequests()
					}
					for i := range 10 {
						p := newPooled("a")
						all = append(all, p)
						call(p, c, fmt.Sprintf("%s%d", name, i))
						p.reuse("b")
					}
					proxy.Heal()
				})
			}
		})
	}
}
