package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestACrashLosesWhatWasNotSynced(t *testing.T) {
	m := NewMem()
	require.NoError(t, m.MkdirAll("d/e", 0o700))
	f := open(t, m, "d/e/f")
	write(t, f, "synced ")
	require.NoError(t, f.Sync())
	require.NoError(t, m.SyncDir("d/e"))
	write(t, f, "not synced")
	put(t, m, "d/g", "without a durable name")
	g := open(t, m, "d/h")
	write(t, g, "synced, without a durable name")
	require.NoError(t, g.Sync())

	after := m.Crash(0)
	assert.Equal(t, "synced ", get(t, after, "d/e/f"))
	assert.Equal(t, []string{"e/"}, list(t, after, "d"))
}

func TestASyncOfADirectoryDoesNotSyncItsFiles(t *testing.T) {
	m := NewMem()
	put(t, m, "f", "not synced")
	require.NoError(t, m.SyncDir("."))
	assert.Empty(t, get(t, m.Crash(0), "f"))
}

func TestChangesInPlaceAreAlsoLost(t *testing.T) {
	m := NewMem()
	f := open(t, m, "f")
	write(t, f, "0123456789")
	require.NoError(t, f.Sync())
	require.NoError(t, m.SyncDir("."))
	_, err := f.Seek(2, io.SeekStart)
	require.NoError(t, err)
	write(t, f, "xx")
	require.NoError(t, f.Truncate(5))
	assert.Equal(t, "01xx4", get(t, m, "f"))
	m = m.Crash(0)
	assert.Equal(t, "0123456789", get(t, m, "f"))
}

func TestARenameIsDurableWithItsDirectory(t *testing.T) {
	setUp := func() *Mem {
		m := NewMem()
		for name, content := range map[string]string{"f": "old", "f.tmp": "new"} {
			f := open(t, m, name)
			write(t, f, content)
			require.NoError(t, f.Sync())
		}
		require.NoError(t, m.SyncDir("."))
		require.NoError(t, m.Rename("f.tmp", "f"))
		return m
	}
	m := setUp().Crash(0)
	assert.Equal(t, []string{"f", "f.tmp"}, list(t, m, "."))
	assert.Equal(t, "old", get(t, m, "f"))

	m = setUp()
	require.NoError(t, m.SyncDir("."))
	m = m.Crash(0)
	assert.Equal(t, []string{"f"}, list(t, m, "."))
	assert.Equal(t, "new", get(t, m, "f"))

	outcomes := map[string]int{}
	for seed := range uint64(100) {
		m := setUp().Crash(seed + 1)
		outcomes[fmt.Sprint(list(t, m, "."), " ", get(t, m, "f"))]++
	}
	assert.Len(t, outcomes, 2, outcomes)
	assert.Positive(t, outcomes["[f] new"])
	assert.Positive(t, outcomes["[f f.tmp] old"])
}

func TestAFileThatMovedIsInBothDirectoriesIfOneWasSynced(t *testing.T) {
	m := NewMem()
	require.NoError(t, m.MkdirAll("a", 0o700))
	require.NoError(t, m.MkdirAll("b", 0o700))
	f := open(t, m, "a/f")
	write(t, f, "x")
	require.NoError(t, f.Sync())
	require.NoError(t, m.SyncDir("a"))
	require.NoError(t, m.Rename("a/f", "b/f"))
	require.NoError(t, m.SyncDir("b"))
	m = m.Crash(0)
	assert.Equal(t, "x", get(t, m, "a/f"))
	put(t, m, "b/f", "y")
	assert.Equal(t, "y", get(t, m, "a/f"), "it is one file")
}

func TestARemovalIsDurableWithItsDirectory(t *testing.T) {
	m := NewMem()
	put(t, m, "f", "")
	require.NoError(t, m.SyncDir("."))
	require.NoError(t, m.Remove("f"))
	m = m.Crash(0)
	assert.Equal(t, []string{"f"}, list(t, m, "."))
	require.NoError(t, m.Remove("f"))
	require.NoError(t, m.SyncDir("."))
	assert.Empty(t, list(t, m.Crash(0), "."))
}

