package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/vfs"
)

func TestAppendTellsTheNumbers(t *testing.T) {
	j := open(t, vfs.NewMem(), Options{})
	records := []Record{set("a"), set("b")}
	require.NoError(t, j.Append(t.Context(), records...))
	assert.Equal(t, uint64(1), records[0].Seq)
	assert.Equal(t, uint64(2), records[1].Seq)
	assert.Equal(t, uint64(2), j.Mark())
	require.NoError(t, j.Append(t.Context()), "nothing is fine, too")
	assert.Equal(t, uint64(2), j.Mark())
}

func TestAppendRefusesWhatCannotBeRead(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{MaxRecordBytes: 1000})
	require.ErrorIs(t, j.Append(t.Context(), set("a"), Record{Op: Set}), ErrInvalid)
	require.ErrorIs(t, j.Append(t.Context(), Record{Op: Set, Value: strings.Repeat("x", 1000), Expires: 1, Stamp: "s"}), ErrTooLarge)
	j.AppendLazily(Record{Op: Settle})
	j.AppendLazily()
	require.NoError(t, j.Close(t.Context()))
	assert.Empty(t, parts(t, m))
}

func TestAppendsAtTheSameTimeShareOneFsync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		j := open(t, m, Options{})
		j.set("first")
		m.Hang()
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() { assert.NoError(t, j.Append(context.Background(), set(fmt.Sprint(i)))) })
			if i == 0 {
				m.AwaitHung() // the others wait in the queue
			}
		}
		synctest.Wait()
		before := m.Calls()
		m.Unhang()
		all.Wait()
		assert.Equal(t, 4, m.Calls()-before, "write and fsync of the first, write and fsync of the 99")
		assert.Equal(t, uint64(101), j.Mark())
	})
}

func TestAContextEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		j := open(t, m, Options{})
		j.set("a")

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		err := j.Append(ended, set("never"))
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "nothing was written")

		m.Hang()
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var both sync.WaitGroup
		both.Go(func() { // is being written
			err := j.Append(soon, set("perhaps"))
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.ErrorContains(t, err, "may or may not")
		})
		m.AwaitHung()
		both.Go(func() { // waits for that
			err := j.Append(soon, set("not"))
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.ErrorContains(t, err, "nothing was written")
		})
		both.Wait()
		m.Unhang()
		j.set("b")
		assert.Equal(t, "a perhaps b", j.again(Options{}).keys())
	})
}

// What waits behind a Drop whose disk hangs has been taken from the queue: who leaves it must not let another have its
// memory.
func TestWhoLeavesARecordBehindLeavesItsMemory(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{})
	j.set("a")
	m.Hang()
	var dropped sync.WaitGroup
	dropped.Go(func() { assert.NoError(t, j.Drop(j.Mark())) })
	m.AwaitHung()
	await := func(committing bool, queued int) {
		for there := false; !there; runtime.Gosched() {
			j.mu.Lock()
			there = j.committing == committing && len(j.queue) == queued
			j.mu.Unlock()
		}
	}
	leave := func(key string, queued int) {
		ctx, cancel := context.WithCancel(t.Context())
		var left sync.WaitGroup
		left.Go(func() { assert.ErrorIs(t, j.Append(ctx, set(key)), context.Canceled) })
		await(true, queued)
		cancel()
		left.Wait()
	}
	await(false, 0)
	leave("perhaps", 0)
	for range 100 { // one of them would get what the first has had
		leave("not", 1)
	}
	m.Unhang()
	dropped.Wait()
	j.set("b")
	assert.Equal(t, "perhaps b", j.again(Options{}).keys())
}

func TestCloseDoesNotWaitLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		j := reopen(t, m, Options{Sync: OS})
		j.set("a", "b")
		m.Hang()
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := j.Close(soon)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "the disk has not answered")
		require.ErrorIs(t, j.Close(soon), context.DeadlineExceeded)
		m.Unhang()
		require.NoError(t, j.Close(t.Context()), "it was only a matter of time")
		require.NoError(t, j.Close(soon), "and it is still so")
		assert.Equal(t, "a b", reopen(t, m.Crash(0), Options{}).keys())
	})
}

