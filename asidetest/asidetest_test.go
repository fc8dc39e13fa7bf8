package asidetest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/fallback"
)

// loader returns value, whatever the key.
func loader(value string) aside.Loader[string] {
	return func(context.Context, string) (string, error) { return value, nil }
}

func mustNotLoad(context.Context, string) (string, error) {
	return "", errors.New("the loader was called")
}

func TestAnOutageAndItsReplayInABubble(t *testing.T) {
	synctest.Test(t, outage)
}

func outage(t *testing.T) {
	server := asidetest.NewServer(t)
	client, ctx := server.Client(), t.Context()
	require.NoError(t, client.Set(ctx, time.Hour, "k", "before"))
	server.Down()
	time.Sleep(time.Second)
	require.Equal(t, aside.Degraded, client.Health().Mode)
	require.NoError(t, client.Set(ctx, time.Hour, "k", "meanwhile"))
	require.NoError(t, client.Del(ctx, "other"))
	records := server.Records()
	require.Len(t, records, 2)
	require.Equal(t, "k", records[0].Key)
	require.Equal(t, fallback.OpSet, records[0].Op)
	require.Equal(t, "meanwhile", records[0].Value)
	value, _ := server.Get("k")
	require.Equal(t, "before", value)

	server.Restart()
	time.Sleep(5 * time.Second)
	require.Equal(t, aside.Healthy, client.Health().Mode)
	value, _ = server.Get("k")
	require.Equal(t, "meanwhile", value)
	require.Empty(t, server.Records())
	value, err := client.Get(ctx, time.Hour, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "meanwhile", value)
}

func TestTheHealthyPath(t *testing.T) {
	for name, run := range map[string]func(*testing.T, func(*testing.T)){
		"in a bubble":         synctest.Test,
		"by the wall's clock": func(t *testing.T, f func(*testing.T)) { f(t) },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T) {
				server := asidetest.NewServer(t)
				a, b, ctx := server.Client(), server.Client(), t.Context()
				for _, c := range []*aside.Client{a, b, a} {
					value, err := c.Get(ctx, time.Minute, "k", loader("v"))
					require.NoError(t, err)
					require.Equal(t, "v", value)
				}
				require.Equal(t, 1, server.Loads("k"))
				require.Equal(t, []string{"k"}, server.Keys())
				ttl, ok := server.TTL("k")
				require.True(t, ok)
				require.LessOrEqual(t, ttl, time.Minute)
				require.Positive(t, ttl)
				require.NoError(t, a.Set(ctx, time.Minute, "k", "w"))
				require.Eventually(t, func() bool {
					value, _, err := b.Peek(ctx, "k")
					return err == nil && value == "w"
				}, 10*time.Second, time.Millisecond)
				require.Equal(t, 1, server.Del("k"))
				require.Eventually(t, func() bool {
					_, ok, err := b.Peek(ctx, "k")
					return err == nil && !ok
				}, 10*time.Second, time.Millisecond)
			})
		})
	}
}

func TestAValueEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := asidetest.NewServer(t)
		client, ctx := server.Client(), t.Context()
		for i := range 3 {
			value, err := client.Get(ctx, time.Minute, "k", loader(fmt.Sprint(i)))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), value)
			time.Sleep(time.Minute + 2*time.Millisecond)
			require.Empty(t, server.Keys())
		}
		require.Equal(t, 3, server.Loads("k"))
	})
}

// A frozen server takes what it is sent; what it has not answered is kept, and done once.
func TestAFrozenServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := asidetest.NewServer(t)
		client, ctx := server.Client(), t.Context()
		require.NoError(t, client.Set(ctx, time.Hour, "k", "before"))
		server.Freeze()
		began := time.Now()
		require.NoError(t, client.Set(ctx, time.Hour, "k", "meanwhile"))
		require.LessOrEqual(t, time.Since(began), 300*time.Millisecond, "RedisTimeout")
		require.Len(t, server.Records(), 1)
		time.Sleep(2 * time.Second)
		require.Equal(t, aside.Degraded, client.Health().Mode)
		server.Up()
		time.Sleep(5 * time.Second)
		require.Equal(t, aside.Healthy, client.Health().Mode)
		require.Empty(t, server.Records())
		value, _ := server.Get("k")
		require.Equal(t, "meanwhile", value)
	})
}

func TestAClientMayStartWithoutItsServer(t *testing.T) {
	for name, away := range map[string]func(*asidetest.Server){"down": (*asidetest.Server).Down, "frozen": (*asidetest.Server).Freeze} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := asidetest.NewServer(t)
				away(server)
				client := server.Client()
				value, err := client.Get(t.Context(), time.Hour, "k", loader("v"))
				require.NoError(t, err)
				require.Equal(t, "v", value)
				server.Up()
				time.Sleep(5 * time.Second)
				require.True(t, client.Stats().RedisConnected)
			})
		})
	}
}

