package aside_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/redistest"
)

// The user's code may do anything: what it does wrong must cost that call, at most.

// spiteful is an error whose methods may panic.
type spiteful struct{ is, as, unwrap, text bool }

func (s *spiteful) Is(error) bool { return s.is && die() }
func (s *spiteful) As(any) bool   { return s.as && die() }
func (s *spiteful) Unwrap() error {
	if s.unwrap {
		die()
	}
	return nil
}

func (s *spiteful) Error() string {
	if s.text {
		die()
	}
	return "spiteful"
}

func die() bool { panic("spite") }

func TestAnErrorWhoseMethodsPanicIsAPanicError(t *testing.T) {
	var typedNil *net.OpError
	server := redistest.Start(t)
	for name, spite := range map[string]error{
		"a nil pointer":      typedNil,
		"in another":         fmt.Errorf("cannot load: %w", error(&spiteful{is: true})),
		"joined":             errors.Join(errors.New("first"), &spiteful{unwrap: true}),
		"Is":                 &spiteful{is: true},
		"As":                 &spiteful{as: true},
		"Unwrap":             &spiteful{unwrap: true},
		"Error":              &spiteful{text: true},
		"a nil of this type": (*spiteful)(nil),
	} {
		t.Run(name, func(t *testing.T) {
			c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer = aside.ObserverFunc(func(context.Context, aside.Event) {}) }), testContext(t)
			key := "k of " + name
			gets := map[string]func(panics bool) error{
				"Get": func(panics bool) error {
					_, err := c.Get(ctx, time.Minute, key, func(context.Context, string) (string, error) { return "", raise(spite, panics) })
					return err
				},
				"GetMulti": func(panics bool) error {
					_, err := c.GetMulti(ctx, time.Minute, []string{key, key + "2"}, func(context.Context, []string) (map[string]string, error) { return nil, raise(spite, panics) })
					return err
				},
				"encode": func(panics bool) error {
					view := aside.NewTypedClient(c, func(string) (string, error) { return "", raise(spite, panics) }, func(string) (string, error) { return "", nil })
					return view.Set(ctx, time.Minute, key, "v")
				},
				"Update": func(panics bool) error {
					return c.Update(ctx, []string{key}, func(context.Context, rueidis.Client) error { return raise(spite, panics) })
				},
			}
			for verb, get := range gets {
				for _, panics := range []bool{false, true} {
					require.NoError(t, c.Del(ctx, key, key+"2")) // no error is remembered
					var panicked *aside.PanicError
					require.ErrorAs(t, get(panics), &panicked, "%s, panics: %v", verb, panics)
					require.NotPanics(t, func() { _, _ = panicked.Error(), errors.Is(panicked, aside.ErrNotFound) })
					require.Nil(t, server.Do("GET", key), "the lock is released")
				}
			}
			require.NoError(t, c.Del(ctx, key))
			// A loaded value that cannot be encoded, and a stored one that cannot be decoded, are
			// the caller's all the same.
			view := aside.NewTypedClient(c, func(string) (string, error) { return "", spite }, func(string) (string, error) { return "", spite })
			value, err := view.Get(ctx, time.Minute, key, func(context.Context, string) (string, error) { return "v", nil })
			require.NoError(t, err)
			require.Equal(t, "v", value)
			awaitNobody(t, c)
			server.Do("SET", key, "stored")
			value, err = view.Get(ctx, time.Minute, key, func(context.Context, string) (string, error) { return "v", nil })
			require.NoError(t, err)
			require.Equal(t, "v", value)
		})
	}
}

// raise returns err, or panics with it.
func raise(err error, panics bool) error {
	if panics {
		panic(err)
	}
	return err
}