func TestAClosedJournalTakesNothing(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{})
	j.set("a")
	size := j.Size()
	require.NoError(t, j.Close(t.Context()))
	require.ErrorIs(t, j.Append(t.Context(), set("b")), ErrClosed)
	j.AppendLazily(set("c"))
	require.ErrorIs(t, j.Rotate(), ErrClosed)
	require.ErrorIs(t, j.Drop(1), ErrClosed)
	assert.Equal(t, uint64(1), j.Mark())
	assert.Equal(t, size, j.Size())
	require.NoError(t, j.Close(t.Context()))
}

func TestCloseWritesWhatIsInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		j := open(t, m, Options{})
		j.set("a")
		m.Hang()
		var all sync.WaitGroup
		for _, key := range []string{"b", "c"} {
			all.Go(func() { assert.NoError(t, j.Append(t.Context(), set(key))) })
			m.AwaitHung()
			synctest.Wait()
		}
		j.AppendLazily(settle("a"))
		all.Go(func() { assert.NoError(t, j.Close(t.Context())) })
		synctest.Wait()
		m.Unhang()
		all.Wait()
		assert.Equal(t, "a b c x", reopen(t, m.Crash(0), Options{}).keys())
	})
}

func TestASettleDoesNotWaitAndIsNotSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		j := open(t, m, Options{})
		j.set("a", "b")
		before := m.Calls()
		j.AppendLazily(settle("a"))
		synctest.Wait()
		assert.Equal(t, 1, m.Calls()-before, "one write")
		m.Hang()
		j.AppendLazily(settle("b")) // does not wait
		synctest.Wait()
		m.Unhang()
		synctest.Wait()
		kept := m.Kill()
		kept = kept.Crash(0)
		assert.Equal(t, "a b", reopen(t, kept, Options{}).keys(), "never synced")
	})
}

func TestASettleBecomesDurableWithWhatFollows(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{})
	j.set("a")
	j.AppendLazily(settle("a"))
	j.set("b")
	assert.Equal(t, "a x b", reopen(t, m.Crash(0), Options{}).keys())
}

func TestSettlesForADiskThatHangsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		j := open(t, m, Options{})
		j.set("a")
		m.Hang()
		j.AppendLazily(settle("a"))
		m.AwaitHung()
		settles := make([]Record, 1000)
		for i := range settles {
			settles[i] = settle("a")
		}
		for range 100 {
			j.AppendLazily(settles...)
		}
		j.mu.Lock()
		waiting := j.lazyBytes
		j.mu.Unlock()
		assert.LessOrEqual(t, waiting, int64(maxLazy))
		m.Unhang()
		j.set("b")
		j.mu.Lock()
		assert.Zero(t, j.lazyBytes)
		j.mu.Unlock()
		assert.Contains(t, j.again(Options{}).keys(), "a x x x")
	})
}

func TestAFullDiskFailsTheWriterAndNothingElse(t *testing.T) {
	for _, fault := range []vfs.Fault{vfs.FaultNoSpace, vfs.FaultIO} {
		m := vfs.NewMem()
		j := open(t, m, Options{})
		j.set("a")
		before := readFile(t, m, part1)
		fault.On = vfs.CallWrite
		m.FailAt(1, fault)
		require.ErrorIs(t, j.Append(t.Context(), set("b"), set("c"), set("d")), fault.Err)
		assert.Equal(t, before, readFile(t, m, part1), "what was written of it is cut off")
		assert.Equal(t, int64(len(before)), j.Size())
		assert.Equal(t, uint64(1), j.Mark())
		j.set("e")
		assert.Equal(t, uint64(5), j.Mark(), "2 to 4 may have been on the disk")
		again := reopen(t, m.Crash(0), Options{})
		assert.Equal(t, "a e", again.keys())
		assert.Empty(t, again.report.Gaps, "and are not missing")
		assert.Equal(t, 1, again.report.Parts)
	}
}

