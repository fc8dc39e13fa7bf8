package aside

import (
	"sync"
	"time"

	"github.com/redaside/aside/internal/near"
)

// Redis can track so many keys, for all of its clients together (tracking-table-max-keys). When its
// table is full it invalidates some key for each that it begins to track, whether it has changed or
// not. Then memory is of little use, and nothing else tells why.

const (
	earlyWithin = time.Second // after it was read, an invalidation is early
	earlyWindow = time.Minute
	earlyLeast  = 100 // in a window, or it is not worth a line
)

// early watches for keys that are invalidated right after they were read. Safe for concurrent use.
type early struct {
	says *reports // immutable

	mu    sync.Mutex // guards all below
	since int64      // when the window began, in link.Now's time
	gone  int64      // early ones in it
	asked int64      // what was read from Redis when it began
	told  bool       // in this window
}

// note counts an invalidation of e, and says once a minute when most of what is read goes at once.
// What this process has stored itself does not count: Redis before 6.2 pushes that back in any
// case.
func (w *early) note(e *near.Entry) {
	now := w.says.clock()
	if !e.Read() || now-e.At() >= int64(earlyWithin) {
		return
	}
	w.says.counted.goneEarly.Add(1)
	asked := w.says.counted.redisHits.Load()
	w.mu.Lock()
	if now-w.since >= int64(earlyWindow) {
		w.since, w.gone, w.asked, w.told = now, 0, asked, false
	}
	w.gone++
	gone, read := w.gone, asked-w.asked
	tell := !w.told && gone >= earlyLeast && gone >= read/4*3
	w.told = w.told || tell
	w.mu.Unlock()
	if tell {
		w.says.logger.Warn("aside: most keys are invalidated within a second after they were read, so that memory is of little use: they are written all the time, or Redis's tracking table is full (tracking_total_keys of INFO, tracking-table-max-keys); aside doctor compares them",
			"invalidated", gone, "read", read)
	}
}