// Whatever callbacks do instead of returning, calls end and the client works on.
func TestNoCallbackEndsOrHangsAnythingElse(t *testing.T) {
	server := redistest.Start(t)
	for how, spite := range map[string]func(){"panics": func() { panic("spite") }, "ends its goroutine": runtime.Goexit} {
		t.Run(how, func(t *testing.T) {
			var armed atomic.Bool
			var told atomic.Int64
			strike := func() {
				if armed.Load() {
					told.Add(1)
					spite()
				}
			}
			c, ctx := newClient(t, server.Addr(), func(o *aside.Options) {
				o.StaleLease = time.Second
				o.FallbackDir = t.TempDir()
				o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
					if e.Source != aside.SourceMemory { // that is the caller's own goroutine
						strike()
					}
				})
				o.OnReplay = func(aside.Replay) { strike() }
				o.Logger = slog.New(spitefulHandler{strike})
			}), testContext(t)
			var changes atomic.Int64
			c.OnModeChange(func(aside.ModeChange) {
				changes.Add(1)
				strike()
			})
			_, err := c.Get(ctx, time.Minute, "warm "+how, newSource("v").Load)
			require.NoError(t, err)
			armed.Store(true)
			got := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k "+how, newSource("v").Load) })
			require.Equal(t, result{Value: "v"}, await(t, got))
			got = inBackground(func() (string, error) {
				return c.Get(ctx, time.Minute, "loader "+how, func(context.Context, string) (string, error) {
					spite()
					return "", nil
				})
			})
			require.Error(t, await(t, got).Err)
			server.Kill()
			eventually(t, "degraded", func() bool { return c.Health().Mode == aside.Degraded })
			set := inBackground(func() (string, error) { return "", c.Set(ctx, time.Minute, "set "+how, "v") })
			require.NoError(t, await(t, set).Err)
			server.RestartKeepingData()
			eventually(t, "healthy", func() bool { return c.Health().Mode == aside.Healthy })
			require.Equal(t, "v", server.Do("GET", "set "+how))
			eventually(t, "all changes were told", func() bool { return changes.Load() >= 3 })
			require.Positive(t, told.Load())
		})
	}
}

type spitefulHandler struct{ strike func() }

func (h spitefulHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h spitefulHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h spitefulHandler) WithGroup(string) slog.Handler            { return h }
func (h spitefulHandler) Handle(context.Context, slog.Record) error {
	h.strike()
	return nil
}

func TestABuilderADialerAndAStoreThatDoNotReturnCostOneAttempt(t *testing.T) { //nolint:tparallel // its parts have one server
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	for how, spite := range map[string]func(){"panics": func() { panic("spite") }, "ends its goroutine": runtime.Goexit} {
		t.Run(how, func(t *testing.T) {
			var builds, dials atomic.Int64
			store := &spitefulStore{Memory: fallback.NewMemory(0), spite: spite}
			c, ctx := newClient(t, server.Addr(), func(o *aside.Options) {
				o.StaleLease = time.Second
				o.ClientBuilder = func(option rueidis.ClientOption) (rueidis.Client, error) {
					if builds.Add(1) == 1 {
						spite()
					}
					return rueidis.NewClient(option)
				}
				o.Redis.DialCtxFn = func(ctx context.Context, dst string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
					switch dials.Add(1) {
					case 1:
						spite()
					case 2:
						var none *net.OpError
						return nil, none
					}
					return d.DialContext(ctx, "tcp", dst)
				}
				o.Store = store
			}), testContext(t)
			_, err := c.Get(ctx, time.Minute, "k "+how, newSource("v").Load)
			require.NoError(t, err)
			server.Kill()
			eventually(t, "degraded", func() bool { return c.Health().Mode == aside.Degraded })
			store.armed.Store(true)
			set := inBackground(func() (string, error) { return "", c.Set(ctx, time.Minute, "set "+how, "v") })
			require.ErrorIs(t, await(t, set).Err, aside.ErrRedisAway)
			got := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "get "+how, newSource("v").Load) })
			require.Equal(t, result{Value: "v"}, await(t, got))
			store.armed.Store(false)
			server.RestartKeepingData()
			eventually(t, "healthy", func() bool { return c.Health().Mode == aside.Healthy })
		})
	}
}

// spitefulStore does not return from what it is asked or told to do.
type spitefulStore struct {
	*fallback.Memory
	armed atomic.Bool
	spite func()
}