func TestADiskThatIsFullFromTheBeginningIsLeftEmpty(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{})
	for _, call := range []vfs.Call{vfs.CallCreate, vfs.CallWrite} {
		m.FailAt(1, vfs.Fault{Err: syscall.ENOSPC, On: call})
		require.ErrorIs(t, j.Append(t.Context(), set("a")), syscall.ENOSPC)
		assert.Empty(t, parts(t, m))
		assert.Zero(t, j.Size())
	}
	j.set("b")
	assert.Equal(t, "b", j.again(Options{}).keys())
}

func TestAPartThatCannotBeCutIsNotWrittenToAnyMore(t *testing.T) {
	m := vfs.NewMem()
	j := reopen(t, m, Options{})
	j.set("a")
	m.FailAt(1, vfs.Fault{Err: syscall.ENOSPC, On: vfs.CallWrite})
	m.FailAt(1, vfs.Fault{Err: syscall.EIO, On: vfs.CallTruncate})
	err := j.Append(t.Context(), set("b"), set("c"))
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorIs(t, err, syscall.EIO)
	broken := len(readFile(t, m, part1))
	assert.Greater(t, int64(broken), j.Size())
	j.set("d")
	assert.Len(t, parts(t, m), 2)
	assert.Less(t, len(readFile(t, m, part1)), broken, "once all is elsewhere, it is cut after all")
	require.NoError(t, j.Close(t.Context()))
	again := open(t, m, Options{})
	assert.Equal(t, "a d", again.keys())
	assert.Empty(t, again.report.Damages)
}

func TestWhatAFailedFsyncWasToCoverIsWrittenToANewPart(t *testing.T) {
	for _, call := range []vfs.Call{vfs.CallSync, vfs.CallSyncDir} {
		for _, first := range []bool{true, false} { // the first record of a part
			m := vfs.NewMem()
			j := reopen(t, m, Options{})
			if !first {
				j.set("a")
				j.AppendLazily(settle("a"))
				if call == vfs.CallSyncDir {
					continue // of a directory there is one sync per part
				}
			}
			m.FailAt(1, vfs.Fault{Err: syscall.EIO, On: call})
			require.NoError(t, j.Append(t.Context(), set("b"), set("c")))
			j.set("d")
			assert.Equal(t, j.Size(), sizeOf(t, m))
			m = m.Crash(0)
			again := open(t, m, Options{})
			want := "b c d"
			if !first {
				want = "a x b c d"
			}
			assert.Equal(t, want, again.keys())
			assert.Empty(t, again.report.Damages)
			assert.Empty(t, again.report.Gaps)
			require.NoError(t, j.Close(context.Background()))
		}
	}
}

func TestAFileWhoseFsyncHasFailedIsNeverSyncedAgain(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{})
	j.set("a")
	m.FailAt(1, vfs.Fault{Err: syscall.EIO, On: vfs.CallSync, Sticky: true})
	before := readFile(t, m, part1)
	require.ErrorIs(t, j.Append(t.Context(), set("b")), syscall.EIO)
	assert.Equal(t, []string{"0000000000000001.aof"}, parts(t, m), "what holds nothing that was promised is removed")
	assert.Equal(t, before, readFile(t, m, part1), "and what was not acknowledged is cut off")
	require.ErrorIs(t, j.Append(t.Context(), set("c")), syscall.EIO)
	m.Heal()
	j.set("d")
	assert.Len(t, parts(t, m), 2)
	again := reopen(t, m.Crash(0), Options{})
	assert.Equal(t, "a d", again.keys())
	assert.Empty(t, again.report.Gaps)
}

