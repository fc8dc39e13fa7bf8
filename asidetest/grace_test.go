package asidetest_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

// An hour of two processes that ask all the time: one load a minute while the source is well, one in
// a back-off while it fails, and never an error or a value beyond its ttl and grace.
func TestAnHourOfAValueWithGraceInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl, grace = time.Minute, 10 * time.Minute
		server, ctx := asidetest.NewServer(t), t.Context()
		var loads atomic.Int64
		var broken atomic.Bool
		load := func(context.Context, string) (time.Time, error) {
			loads.Add(1)
			time.Sleep(200 * time.Millisecond)
			if broken.Load() {
				return time.Time{}, errors.New("broken")
			}
			return time.Now(), nil
		}
		clients := []*aside.Client{server.Client(), server.Client()}
		ask := func(d time.Duration) (oldest time.Duration) {
			for begin := time.Now(); time.Since(begin) < d; time.Sleep(100 * time.Millisecond) {
				for _, c := range clients {
					asked := time.Now()
					got, err := aside.Typed(c, codec.JSON[time.Time](), aside.WithGrace(grace)).Get(ctx, ttl, "k", load)
					require.NoError(t, err)
					if loads.Load() > 1 {
						require.Less(t, time.Since(asked), 10*time.Millisecond, "nobody waits for the loader")
					}
					oldest = max(oldest, time.Since(got))
				}
			}
			return oldest
		}
		oldest := ask(time.Hour)
		require.InDelta(t, 60, loads.Load(), 2, "one a minute, of both")
		require.Less(t, oldest, ttl+time.Second)

		broken.Store(true)
		loads.Store(0)
		oldest = ask(9 * time.Minute)
		require.Greater(t, oldest, 8*time.Minute, "stale-if-error")
		require.Less(t, oldest, ttl+grace)
		require.LessOrEqual(t, loads.Load(), int64(5+9*60/15+1), "after five failures one in 15 to 30 seconds")
		require.GreaterOrEqual(t, loads.Load(), int64(5+8*60/31))

		broken.Store(false)
		loads.Store(0)
		ask(time.Minute)
		require.LessOrEqual(t, loads.Load(), int64(2))
		require.Less(t, ask(time.Second), ttl+time.Second, "it is well again")
	})
}

// A caller that waits for a refresh is not served what is deleted, or ends, meanwhile: it asks again,
// as a caller that begins then. In a bubble, as the value has to end while the caller waits.
func TestWhatChangesDuringASoftTimeoutIsNotServed(t *testing.T) {
	const fresh, grace, soft = time.Hour, time.Minute, time.Second
	view := func(c *aside.Client) *aside.TypedClient[string] {
		return aside.Typed(c, codec.String(), aside.WithGrace(grace))
	}
	loadMany := func(load aside.Loader[string]) aside.BatchLoader[string] {
		return func(ctx context.Context, keys []string) (map[string]string, error) {
			value, err := load(ctx, keys[0])
			return map[string]string{keys[0]: value}, err
		}
	}
	for name, get := range map[string]func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (string, error){
		"Get": func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (string, error) {
			return view(c).Get(ctx, fresh, "k", load, aside.WithSoftTimeout(soft))
		},
		"GetMulti": func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (string, error) {
			values, err := view(c).GetMulti(ctx, fresh, []string{"k"}, loadMany(load), aside.WithSoftTimeout(soft))
			return values["k"], err
		},
		"a client's Get": func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (string, error) {
			return c.Get(ctx, fresh, "k", load, aside.WithGrace(grace), aside.WithSoftTimeout(soft))
		},
		"a client's GetMulti": func(ctx context.Context, c *aside.Client, load aside.Loader[string]) (string, error) {
			values, err := c.GetMulti(ctx, fresh, []string{"k"}, loadMany(load), aside.WithGrace(grace), aside.WithSoftTimeout(soft))
			return values["k"], err
		},
	} {
		for _, inMemory := range []bool{true, false} {
			for _, how := range []string{"deleted", "ended"} {
				t.Run(fmt.Sprint(name, ", in memory ", inMemory, ", ", how), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						server, ctx := asidetest.NewServer(t), t.Context()
						c := server.Client()
						left := grace / 2
						if how == "ended" {
							left = soft / 2
						}
						server.Set("k", "1", left)
						for range 2 { // the second one from memory
							if !inMemory {
								break
							}
							found, err := c.Look(ctx, "k")
							require.NoError(t, err)
							require.LessOrEqual(t, found.TTL, grace)
						}
						var loads atomic.Int64
						letGo := make(chan struct{})
						var value string
						answered := make(chan error, 1)
						go func() {
							var err error
							value, err = get(ctx, c, func(context.Context, string) (string, error) {
								loads.Add(1)
								<-letGo
								return "2", nil
							})
							answered <- err
						}()
						synctest.Wait()
						require.EqualValues(t, 1, loads.Load(), "its refresh has begun")
						if how == "deleted" {
							require.NoError(t, c.Del(ctx, "k"))
						}
						time.Sleep(2 * soft)
						synctest.Wait()
						require.EqualValues(t, 2, loads.Load(), "it has asked again")
						close(letGo)
						require.NoError(t, <-answered)
						require.Equal(t, "2", value)
					})
				})
			}
		}
	}
}
