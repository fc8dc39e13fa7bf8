package aside

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/redaside/aside/internal/drill"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/reason"
)

// A drill has a share of the keys read as in an outage, while Redis is well.
//
//	memory has the key          it answers, as in an outage, where it serves unverified
//	the drill has not loaded k  the loader is called without a lock, in one of the places of MaxLoaders
//	the drill has loaded k      in an outage memory or the fallback store would have it now, for
//	                            DegradedTTL: Redis is asked as ever
//	a read without a loader     ErrRedisAway
//
// What a drill loads goes to the callers that wait for it, and nowhere else: not into memory, where no
// invalidation would reach it, nor into Redis or the store. So nothing of it outlasts the drill, and
// what Redis says is never overwritten. Writes, and all that waits to be replayed, go to Redis.

// ErrDrillRunning means that another drill of the client runs: there is one at a time.
var ErrDrillRunning = errors.New("aside: a drill runs already")

// Drill has reads of a share of the keys, fraction of them (above 0, up to 1), answered as if Redis
// were away, until ctx ends, and reports what the loaders had to carry. Use it to learn whether the
// database can stand an outage of Redis before there is one; begin with 0.01.
//
// The share is one of keys, chosen anew for each drill. Memory goes on answering what it has. A
// loader is called without a lock in one of the places of MaxLoaders, and its value goes to the callers
// and nowhere else. For DegradedTTL, or its ttl if that is shorter, Redis answers further reads of the
// key: memory or the fallback store would in an outage. Reads without a loader get [ErrRedisAway]. Writes,
// refreshes ([WithGrace], [Client.Refresh]), [TypedClient.Warm] and [Client.Update] go to Redis as ever. The drill keeps track
// of a million keys at most; further ones are not in the share.
//
// When ctx ends all is as before at once: the drill's loads that still run are cancelled, and their
// callers ask Redis. That is no error. A drill also ends, with [ErrRedisAway], when a shard of Redis is
// really lost, and with [ErrClosed]. It does not begin unless the mode is [Healthy], nor while another one
// runs ([ErrDrillRunning]). [Client.Health] and the log say that a drill runs.
func (c *Client) Drill(ctx context.Context, kind DrillKind, fraction float64) (DrillReport, error) {
	switch {
	case kind != DrillRedisDown:
		return DrillReport{}, fmt.Errorf("%w: the kind of drill is %v: must be DrillRedisDown", ErrInvalidArgument, kind)
	case !(fraction > 0 && fraction <= 1): // nor may it be no number
		return DrillReport{}, fmt.Errorf("%w: the fraction of a drill is %v: must be above 0 and at most 1, the share of the keys", ErrInvalidArgument, fraction)
	case c.lifecycle.ctx.Err() != nil:
		return DrillReport{}, ErrClosed
	}
	lost := make(chan error, 1)
	defer c.modes.Watch(func(ModeChange) { // which may be told late
		if err := unwell(c.link.Health()); err != nil {
			select {
			case lost <- err:
			default:
			}
		}
	})()
	if err := unwell(c.link.Health()); err != nil {
		return DrillReport{}, fmt.Errorf("aside: a drill cannot begin: %w", err)
	}
	ended := ctx.Done() // a nil ctx panics before there is a drill
	d := drill.New(drill.Options{
		Fraction: fraction, KeptFor: c.opt.DegradedTTL, Now: c.link.Now, MemoryHits: c.counted.memoryHits.sum,
		Refused: ErrOverloaded, NotFound: isNotFound,
	})
	if !c.drill.Begin(d) {
		return DrillReport{}, ErrDrillRunning
	}
	defer c.drill.End(d) // should a Logger panic
	c.opt.Logger.Warn("aside: a drill has begun: reads of a share of the keys are answered as if Redis were away", "kind", kind.String(), "fraction", fraction)
	var err error
	select {
	case <-ended:
	case err = <-lost:
		err = fmt.Errorf("aside: the drill has ended: %w", err)
	case <-c.lifecycle.ctx.Done():
		err = ErrClosed
	}
	c.drill.End(d) // before its loads are looked at: see start, of a load
	for _, l := range c.loads.all() {
		if l.drill == d {
			l.values.cancel(context.Canceled) // and its callers start over
		}
	}
	c.flights.dropErrors() // of its loads: no caller gets one any more
	report := drillReport(d)
	c.opt.Logger.Warn("aside: the drill has ended", report.attrs(err)...)
	return *report, err
}

// unwell returns why no drill may run, or nil.
func unwell(h link.Health) error {
	switch {
	case h.Mode == link.Healthy:
		return nil
	case h.Err != nil:
		return fmt.Errorf("the mode is %v: %w: %w", h.Mode, ErrRedisAway, reason.Of(h.Err))
	default:
		return fmt.Errorf("the mode is %v: %w", h.Mode, ErrRedisAway)
	}
}

// attrs are what the log has of a report.
func (r *DrillReport) attrs(err error) []any {
	all := []any{
		"fraction", r.Fraction, "after", r.Took.String(), "memoryHits", r.MemoryHits, "reads", r.Reads, "kept", r.Kept, "unanswered", r.Unanswered,
		"loads", r.Loads, "mostRunning", r.MostRunning, "refused", r.Refused, "errors", r.Errors, "cancelled", r.Cancelled,
		"p50", r.P50.String(), "p99", r.P99.String(), "longest", r.Longest.String(),
	}
	if err != nil {
		all = append(all, slog.Any("error", err))
	}
	return all
}
