package aside

import (
	"fmt"
	"time"

	"github.com/redaside/aside/internal/drill"
)

// DrillKind says what a drill is as if.
type DrillKind int

// The kinds of drill.
const (
	// DrillRedisDown: as if Redis did not answer.
	DrillRedisDown DrillKind = iota
)

func (k DrillKind) String() string {
	if k == DrillRedisDown {
		return "redis-down"
	}
	return fmt.Sprintf("DrillKind(%d)", int(k))
}

// DrillReport says what a drill has shown: to the end from [Client.Drill], so far from
// [Client.Health]. Divided by Fraction, Reads, Loads, Keys and MostRunning are about what an outage
// would bring to this process.
type DrillReport struct {
	Kind     DrillKind
	Fraction float64 // of the keys
	Began    time.Time
	Took     time.Duration

	MemoryHits int64 // keys that memory has answered meanwhile, in the share or not
	Reads      int64 // reads of keys in the share that memory could not answer; calls that share one count once
	Kept       int64 // of these, reads of what the drill had loaded before and an outage would have kept: Redis answered
	Unanswered int64 // of these, reads without a loader (Peek, Look, LookMulti, WithoutLoad) that got ErrRedisAway

	Loads       int64 // loader calls that were begun, or waited for a place; a batch counts once
	Keys        int64 // keys for which they were
	Running     int64 // of Loads, those that run or wait right now
	MostRunning int64 // of Loads, how many there were at once at most
	Refused     int64 // of Loads, those without a place for a second (MaxLoaders, MaxLoads, WithMaxLoads): ErrOverloaded
	Errors      int64 // of Loads, those with another error than ErrNotFound and ErrOverloaded
	Cancelled   int64 // of Loads, those that nobody waited for any more, or that the end of the drill has cut short

	// How long loads took that were neither refused nor cancelled, the wait for a place included.
	// P50 and P99 are too long by up to an eighth. LoadTime is the sum.
	P50, P99, Longest, LoadTime time.Duration
}

// drillReport returns what d has shown so far; nil for nil.
func drillReport(d *drill.Drill) *DrillReport {
	if d == nil {
		return nil
	}
	r := d.Report()
	return &DrillReport{
		Kind: DrillRedisDown, Fraction: r.Fraction, Began: r.Began, Took: r.Took,
		MemoryHits: r.MemoryHits, Reads: r.Reads, Kept: r.Kept, Unanswered: r.Unanswered,
		Loads: r.Loads, Keys: r.Keys, Running: r.Running, MostRunning: r.MostRunning,
		Refused: r.Refused, Errors: r.Errors, Cancelled: r.Cancelled,
		P50: r.P50, P99: r.P99, Longest: r.Longest, LoadTime: r.LoadTime,
	}
}
