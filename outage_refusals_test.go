package aside_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/harness"
	"github.com/redaside/aside/internal/redistest"
)

// What a server answers that is there and serves nobody, or nobody who writes, is an outage: what
// is written is kept and replayed, loads are bounded, and it is said why. What is about one key, or
// about room, is an answer.

// logged collects what a client logs.
type logged struct{ harness.Buffer }

func (l *logged) lines(with ...string) (lines []string) {
next:
	for line := range strings.Lines(l.String()) {
		for _, part := range with {
			if !strings.Contains(line, part) {
				continue next
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// await waits for lines, which are written a moment later, and requires that there are exactly n.
func (l *logged) await(t testing.TB, n int, with ...string) {
	t.Helper()
	eventually(t, fmt.Sprint("the log says ", with), func() bool { return len(l.lines(with...)) >= n })
	require.Len(t, l.lines(with...), n)
}

func slogTo(l *logged) *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logged) option(o *aside.Options) { o.Logger = slogTo(l) }

func TestAServerThatRefusesItsServiceIsAway(t *testing.T) {
	t.Parallel() // it waits more than it works
	for _, reply := range []string{
		"NOREPLICAS Not enough good replicas to write.",
		"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
		"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
		"LOADING Redis is loading the dataset in memory",
		"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
		"READONLY You can't write against a read only replica.",
		"CLUSTERDOWN The cluster is down",
		"NOAUTH Authentication required.",
		"WRONGPASS invalid username-password pair or user is disabled.",
		"DENIED Redis is running in protected mode",
		"ERR max number of clients reached",
		"NOPERM User app has no permissions to run the 'evalsha' command",
		"NOPERM this user has no permissions to run the 'hello' command or its subcommand",
		"ERR unknown command 'EVALSHA', with args beginning with: ",
		"ERR unknown command `evalsha`, with args beginning with: `x`, ",
		"ERR Error running script (call to f_1): @user_script:5: @user_script: 5: -NOREPLICAS Not enough good replicas to write.",
	} {
		t.Run(strings.Fields(reply)[0], func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			var refuses atomic.Bool
			front := between(t, func(args []string) (int, string) {
				if name := verb(args); refuses.Load() && name != "HELLO" && name != "CLIENT" && name != "INFO" {
					return 0, "-" + reply + "\r\n"
				}
				return 0, ""
			}, server.Addr())
			_, option := durable(t)
			var log logged
			c, ctx := newClient(t, front, hasty, option, log.option), testContext(t)
			require.NoError(t, c.Set(ctx, time.Minute, "gone", "old"))
			refuses.Store(true)
			require.NoError(t, c.Set(ctx, time.Minute, "k", "v"), "the first is kept like later ones")
			require.NoError(t, c.Del(ctx, "gone"))
			awaitMode(t, c, aside.Degraded)
			kind, _, _ := strings.Cut(strings.TrimPrefix(reply, "ERR "), " ")
			require.ErrorContains(t, c.Health().Err, kind)
			log.await(t, 1, "level=WARN", kind)
			require.ErrorIs(t, c.Touch(ctx, time.Minute, "k"), aside.ErrRedisAway)
			_, _, err := c.Peek(ctx, "unknown")
			require.ErrorIs(t, err, aside.ErrRedisAway)
			value, err := c.Get(ctx, time.Minute, "loaded", newSource("w").Load)
			require.NoError(t, err)
			require.Equal(t, "w", value)
			require.Equal(t, 2, c.Stats().Pending)

			refuses.Store(false)
			awaitMode(t, c, aside.Healthy)
			eventually(t, "it is replayed", func() bool { return c.Stats().Pending == 0 })
			require.Equal(t, "v", server.Do("GET", "k"))
			require.Nil(t, server.Do("GET", "gone"))
			require.NoError(t, c.Health().Err)
		})
	}
}

// OOM is the answer of a full server to a Set: to keep what it refuses would only move the heap to
// our disk. Deletes work there.
func TestAnAnswerAboutOneWriteIsReturned(t *testing.T) {
	for _, reply := range []string{
		"OOM command not allowed when used memory > 'maxmemory'.",
		"WRONGTYPE Operation against a key holding the wrong kind of value",
		"NOPERM No permissions to access a key",
		"BUSYKEY Target key name already exists.",
		"ERR unknown command 'FOO', with args beginning with: 'EVALSHA'",
	} {
		t.Run(strings.Fields(reply)[0], func(t *testing.T) {
			server := redistest.Start(t)
			var refuses atomic.Bool
			front := between(t, func(args []string) (int, string) {
				if refuses.Load() && strings.HasPrefix(verb(args), "EVAL") && args[len(args)-1] != "aside:probe" {
					return 0, "-" + reply + "\r\n"
				}
				return 0, ""
			}, server.Addr())
			c, ctx := newClient(t, front, hasty), testContext(t)
			refuses.Store(true)
			err := c.Set(ctx, time.Minute, "k", "v")
			require.ErrorContains(t, err, "refused by Redis")
			require.NotErrorIs(t, err, aside.ErrRedisAway)
			require.Zero(t, c.Stats().Pending)
			require.Equal(t, aside.Healthy, c.Health().Mode)
		})
	}
}

// The password changes: the next command dials, and what the handshake is answered comes back as
// its answer.
func TestAWriteIsKeptThatOnlyMetAWrongPassword(t *testing.T) {
	t.Parallel() // it waits more than it works
	for _, kind := range []string{"WRONGPASS", "NOAUTH"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			_, option := durable(t)
			var password func(*aside.Options)
			user := "default"
			if password = func(*aside.Options) {}; kind == "WRONGPASS" {
				user = "app"
				server.Do("ACL", "SETUSER", user, "on", ">old", "~*", "+@all")
				password = func(o *aside.Options) { o.Redis.Username, o.Redis.Password = user, "old" }
			}
			server.Do("ACL", "SETUSER", "admin", "on", ">secret", "~*", "+@all")
			c, ctx := newClient(t, server.Addr(), hasty, option, password), testContext(t)
			other, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr()}, Username: "admin", Password: "secret", DisableCache: true})
			require.NoError(t, err)
			defer other.Close()
			admin := func(args ...string) {
				t.Helper()
				require.NoError(t, other.Do(ctx, other.B().Arbitrary(args[0]).Args(args[1:]...).Build()).Error())
			}
			admin("ACL", "SETUSER", user, "resetpass", ">new")
			admin("CLIENT", "KILL", "USER", user)
			for i := range 20 {
				require.NoError(t, c.Set(ctx, time.Minute, fmt.Sprint("k", i), "v"), "kept, whichever comes first")
			}
			awaitMode(t, c, aside.Degraded)
			eventually(t, "it is said why", func() bool { return strings.Contains(fmt.Sprint(c.Health().Err), kind) })
			admin("ACL", "SETUSER", user, "nopass")
			awaitMode(t, c, aside.Healthy)
			eventually(t, "all are replayed", func() bool { return c.Stats().Pending == 0 })
			require.Equal(t, "v", server.Do("GET", "k0"))
		})
	}
}