// What a client keeps when the test ends is no error of Close: a folder would have it.
func TestATestMayEndWhileTheServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := asidetest.NewServer(t)
		client := server.Client()
		server.Down()
		time.Sleep(time.Second)
		require.NoError(t, client.Set(t.Context(), time.Hour, "k", "v"))
		require.NoError(t, client.Close())
	})
}

// The next process with the folder replays what this one could not.
func TestAProcessThatIsStartedAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		server := asidetest.NewServer(t)
		inDir := func(o *aside.Options) { o.FallbackDir = dir }
		first := server.Client(inDir)
		server.Down()
		time.Sleep(time.Second)
		require.NoError(t, first.Set(t.Context(), time.Hour, "k", "v"))
		require.NoError(t, first.Close())
		second := server.Client(inDir)
		require.Len(t, server.Records(), 1)
		server.Up()
		time.Sleep(5 * time.Second)
		require.Zero(t, second.Stats().Pending)
		value, _ := server.Get("k")
		require.Equal(t, "v", value)
	})
}

func TestFlushAllIsSeenByClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := asidetest.NewServer(t)
		client, ctx := server.Client(), t.Context()
		for range 2 {
			_, err := client.Get(ctx, time.Hour, "k", loader("v"))
			require.NoError(t, err)
			server.FlushAll()
			synctest.Wait()
		}
		require.Equal(t, 2, server.Loads("k"))
	})
}

func TestAForeignWriteIsSeenByClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := asidetest.NewServer(t)
		client, ctx := server.Client(), t.Context()
		server.Set("k", "1", 0)
		server.Set("l", "x", time.Minute)
		for _, want := range []string{"1", "2"} {
			server.Set("k", want, 0)
			synctest.Wait()
			value, err := client.Get(ctx, time.Hour, "k", mustNotLoad)
			require.NoError(t, err)
			require.Equal(t, want, value)
		}
		ttl, ok := server.TTL("k")
		require.True(t, ok)
		require.Zero(t, ttl)
		ttl, ok = server.TTL("l")
		require.True(t, ok)
		require.Equal(t, time.Minute, ttl)
		_, ok = server.TTL("none")
		require.False(t, ok)
		_, ok = server.Get("none")
		require.False(t, ok)
		require.Equal(t, []string{"k", "l"}, server.Keys())
		require.Equal(t, 2, server.Del("k", "l", "none"))
		require.Zero(t, server.Del())
	})
}

// The user's own observer is told, too, and options may be changed.
func TestOptionsAreTheUsersToChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := asidetest.NewServer(t)
		var told int
		client := server.Client(func(o *aside.Options) {
			o.MemoryBytes, o.DisableStamps = -1, true
			o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
				if e.Kind == aside.EventLoad {
					told++
				}
			})
		})
		for range 2 {
			_, err := client.Get(t.Context(), time.Minute, "k", loader("v"))
			require.NoError(t, err)
		}
		require.NoError(t, client.Set(t.Context(), time.Minute, "k", "w"))
		require.Equal(t, 1, told)
		require.Equal(t, 1, server.Loads("k"))
		require.Zero(t, client.Stats().MemoryHits)
		require.Len(t, server.Do("KEYS", "aside:stamp*"), 0)
	})
}

// Long waits cost what the client does meanwhile: its probes.
func TestAnHourInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := asidetest.NewServer(t)
		client := server.Client()
		require.NoError(t, client.Set(t.Context(), 2*time.Hour, "k", "v"))
		time.Sleep(time.Hour)
		require.Equal(t, aside.Healthy, client.Health().Mode)
		require.Zero(t, client.Stats().Outages)
		value, err := client.Get(t.Context(), time.Hour, "k", mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, "v", value)
	})
}

// failing is a test that is told of failures, and goes on.
type failing struct {
	testing.TB
	said []string
}

func (f *failing) Fatalf(format string, args ...any) {
	f.said = append(f.said, fmt.Sprintf(format, args...))
	panic(f)
}

func TestWhatIsWrongFailsTheTest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, c := range map[string]struct {
		do   func(*asidetest.Server)
		says string
	}{
		"bad options": {func(s *asidetest.Server) { s.Client(func(o *aside.Options) { o.LockTTL = -1 }) }, "Options.LockTTL is -1ns"},
		"no folder": {func(s *asidetest.Server) {
			s.Client(func(o *aside.Options) { o.FallbackDir = filepath.Join(file, "x") })
		}, "FallbackDir"},
		"a wrong command": {func(s *asidetest.Server) { s.Do("NONSENSE") }, "unknown command 'NONSENSE'"},
		"no command":      {func(s *asidetest.Server) { s.Do() }, "Do needs a command"},
		"Lua":             {func(s *asidetest.Server) { s.Do("EVAL", "return 1", 0) }, "runs no Lua"},
		"too much": {func(s *asidetest.Server) {
			s.Client(func(o *aside.Options) { o.Store, o.FallbackDir = fallback.NewMemory(0), "x" })
		}, "leave one out"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &failing{TB: t}
			require.Panics(t, func() { c.do(asidetest.NewServer(f)) })
			require.Len(t, f.said, 1)
			require.Contains(t, f.said[0], c.says)
		})
	}
}
