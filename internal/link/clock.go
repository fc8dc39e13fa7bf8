package link

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
)

// driftPPM is by how much two clocks may part: microseconds in a second.
const driftPPM = 200

// MostClockError is the error of a clock beyond which Redis cannot be told until when it may do a
// write.
const MostClockError = time.Second

// LeastClockError is assumed of any two clocks, however good they look.
const LeastClockError = stamp.LeastMargin / 2

// clockSample is what the prober has learned of a server's clock. Immutable.
type clockSample struct {
	ahead     int64 // µs by which it is ahead of Link.Now
	wallAhead int64 // and of this machine's clock
	at        int64 // when, in Link.Now's time
	error     int64 // µs by which ahead may be wrong: half the round trip
}

// newClockSample: the time was asked for at sent, and answered until got, which is wall by this
// machine's clock. The server read its clock in between.
func newClockSample(clock []int64, sent, got, wall int64) *clockSample {
	const µs = int64(time.Microsecond)
	server, half := clock[0]*1e6+clock[1], (got-sent)/2/µs
	return &clockSample{ahead: server - sent/µs - half, wallAhead: server - wall + half, at: got, error: half}
}

// bothNow reads both clocks at once: Now, and this machine's in µs since 1970. Were a goroutine that
// reads one after the other held up in between, the two would seem to have parted.
func (l *Link) bothNow() (now, wall int64) {
	t := time.Now()
	return int64(t.Sub(l.began)) + 1, t.UnixMicro()
}

// clockTime reads an answer to TIME.
func clockTime(q *Call) ([]int64, error) {
	if q.Err != nil {
		return nil, q.Err
	}
	clock, err := q.Reply.AsIntSlice()
	switch {
	case err != nil:
		return nil, err
	case len(clock) != 2, clock[0] < 0, clock[0] > maxClock, clock[1] < 0, clock[1] >= 1_000_000:
		return nil, fmt.Errorf("TIME answered %v, which are not seconds and microseconds: what answers is not Redis, connect to Redis itself", clock)
	}
	return clock, nil
}

// maxClock is the greatest second that is exact in µs in a script's numbers, in the year 2255.
const maxClock = 1<<53/1_000_000 - 1

// ServerTime estimates the clock of sh's server, in µs since 1970, and by how much it may be off.
// While that server has never been reached it is this machine's clock, and nobody knows how far
// that is off (-1). Two clocks are asked: the monotonic one stands still while the machine sleeps,
// the other may be set. Where they part, nobody knows which is right; the later one is taken, so
// that what happens now is later than what has happened.
func (l *Link) ServerTime(sh *Shard) (now, slack int64) {
	at, wall := l.bothNow()
	if sh != nil {
		if s := sh.clock.Load(); s != nil {
			steady, set := at/int64(time.Microsecond)+s.ahead, wall+s.wallAhead
			return max(steady, set), s.error + (at-s.at)/int64(time.Second)*driftPPM + max(steady-set, set-steady)
		}
	}
	return wall, -1
}

// roundTrip is how long the prober's latest commands have taken.
func (sh *Shard) roundTrip() time.Duration {
	if sh != nil {
		if s := sh.clock.Load(); s != nil {
			return time.Duration(2*s.error) * time.Microsecond
		}
	}
	return 0
}

// timeCall asks for the time by which scripts go.
func timeCall() *Call { return &Call{Script: script.Time, Args: []string{probeKeyPrefix}} }

// readClock reads the answer to a timeCall that was sent then.
func (l *Link) readClock(sh *Shard, q *Call, sent int64, limit time.Duration) (*clockSample, error) {
	if isNoScript(q.Err) {
		ctx, cancel := context.WithTimeout(l.closing, limit)
		defer cancel()
		sent = l.Now()
		resend(ctx, sh.client, []*Call{q})
	}
	clock, err := clockTime(q)
	if _, reply := replyOf(err); reply && judge(err, true) == answered {
		err = fmt.Errorf("%w: %w", errNoScripts, reason.Of(err))
	}
	if err != nil {
		return nil, err
	}
	got, wall := l.bothNow()
	return newClockSample(clock, sent, got, wall), nil
}

// ClockError is by how much a time of a server's clock counts as wrong, in µs, of which slack is known;
// negative: nothing is.
func ClockError(slack int64) int64 {
	if slack < 0 {
		return LeastClockError.Microseconds()
	}
	return slack
}

// WriteWindow is when a server may do what it is asked now, as its scripts take it: until patience
// is over, but for the error of its clock as it is known here. Where it is earlier there than it
// can be, that clock is not the scripts': what they leave as a stamp would be of the future.
func WriteWindow(now, slack int64, patience time.Duration) (window string, notAfter int64) {
	var notBefore int64
	if slack >= 0 {
		notBefore = max(now-slack-MostClockError.Microseconds(), 0)
	}
	notAfter = now + patience.Microseconds() + max(slack, 0)
	return strconv.FormatInt(notBefore, 10) + "-" + strconv.FormatInt(notAfter, 10), notAfter
}

// JudgeClock notes whether the clock that sh was asked for is the one by which it does q.
func (l *Link) JudgeClock(sh *Shard, q *Call) {
	switch {
	case q.Err != nil:
	case q.Untimely():
		l.flawed(sh, flawClock, errClocks)
	default:
		l.flawed(sh, flawClock, nil)
	}
}

// errClocks is why a server has refused a write twice, its clock having been looked at in between.
var errClocks = errors.New("the server that runs the scripts has another clock than the one that was asked for the time, so writes are refused as too late or too early: connect to one Redis, without what spreads commands over several")

// Untimely reports whether the server has refused q for the time, see lib/clock.lua in
// internal/script.
func (q *Call) Untimely() bool {
	if q.Err != nil || q.Reply.IsArray() {
		return false
	}
	n, err := q.Reply.AsInt64()
	return err == nil && n <= 0
}

// LookAtClocks probes shards, all at once, and returns when it knows or ctx has ended.
func (l *Link) LookAtClocks(ctx context.Context, shards []*Shard) {
	var probes sync.WaitGroup
	for _, sh := range shards {
		probes.Add(1)
		if !l.up.InBackground(func() { // ends within its timeout
			defer probes.Done()
			l.probe(sh)
		}) {
			probes.Done()
		}
	}
	done := make(chan struct{})
	go func() { // ends with the probes
		probes.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// Skew has tests move what is known of the server's clock, against the monotonic clock here and
// against that of the wall.
func (sh *Shard) Skew(steady, wall time.Duration) {
	moved := *sh.clock.Load()
	moved.ahead += steady.Microseconds()
	moved.wallAhead += wall.Microseconds()
	sh.clock.Store(&moved)
}
