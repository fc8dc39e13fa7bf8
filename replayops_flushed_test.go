package aside

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/stamp"
)

// flushedBench is a bench whose client has noticed a flush that has taken nothing along: the key that a flush is noticed by was evicted.
func flushedBench(t *testing.T) (*replayBench, *link.Flush) {
	b := newReplayBench(t, func(o *Options) { o.RedisTimeout = time.Second })
	b.key = "k"
	b.server.Do("DEL", "aside:probe:made")
	b.server.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	require.Eventually(t, func() bool { return b.sh.Flushed() != nil }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return b.sh.Asks() }, 10*time.Second, time.Millisecond)
	return b, b.sh.Flushed()
}

// own is the stamp of this client's nth operation behind the notice of flush, or before it: a second and a microsecond behind
// the one before, or at once with it.
func (b *replayBench) own(flush *link.Flush, n int64, atOnce bool) string {
	apart := int64(time.Second / time.Microsecond)
	if atOnce {
		apart = 1
	}
	return stamp.Stamp{Micros: b.now - 10_000_000 + n*apart, Client: b.c.stamps.Client(), Number: flush.Mark + n}.String()
}

func (b *replayBench) operations(stamps []string, commands ...[]string) *fallback.Record {
	l := deferred.List{ID: stamps[0]}
	for i, command := range commands {
		l.Ops = append(l.Ops, deferred.Op{Stamp: stamps[i], Command: command})
	}
	return &fallback.Record{Op: fallback.OpOperations, Key: b.key, Stamp: l.Last(), Value: l.String()}
}

// A pass that ended before its answer has left in the ledger which operations Redis has refused. What a flush has taken along since
// is not put aside, and the others are done.
func TestARefusalOfWhatAFlushHasTakenAlongIsNobodys(t *testing.T) {
	t.Parallel() // it waits more than it works
	b, flush := flushedBench(t)
	b.server.Do("SET", b.key, "text")
	r := b.operations([]string{b.own(flush, 0, false), b.own(flush, 1, false)}, []string{"INCRBY", "1"}, []string{"APPEND", "3"})
	margin := func(*fallback.Record) int64 { return 0 }
	first := ledgers{b.c}.replayOperations(t.Context(), b.sh, []*fallback.Record{r}, margin)[0]
	require.Equal(t, fallback.Rejected, first.Verdict, "the answer that is lost: %v", first.Err)
	require.Equal(t, "text3", b.server.Do("GET", b.key))
	rejected := b.c.Stats().Rejected

	l, err := deferred.Parse(r.Value)
	require.NoError(t, err)
	l.Opened = true
	r.Value = l.String()
	again := replayer{Client: b.c, sh: b.sh}.askOfAllKinds(t.Context(), []*fallback.Record{r}, time.Second)[0]
	require.Equal(t, fallback.Applied, again.Verdict, "%v", again.Err)
	require.Equal(t, rejected, b.c.Stats().Rejected)
	require.Equal(t, "text3", b.server.Do("GET", b.key), "once")
}

// A Set that a flush has taken along is a delete, wherever it stands among operations, and however close those behind it came.
func TestASetThatAFlushHasTakenAlongIsADeleteAmongOperations(t *testing.T) {
	t.Parallel() // it waits more than it works
	b, flush := flushedBench(t)
	set := []string{"SET", "1", "PXAT", "4102444800000"}
	for name, r := range map[string]*fallback.Record{
		"in front":         b.operations([]string{b.own(flush, 0, false), b.own(flush, 1, false)}, set, []string{"APPEND", "3"}),
		"at once":          b.operations([]string{b.own(flush, 0, true), b.own(flush, 1, true)}, set, []string{"APPEND", "3"}),
		"behind another":   b.operations([]string{b.own(flush, -1, false), b.own(flush, 0, false), b.own(flush, 1, false)}, []string{"APPEND", "2"}, set, []string{"APPEND", "3"}),
		"before another":   b.operations([]string{b.own(flush, -1, false), b.own(flush, 0, false), b.own(flush, 1, false)}, set, []string{"APPEND", "2"}, []string{"APPEND", "3"}),
		"of a deleted key": b.operations([]string{b.own(flush, 0, false), b.own(flush, 1, false)}, []string{"DEL"}, []string{"APPEND", "3"}),
	} {
		r.Key = name
		b.server.Do("SET", name, "old")
		outcome := replayer{Client: b.c, sh: b.sh}.askOfAllKinds(t.Context(), []*fallback.Record{r}, time.Second)[0]
		require.Equal(t, fallback.Applied, outcome.Verdict, "%s: %v", name, outcome.Err)
		require.Equal(t, "3", b.server.Do("GET", name), name)
	}
}

// And where nothing is left of them: a delete, as a Set alone would be.
func TestASetThatAFlushHasTakenAlongWithAllThatCameBehindItIsADelete(t *testing.T) {
	t.Parallel() // it waits more than it works
	b, flush := flushedBench(t)
	set := []string{"SET", "1", "PXAT", "4102444800000"}
	early, late := b.own(flush, -1, false), b.own(flush, 0, false)
	for name, row := range map[string]struct {
		r       *fallback.Record
		verdict fallback.Verdict
		left    any
	}{
		"set":           {b.operations([]string{early, late}, set, []string{"APPEND", "3"}), fallback.Applied, nil},
		"deleted":       {b.operations([]string{early, late}, []string{"DEL"}, []string{"APPEND", "3"}), fallback.Applied, nil},
		"in the middle": {b.operations([]string{b.own(flush, -2, false), early, late}, []string{"APPEND", "0"}, set, []string{"APPEND", "3"}), fallback.Applied, nil},
		"changed":       {b.operations([]string{early, late}, []string{"APPEND", "1"}, []string{"APPEND", "3"}), fallback.Superseded, "old"},
	} {
		row.r.Key = name
		b.server.Do("SET", name, "old")
		outcome := replayer{Client: b.c, sh: b.sh}.askOfAllKinds(t.Context(), []*fallback.Record{row.r}, time.Second)[0]
		require.Equal(t, row.verdict, outcome.Verdict, "%s: %v", name, outcome.Err)
		require.Equal(t, row.left, b.server.Do("GET", name), name)
	}
}
