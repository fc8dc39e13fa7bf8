package aside_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/vfs"
)

// watchedStore tells where a replay of operations is.
type watchedStore struct {
	fallback.Keeper
	reached func(point string)
}

func (w *watchedStore) Put(ctx context.Context, records ...fallback.Record) error {
	note := len(records) > 0 && strings.Contains(records[0].Value, `"opened": true`)
	if note {
		w.reached("before it is noted")
	}
	err := w.Keeper.Put(ctx, records...)
	if note {
		w.reached("when it is noted")
	}
	return err
}

func (w *watchedStore) Settle(records ...fallback.Record) {
	operations := len(records) > 0 && records[0].Op == fallback.OpOperations
	if operations {
		w.reached("before it is settled")
	}
	w.Keeper.Settle(records...)
	if operations {
		w.reached("when it is settled")
	}
}

// Close of a store whose process was killed says so.
func (w *watchedStore) Close(ctx context.Context) error { _ = w.Keeper.Close(ctx); return nil }

// ending is one run of a replay that ends somewhere.
type ending struct {
	t      *testing.T
	server *redistest.Server
	middle *middleman
	fsys   *vfs.Mem
	point  string // where
	what   string // how

	mu   sync.Mutex
	over bool // it has come to pass
	dead bool // the process has ended: nothing of it reaches Redis any more
	left *vfs.Mem
}

// reached is called where the replay is. It reports whether that is where it ends.
func (e *ending) reached(point string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over || point != e.point {
		return false
	}
	e.over = true
	switch e.what {
	case "the process is killed":
		e.dead, e.left = true, e.fsys.Kill()
	case "Redis is killed":
		e.server.RestartKeepingData()
	case demotion:
		e.server.Do("REPLICAOF", "127.0.0.1", "1") // of nobody, so it keeps its data
	}
	return true
}

// demotion makes the primary a replica, which refuses all that changes anything.
const demotion = "the primary becomes a replica"

const gone = "-LOADING it is gone\r\n"

// answer stands between the client and Redis: what is lost there the client takes for not done.
func (e *ending) answer(command []string) (string, bool) {
	e.mu.Lock()
	dead := e.dead
	e.mu.Unlock()
	if dead {
		return gone, true
	}
	name := ""
	for _, arg := range command[1:min(2, len(command))] {
		switch arg {
		case script.Ledger.SHA(), script.Ledger.Text():
			name = "the ledger is begun"
		case script.Operate.SHA(), script.Operate.Text():
			name = "they are done"
		}
	}
	if name == "" {
		return "", false
	}
	if e.reached("before " + name) {
		return gone, true
	}
	e.mu.Lock()
	here := !e.over && e.point == "when "+name
	e.mu.Unlock()
	if here {
		args := make([]any, len(command))
		for i, arg := range command {
			args[i] = arg
		}
		if _, err := e.server.TryDo(args...); err != nil { // it does not know the script yet
			return "", false
		}
		e.reached("when " + name)
		return gone, true
	}
	return "", false
}

func (e *ending) client(fsys *vfs.Mem, addr string) *aside.Client {
	e.t.Helper()
	dir, err := fallback.OpenFS(fsys, fallback.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(e.t, err)
	return newClient(e.t, addr, hasty, func(o *aside.Options) {
		o.Store = &watchedStore{dir, func(point string) { e.reached(point) }}
	})
}

func (e *ending) run() {
	t, ctx := e.t, testContext(e.t)
	e.server.Do("SET", "n", "100")
	e.server.Do("RPUSH", "l", "old")
	c := e.client(e.fsys, e.middle.Addr())
	awaitMode(t, c, aside.Healthy)
	e.middle.set(func() { e.middle.answer = func([]string) (string, bool) { return gone, true } })
	awaitMode(t, c, aside.Degraded)
	keep := func(key string, ops ...aside.Operation) {
		t.Helper()
		_, err := c.Apply(ctx, key, ops, nil)
		require.ErrorIs(t, err, aside.ErrKept)
	}
	keep("n", op("INCR"))
	keep("n", op("INCRBY", "10"))
	keep("l", op("RPUSH", "a"), op("RPUSH", "b"))
	keep("s", op("DEL"), op("SADD", "m"))
	keep("h", op("HINCRBY", "f", "5"))
	e.middle.set(func() { e.middle.answer = e.answer })
	eventually(t, "the end of it", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.over
	})
	e.mu.Lock()
	left := e.left
	e.mu.Unlock()
	if left != nil {
		c = e.client(left, e.server.Addr())
	}
	if e.what == demotion {
		awaitMode(t, c, aside.Degraded)
		e.server.Do("REPLICAOF", "NO", "ONE")
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%+v\n%+v", c.Health(), c.Stats())
		}
	})
	eventually(t, "all replayed", func() bool { return c.Stats().Pending == 0 && c.Health().Mode == aside.Healthy })
	require.Zero(t, c.Stats().Rejected)
	require.Equal(t, "111", e.server.Do("GET", "n"))
	require.Equal(t, []any{"old", "a", "b"}, e.server.Do("LRANGE", "l", 0, -1))
	require.Equal(t, []any{"m"}, e.server.Do("SMEMBERS", "s"))
	require.Equal(t, "5", e.server.Do("HGET", "h", "f"))
}

// The table of docs/adr/0016: wherever the replay of operations ends, and whatever ends it, the next one
// does what is left, and nothing twice.
func TestEachOperationIsDoneOnceWhereverItEnds(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"the process is killed", "Redis is killed", demotion, "an answer is lost"} {
		for _, point := range []string{
			"before the ledger is begun", "when the ledger is begun", "before it is noted", "when it is noted",
			"before they are done", "when they are done", "before it is settled", "when it is settled",
		} {
			if what == "an answer is lost" && !strings.Contains(point, "the") {
				continue
			}
			t.Run(fmt.Sprint(what, " ", point), func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				for _, s := range []*script.Script{script.Ledger, script.Operate} {
					server.Do("SCRIPT", "LOAD", s.Text())
				}
				e := &ending{t: t, server: server, middle: newMiddleman(t, server.Addr()), fsys: vfs.NewMem(), point: point, what: what}
				e.run()
			})
		}
	}
}
