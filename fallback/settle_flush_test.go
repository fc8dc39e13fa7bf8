package fallback

import (
	"context"
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

		var round sync.WaitGroup
		ended := false
		round.Go(func() {
			if closed {
				_ = d.Close(context.Background())
			} else {
				d.round()
			}
			d.x.mu.Lock()
			ended = true
			d.x.mu.Unlock()
		})
		for waits := false; !waits; {
			d.x.mu.RLock()
			waits = ended || w.done != nil
			d.x.mu.RUnlock()
		}
		after := disk
		if ended { // else it has yet to do what it does
			after = disk.Kill()
		}
		d.forget([]Record{r}, w, unsure)
		round.Wait()
		if after == disk {
			after = disk.Kill()
		}
		_ = d.Close(context.Background())
		again := open(t, after, byHand())
		require.False(t, again.Pending("k"), "closed: %v", closed)
	}
}
