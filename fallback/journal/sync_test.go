package journal

import (
	"context"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/vfs"
)

func TestEverySecondSyncsLaterAndOnlyWhileThereIsSomethingToSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		j := open(t, m, Options{Sync: EverySecond})
		j.set("a") // the first of a part is synced, with the name
		before := m.Calls()
		j.set("b", "c")
		j.AppendLazily(settle("a"))
		synctest.Wait()
		assert.Equal(t, 3, m.Calls()-before, "three writes")
		assert.True(t, j.isSyncing())
		time.Sleep(syncInterval)
		synctest.Wait()
		assert.Equal(t, 4, m.Calls()-before, "one fsync")
		assert.False(t, j.isSyncing())
		time.Sleep(10 * syncInterval)
		assert.Equal(t, 4, m.Calls()-before, "nothing to do")

		j.set("d")
		time.Sleep(syncInterval / 2)
		j.set("e")
		time.Sleep(syncInterval / 2)
		synctest.Wait()
		assert.Equal(t, 7, m.Calls()-before, "again")
		j.set("f")
		assert.Equal(t, "a b c x d e", reopen(t, m.Crash(0), Options{}).keys())
	})
}

func (j *Journal) isSyncing() bool {
	j.pen.Lock()
	defer j.pen.Unlock()
	return j.syncing
}

func TestEverySecondDoesNotWaitForAnFsyncThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		slow := &slowSync{FS: m, hang: make(chan struct{})}
		j := open(t, slow, Options{Sync: EverySecond})
		j.set("a", "b")
		slow.hanging.Store(true)
		time.Sleep(2 * syncInterval)
		j.set("c", "d") // although an fsync is under way
		slow.hanging.Store(false)
		close(slow.hang)
		time.Sleep(2 * syncInterval)
		synctest.Wait()
		assert.False(t, j.isSyncing())
		require.NoError(t, j.Close(t.Context()))
		assert.Equal(t, "a b c d", reopen(t, m.Crash(0), Options{}).keys())
	})
}

// An fsync of EverySecond notes how much it covers before it lets go of the pen:
//
//	1: the fsync of b begins, and hangs   2: big does not fit into memory, and is synced by who writes it   3: the first one says "up to b"   4: an fsync fails
//
// Should 3 take back what 2 has said, 4 would cut big off: it is not in memory any more.
func TestALateFsyncDoesNotTakeBackWhatALaterOneHasCovered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		slow := &slowSync{FS: m, hang: make(chan struct{})}
		j := open(t, slow, Options{Sync: EverySecond, PartBytes: 1 << 30})
		j.set("a", "b")
		slow.hanging.Store(true)
		time.Sleep(syncInterval)
		synctest.Wait() // 1
		before := j.Size()
		big := Record{Op: Set, Key: "big", Value: strings.Repeat("x", maxUnsynced), Expires: 1, Stamp: "s"}
		done := make(chan error)
		go func() { done <- j.Append(context.Background(), big) }() // ends with the fsync
		for j.Size() == before {                                    // it is written, and whoever wrote it has the pen
			runtime.Gosched()
		}
		slow.hanging.Store(false)
		close(slow.hang)
		require.NoError(t, <-done) // 2
		synctest.Wait()            // 3
		j.set("c")
		m.FailAt(1, vfs.Fault{Err: syscall.EIO, On: vfs.CallSync}) // 4
		time.Sleep(2 * syncInterval)
		synctest.Wait()
		again := reopen(t, m.Kill(), Options{})
		assert.Equal(t, "a b big c", again.keys())
		assert.Empty(t, again.report.Gaps)
	})
}

func TestEverySecondRewritesWhatAFailedFsyncWasToCover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		j := open(t, m, Options{Sync: EverySecond})
		j.set("a", "b", "c")
		m.FailAt(1, vfs.Fault{Err: syscall.EIO, On: vfs.CallSync})
		time.Sleep(syncInterval)
		synctest.Wait()
		assert.Len(t, parts(t, m), 2)
		assert.False(t, j.isSyncing())
		j.set("d")
		time.Sleep(syncInterval)
		synctest.Wait()
		again := reopen(t, m.Crash(0), Options{})
		assert.Equal(t, "a b c d", again.keys())
		assert.Empty(t, again.report.Damages)
		assert.Empty(t, again.report.Gaps)
	})
}

func TestEverySecondTriesAgainUntilTheDiskIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		j := open(t, m, Options{Sync: EverySecond})
		j.set("a", "b", "c")
		m.FailAt(1, vfs.Fault{Err: syscall.EIO, On: vfs.CallSync, Sticky: true})
		time.Sleep(5 * syncInterval)
		synctest.Wait()
		require.ErrorIs(t, j.Append(t.Context(), set("d")), syscall.EIO, "a new part is synced before anything in it is acknowledged")
		assert.True(t, j.isSyncing())
		m.Heal()
		time.Sleep(syncInterval)
		synctest.Wait()
		assert.False(t, j.isSyncing())
		again := reopen(t, m.Crash(0), Options{})
		assert.Equal(t, "a b c", again.keys())
		assert.Empty(t, again.report.Gaps)
	})
}

func TestEverySecondKeepsABoundedAmountInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		j := open(t, m, Options{Sync: EverySecond})
		r := Record{Op: Set, Key: "k", Value: strings.Repeat("x", maxUnsynced/8), Expires: 1, Stamp: "s"}
		for range 10 {
			require.NoError(t, j.Append(t.Context(), r))
			j.pen.Lock()
			assert.LessOrEqual(t, j.writer.unsyncedBytes, int64(maxUnsynced))
			j.pen.Unlock()
		}
	})
}

func TestOSSyncsTheFirstOfAPartOnly(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{Sync: OS})
	j.set("a")
	before := m.Calls()
	j.set("b", "c")
	assert.Equal(t, 2, m.Calls()-before)
	j.pen.Lock()
	assert.Empty(t, j.writer.unsynced, "nothing is kept for what is never rewritten")
	j.pen.Unlock()
	m = m.Kill()
	assert.Equal(t, "a b c", reopen(t, m, Options{}).keys())
}

func TestOSLosesNothingThatWasWrittenWhenFsyncFails(t *testing.T) {
	m := vfs.NewMem()
	j := reopen(t, m, Options{Sync: OS})
	j.set("a", "b")
	m.FailAt(1, vfs.Fault{Err: syscall.EIO, On: vfs.CallSync})
	require.NoError(t, j.Rotate())
	j.set("c")
	m = m.Kill()
	again := open(t, m, Options{})
	assert.Equal(t, "a b c", again.keys())
}

// slowSync is an FS whose files hang in Sync when they are told to, and not in Write.
type slowSync struct {
	vfs.FS
	hanging atomic.Bool
	hang    chan struct{}
}

type slowFile struct {
	vfs.File
	fs *slowSync
}

func (s *slowSync) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := s.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &slowFile{f, s}, nil
}

func (f *slowFile) Sync() error {
	if f.fs.hanging.Load() {
		<-f.fs.hang
	}
	return f.File.Sync()
}