func (s *spitefulStore) strike() {
	if s.armed.Load() {
		s.spite()
	}
}

func (s *spitefulStore) Put(ctx context.Context, records ...fallback.Record) error {
	s.strike()
	return s.Memory.Put(ctx, records...)
}

func (s *spitefulStore) Fill(record fallback.Record) {
	s.strike()
	s.Memory.Fill(record)
}

func (s *spitefulStore) Get(key string) (fallback.Record, bool, error) {
	s.strike()
	return s.Memory.Get(key)
}

func (s *spitefulStore) Pending(key string) bool {
	s.strike()
	return s.Memory.Pending(key)
}

func (s *spitefulStore) Stamp(key string) (string, bool) {
	s.strike()
	return s.Memory.Stamp(key)
}

func (s *spitefulStore) Stats() fallback.Stats {
	s.strike()
	return s.Memory.Stats()
}

// Close in a callback returns at once, with an error that says why, and the client closes as if it
// had been called elsewhere.
func TestCloseInACallbackReturnsAtOnce(t *testing.T) {
	for name, where := range map[string]func(o *aside.Options, do func()) (then func(c *aside.Client, server *redistest.Server)){
		"loader": func(_ *aside.Options, do func()) func(*aside.Client, *redistest.Server) {
			return func(c *aside.Client, _ *redistest.Server) {
				_, err := c.Get(testContext(t), time.Minute, "k", func(context.Context, string) (string, error) {
					do()
					return "v", nil
				})
				if err != nil { // or what the loader gave
					require.ErrorIs(t, err, aside.ErrClosed)
				}
			}
		},
		"Update": func(_ *aside.Options, do func()) func(*aside.Client, *redistest.Server) {
			return func(c *aside.Client, _ *redistest.Server) {
				_ = c.Update(testContext(t), []string{"k"}, func(context.Context, rueidis.Client) error {
					do()
					return nil
				})
			}
		},
		"Observer": func(o *aside.Options, do func()) func(*aside.Client, *redistest.Server) {
			o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
				if e.Kind == aside.EventLoad {
					do()
				}
			})
			return func(c *aside.Client, _ *redistest.Server) {
				_, _ = c.Get(testContext(t), time.Minute, "k", newSource("v").Load)
			}
		},
		"Observer of an outage": func(o *aside.Options, do func()) func(*aside.Client, *redistest.Server) {
			o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
				if e.Kind == aside.EventRedisAway {
					do()
				}
			})
			return func(_ *aside.Client, server *redistest.Server) { server.Kill() }
		},
		"OnModeChange": func(_ *aside.Options, do func()) func(*aside.Client, *redistest.Server) {
			return func(c *aside.Client, server *redistest.Server) {
				c.OnModeChange(func(m aside.ModeChange) {
					if m.To == aside.Degraded {
						do()
					}
				})
				server.Kill()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			inside := make(chan error, 1)
			made := make(chan *aside.Client, 1)
			options := aside.Options{Redis: plain(server.Addr()), RequireRedis: true, ConnectTimeout: patience, Logger: quiet}
			var once atomic.Bool
			then := where(&options, func() {
				if once.Swap(true) {
					return
				}
				c := <-made
				inside <- c.Close()
			})
			c, err := aside.New(options)
			require.NoError(t, err)
			made <- c
			then(c, server)
			require.ErrorContains(t, await(t, inside), "callback")
			require.NoError(t, c.Close(), "nothing is left behind")
			_, err = c.Get(testContext(t), time.Minute, "k", mustNotLoad)
			require.ErrorIs(t, err, aside.ErrClosed)
		})
	}
}

func TestAPanicWithErrNotFoundIsAPanic(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	_, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { panic(fmt.Errorf("must: %w", aside.ErrNotFound)) })
	_, ok := errors.AsType[*aside.PanicError](err)
	require.True(t, ok, "%v", err)
	require.Nil(t, server.Do("GET", "k"), "not an absence")
}
