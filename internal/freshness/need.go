package freshness

import (
	"math"
	"time"
)

// Need is what a call needs of a value that may be served otherwise. The zero Need takes any value.
type Need struct {
	Grace    time.Duration // that values have for the call, unless they say it themselves
	MaxStale time.Duration // for how long a value may have been stale, if Bounded
	Bounded  bool
	MaxAge   time.Duration // since its load began; 0: any
	Ahead    float64       // the part of its ttl by which a value is refreshed before it is stale, at most; 0: it is not
	Proven   bool          // nothing that was known before the call
}

// Any reports whether a call takes any value that does not itself say when it is stale.
func (n *Need) Any() bool { return n.Grace == 0 && n.MaxAge == 0 && n.Ahead == 0 && !n.Proven }

// Fresh reports whether a value with such a ttl and grace is Good for certain: it is before the time
// at which Judge would have to look closer. The value was not made stale. It is small enough to be
// inlined.
func (n *Need) Fresh(now int64, ttl time.Duration, ends int64, grace time.Duration) bool {
	return n.MaxAge == 0 && !n.Proven && ends-int64(grace)-now > int64(n.Window(ttl))
}

// Value is what is known of a value. Times are of one clock.
type Value struct {
	Ends  int64         // when its key does; math.MaxInt64: it does not
	Began int64         // when its load began, or it was set; 0: not known
	TTL   time.Duration // for how long it was to be fresh; 0: it does not say that, nor Grace
	Grace time.Duration // that it has itself
	Took  time.Duration // how long its load took; 0: not known

	Expired bool // it was made stale before its time, nobody knows when
}

// Verdict is what a value is for a call.
type Verdict int

// The verdicts.
const (
	Good     Verdict = iota // it may have it
	Due                     // it may have it, and it is time to refresh it
	Outdated                // it may have it although it is stale, and it is to be refreshed
	Unfit                   // it may not have it
)

// Judge returns what v is at now for a call that has stated a ttl. drawn returns a random number of
// the exponential distribution with mean 1.
func (n *Need) Judge(now int64, ttl time.Duration, v Value, drawn func() float64) Verdict {
	if n.Proven || n.MaxAge > 0 && (v.Began == 0 || now-v.Began > int64(n.MaxAge)) {
		return Unfit
	}
	if v.Expired {
		if n.Bounded {
			return Unfit
		}
		return Outdated
	}
	if v.Ends == math.MaxInt64 {
		return Good
	}
	grace := n.Grace
	if v.TTL > 0 {
		grace, ttl = v.Grace, v.TTL
	}
	left := v.Ends - int64(grace) - now
	switch {
	case left > 0:
		if n.Ahead > 0 && n.due(left, ttl, v.Took, drawn) {
			return Due
		}
		return Good
	case grace == 0:
		return Good // it has just ended
	case n.Bounded && (n.MaxStale == 0 || -left > int64(n.MaxStale)):
		return Unfit
	default:
		return Outdated
	}
}

// Window is how long before it is stale a value with this ttl is refreshed, at most.
func (n *Need) Window(ttl time.Duration) time.Duration {
	return time.Duration(n.Ahead * float64(ttl))
}

// unknownTook is the part of its window that the load of a value is taken to take which does not say
// it.
const unknownTook = 4

// due decides that anew for each call: the later it is, the more probable, and the earlier, the
// longer a load takes and the more callers there are. This is XFetch, with beta 1: Vattani,
// Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015. Far from
// its end a value costs one comparison.
func (n *Need) due(left int64, ttl, took time.Duration, drawn func() float64) bool {
	window := n.Window(ttl)
	if left > int64(window) {
		return false
	}
	if took == 0 {
		took = window / unknownTook
	}
	return float64(left) <= float64(took)*drawn()
}
