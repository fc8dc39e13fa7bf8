package proxy

import "time"

// Answered tells of Count commands of one name that were answered together, each after Took and at
// At, all with an error or none.
type Answered struct {
	Command string
	Count   int
	Took    time.Duration
	At      time.Time
	Failed  bool
}