func TestASeedDrawsWhatACrashKeeps(t *testing.T) {
	setUp := func() *Mem {
		m := NewMem()
		f := open(t, m, "f")
		write(t, f, "synced.")
		require.NoError(t, f.Sync())
		require.NoError(t, m.SyncDir("."))
		write(t, f, strings.Repeat("a", 600))
		write(t, f, strings.Repeat("b", 600))
		put(t, m, "g", "")
		return m
	}
	whole := "synced." + strings.Repeat("a", 600) + strings.Repeat("b", 600)
	kinds := map[string]int{}
	for seed := range uint64(200) {
		after := setUp().Crash(seed + 1)
		again := setUp().Crash(seed + 1)
		got := get(t, after, "f")
		require.Equal(t, got, get(t, again, "f"), "a seed means one outcome")
		require.Equal(t, list(t, after, "."), list(t, again, "."))
		require.True(t, strings.HasPrefix(got, "synced."))
		require.LessOrEqual(t, len(got), len(whole))
		for i := range got {
			require.True(t, got[i] == whole[i] || got[i] == 0)
		}
		switch {
		case got == "synced.":
			kinds["nothing"]++
		case got == whole:
			kinds["all"]++
		case strings.Contains(got, "\x00"):
			kinds["zeros"]++
		default:
			kinds["torn"]++
		}
		if len(list(t, after, ".")) == 2 {
			kinds["name"]++
		}
		require.Equal(t, got, get(t, after.Crash(0), "f"), "what a crash has left is durable")
	}
	for _, kind := range []string{"nothing", "all", "zeros", "torn", "name"} {
		assert.Positive(t, kinds[kind], kind)
	}
	assert.Less(t, kinds["name"], 200)
}

func TestAKillLosesNothingButHandlesAndLocks(t *testing.T) {
	m := NewMem()
	f := open(t, m, "f")
	write(t, f, "synced")
	require.NoError(t, f.Sync())
	require.NoError(t, m.SyncDir("."))
	write(t, f, ", written")
	put(t, m, "g", "")
	_, err := m.Lock("lock")
	require.NoError(t, err)

	after := m.Kill()
	assert.Equal(t, "synced, written", get(t, after, "f"))
	assert.Equal(t, []string{"f", "g", "lock"}, list(t, after, "."))
	held, err := after.Lock("lock")
	require.NoError(t, err)
	require.NoError(t, held.Close())
	_, err = io.WriteString(f, "x")
	require.ErrorIs(t, err, ErrStopped)

	after = after.Crash(0) // the kill has made nothing durable
	assert.Equal(t, "synced", get(t, after, "f"))
	assert.Equal(t, []string{"f"}, list(t, after, "."))
}

func TestNothingWorksOnAStoppedMachine(t *testing.T) {
	for name, stop := range map[string]func(*Mem){
		"Crash": func(m *Mem) { m.Crash(0) },
		"Kill":  func(m *Mem) { m.Kill() },
		"CutAt": func(m *Mem) { m.CutAt(1); _ = m.MkdirAll("d", 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMem()
			f := open(t, m, "f")
			stop(m)
			_, err := m.OpenFile("f", os.O_RDONLY, 0)
			require.ErrorIs(t, err, ErrStopped)
			require.ErrorIs(t, m.MkdirAll("d", 0o700), ErrStopped)
			require.ErrorIs(t, m.Rename("f", "g"), ErrStopped)
			require.ErrorIs(t, m.Remove("f"), ErrStopped)
			_, err = m.ReadDir(".")
			require.ErrorIs(t, err, ErrStopped)
			_, err = m.Lstat("f")
			require.ErrorIs(t, err, ErrStopped)
			require.ErrorIs(t, m.SyncDir("."), ErrStopped)
			_, err = m.Lock("lock")
			require.ErrorIs(t, err, ErrStopped)
			_, err = f.Read(make([]byte, 1))
			require.ErrorIs(t, err, ErrStopped)
			_, err = io.WriteString(f, "x")
			require.ErrorIs(t, err, ErrStopped)
			_, err = f.Seek(0, io.SeekStart)
			require.ErrorIs(t, err, ErrStopped)
			require.ErrorIs(t, f.Truncate(0), ErrStopped)
			require.ErrorIs(t, f.Sync(), ErrStopped)
			_, err = f.Stat()
			require.ErrorIs(t, err, ErrStopped)
			require.NoError(t, f.Close())
		})
	}
}

func TestCutAtStopsBeforeTheNthCall(t *testing.T) {
	steps := []func(m *Mem, f File) error{
		func(m *Mem, _ File) error { return m.MkdirAll("d", 0o700) },
		func(_ *Mem, f File) error { _, err := io.WriteString(f, "x"); return err },
		func(_ *Mem, f File) error { return f.Truncate(0) },
		func(_ *Mem, f File) error { return f.Sync() },
		func(m *Mem, _ File) error { return m.SyncDir(".") },
		func(m *Mem, _ File) error { return m.Rename("f", "g") },
		func(m *Mem, _ File) error { return m.Remove("g") },
		func(m *Mem, _ File) error { _, err := m.OpenFile("h", os.O_CREATE|os.O_RDWR, 0o600); return err },
	}
	for n := 1; n <= len(steps)+1; n++ {
		m := NewMem()
		f := open(t, m, "f")
		m.CutAt(n)
		for i, step := range steps {
			if err := step(m, f); i+1 < n {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, ErrStopped)
			}
		}
		assert.Equal(t, 1+min(n, len(steps)), m.Calls())
	}
}