func TestAServerThatRunsNoScriptsIsOfNoUseAndItIsSaid(t *testing.T) {
	for name, args := range map[string][]string{
		"EVALSHA renamed": {"--rename-command", "EVALSHA", "HIDDEN"},
		"EVAL renamed":    {"--rename-command", "EVAL", "HIDDEN"},
		"TIME renamed":    {"--rename-command", "TIME", "HIDDEN"},
		"no scripting":    {"--user", "default", "on", "nopass", "~*", "+@all", "-@scripting"},
		"no TIME":         {"--user", "default", "on", "nopass", "~*", "+@all", "-time"},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t, redistest.WithArgs(args...))
			var log logged
			c, ctx := newClient(t, server.Addr(), hasty, log.option, func(o *aside.Options) { o.RequireRedis = false }), testContext(t)
			require.Equal(t, aside.Degraded, c.Health().Mode)
			require.ErrorContains(t, c.Health().Err, "nothing can be cached")
			require.ErrorContains(t, c.Health().Err, "+evalsha")
			log.await(t, 1, "level=WARN", "nothing can be cached")
			db := newSource("v")
			for range 20 {
				value, err := c.Get(ctx, time.Minute, "k", db.Load)
				require.NoError(t, err)
				require.Equal(t, "v", value)
			}
			require.EqualValues(t, 1, db.Calls.Load(), "this process remembers it")

			_, err := aside.New(aside.Options{Redis: plain(server.Addr()), RequireRedis: true, ConnectTimeout: 100 * time.Millisecond, Logger: quiet})
			require.ErrorIs(t, err, aside.ErrRedisAway)
			require.ErrorContains(t, err, "nothing can be cached")
		})
	}

	t.Run("while it runs", func(t *testing.T) {
		server := redistest.Start(t)
		var log logged
		c, ctx := newClient(t, server.Addr(), hasty, log.option), testContext(t)
		require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
		server.Do("ACL", "SETUSER", "default", "-@scripting")
		awaitMode(t, c, aside.Degraded)
		require.ErrorContains(t, c.Health().Err, "nothing can be cached")
		log.await(t, 1, "level=WARN", "nothing can be cached")
		require.ErrorIs(t, c.Set(ctx, time.Minute, "k", "w"), aside.ErrNotDurable)
		server.Do("ACL", "SETUSER", "default", "+@all")
		eventually(t, "it is replayed", func() bool { return server.Do("GET", "k") == "w" })
		_, err := c.Get(context.Background(), time.Minute, "k", mustNotLoad)
		require.NoError(t, err)
	})
}

