package fallback

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/vfs"
)

// The flusher counts the queue, and what is counted may be settled before it is taken. If it then
// went round the queue it would take a record twice, and report the second as one of another key: a
// directory that "fails" though nothing is wrong.
func TestARecordIsTakenOnceThoughTheQueueHasBecomeShorter(t *testing.T) {
	for settled := range 4 {
		d := open(t, vfs.NewMem(), byHand())
		var records []Record
		for i := range 3 {
			records = append(records, set(fmt.Sprint(i), "v"))
		}
		mustPut(t, d, records...)
		d.Settle(records[:settled]...) // between the count, 3, and the take
		require.NoError(t, d.writeDirty(3), "%d of 3 were settled", settled)
		require.Equal(t, 3-settled, d.Stats().Sets)
		require.Zero(t, d.Stats().Dirty)
		require.NoError(t, d.Stats().Err)
		closeDir(t, d)
	}
}
