package aside

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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

// While Redis is away the log says once a minute how it goes.
func TestOneLineAMinuteWhileRedisIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logText
		c := newAway(t, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		sh := newShardOf(c)
		c.happened(sh, lost, errors.New("gone"))
		synctest.Wait()
		log.reset()
		c.counted.loads.Add(7)
		for range 5 * 60 * 10 {
			time.Sleep(100 * time.Millisecond)
			c.remind(sh)
		}
		synctest.Wait() // for the log's queue
		var lines, never []string
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "error=gone") {
				lines = append(lines, line)
			} else {
				never = append(never, line)
			}
		}
		require.Len(t, never, 4, "the client itself was never connected, and says so likewise")
		require.Contains(t, never[3], "nobody is there")
		require.Len(t, lines, 5)
		for _, part := range []string{"level=WARN", "Redis is still away", "address=127.0.0.1:6379", "since=", "after=5m0s", "pending=0", "bytes=0", "loads=7", "error=gone"} {
			require.Contains(t, lines[4], part)
		}
		c.happened(sh, backEmpty, nil)
		synctest.Wait()
		log.reset()
		time.Sleep(5 * time.Minute)
		c.remind(sh)
		synctest.Wait()
		require.NotContains(t, log.String(), "error=gone")
	})
}
