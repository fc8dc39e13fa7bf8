package aside

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/stamp"
)

// replayed is what becomes of the record of a write at ms, in the name of client: of an addition, a Set or a Del.
func (b *replayBench) replayed(t *testing.T, op fallback.Op, ms int64, client, value string, number ...int64) fallback.Verdict {
	t.Helper()
	r := fallback.Record{Op: op, Key: b.key, Stamp: b.stamp(ms, client, append(number, 1)[0])}
	switch op {
	case fallback.OpOperations:
		r.Value = deferred.List{ID: r.Stamp, Ops: []deferred.Op{{Stamp: r.Stamp, Command: []string{"INCRBY", value}}}}.String()
	case fallback.OpSet:
		r.Value, r.Expires = value, b.now/1000+60_000
	case fallback.OpDel, fallback.OpFill:
	}
	outcome := replayer{Client: b.c, sh: b.sh}.askOfAllKinds(t.Context(), []*fallback.Record{&r}, time.Second)[0]
	require.NoError(t, outcome.Err)
	return outcome.Verdict
}

// An operation is done though a Del of another client is there, if nobody can tell which was later. The stamp that stays is the
// Del's, if that has the later time. It has to say that there is a value: else a Set or Del that was long before would take
// that for what a load has left, and delete it. (internal/sim/ledger found that.)
func TestAnOperationThatIsContestedSurvivesWhatWasLongBefore(t *testing.T) {
	b := newReplayBench(t)
	for _, before := range []fallback.Op{fallback.OpSet, fallback.OpDel} {
		b.key = "k" + string(before)
		require.Equal(t, fallback.Applied, b.replayed(t, fallback.OpDel, -1000, "cccc", ""))
		require.Equal(t, fallback.Applied, b.replayed(t, fallback.OpOperations, -1050, "bbbb", "5"))
		require.Equal(t, fallback.Superseded, b.replayed(t, before, -5000, "aaaa", "1"))
		require.Equal(t, "5", b.server.Do("GET", b.key))
		// What is later than both still replaces it.
		require.Equal(t, fallback.Applied, b.replayed(t, fallback.OpSet, -500, "dddd", "7"))
		require.Equal(t, "7", b.server.Do("GET", b.key))
	}
}

// The stamp of a Set that is contested with an operation has the later time of the two, which may be the operation's. Another
// operation is not dropped for that: it may be later than the Set. (internal/sim/ledger found that.)
func TestAnOperationIsNotDroppedForTheTimeOfAnother(t *testing.T) {
	b := newReplayBench(t)
	b.key = "k"
	require.Equal(t, fallback.Applied, b.replayed(t, fallback.OpOperations, -1000, "cccc", "5"))
	require.Equal(t, fallback.Deleted, b.replayed(t, fallback.OpSet, -1070, "bbbb", "1"))
	require.Equal(t, fallback.Applied, b.replayed(t, fallback.OpOperations, -1140, "aaaa", "3"), "within the margin of the Set")
	require.Equal(t, "3", b.server.Do("GET", b.key))
	require.Equal(t, fallback.Superseded, b.replayed(t, fallback.OpOperations, -1400, "eeee", "9"), "before the Set, by more than that")
	left, ok := stamp.ParseLeft(b.mark())
	require.True(t, ok)
	require.Positive(t, left.Ends)
}

// Nor for its number: the client that has done the one may keep the other, which it began before.
func TestAnOperationIsNotDroppedForTheNumberOfAnother(t *testing.T) {
	b := newReplayBench(t)
	b.key = "k"
	require.Equal(t, fallback.Applied, b.replayed(t, fallback.OpOperations, -1000, "cccc", "5", 2))
	require.Equal(t, fallback.Deleted, b.replayed(t, fallback.OpSet, -1030, "bbbb", "1"))
	require.Equal(t, fallback.Applied, b.replayed(t, fallback.OpOperations, -1010, "cccc", "3", 1))
	require.Equal(t, "3", b.server.Do("GET", b.key))
}

// A step of a replay that has had no answer may still be done, until its window is over. So long nothing else of the key is
// replayed: the step could come behind it. (internal/sim/ledger found that.)
func TestNothingOfAKeyIsReplayedWhileAStepWithoutAnAnswerMayBeDone(t *testing.T) {
	for _, step := range []string{"begin the list", "do what is left"} {
		t.Run(step, func(t *testing.T) {
			b := newReplayBench(t)
			b.key = "k"
			list := deferred.List{ID: b.stamp(-1000, "aaaa", 1), Opened: step != "begin the list"}
			list.Ops = []deferred.Op{{Stamp: list.ID, Command: []string{"INCRBY", "5"}}}
			operations := fallback.Record{Op: fallback.OpOperations, Key: b.key, Stamp: list.ID, Value: list.String()}
			nobodyWaits, cancel := context.WithCancel(t.Context())
			cancel()
			margin := func(*fallback.Record) int64 { return 0 }
			outcome := ledgers{b.c}.replayOperations(nobodyWaits, b.sh, []*fallback.Record{&operations}, margin)[0]
			require.Equal(t, fallback.NoAnswer, outcome.Verdict)
			u := &b.c.store.unanswered
			waitUntil := func(until int64) (was int64) {
				u.mu.Lock()
				defer u.mu.Unlock()
				was, u.until[b.key] = u.until[b.key], until
				return was
			}
			require.Positive(t, waitUntil(b.c.link.Now()+int64(time.Hour)))

			later := fallback.Record{Op: fallback.OpSet, Key: b.key, Stamp: b.stamp(-500, "aaaa", 2), Value: "7", Expires: b.now/1000 + 60_000}
			require.NoError(t, b.c.store.Put(t.Context(), later))
			replay := func() fallback.Outcome {
				return replayer{Client: b.c, sh: b.sh}.Replay(t.Context(), []fallback.Record{later})[0]
			}
			outcome = replay()
			require.Equal(t, fallback.NoAnswer, outcome.Verdict)
			require.ErrorIs(t, outcome.Err, errStepUnderWay)
			require.True(t, b.c.store.Pending(b.key))
			require.Nil(t, b.server.Do("GET", b.key))

			waitUntil(b.c.link.Now()) // it is over
			replay()                  // or the client's own has
			require.False(t, b.c.store.Pending(b.key))
			require.Equal(t, "7", b.server.Do("GET", b.key))
		})
	}
}
