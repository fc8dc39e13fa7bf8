package aside_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// Loaders that wait for each other would do so until LoadTimeout. The last one to ask closes the
// circle, and hears of it at once.
func TestLoadersThatAskInACircleGetErrRecursiveLoad(t *testing.T) {
	t.Parallel()
	type get = func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error)
	single := func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error) {
		return c.Get(ctx, time.Minute, key, load)
	}
	batch := func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error) {
		values, err := c.GetMulti(ctx, time.Minute, []string{key, "beside " + key}, func(ctx context.Context, keys []string) (map[string]string, error) {
			value, err := load(ctx, key)
			return map[string]string{key: value, "beside " + key: value}, err
		})
		return values[key], err
	}
	derived := func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error) {
		ctx, cancel := context.WithTimeout(context.WithValue(ctx, tenantKey{}, "t"), time.Hour)
		defer cancel()
		return c.Get(ctx, time.Minute, key, load)
	}
	for name, row := range map[string]struct {
		keys []string // each asks for the next, and the last for the first
		get  get
		away bool
	}{
		"two":            {[]string{"a", "b"}, single, false},
		"three":          {[]string{"a", "b", "c"}, single, false},
		"batches":        {[]string{"a", "b"}, batch, false},
		"derived":        {[]string{"a", "b", "c"}, derived, false},
		"without Redis":  {[]string{"a", "b"}, single, true},
		"batches, away":  {[]string{"a", "b", "c"}, batch, true},
		"of two clients": {[]string{"a", "b"}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			c, ctx := newClient(t, server.Addr()), testContext(t)
			clients := map[string]*aside.Client{}
			for _, key := range row.keys {
				clients[key] = c
				if row.get == nil {
					clients[key] = newClient(t, server.Addr())
				}
			}
			if row.get == nil {
				row.get = single
			}
			if row.away {
				server.Kill()
				eventually(t, "degraded", func() bool { return c.Health().Mode == aside.Degraded })
			}
			var loading sync.WaitGroup
			loading.Add(len(row.keys))
			var ask func(ctx context.Context, i int) (string, error)
			ask = func(ctx context.Context, i int) (string, error) {
				key := row.keys[i%len(row.keys)]
				return row.get(ctx, clients[key], key, func(ctx context.Context, _ string) (string, error) {
					loading.Done()
					loading.Wait()
					return ask(ctx, i+1)
				})
			}
			var got []<-chan result
			for i := range row.keys {
				got = append(got, inBackground(func() (string, error) { return ask(ctx, i) }))
			}
			for _, g := range got {
				require.ErrorIs(t, await(t, g).Err, aside.ErrRecursiveLoad)
			}
			for _, client := range clients {
				awaitNobody(t, client)
			}
		})
	}
}

// What looks like a circle and is none: both loaders ask for a third key, and one for the other.
func TestLoadersThatShareANestedLoadAreNoCircle(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	shared, began := newSource("v"), make(chan struct{}, 2)
	letGo := shared.HoldUp()
	ask := func(next func(ctx context.Context) (string, error)) aside.Loader[string] {
		return func(ctx context.Context, key string) (string, error) {
			began <- struct{}{}
			value, err := next(ctx)
			return fmt.Sprintf("%s(%s)", key, value), err
		}
	}
	third := func(ctx context.Context) (string, error) { return c.Get(ctx, time.Minute, "third", shared.Load) }
	b := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "b", ask(third)) })
	shared.AwaitBegin(t)
	a := inBackground(func() (string, error) {
		return c.Get(ctx, time.Minute, "a", ask(func(ctx context.Context) (string, error) {
			first, err := c.Get(ctx, time.Minute, "b", mustNotLoad)
			if err != nil {
				return "", err
			}
			second, err := third(ctx)
			return first + second, err
		}))
	})
	awaitShared(t, c, 1)
	letGo()
	require.Equal(t, result{Value: "b(v)"}, await(t, b))
	require.Equal(t, result{Value: "a(b(v)v)"}, await(t, a))
}

// A goroutine that a loader starts with context.WithoutCancel has the loader's context, and asks
// with it after that load is over: nobody can give its own loader values then, however often it is
// called.
func TestADetachedCallEndsWhereNobodyGivesItsLoaderValues(t *testing.T) {
	c := newClient(t, redistest.Start(t).Addr())
	for name, ask := range map[string]func(ctx context.Context, load aside.Loader[string]) error{
		"Get": func(ctx context.Context, load aside.Loader[string]) error {
			_, err := c.Get(ctx, time.Minute, "detached", load)
			return err
		},
		"GetMulti": func(ctx context.Context, load aside.Loader[string]) error {
			_, err := c.GetMulti(ctx, time.Minute, []string{"detached", "another"}, func(ctx context.Context, keys []string) (map[string]string, error) {
				value, err := load(ctx, keys[0])
				return map[string]string{"detached": value, "another": value}, err
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			over, ended := make(chan struct{}), make(chan error, 1)
			var loads atomic.Int64
			_, err := c.Get(testContext(t), time.Minute, "outer "+name, func(ctx context.Context, _ string) (string, error) {
				go func() { // ends with the call that it makes
					<-over
					ended <- ask(context.WithoutCancel(ctx), func(ctx context.Context, _ string) (string, error) {
						loads.Add(1)
						_ = ctx.Value(tenantKey{})
						return "v", nil
					})
				}()
				return "v", nil
			})
			require.NoError(t, err)
			close(over)
			select {
			case err := <-ended:
				require.ErrorIs(t, err, context.Canceled)
			case <-time.After(patience):
				t.Fatal("it goes on for ever")
			}
			require.EqualValues(t, 1, loads.Load())
		})
	}
}
