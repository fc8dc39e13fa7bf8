package fallback

import (
	"context"
	"io/fs"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/vfs"
)

// A round of the flusher finds the marker of a Settle in the journal, and its record in the index. It must not write that to its file
// and drop the marker: after a crash the record would be back. (TestTheDirectoryDoesWhatADirDoes of internal/sim/ledger found that.)
func TestAMarkerIsNotDroppedBeforeItsRecord(t *testing.T) {
	for _, closed := range []bool{false, true} {
		disk := vfs.NewMem()
		d, err := OpenFS(disk, byHand())
		require.NoError(t, err)
		r := set("k", "v")
		mustPut(t, d, r)
		w, unsure := d.mark([]Record{r})
		require.NotNil(t, w)
		require.False(t, unsure)

		var closing sync.WaitGroup
		if closed {
			closing.Go(func() { _ = d.Close(context.Background()) })
		} else {
			d.wake()
		}
		did := func(enough func() bool) {
			for done := false; !done; {
				d.x.mu.RLock()
				done = enough()
				d.x.mu.RUnlock()
			}
		}
		did(func() bool { return d.ended > 0 || w.done != nil }) // the round, or as much of it as goes without us
		d.forget([]Record{r}, w, unsure)
		did(func() bool { return d.ended > 0 })
		after := disk.Kill()
		closing.Wait()
		_ = d.Close(context.Background())
		again := open(t, after, byHand())
		require.False(t, again.Pending("k"), "closed: %v", closed)
	}
}

// The last round waits for a Settle that has yet to write its marker, also where there is nothing else to do: else the journal is closed
// before, and the file of the record stays.
func TestTheLastRoundWaitsForASettle(t *testing.T) {
	d, err := OpenFS(vfs.NewMem(), byHand())
	require.NoError(t, err)
	mustPut(t, d, set("k", "v"))
	require.NoError(t, flush(d))
	d.x.mu.Lock()
	w := d.writers.enterLocked()
	d.x.mu.Unlock()
	var closing sync.WaitGroup
	closing.Go(func() { _ = d.Close(context.Background()) })
	for waits, over := false, false; !waits; {
		select {
		case <-d.done:
			over = true
		default:
		}
		require.False(t, over, "it is closed")
		d.x.mu.RLock()
		waits = w.done != nil
		d.x.mu.RUnlock()
	}
	d.x.mu.Lock()
	w.leaveLocked()
	d.x.mu.Unlock()
	closing.Wait()
}

// picky is a disk with a folder that nobody may look into.
type picky struct{ *vfs.Mem }

const theirs = "db/0/theirs"

func (p picky) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == theirs {
		return nil, fs.ErrPermission
	}
	return p.Mem.ReadDir(name)
}

func (p picky) SyncDir(name string) error {
	if name == theirs {
		return fs.ErrPermission
	}
	return p.Mem.SyncDir(name)
}

// What is synced after a crash is ours: somebody else's folder keeps no round from its end, and neither does one that is not there.
func TestOnlyOurFoldersAreSynced(t *testing.T) {
	for _, with := range []bool{false, true} {
		disk := picky{vfs.NewMem()}
		d, err := OpenFS(disk, byHand())
		require.NoError(t, err)
		if with {
			mustPut(t, d, set("k", "v"))
			require.NoError(t, flush(d))
			require.NoError(t, disk.MkdirAll(theirs, 0o700))
		}
		require.NoError(t, d.syncFolders())
		require.NoError(t, d.Close(context.Background()))
	}
}