func TestAKeyThatRedisRefusesToReadIsSaidOnceAMinute(t *testing.T) {
	server := redistest.Start(t)
	for name, get := range map[string]func(ctx context.Context, c *aside.Client, db *source) error{
		"Get": func(ctx context.Context, c *aside.Client, db *source) error {
			value, err := c.Get(ctx, time.Minute, "a list", db.Load)
			if err == nil && value != "v" {
				err = fmt.Errorf("it is %q", value)
			}
			return err
		},
		"GetMulti": func(ctx context.Context, c *aside.Client, db *source) error {
			values, err := c.GetMulti(ctx, time.Minute, []string{"a list", "another"}, func(ctx context.Context, keys []string) (map[string]string, error) {
				db.Calls.Add(1)
				return map[string]string{"a list": "v", "another": "v"}, nil
			})
			if err == nil && values["a list"] != "v" {
				err = fmt.Errorf("it is %q", values)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			server.Do("DEL", "a list", "another")
			server.Do("LPUSH", "a list", "x")
			var log logged
			c, db := newClient(t, server.Addr(), log.option), newSource("v")
			for range 20 {
				require.NoError(t, get(testContext(t), c, db))
			}
			loads := 20
			if name == "GetMulti" {
				loads++ // at first, another is loaded too, under its lock, and so apart
			}
			require.EqualValues(t, loads, db.Calls.Load())
			log.await(t, 1, "level=WARN", "Redis refuses to read a key", `key="\"a list\""`, "WRONGTYPE")
			require.NoError(t, c.Close())
			require.Len(t, log.lines("Redis refuses to read a key"), 1)
		})
	}
}

// A server that takes no writes still answers hits; what is missing is loaded and not stored.
func TestHitsWorkOnAFullOrReadOnlyServer(t *testing.T) {
	for _, kind := range []string{"full", "read-only"} {
		t.Run(kind, func(t *testing.T) {
			server := redistest.Start(t)
			c, db, ctx := newClient(t, server.Addr()), newSource("loaded"), testContext(t)
			require.NoError(t, c.Set(ctx, time.Hour, "present", "v"))
			if kind == "full" {
				server.Do("CONFIG", "SET", "maxmemory", "1")
				t.Cleanup(func() { server.Do("CONFIG", "SET", "maxmemory", "0") })
			} else {
				server.Do("REPLICAOF", "127.0.0.1", "1") // nobody is there: a replica with the data that it had
				t.Cleanup(func() { server.Do("REPLICAOF", "NO", "ONE") })
			}
			value, err := c.Get(ctx, time.Hour, "present", mustNotLoad)
			require.NoError(t, err)
			require.Equal(t, "v", value)
			for range 2 {
				value, err = c.Get(ctx, time.Hour, "missing", db.Load)
				require.NoError(t, err)
				require.Equal(t, "loaded", value)
				if kind == "read-only" { // nothing can be locked, filled or set: that is an outage, and memory answers
					eventually(t, "that is noticed", func() bool { return !c.Stats().RedisConnected })
				}
				m, err := c.GetMulti(ctx, time.Hour, []string{"present", "missing too"}, db.LoadMany)
				require.NoError(t, err)
				require.Equal(t, map[string]string{"present": "v", "missing too": "loaded"}, m)
			}
			if kind == "full" {
				require.EqualValues(t, 4, db.Calls.Load())
			}
			err = c.Set(ctx, time.Hour, "k", "v")
			require.Error(t, err)
			require.Equal(t, kind == "read-only", errors.Is(err, aside.ErrRedisAway), "%v", err)
			require.Equal(t, kind == "full", c.Stats().RedisConnected, "an answer, if only no, is not an outage")
			if kind == "read-only" {
				server.Do("REPLICAOF", "NO", "ONE")
				eventually(t, "writes work again", func() bool { return c.Stats().RedisConnected && c.Stats().Pending == 0 })
				require.Equal(t, "v", server.Do("GET", "k"), "and the Set was replayed")
			}
		})
	}
}
