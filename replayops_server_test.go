package aside_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/stamp"
)

// keeper is a store of the user's own that keeps operations.
type keeper struct{ *fallback.Memory }

// A Redis that is full when the replay comes, or does not permit what it needs, does nothing of a list or
// its beginning, and the rest once when it can; wherever operations are kept, with stamps or without.
func TestOperationsWaitForARedisThatRefusesThem(t *testing.T) {
	t.Parallel()
	for name, setting := range map[string]func(*aside.Options){
		"directory":     func(*aside.Options) {},
		"memory":        func(o *aside.Options) { o.FallbackDir = "" },
		"own store":     func(o *aside.Options) { o.FallbackDir, o.Store = "", keeper{fallback.NewMemory(0)} },
		"without stamp": func(o *aside.Options) { o.DisableStamps = true },
	} {
		for what, commands := range map[string][2][]any{
			"full":                    {{"CONFIG", "SET", "maxmemory", "1"}, {"CONFIG", "SET", "maxmemory", "0"}},
			"in the middle of a list": {{"ACL", "SETUSER", "default", "-append"}, {"ACL", "SETUSER", "default", "+append"}},
			"at the ledger":           {{"ACL", "SETUSER", "default", "-hsetnx"}, {"ACL", "SETUSER", "default", "+hsetnx"}},
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				c, cut, heal := away(t, server, setting)
				ctx := testContext(t)
				server.Do("SET", "n", "100")
				cut()
				for _, ops := range [][]aside.Operation{{op("INCR"), op("APPEND", "0")}, {op("INCR")}} {
					if _, err := c.Apply(ctx, "n", ops, nil); !errors.Is(err, aside.ErrKept) {
						require.ErrorIs(t, err, aside.ErrNotDurable)
					}
				}
				server.Do(commands[0]...)
				heal(1)
				for range 2 { // each try finds the same
					eventually(t, "it was tried", func() bool { return c.Health().Replay.Report.Refused == 1 })
					cut()
					heal(1)
				}
				cut()
				server.Do(commands[1]...)
				heal()
				require.Equal(t, "1011", server.Do("GET", "n"))
				require.Zero(t, c.Stats().Rejected)
			})
		}
	}
}

// The server that takes over has the ledger as it has the data: it does what is left, and nothing twice.
// One that has lost both does all; one that has lost the ledger alone is not asked to guess.
func TestTheServerThatTakesOverDoesWhatIsLeft(t *testing.T) {
	t.Parallel()
	for what, want := range map[string]any{"it has both": "10", "it has lost what was done": "10", "it has lost the ledger": "1"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			first := redistest.Start(t, redistest.WithReplication())
			proxy := faultproxy.New(t, first.Addr())
			_, option := durable(t)
			c := newClient(t, proxy.Addr(), hasty, option)
			awaitMode(t, c, aside.Healthy)
			proxy.Refuse()
			awaitMode(t, c, aside.Degraded)
			_, err := c.Apply(testContext(t), "n", []aside.Operation{op("INCR"), op("APPEND", "0")}, nil)
			require.ErrorIs(t, err, aside.ErrKept)
			first.Do("ACL", "SETUSER", "default", "-append")
			proxy.Heal()
			eventually(t, "half of it is done", func() bool { return first.Do("GET", "n") == "1" && c.Health().Replay.Report.Refused == 1 })
			second := replicaOf(t, first)
			eventually(t, "the replica has it", func() bool { return second.Do("GET", "n") == "1" })
			second.Do("REPLICAOF", "NO", "ONE")
			entries := second.Do("HGETALL", stamp.Ledger("n")).([]any)
			require.Len(t, entries, 2)
			switch what {
			case "it has lost what was done": // the entry is as it was begun
				second.Do("DEL", "n")
				second.Do("HSET", stamp.Ledger("n"), entries[0], string(make([]byte, 20))+entries[1].(string)[20:])
			case "it has lost the ledger":
				second.Do("DEL", stamp.Ledger("n"))
			}
			proxy.SetUpstream(second.Addr())
			proxy.Reset()
			eventually(t, "all replayed", func() bool { return c.Stats().Pending == 0 })
			require.Equal(t, want, second.Do("GET", "n"))
			require.Equal(t, want == "1", c.Stats().Rejected == 1)
		})
	}
}
