// Package audit has the books of an auditor: a sampled share of a view's hits is loaded again, and
// compared with what was cached. It decides which hits those are, counts what comes of them, and
// suggests a ttl. It asks nobody.
package audit

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Options are what New needs to know.
type Options struct {
	Fraction  float64       // of all hits: above 0, up to 1
	AtOnce    int64         // audits
	PerSecond float64       // audits that begin
	Target    float64       // the share of hits that may be stale, for the suggested ttl
	Longest   time.Duration // of a suggested ttl
	Now       func() int64  // a clock that never goes back, in nanoseconds
}

// Auditor audits the hits of one view. Safe for concurrent use.
type Auditor struct {
	opt   Options // immutable, as is the next one
	below uint64

	sampled, skipped atomic.Int64
	running          atomic.Int64
	next             atomic.Int64 // when another audit may begin

	mu       sync.Mutex
	verdicts [verdictCount]int64 // guarded by mu, as is the next one
	ages     [ageBuckets]int64   // of the hits that were judged: same or stale
}

// Verdict is what came of an audit.
type Verdict int

// The verdicts.
const (
	Same      Verdict = iota // the source has what was cached
	Stale                    // it has not, and no change was heard of
	Overtaken                // it has not, and the cached value has changed or ended meanwhile: nobody knows
	Failed                   // the loader has failed
	verdictCount
)

// New returns an Auditor.
func New(o Options) *Auditor { return &Auditor{opt: o, below: uint64(o.Fraction * (1 << 53))} }

// Draws reports whether a hit is in the share. It is on the path of each hit: one random number.
func (a *Auditor) Draws() bool { return rand.Uint64()>>11 < a.below }

// Begin reports whether a hit that was drawn may be audited now; Judge must follow if so.
func (a *Auditor) Begin() bool {
	a.sampled.Add(1)
	now, next := a.opt.Now(), a.next.Load()
	if a.running.Add(1) <= a.opt.AtOnce && now >= next && a.next.CompareAndSwap(next, now+int64(float64(time.Second)/a.opt.PerSecond)) {
		return true
	}
	a.running.Add(-1)
	a.skipped.Add(1)
	return false
}

// Judge is the end of an audit of a hit whose value was so old.
func (a *Auditor) Judge(v Verdict, age time.Duration) {
	a.running.Add(-1)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.verdicts[v]++
	if v == Same || v == Stale {
		a.ages[ageBucket(age)]++
	}
}

// Report is what an Auditor has found so far; aside.AuditReport says what of.
type Report struct {
	Sampled, Skipped, Same, Stale, Overtaken, Failed int64
	SuggestedTTL                                     time.Duration
}

// Report returns what a has found so far.
func (a *Auditor) Report() Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Report{
		Sampled: a.sampled.Load(), Skipped: a.skipped.Load(),
		Same: a.verdicts[Same], Stale: a.verdicts[Stale], Overtaken: a.verdicts[Overtaken], Failed: a.verdicts[Failed],
		SuggestedTTL: a.suggestLocked(),
	}
}

// Ages are counted in buckets, eight for each power of two of a millisecond, and count as where their
// bucket begins: too young by up to an eighth, which makes the suggested ttl too short by as much.
const (
	ageBits    = 3
	ageBuckets = 45 << ageBits
)

func ageBucket(age time.Duration) int {
	ms := float64(max(age, time.Millisecond)) / float64(time.Millisecond)
	return min(int(math.Log2(ms)*(1<<ageBits)), ageBuckets-1)
}

// ageOf is where a bucket begins, in seconds.
func ageOf(bucket int) float64 { return math.Exp2(float64(bucket)/(1<<ageBits)) / 1000 }

// leastJudged is how many hits must have been judged for a suggestion.
const leastJudged = 100

// suggestLocked returns the longest ttl with which, as far as the audits show, no more than the part
// Target of hits is stale.
//
// It takes the changes of a key that nobody tells the cache for a Poisson process: a value of age a
// is stale with probability 1 - exp(-r a). Its rate r is estimated by the method of moments, from
// ages that differ:
//
//	the sum of 1 - exp(-r a) over all audited hits = the upper 95 % bound of the stale ones among them
//
// which has one solution, as the left side grows with r. (Stale hits divided by the sum of ages would
// be too low: several changes of a key count as one.) If the hits of a key are spread evenly over a
// ttl T, the part 1 - (1 - exp(-r T)) / (r T) of them is stale, which is less than r T / 2. So T is
// 2 Target / r.
func (a *Auditor) suggestLocked() time.Duration {
	judged := a.verdicts[Same] + a.verdicts[Stale]
	most := atMost(a.verdicts[Stale])
	if judged < leastJudged || most >= float64(judged) {
		return 0
	}
	low, high := 1e-12, 1e6 // changes a second
	for range 100 {
		rate := math.Sqrt(low * high)
		expected := 0.0
		for i, n := range a.ages {
			if n > 0 {
				expected -= float64(n) * math.Expm1(-rate*ageOf(i))
			}
		}
		if expected < most {
			low = rate
		} else {
			high = rate
		}
	}
	ttl := 2 * a.opt.Target / high
	if ttl >= a.opt.Longest.Seconds() {
		return a.opt.Longest
	}
	return time.Duration(ttl * float64(time.Second)).Truncate(time.Millisecond)
}

// atMost is the one-sided upper 95 % bound of the mean of a Poisson variable that was n, by the
// approximation of Wilson and Hilferty: 3 for 0.
func atMost(n int64) float64 {
	k := float64(n + 1)
	root := 1 - 1/(9*k) + 1.645/(3*math.Sqrt(k))
	return k * root * root * root
}