func TestSizeIsWhatIsOnTheDisk(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{PartBytes: 400})
	for i := range 20 {
		if i%3 == 0 {
			m.FailAt(1, vfs.Fault{Err: syscall.EIO, On: []vfs.Call{vfs.CallSync, vfs.CallWrite, vfs.CallSyncDir}[i/3%3]})
		}
		_ = j.Append(t.Context(), set(fmt.Sprint(i)))
		require.Equal(t, sizeOf(t, m), j.Size(), i)
	}
	m.Heal()
	require.NoError(t, j.Drop(j.Mark()/2))
	require.Equal(t, sizeOf(t, m), j.Size())
	j = j.again(Options{})
	require.Equal(t, sizeOf(t, m), j.Size())
}

func sizeOf(t *testing.T, m *vfs.Mem) (size int64) {
	t.Helper()
	for _, name := range parts(t, m) {
		size += int64(len(readFile(t, m, journalDir+"/"+name)))
	}
	return size
}

func TestPartsAreRotated(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{PartBytes: 300})
	j.set("a", "b", "c", "d", "e", "f", "g")
	assert.Equal(t, []string{"0000000000000001.aof", "0000000000000004.aof", "0000000000000007.aof"}, parts(t, m))
	require.NoError(t, j.Rotate())
	assert.Len(t, parts(t, m), 3, "there is nothing to write yet")
	j.set("h", "i")
	assert.Len(t, parts(t, m), 4)
	assert.Equal(t, "a b c d e f g h i", j.again(Options{}).keys())
}

func TestDropRemovesWhatIsCoveredAndNoMore(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{PartBytes: 300})
	j.set("a", "b", "c", "d", "e", "f", "g")
	require.NoError(t, j.Drop(2))
	assert.Len(t, parts(t, m), 3, "1 to 3 are in one part")
	require.NoError(t, j.Drop(3))
	assert.Equal(t, []string{"0000000000000004.aof", "0000000000000007.aof"}, parts(t, m))
	require.NoError(t, j.Drop(6))
	assert.Equal(t, []string{"0000000000000007.aof"}, parts(t, m))
	j.set("h")
	require.NoError(t, j.Drop(7))
	assert.Equal(t, []string{"0000000000000007.aof"}, parts(t, m), "8 is in it")
	require.NoError(t, j.Drop(8))
	assert.Empty(t, parts(t, m))
	assert.Zero(t, j.Size())
	assert.Empty(t, parts(t, m.Kill().Crash(0)), "durably")
}

func TestAfterDropNumbersGoOn(t *testing.T) {
	j := open(t, vfs.NewMem(), Options{})
	j.set("a")
	require.NoError(t, j.Drop(j.Mark()))
	j.set("b")
	require.NoError(t, j.Drop(j.Mark()-1))
	again := j.again(Options{})
	assert.Equal(t, "b", again.keys())
	assert.Equal(t, uint64(2), again.records[0].Seq)
}

func TestDropOfWhatWasThereBefore(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{})
	j.set("a", "b")
	j = j.again(Options{})
	mark := j.Mark()
	j.set("c")
	require.NoError(t, j.Drop(mark))
	j = j.again(Options{})
	assert.Equal(t, "c", j.keys())
	require.NoError(t, j.Drop(j.Mark()))
	assert.Empty(t, parts(t, m))
}

func TestADropThatFailsCanBeRepeated(t *testing.T) {
	for _, call := range []vfs.Call{vfs.CallRemove, vfs.CallSyncDir} {
		m := vfs.NewMem()
		j := open(t, m, Options{PartBytes: 1})
		j.set("a", "b", "c")
		m.FailAt(2, vfs.Fault{Err: syscall.EIO, On: call})
		require.ErrorIs(t, j.Drop(3), syscall.EIO)
		require.NoError(t, j.Drop(3))
		assert.Zero(t, j.Size())
		assert.Empty(t, parts(t, m.Kill().Crash(0)))
	}
}

// Whoever sees a part without the one before it sees a hole.
func TestDropLeavesNoHole(t *testing.T) {
	for n := 1; n <= 7; n++ {
		for seed := range uint64(10) {
			m := vfs.NewMem()
			j := reopen(t, m, Options{PartBytes: 1})
			j.set("a", "b", "c", "d")
			m.CutAt(n)
			_ = j.Drop(4)
			_ = j.Close(t.Context())
			again := reopen(t, m.Crash(seed), Options{})
			assert.Empty(t, again.report.Gaps)
			assert.NoError(t, again.Close(t.Context()))
		}
	}
}

