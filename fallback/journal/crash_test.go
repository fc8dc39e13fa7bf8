package journal

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/vfs"
)

// ledger is what the users of a journal know about it.
type ledger struct {
	mu        sync.Mutex
	attempted map[string]Record // by stamp, which is unique
	acked     map[string]uint64 // their numbers
	mode      Sync
	faulty    bool   // calls have failed, and the machine did not stop
	durable   uint64 // what was acknowledged up to this number survives a loss of power
	dropped   uint64 // what has up to this number may be gone
}

// scenario is a life of a journal: several writers, settles, rotations, a Drop, Close. heal is
// called before the last Append, which has to succeed if the machine still runs then.
func scenario(t *testing.T, m *vfs.Mem, mode Sync, heal func()) *ledger {
	l := &ledger{mode: mode, attempted: make(map[string]Record), acked: make(map[string]uint64)}
	j, _, err := Open(m, journalDir, Options{Sync: mode, PartBytes: 3000}, func(Record) error { return nil })
	if err != nil {
		return l
	}
	draw := rand.New(rand.NewPCG(1, 2))
	serial := 0
	next := func(op Op) Record {
		serial++
		r := Record{Op: op, DB: serial / 5 % 3, Key: fmt.Sprintf("key\r\n%d", serial), Stamp: fmt.Sprintf("%s-%d", string(op), serial)}
		switch op {
		case Set:
			r.Value, r.Expires = strings.Repeat("#aside 1 \r\n", draw.IntN(130)), int64(serial)
		case Settle:
			r.KeyHash = HashKey(r.Key)
			r.Key = ""
		}
		l.attempted[r.Stamp] = r
		return r
	}
	write := func(writers, each int) {
		var all sync.WaitGroup
		for w := range writers {
			var batches [][]Record
			for i := range each {
				batch := []Record{next(Set)}
				if (w+i)%3 == 0 {
					batch = append(batch, next(Del), next(Set))
				}
				batches = append(batches, batch)
			}
			all.Go(func() {
				for _, batch := range batches {
					if j.Append(t.Context(), batch...) != nil {
						continue
					}
					l.mu.Lock()
					for _, r := range batch {
						l.acked[r.Stamp] = r.Seq
						if mode == Always {
							l.durable = max(l.durable, r.Seq)
						}
					}
					l.mu.Unlock()
				}
			})
		}
		all.Wait()
	}
	rest := func() { // long enough for an fsync in mode EverySecond, unless the disk refuses
		mark := j.Mark()
		time.Sleep(syncInterval + syncInterval/2)
		synctest.Wait()
		if mode == EverySecond && !j.isSyncing() {
			l.durable = mark
		}
	}

	write(3, 3)
	rest()
	j.AppendLazily(next(Settle))
	mark := j.Mark()
	write(2, 3)
	_ = j.Rotate()
	j.AppendLazily(next(Settle), next(Settle))
	write(3, 2)
	rest()
	l.dropped = mark
	_ = j.Drop(mark)
	write(2, 2)
	heal()
	last := next(Set)
	if err := j.Append(t.Context(), last); err == nil {
		l.acked[last.Stamp] = j.Mark()
		if mode == Always {
			l.durable = j.Mark()
		}
	} else {
		require.ErrorIs(t, err, vfs.ErrStopped)
	}
	if err := j.Close(context.Background()); err == nil {
		l.durable = j.Mark()
	}
	return l
}

// check opens what is left and compares it with what was promised: what has a number up to survives
// must be there.
func (l *ledger) check(t *testing.T, m *vfs.Mem, survives uint64, strict bool, what string) {
	j := reopen(t, m, Options{})
	have := make(map[string]bool)
	var last uint64
	for _, r := range j.records {
		require.Greater(t, r.Seq, last, "%s: in order", what)
		last = r.Seq
		want, ok := l.attempted[r.Stamp]
		require.True(t, ok, "%s: nobody wrote %q", what, r.Stamp)
		if seq, ok := l.acked[r.Stamp]; ok {
			require.Equal(t, seq, r.Seq, what)
		}
		want.Seq = r.Seq
		require.Equal(t, want, r, "%s: whole", what)
		have[r.Stamp] = true
	}
	for stamp, seq := range l.acked {
		if seq > l.dropped && seq <= survives {
			require.True(t, have[stamp], "%s: %s with number %d was acknowledged and is lost; there are %v", what, stamp, seq, slices.Sorted(maps.Keys(have)))
		}
	}
	require.NoError(t, join(j.report.Problems), what)
	if strict && (!l.faulty || l.mode != OS) { // in mode OS, what cannot be written or synced is not written elsewhere
		require.Empty(t, j.report.Damages, what)
		require.Empty(t, j.report.Gaps, what)
	}

	// And it goes on from there.
	j.set("after")
	n := len(j.records)
	require.NoError(t, j.Close(context.Background()), what)
	if m = m.Kill(); !l.faulty { // what an fsync has failed on may be seen now and be gone later
		m = m.Crash(0)
	}
	again := reopen(t, m, Options{})
	require.Len(t, again.records, n+1, what)
	require.Equal(t, append([]Record{}, j.records...), again.records[:n], what)
	require.Empty(t, again.report.Damages, what)
	require.Nil(t, again.report.Torn, what)
	require.NoError(t, again.Close(context.Background()), what)
}