func TestFailAtFailsTheNthCall(t *testing.T) {
	m := NewMem()
	f := open(t, m, "f")
	m.FailAt(2, FaultIO)
	write(t, f, "a")
	_, err := io.WriteString(f, "b")
	require.ErrorIs(t, err, syscall.EIO)
	var where *fs.PathError
	require.ErrorAs(t, err, &where)
	assert.Equal(t, "f", where.Path)
	write(t, f, "c")
	assert.Equal(t, "ac", get(t, m, "f"))

	m.FailAt(1, Fault{Err: syscall.EIO, On: CallSync | CallRename})
	write(t, f, "d")
	require.NoError(t, m.SyncDir("."))
	require.ErrorIs(t, m.Rename("f", "g"), syscall.EIO)
	require.NoError(t, m.Rename("f", "g"))

	m.FailAt(1, Fault{Err: syscall.EROFS, Sticky: true})
	for range 3 {
		require.ErrorIs(t, m.Remove("g"), syscall.EROFS)
	}
	assert.Equal(t, "acd", get(t, m, "g"), "reads go on")
	m.Heal()
	require.NoError(t, m.Remove("g"))
}

func TestAFullDiskTakesHalf(t *testing.T) {
	m := NewMem()
	f := open(t, m, "f")
	m.FailAt(1, FaultNoSpace)
	n, err := io.WriteString(f, "abcd")
	require.ErrorIs(t, err, syscall.ENOSPC)
	assert.Equal(t, 2, n)
	assert.Equal(t, "ab", get(t, m, "f"))
}

func TestAFailedSyncLosesWhatNoLaterSyncBringsBack(t *testing.T) {
	m := NewMem()
	f := open(t, m, "f")
	require.NoError(t, m.SyncDir("."))
	write(t, f, "a")
	require.NoError(t, f.Sync())
	write(t, f, "b")
	m.FailAt(1, FaultIO)
	require.ErrorIs(t, f.Sync(), syscall.EIO)
	assert.Equal(t, "ab", get(t, m, "f"))
	write(t, f, "c")
	require.NoError(t, f.Sync())
	assert.Equal(t, "abc", get(t, m, "f"))
	m = m.Kill()
	assert.Equal(t, "abc", get(t, m, "f"))
	assert.Equal(t, "a\x00c", get(t, m.Crash(7), "f"))
}

func TestAFailedSyncDirCanBeRepeated(t *testing.T) {
	m := NewMem()
	put(t, m, "f", "")
	m.FailAt(1, FaultIO)
	require.ErrorIs(t, m.SyncDir("."), syscall.EIO)
	require.NoError(t, m.SyncDir("."))
	assert.Equal(t, []string{"f"}, list(t, m.Crash(0), "."))
}

func TestAHungDiskBlocksUntilItIsFreed(t *testing.T) {
	for name, free := range map[string]func(*Mem){
		"Unhang": (*Mem).Unhang,
		"Crash":  func(m *Mem) { m.Crash(0) },
		"Kill":   func(m *Mem) { m.Kill() },
	} {
		synctest.Test(t, func(t *testing.T) {
			m := NewMem()
			f := open(t, m, "f")
			m.Hang()
			var hung sync.WaitGroup
			answers := make([]error, 3)
			hung.Go(func() { _, answers[0] = io.WriteString(f, "x") })
			hung.Go(func() { answers[1] = f.Sync() })
			hung.Go(func() { answers[2] = m.SyncDir(".") })
			m.AwaitHung()
			synctest.Wait()
			info, err := m.Lstat("f")
			require.NoError(t, err, "other calls go on")
			assert.Zero(t, info.Size())
			free(m)
			hung.Wait()
			for _, err := range answers {
				if name == "Unhang" {
					assert.NoError(t, err)
				} else {
					assert.ErrorIs(t, err, ErrStopped)
				}
			}
		})
	}
}

func TestMemMayBeUsedByMany(t *testing.T) {
	m := NewMem()
	var done sync.WaitGroup
	for i := range 8 {
		done.Go(func() {
			name := fmt.Sprint(i)
			for range 50 {
				put(t, m, name+".tmp", name)
				assert.NoError(t, m.Rename(name+".tmp", name))
				assert.NoError(t, m.SyncDir("."))
				assert.Equal(t, name, get(t, m, name))
			}
		})
	}
	done.Wait()
	assert.Len(t, list(t, m, "."), 8)
}

func open(t *testing.T, m *Mem, name string) File {
	t.Helper()
	f, err := m.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	return f
}

func write(t *testing.T, f File, s string) {
	t.Helper()
	_, err := io.WriteString(f, s)
	require.NoError(t, err)
}
