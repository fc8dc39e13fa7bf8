package aside

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What an outage has cost stands in the log's lines about it.
func TestTheLogOfAnOutageSaysWhatWaits(t *testing.T) {
	c := newAway(t)
	c.counted.loads.Add(3)
	attrs := hooks{c}.outageBegins()
	c.counted.loads.Add(7)
	require.ErrorIs(t, c.Set(t.Context(), time.Minute, "k", "v"), ErrNotDurable)
	require.Equal(t, []any{"pending", 1, "bytes", c.store.Stats().Bytes, "loads", int64(7)}, attrs())
}
