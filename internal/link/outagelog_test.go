package link

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// While Redis is away the log says once a minute how it goes.
func TestOneLineAMinuteWhileRedisIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
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
		l.happened(sh, backEmpty, nil)
		synctest.Wait()
		log.Reset()
		time.Sleep(5 * time.Minute)
		l.remind(sh)
		synctest.Wait()
		require.NotContains(t, log.String(), "error=gone")
	})
}
