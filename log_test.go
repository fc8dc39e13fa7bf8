package aside_test

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// hindrance is a log handler that does something worse than to write. It is the same whatever is
// added to it.
type hindrance func(slog.Record)

func (h hindrance) Enabled(context.Context, slog.Level) bool { return true }

func (h hindrance) Handle(_ context.Context, r slog.Record) error {
	h(r)
	return nil
}

func (h hindrance) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h hindrance) WithGroup(string) slog.Handler { return h }

// A pipe that nobody reads must not keep the service in an outage, lose what it was told, or keep
// it from ending; nor may a bug in the handler.
func TestALogHandlerHoldsNothingUp(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		handle func(slog.Record)
	}{
		{"panics", func(slog.Record) { panic("log") }},
		{"ends its goroutine", func(slog.Record) { runtime.Goexit() }},
		{"blocks", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			release := make(chan struct{})
			defer close(release)
			handle, blocks := test.handle, test.handle == nil
			if blocks {
				handle = func(slog.Record) { <-release }
			}
			o := aside.Options{
				Redis: plain(server.Addr()), ConnectTimeout: patience, RequireRedis: true, FallbackDir: t.TempDir(), Logger: slog.New(hindrance(handle)),
			}
			hasty(&o)
			c, err := aside.New(o)
			require.NoError(t, err)
			ctx, told := testContext(t), make(chan aside.Mode, 100)
			c.OnModeChange(func(m aside.ModeChange) { told <- m.To })
			for range 2 {
				server.Kill()
				for len(told) == 0 {
					_ = c.Set(ctx, time.Hour, "k", "v") // the first may be of unknown outcome
				}
				require.Equal(t, aside.Degraded, await(t, told))
				require.NoError(t, c.Set(ctx, time.Hour, "k", "while away"))
				value, err := c.Get(ctx, time.Hour, "loaded", newSource("value").Load)
				require.NoError(t, err)
				require.Equal(t, "value", value)
				server.Restart()
				awaitMode(t, c, aside.Healthy)
				require.Equal(t, "while away", server.Do("GET", "k"))
				for m := range told {
					if m == aside.Healthy {
						break
					}
				}
			}
			if blocks {
				require.ErrorContains(t, c.Close(), "Options.Logger")
				return
			}
			closeClient(t, c, o.FallbackDir)
		})
	}
}

// What was logged before Close is there when Close returns, in its order.
func TestCloseHasTheLogWritten(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var mu sync.Mutex
	var lines []slog.Level
	write := hindrance(func(r slog.Record) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, r.Level)
	})
	c, err := aside.New(aside.Options{Redis: plain(server.Addr()), ConnectTimeout: patience, RequireRedis: true, Logger: slog.New(write)})
	require.NoError(t, err)
	server.Kill()
	awaitMode(t, c, aside.Degraded)
	server.Restart()
	awaitMode(t, c, aside.Healthy)
	require.NoError(t, c.Close())
	mu.Lock()
	defer mu.Unlock()
	require.Contains(t, lines, slog.LevelWarn)
	require.Contains(t, lines[slices.Index(lines, slog.LevelWarn):], slog.LevelInfo, "first it was away, then it was back")
}