func join(errs []error) error {
	for _, err := range errs {
		return err
	}
	return nil
}

const everything = ^uint64(0)

// after are the ways in which the story ends.
func after(n int) []func(t *testing.T, l *ledger, m *vfs.Mem, what string) {
	ways := []func(t *testing.T, l *ledger, m *vfs.Mem, what string){
		func(t *testing.T, l *ledger, m *vfs.Mem, what string) {
			l.check(t, m.Kill(), everything, false, "kill, "+what)
		},
		func(t *testing.T, l *ledger, m *vfs.Mem, what string) {
			l.check(t, m.Crash(0), l.durable, true, "loss of power, "+what)
		},
	}
	seeds := 2
	if testing.Short() {
		seeds = 1
	}
	for i := range seeds {
		seed := uint64(n*seeds+i) + 1
		ways = append(ways, func(t *testing.T, l *ledger, m *vfs.Mem, what string) {
			l.check(t, m.Crash(seed), l.durable, false, fmt.Sprintf("loss of power with seed %d, %s", seed, what))
		})
	}
	return ways
}

func TestTheScenarioCoversWhatItShould(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		l := scenario(t, m, Always, func() {})
		require.Len(t, l.acked, len(l.attempted)-3, "all but the settles")
		require.Positive(t, l.dropped)
		j := reopen(t, m, Options{})
		require.Greater(t, j.report.Parts, 3)
		require.NoError(t, j.Close(t.Context()))
		l.check(t, m, everything, true, "no accident")
	})
}

func TestTheMachineStopsBeforeAnyCall(t *testing.T) {
	t.Parallel()
	for _, mode := range []Sync{Always, EverySecond, OS} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			t.Parallel()
			for n, reached := 1, true; reached && !t.Failed(); n++ {
				for _, way := range after(n) {
					synctest.Test(t, func(t *testing.T) {
						m := vfs.NewMem()
						m.CutAt(n)
						l := scenario(t, m, mode, func() {})
						reached = m.Calls() >= n
						way(t, l, m, fmt.Sprintf("mode %d before call %d", mode, n))
					})
				}
			}
		})
	}
}

func TestTheDiskFailsAtAnyCall(t *testing.T) {
	t.Parallel()
	faults := []vfs.Fault{
		vfs.FaultIO,
		vfs.FaultNoSpace,
		{Err: syscall.EIO, Sticky: true},
		{Err: syscall.ENOSPC, Sticky: true},
		{Err: syscall.EIO, On: vfs.CallSync | vfs.CallSyncDir},
		{Err: syscall.EIO, On: vfs.CallSync, Sticky: true},
		{Err: syscall.ENOSPC, On: vfs.CallWrite | vfs.CallTruncate, Sticky: true},
	}
	for _, mode := range []Sync{Always, EverySecond, OS} {
		for i, fault := range faults {
			t.Run(fmt.Sprint(mode, i), func(t *testing.T) {
				t.Parallel()
				for n, reached := 1, true; reached && !t.Failed(); n++ {
					ways := after(n)
					for w, way := range ways {
						if w != n%len(ways) && w != (n+i)%len(ways) { // in time, all
							continue
						}
						synctest.Test(t, func(t *testing.T) {
							m := vfs.NewMem()
							m.FailAt(n, fault)
							l := scenario(t, m, mode, m.Heal)
							l.faulty = true
							reached = m.Calls() >= n
							way(t, l, m, fmt.Sprintf("mode %d fault %d at call %d", mode, i, n))
						})
					}
				}
			})
		}
	}
}

// The second loss of power comes while the journal recovers from the first.
func TestTheMachineStopsAgainWhileItRecovers(t *testing.T) {
	for n := 5; n < 70; n += 3 {
		for again, reached := 1, true; reached && !t.Failed(); again++ {
			synctest.Test(t, func(t *testing.T) {
				m := vfs.NewMem()
				m.CutAt(n)
				l := scenario(t, m, Always, func() {})
				m = m.Crash(uint64(n))
				m.CutAt(again)
				j, _, err := Open(m, journalDir, Options{}, func(Record) error { return nil })
				if err == nil {
					_ = j.Append(t.Context(), set("never"))
					_ = j.Close(context.Background())
				}
				l.attempted["stamp-never"] = set("never")
				reached = m.Calls() >= again
				l.check(t, m.Crash(uint64(again%2*again)), l.durable, false, fmt.Sprintf("before call %d, then before call %d", n, again))
			})
		}
	}
}
