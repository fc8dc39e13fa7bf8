package asidetest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

// What a call is given satisfies its options: three processes ask for minutes, while the loader is
// slow, or fails, and the server goes and comes. A value is the time at which its load began.
func TestNoCallGetsMoreThanItsOptionsAllow(t *testing.T) {
	for name, viewOpts := range map[string][]aside.ViewOption{
		"a grace":                          {aside.WithGrace(20 * time.Second)},
		"a grace, jitter, ahead":           {aside.WithGrace(20 * time.Second), aside.WithJitter(0.3), aside.WithRefreshAhead(0.2)},
		"a grace and an age":               {aside.WithGrace(20 * time.Second), aside.WithMaxAge(15 * time.Second)},
		"neither grace nor age, but ahead": {aside.WithRefreshAhead(0.5)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const ttl = 10 * time.Second
				grace := 20 * time.Second
				if name == "neither grace nor age, but ahead" {
					grace = 0
				}
				server, ctx := asidetest.NewServer(t), t.Context()
				random := rand.New(rand.NewPCG(1, uint64(len(name))))
				var slow atomic.Int64
				var broken atomic.Bool
				var loads atomic.Int64
				load := func(context.Context, string) (time.Time, error) {
					began := time.Now()
					loads.Add(1)
					time.Sleep(time.Duration(slow.Load()))
					if broken.Load() {
						return time.Time{}, errors.New("broken")
					}
					return began, nil
				}
				ends := make(chan struct{})
				var asking sync.WaitGroup
				var answers, strict, young, stale atomic.Int64
				for n := range 3 {
					view := aside.Typed(server.Client(), codec.JSON[time.Time](), viewOpts...)
					for kind := range 4 {
						pause := time.Duration(40+10*n+3*kind) * time.Millisecond
						asking.Go(func() {
							for ; ; time.Sleep(pause) {
								select {
								case <-ends:
									return
								default:
								}
								asked := time.Now()
								var opts []aside.CallOption
								switch kind {
								case 1:
									opts = append(opts, aside.WithMaxStale(0))
								case 2:
									opts = append(opts, aside.WithMaxAge(5*time.Second))
								case 3:
									opts = append(opts, aside.WithMaxStale(3*time.Second), aside.WithMaxAge(12*time.Second))
								}
								got, err := view.Fetch(ctx, ttl, fmt.Sprint("k", n%2), load, opts...)
								if err != nil {
									continue
								}
								answers.Add(1)
								age, before := time.Since(got.Value), asked.Sub(got.Value)
								const load = 2*time.Second + 100*time.Millisecond // after which a value is stored
								most := ttl + grace + load
								switch kind {
								case 1:
									if grace > 0 {
										most = ttl + load
									}
									strict.Add(1)
								case 2:
									most = 5 * time.Second
									young.Add(1)
								case 3:
									most = 12 * time.Second
								}
								if got.Stale {
									stale.Add(1)
								}
								if kind == 1 && got.Stale {
									t.Errorf("WithMaxStale(0) got what is stale, of age %v from %v", age, got.Source)
								}
								if before > most {
									t.Errorf("kind %d got what was %v old when it asked: %+v", kind, before, got)
								}
								if got.Age >= 0 && (age-got.Age > 50*time.Millisecond || got.Age-age > 2*time.Second) {
									t.Errorf("kind %d: the value says that its age is %v, and the result %v, from %v", kind, age, got.Age, got.Source)
								}
							}
						})
					}
				}
				for range 40 {
					slow.Store(int64(random.IntN(2000)) * int64(time.Millisecond))
					broken.Store(random.IntN(4) == 0)
					switch random.IntN(6) {
					case 0:
						server.Down()
					case 1:
						server.Freeze()
					default:
						server.Up()
					}
					time.Sleep(time.Duration(1+random.IntN(8)) * time.Second)
				}
				server.Up()
				close(ends)
				asking.Wait()
				t.Logf("%d answers, %d of them stale, %d strict, %d young; %d loads", answers.Load(), stale.Load(), strict.Load(), young.Load(), loads.Load())
				require.Greater(t, strict.Load(), int64(100))
				require.Greater(t, young.Load(), int64(100))
			})
		})
	}
}

// Refresh-ahead: whoever asks for a key in use hardly ever waits, and there is hardly more than one load
// in a ttl, also without a grace. When a refresh begins is drawn: about one in 1,600 begins so late that
// it ends after the value does.
func TestAKeyInUseIsRefreshedAheadOfItsEnd(t *testing.T) {
	for name, opts := range map[string][]aside.ViewOption{
		"without grace": nil,
		"with a grace":  {aside.WithGrace(time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const ttl, took, fraction = time.Minute, 200 * time.Millisecond, 0.2
				server, ctx := asidetest.NewServer(t), t.Context()
				var loads atomic.Int64
				var first, last atomic.Pointer[time.Time]
				least := ttl
				load := func(context.Context, string) (int, error) {
					now := time.Now()
					if was := last.Swap(&now); was != nil && now.Sub(*was) < least {
						least = now.Sub(*was) // one at a time: they run under a lock
					}
					first.CompareAndSwap(nil, &now)
					time.Sleep(took)
					return int(loads.Add(1)), nil
				}
				var views []*aside.TypedClient[int]
				for range 2 {
					views = append(views, aside.Typed(server.Client(), codec.JSON[int](), append(opts, aside.WithRefreshAhead(fraction))...))
				}
				late := 0
				for begin := time.Now(); time.Since(begin) < time.Hour; time.Sleep(20 * time.Millisecond) {
					for _, view := range views {
						asked := time.Now()
						got, err := view.Fetch(ctx, ttl, "k", load)
						require.NoError(t, err)
						if got.Stale || loads.Load() > 1 && time.Since(asked) > 10*time.Millisecond {
							late++
						}
					}
				}
				require.LessOrEqual(t, late, 60, "of 360,000 answers: three refreshes that began late")
				require.GreaterOrEqual(t, loads.Load(), int64(60))
				require.LessOrEqual(t, loads.Load(), int64(63), "a load of 200 ms is begun little more than a second early")
				require.GreaterOrEqual(t, least, ttl-time.Duration(fraction*float64(ttl)), "never earlier")
			})
		})
	}
}
