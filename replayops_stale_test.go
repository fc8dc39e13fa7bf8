package aside_test

import (
	"iter"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/stamp"
)

// lateStore yields records of operations as they were at first: as they are for a replay that has read them
// before another one opened their lists, and waits for that.
type lateStore struct {
	fallback.Keeper
	first atomic.Pointer[[]fallback.Record]
}

func (s *lateStore) Records(op fallback.Op) iter.Seq[fallback.Record] {
	if op != fallback.OpOperations {
		return s.Keeper.Records(op)
	}
	all := slices.Collect(s.Keeper.Records(op))
	if len(all) > 0 && !s.first.CompareAndSwap(nil, &all) {
		all = *s.first.Load()
	}
	return slices.Values(all)
}

func TestAReplayKnowsOfAListThatWasOpenedSinceItWasRead(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, cut, heal := away(t, server, func(o *aside.Options) {
		o.FallbackDir, o.Store = "", &lateStore{Keeper: fallback.NewMemory(0)}
	})
	ctx := testContext(t)
	server.Do("ACL", "SETUSER", "default", "-append") // so that half of it is done
	cut()
	_, err := c.Apply(ctx, "n", []aside.Operation{op("INCR"), op("APPEND", "0")}, nil)
	require.ErrorIs(t, err, aside.ErrNotDurable)
	heal(1)
	eventually(t, "half of it", func() bool { return server.Do("GET", "n") == "1" && c.Health().Replay.Report.Refused == 1 })
	cut()
	server.Do("ACL", "SETUSER", "default", "+append")
	server.Do("DEL", stamp.Ledger("n"))
	heal()
	require.Equal(t, "1", server.Do("GET", "n"))
	require.EqualValues(t, 1, c.Stats().Rejected)
}

// An operation that Redis may not do, as its ACL is wrong, leaves the ledger at what was done before it,
// and is tried again.
func TestAnOperationThatIsNotPermittedRepeatsNoneBeforeIt(t *testing.T) {
	t.Parallel()
	for denied, second := range map[string]aside.Operation{"psetex": op("SET", "x", "PX", "100000"), "append": op("APPEND", "x")} {
		server := redistest.Start(t)
		c, cut, heal := away(t, server)
		cut()
		_, err := c.Apply(testContext(t), "n", []aside.Operation{op("INCR"), second}, nil)
		require.ErrorIs(t, err, aside.ErrKept)
		server.Do("ACL", "SETUSER", "default", "-"+denied)
		heal(1)
		eventually(t, "it was tried", func() bool { return c.Health().Replay.Report.Refused == 1 })
		cut()
		server.Do("ACL", "SETUSER", "default", "+"+denied)
		heal()
		require.Contains(t, server.Do("INFO", "commandstats"), "cmdstat_incrby:calls=1,")
		require.Contains(t, server.Do("GET", "n"), "x")
		require.Zero(t, c.Stats().Rejected)
	}
}
