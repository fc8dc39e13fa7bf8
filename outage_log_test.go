package aside

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// logText is what was logged; its writer is a goroutine of the client's.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logText) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

// What an outage has cost stands in the log's lines about it.
func TestTheLogOfAnOutageSaysWhatWaits(t *testing.T) {
	c := newAway(t)
	c.counted.loads.Add(3)
	attrs := c.outageBegins()
	c.counted.loads.Add(7)
	require.ErrorIs(t, c.Set(t.Context(), time.Minute, "k", "v"), ErrNotDurable)
	require.Equal(t, []any{"pending", 1, "bytes", c.store.Stats().Bytes, "loads", int64(7)}, attrs())
}
