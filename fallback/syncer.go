package fallback

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/redaside/aside/internal/events"
)

// Target is where records are replayed to: Redis, through the client that is connected to it.
type Target interface {
	// Replay sends records to Redis, all in one round trip, and returns one answer for each, in
	// their order. A record without an answer counts as NoAnswer. Up to eight goroutines call it at
	// once, each for other records.
	Replay(ctx context.Context, records []Record) []Outcome
}

// Outcome is Redis's answer for a record.
type Outcome struct {
	Verdict Verdict
	Err     error // of NoAnswer and Refused
	Settled bool  // the Target has settled the record in the Store itself
}

// Verdict is the result for a record.
type Verdict int

// The possible results for a record. With the first two it stays in the Store; with the others it
// is settled.
const ( // new ones come at the end
	NoAnswer   Verdict = iota // Redis has not answered: the pass ends
	Refused                   // Redis refused it, because it is full, for example: the pass goes on
	Applied                   // it is in effect
	Superseded                // there was something newer
	Deleted                   // it was a set, and Redis has deleted the key: it was too old to be written, or had expired
	Dropped                   // it was a fill, and may not be written any more
	Rejected                  // operations of it were refused for good, or may have been done already: they are in quarantine
)

// SyncerOptions configures a [Syncer]. The zero value is usable.
type SyncerOptions struct {
	// Rate is how many records are replayed in a second, so that Redis has time for other clients.
	// -1: no limit. Defaults to 5,000.
	Rate int

	// DropFills settles the fills without replaying them: for a server where a missing stamp does
	// not prove that a key was not written. Defaults to false.
	DropFills bool

	// Belongs reports whether this Syncer replays a key: in a cluster, whether the key is in the
	// shard whose primary is back. It must be quick. Defaults to all keys.
	Belongs func(key string) bool

	// Progress is called now and then, at most every 100 milliseconds, and at the end, from one
	// goroutine. It may be slow: it then misses some steps, and Run waits for it at most 100
	// milliseconds. A panic in it is ignored. Defaults to none.
	Progress func(Progress)
}

// Progress is how far a pass has got.
type Progress struct {
	Done, Total int // records; Total grows when more are written meanwhile
	Report      ReplayReport
}

// ReplayReport counts the results of one pass.
type ReplayReport struct {
	Began time.Time
	Took  time.Duration
	Total int // records that there were

	Applied, Superseded, Deleted, Dropped int   // see Verdict; these have left the Store
	Rejected                              int   // so has this
	Refused, Failed                       int   // of Verdict Refused and NoAnswer; these are still in the Store
	Refusal                               error // Redis's error for the last that it refused or that was rejected
	Err                                   error // why the pass ended early; nil if every record was sent
}

// Done is how many records were answered.
func (r ReplayReport) Done() int {
	return r.Applied + r.Superseded + r.Deleted + r.Dropped + r.Rejected + r.Refused
}

// String is a line for a log.
func (r ReplayReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "replayed %d of %d records in %v: %d applied, %d superseded, %d turned into deletes, %d dropped, %d refused, %d without an answer",
		r.Done(), r.Total, r.Took.Round(time.Millisecond), r.Applied, r.Superseded, r.Deleted, r.Dropped, r.Refused, r.Failed)
	if r.Rejected > 0 {
		fmt.Fprintf(&b, ", %d rejected", r.Rejected)
	}
	if r.Refusal != nil {
		fmt.Fprintf(&b, "; last refusal: %v", r.Refusal)
	}
	if r.Err != nil {
		fmt.Fprintf(&b, "; broken off: %v", r.Err)
	}
	return b.String()
}

const (
	batchRecords     = 256
	batchBytes       = 256 << 10 // of keys and values, so that others are not kept waiting; a record that is larger goes alone
	leastInFlight    = 2         // batches: one is answered while the next is on its way
	mostInFlight     = 8         // what is answered waits for the disk, which takes all of these at once
	inFlightRate     = 10_000    // records in a second for which one batch in flight suffices
	progressInterval = 100 * time.Millisecond
)

// Syncer replays the records of a Store, so that they can leave it. Safe for concurrent use, though
// two passes at once do the work twice.
//
// A pass goes like this: the deletes, then the sets, then the operations, then the fills; each kind only when the one
// before is done, as a fill may not be written beside a delete that is yet to come. A record is
// settled when its batch is answered, and not before: a pass that breaks off, with its process if
// need be, is simply run again. If a newer record of a key comes while the older one is under way,
// the answer settles the older one only.
type Syncer struct { // all immutable
	store  Store
	target Target
	o      SyncerOptions
}

// NewSyncer returns a Syncer from store to target.
func NewSyncer(store Store, target Target, o SyncerOptions) *Syncer {
	if o.Rate == 0 {
		o.Rate = 5000
	}
	return &Syncer{store: store, target: target, o: o}
}

// limits returns how many records go in a batch, how many batches are in flight at once, and at
// which rate records go. A batch goes at once, so at a low rate it is small. Time in which nothing
// was sent is made up for by few batches at most: more would hit a Redis that has just come back.
func (o SyncerOptions) limits() (most, inFlight int, limit *rate.Limiter) {
	if o.Rate < 0 {
		return batchRecords, mostInFlight, rate.NewLimiter(rate.Inf, 0)
	}
	most = min(batchRecords, max(1, o.Rate/20))
	inFlight = min(mostInFlight, max(leastInFlight, o.Rate/inFlightRate))
	return most, inFlight, rate.NewLimiter(rate.Limit(o.Rate), most)
}

