package aside

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/redaside/aside/internal/logqueue"
)

// The handler of Options.Logger is the caller's code: it may write to a pipe that nobody reads or
// to a disk that hangs, and it may panic. Who logs here holds a lock, is a prober, or replays. So
// lines are queued, and the handler is called from a goroutine that does nothing else.

// logGrace is how long Close, or a New that fails, waits for the handler.
const logGrace = 500 * time.Millisecond

// queueLog puts a queue in front of o.Logger, and returns it.
func queueLog(o *Options) *logqueue.Handler {
	queue := logqueue.NewHandler(o.Logger.Handler())
	o.Logger = slog.New(queue)
	return queue
}

// flush waits for the handler, in bounds.
func (r *reports) flush() error {
	if r.log.Flush(logGrace) {
		return nil
	}
	return fmt.Errorf("aside: Close left log lines behind: the handler of Options.Logger did not take them within %v", logGrace)
}