func TestALargeAppendIsWrittenInPieces(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{})
	records := make([]Record, 40)
	for i := range records {
		records[i] = Record{Op: Set, Key: fmt.Sprint(i), Value: strings.Repeat("v", 100_000), Expires: 1, Stamp: "s"}
	}
	require.NoError(t, j.Append(t.Context(), records...))
	m.FailAt(3, vfs.Fault{Err: syscall.ENOSPC, On: vfs.CallWrite})
	require.ErrorIs(t, j.Append(t.Context(), records...), syscall.ENOSPC)
	again := j.again(Options{})
	require.Len(t, again.records, 40)
	assert.Equal(t, records, again.records)
	assert.LessOrEqual(t, cap(j.writer.buf), maxBuf)
}

func TestDropForgetsWhatIsNotSyncedYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		j := open(t, m, Options{Sync: EverySecond})
		j.set("a", "b")
		require.NoError(t, j.Drop(j.Mark()))
		time.Sleep(2 * syncInterval)
		synctest.Wait()
		assert.Empty(t, parts(t, m))
		assert.False(t, j.isSyncing())
		j.set("c")
		assert.Equal(t, "c", j.again(Options{}).keys())
	})
}

// Otherwise what was dropped would seem to be missing: it was in the part that could not be
// dropped, and is not written again.
func TestWhatIsRewrittenAfterADropHasNoHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		j := open(t, m, Options{Sync: EverySecond})
		j.set("a", "b", "c", "d")
		require.NoError(t, j.Drop(3))
		m.FailAt(1, vfs.Fault{Err: syscall.EIO, On: vfs.CallSync})
		time.Sleep(syncInterval)
		synctest.Wait()
		again := reopen(t, m.Crash(0), Options{})
		assert.Equal(t, "a b c d", again.keys())
		assert.Empty(t, again.report.Gaps)
	})
}

// liar is an FS whose files write less than they are given, and say nothing.
type liar struct{ vfs.FS }

type lyingFile struct{ vfs.File }

func (l liar) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := l.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return lyingFile{f}, nil
}

func (f lyingFile) Write(p []byte) (int, error) { return f.File.Write(p[:len(p)/2]) }

func TestAShortWriteIsAnErrorAlsoIfItIsNotSaid(t *testing.T) {
	m := vfs.NewMem()
	j := reopen(t, liar{m}, Options{})
	require.Error(t, j.Append(t.Context(), set("a")))
	require.NoError(t, j.Close(t.Context()))
	assert.Empty(t, parts(t, m))
}

func TestManyMayDoEverythingAtOnce(t *testing.T) {
	for _, mode := range []Sync{Always, EverySecond, OS} {
		m := vfs.NewMem()
		j := open(t, m, Options{Sync: mode, PartBytes: 2000})
		var all sync.WaitGroup
		for w := range 8 {
			all.Go(func() {
				for i := range 50 {
					key := fmt.Sprintf("%d-%d", w, i)
					ctx, cancel := context.WithCancel(t.Context())
					if i%7 == 0 {
						go cancel() // ends at once
					}
					err := j.Append(ctx, set(key), del(key))
					assert.True(t, err == nil || errors.Is(err, context.Canceled))
					cancel()
					j.AppendLazily(settle(key))
					switch i % 10 {
					case 3:
						assert.NoError(t, j.Rotate())
					case 6:
						if w == 0 {
							assert.NoError(t, j.Drop(j.Mark()/2))
						}
					}
					_, _ = j.Mark(), j.Size()
				}
			})
		}
		all.Wait()
		again := j.again(Options{})
		assert.Equal(t, j.Mark(), again.Mark())
		assert.Empty(t, again.report.Gaps)
		assert.Empty(t, again.report.Damages)
		assert.Equal(t, sizeOf(t, m), again.Size())
	}
}
