package link

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// lines is what was logged; it is read while others write.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

// While Redis is away the log says once a minute how it goes.
func TestOneLineAMinuteWhileRedisIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		closing, end := context.WithCancel(t.Context())
		l := newLoose(func(o *Options, up *Hooks) {
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			up.Outage = func() func() []any { return func() []any { return []any{"pending", 0, "bytes", 0, "loads", 7} } }
		})
		l.closing = closing
		go l.Connect(make(chan error, 1))
		defer synctest.Wait()
		defer end()
		sh := newShardOf(l)
		l.happened(sh, lost, errors.New("gone"))
		synctest.Wait()
		log.Reset()
		for range 5 * 60 * 10 {
			time.Sleep(100 * time.Millisecond)
			l.remind(sh)
		}
		synctest.Wait()
		var away, never []string
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "error=gone") {
				away = append(away, line)
			} else {
				never = append(never, line)
			}
		}
		require.Len(t, never, 4, "the client itself was never connected, and says so likewise")
		require.Contains(t, never[3], "nobody is there")
		require.Len(t, away, 5)
		for _, part := range []string{"level=WARN", "Redis is still away", "address=127.0.0.1:6379", "since=", "after=5m0s", "pending=0", "bytes=0", "loads=7", "error=gone"} {
			require.Contains(t, away[4], part)
		}
		l.happened(sh, backEmpty, nil)
		synctest.Wait()
		log.Reset()
		time.Sleep(5 * time.Minute)
		l.remind(sh)
		synctest.Wait()
		require.NotContains(t, log.String(), "error=gone")
	})
}