// Run makes one pass, and returns what came of it; the error is the report's Err: why it ended too
// early, ctx's if that did. Records that come during the pass may be in it or wait for the next
// one.
func (s *Syncer) Run(ctx context.Context) (ReplayReport, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	most, inFlight, limit := s.o.limits()
	p := &pass{Syncer: s, end: end, most: most, inFlight: inFlight, limit: limit, report: ReplayReport{Began: time.Now(), Total: s.total()}}
	if s.o.Progress != nil {
		p.progress = events.New[Progress](inGoroutine, withoutPanic)
		p.progress.Watch(s.o.Progress)
		p.told = time.Now()
	}
	for _, op := range []Op{OpDel, OpSet, OpOperations, OpFill} {
		if ctx.Err() == nil {
			p.replay(ctx, op)
		}
	}
	p.report.Took = time.Since(p.report.Began)
	p.report.Err = context.Cause(ctx)
	p.report.Total = max(p.report.Total, p.report.Done()+p.report.Failed)
	if p.progress != nil {
		p.progress.Announce(p.progressLocked(), overtaken) // nobody else is left
		p.progress.Flush(progressInterval)                 // an observer may take longer, and does not steer
	}
	return p.report, p.report.Err
}

// total is how many records there are to replay. Other people's Stores do not say how many belong.
func (s *Syncer) total() int {
	if own, ok := s.store.(interface {
		count(belongs func(key string) bool) int
	}); ok {
		return own.count(s.o.Belongs)
	}
	stats := s.store.Stats()
	return stats.Pending() + stats.Fills
}

// pass is one call of Run.
type pass struct {
	*Syncer
	most     int           // records in a batch; immutable
	inFlight int           // batches at once; immutable
	limit    *rate.Limiter // of records; immutable
	end      context.CancelCauseFunc
	progress *events.Bus[Progress] // immutable; nil: there is no observer

	mu     sync.Mutex   // guards all below
	report ReplayReport // told of at most so often
	told   time.Time    // when that was last
}

// replay goes through the records with op, and returns when all batches that it has sent are
// answered.
func (p *pass) replay(ctx context.Context, op Op) {
	var flying sync.WaitGroup
	defer flying.Wait()
	slots := make(chan struct{}, p.inFlight)
	var batch []Record
	bytes := 0
	send := func() bool {
		if len(batch) == 0 {
			return true
		}
		if p.limit.WaitN(ctx, len(batch)) != nil {
			<-ctx.Done() // it ends before there is room
			return false
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return false
		}
		records := batch
		batch, bytes = make([]Record, 0, p.most), 0
		flying.Go(func() { // ends with the answer
			defer func() { <-slots }()
			p.ask(ctx, records)
		})
		return true
	}
	for r := range p.store.Records(op) {
		if ctx.Err() != nil {
			return
		}
		if p.o.Belongs != nil && !p.o.Belongs(r.Key) {
			continue
		}
		size := len(r.Key) + len(r.Value)
		if bytes+size > batchBytes && !send() {
			return
		}
		batch = append(batch, r)
		if bytes += size; len(batch) >= p.most && !send() {
			return
		}
	}
	send()
}

// ask replays a batch and settles what was answered.
func (p *pass) ask(ctx context.Context, records []Record) {
	var outcomes []Outcome
	if p.o.DropFills && records[0].Op == OpFill {
		outcomes = make([]Outcome, len(records))
		for i := range outcomes {
			outcomes[i].Verdict = Dropped
		}
	} else {
		outcomes = p.target.Replay(ctx, records)
	}
	var answered []Record
	var report ReplayReport
	var failed error
	for i := range records {
		var o Outcome
		if i < len(outcomes) {
			o = outcomes[i]
		}
		switch o.Verdict {
		case Applied:
			report.Applied++
		case Superseded:
			report.Superseded++
		case Deleted:
			report.Deleted++
		case Dropped:
			report.Dropped++
		case Rejected:
			report.Rejected++
			report.Refusal = o.Err
		case Refused:
			report.Refused++
			report.Refusal = o.Err
			continue
		default:
			report.Failed++
			if failed == nil {
				failed = o.Err
			}
			continue
		}
		if !o.Settled {
			answered = append(answered, records[i])
		}
	}
	if len(answered) > 0 {
		p.store.Settle(answered...)
	}
	if report.Failed > 0 {
		if failed == nil {
			failed = errors.New("aside: Redis has not answered for all records")
		}
		p.end(failed)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	all := &p.report
	all.Applied += report.Applied
	all.Superseded += report.Superseded
	all.Deleted += report.Deleted
	all.Dropped += report.Dropped
	all.Rejected += report.Rejected
	all.Refused += report.Refused
	all.Failed += report.Failed
	if report.Refusal != nil {
		all.Refusal = report.Refusal
	}
	if p.progress != nil && time.Since(p.told) >= progressInterval {
		p.told = time.Now()
		p.progress.Announce(p.progressLocked(), overtaken)
	}
}

func (p *pass) progressLocked() Progress {
	r := p.report
	if r.Took == 0 {
		r.Took = time.Since(r.Began)
	}
	r.Total = max(r.Total, r.Done()+r.Failed)
	return Progress{Done: r.Done(), Total: r.Total, Report: r}
}

// overtaken has an observer that was busy told the newest progress only.
func overtaken(Progress) bool { return true }

// inGoroutine runs an observer's goroutine, which ends when there is nothing left to tell.
func inGoroutine(run func()) bool {
	go run()
	return true
}

// withoutPanic calls an observer. A panic of its own must not end the replay.
func withoutPanic(call func()) {
	defer func() { _ = recover() }()
	call()
}
