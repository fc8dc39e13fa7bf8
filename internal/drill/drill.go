// Package drill has the books of a drill: a share of the keys is read as if Redis were away, while it
// is well. It decides which keys those are, and counts what comes of them; it asks nobody.
//
// A share of keys, and not of calls: in an outage the first read of a key loads it, and memory or the
// fallback store has the rest. Of a tenth of all keys, loaders see a tenth of what an outage would
// bring them. Of a tenth of all calls they would see nearly every key.
package drill

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// Options are what New needs to know.
type Options struct {
	Fraction   float64          // of all keys: above 0, up to 1
	KeptFor    time.Duration    // for how long an outage keeps what was loaded; negative: for its ttl
	Now        func() int64     // a clock that never goes back, in nanoseconds
	MemoryHits func() int64     // how many keys memory has answered until now
	Refused    error            // of a load that had no place
	NotFound   func(error) bool // whether an error of a loader says that there is no value
}

// Drill is one drill. Safe for concurrent use.
type Drill struct {
	opt   Options      // immutable, as are the next ones
	seed  maphash.Seed // another share for each drill
	began time.Time
	hits  int64 // of memory, before

	over atomic.Bool

	reads, kept, unanswered    atomic.Int64
	loads, keys, running, most atomic.Int64
	refused, failed, cancelled atomic.Int64
	took                       durations

	mu     sync.Mutex
	loaded map[uint64]int64 // until when an outage would have kept a key, by its hash; guarded by mu
	next   int64            // when those whose time is over may be removed again; guarded by mu
	sweeps int              // how often they were; guarded by mu
}

// New returns a drill that has not begun: see [Slot.Begin].
func New(o Options) *Drill {
	return &Drill{opt: o, seed: maphash.MakeSeed(), began: time.Now(), hits: o.MemoryHits(), loaded: make(map[uint64]int64)}
}

// mostKeys is how many keys a drill keeps track of.
const mostKeys = 1 << 20

// Slot has the drill that runs, if one does. Safe for concurrent use.
type Slot struct{ running atomic.Pointer[Drill] }

// Begin makes d the drill that runs; false: another one runs.
func (s *Slot) Begin(d *Drill) bool { return s.running.CompareAndSwap(nil, d) }

// End ends d, if it runs.
func (s *Slot) End(d *Drill) {
	if s.running.CompareAndSwap(d, nil) {
		d.over.Store(true)
	}
}

// Running returns the drill that runs, or nil.
func (s *Slot) Running() *Drill { return s.running.Load() }

// Load returns the drill by which a read of key calls its loader, and counts the read; nil: Redis is
// to be asked.
func (s *Slot) Load(key string) *Drill {
	d := s.running.Load()
	if d == nil {
		return nil
	}
	hash := maphash.String(d.seed, key)
	if hash>>11 >= uint64(d.opt.Fraction*(1<<53)) {
		return nil
	}
	kept, room := d.keeps(hash)
	if !room {
		return nil
	}
	d.reads.Add(1)
	if kept {
		d.kept.Add(1)
		return nil
	}
	return d
}

// Refuses reports whether a read of key without a loader has no answer, and counts it.
func (s *Slot) Refuses(key string) bool {
	d := s.Load(key)
	if d != nil {
		d.unanswered.Add(1)
	}
	return d != nil
}

// keeps reports whether an outage would have kept the key of hash, because it was loaded before. room:
// there is some for another key.
func (d *Drill) keeps(hash uint64) (kept, room bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	until, known := d.loaded[hash]
	return known && d.opt.Now() < until, known || len(d.loaded) < mostKeys
}

// Keep notes that key was loaded, for ttl.
func (d *Drill) Keep(key string, ttl time.Duration) {
	if d.opt.KeptFor >= 0 {
		ttl = min(ttl, d.opt.KeptFor)
	}
	hash, now := maphash.String(d.seed, key), d.opt.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if now >= d.next {
		for hash, until := range d.loaded {
			if now >= until {
				delete(d.loaded, hash)
			}
		}
		d.sweeps++
		d.next = now + int64(max(d.opt.KeptFor/8, time.Second)) // a sweep looks at all of them, and reads wait for it
	}
	d.loaded[hash] = now + int64(ttl)
}

// Over reports whether d has ended.
func (d *Drill) Over() bool { return d.over.Load() }

// Begins notes a load that is about to call its loader for so many keys of the share. false: the
// drill is over, and whoever has ended it may not have seen the load.
func (d *Drill) Begins(keys int) bool {
	d.loads.Add(1)
	d.keys.Add(int64(keys))
	running := d.running.Add(1)
	for most := d.most.Load(); running > most && !d.most.CompareAndSwap(most, running); most = d.most.Load() {
	}
	return !d.over.Load()
}

// Returned notes the end of a load. The methods of err must not panic.
func (d *Drill) Returned(err error, took time.Duration) {
	d.running.Add(-1)
	switch {
	case errors.Is(err, context.Canceled), d.over.Load():
		d.cancelled.Add(1)
		return
	case errors.Is(err, d.opt.Refused):
		d.refused.Add(1)
		return
	case err != nil && !d.opt.NotFound(err):
		d.failed.Add(1)
	}
	d.took.add(took)
}

// Report is what a drill has shown so far; aside.DrillReport says what of.
type Report struct {
	Fraction                            float64
	Began                               time.Time
	Took                                time.Duration
	MemoryHits, Reads, Kept, Unanswered int64
	Loads, Keys, Running, MostRunning   int64
	Refused, Errors, Cancelled          int64
	P50, P99, Longest, LoadTime         time.Duration
}

// Report returns what d has shown so far.
func (d *Drill) Report() Report {
	return Report{
		Fraction: d.opt.Fraction, Began: d.began, Took: time.Since(d.began),
		MemoryHits: d.opt.MemoryHits() - d.hits, Reads: d.reads.Load(), Kept: d.kept.Load(), Unanswered: d.unanswered.Load(),
		Loads: d.loads.Load(), Keys: d.keys.Load(), Running: d.running.Load(), MostRunning: d.most.Load(),
		Refused: d.refused.Load(), Errors: d.failed.Load(), Cancelled: d.cancelled.Load(),
		P50: d.took.quantile(0.5), P99: d.took.quantile(0.99), Longest: time.Duration(d.took.longest.Load()), LoadTime: time.Duration(d.took.sum.Load()),
	}
}
