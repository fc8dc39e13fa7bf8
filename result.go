package aside

import (
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/near"
)

// Result is a value, and what is known of it. Where [Found] has a field, too, it means the same.
type Result[T any] struct {
	Value T

	TTL    time.Duration // left of its key, the grace included; negative if it does not expire; 0 if it is not stored
	Source Source        // SourceMemory, SourceRedis, SourceDisk or SourceLoader
	At     time.Time     // when Redis was asked; of what it was not asked for, when the value was set or its load began

	Age      time.Duration // since its load began, or since it was set; negative if that is not known
	Stale    bool          // only its grace is left, see WithGrace
	StaleErr error         // of a stale value: why its last refresh has failed, here or (then it says no more) in another process; nil if none has, or that was long ago
	Degraded bool          // Redis was not asked, or has not answered: this is what memory, the disk or the loader has without it
	Waited   bool          // the call has waited for a load that another call or process runs, or for a refresh

	Untracked bool // it is from a memory that Redis tells of no changes: it may be as old as Options.UntrackedTTL
}

// provenance is a Result without its value. It belongs to one call.
type provenance struct {
	ttl      time.Duration
	source   Source
	at       time.Time
	age      time.Duration
	stale    bool
	staleErr error
	degraded bool
	waited   bool

	untracked bool
}

func resultOf[T any](value T, p *provenance) Result[T] {
	return Result[T]{
		Value: value, TTL: p.ttl, Source: p.source, At: p.at,
		Age: p.age, Stale: p.stale, StaleErr: p.staleErr, Degraded: p.degraded, Waited: p.waited, Untracked: p.untracked,
	}
}

// asked is a key that a call has asked for, and says where its value is from.
type asked struct {
	*Client
	key   string
	grace time.Duration // that the call gives what a flight has answered
}

// inMemory is said of what memory has served. All is told as of the moment at which that was allowed:
// what a call takes that wants nothing stale is not stale a moment later.
func (a asked) inMemory(p *provenance, hit *near.Hit) {
	found := a.Client.inMemoryAt(hit.Entry, hit.Now)
	p.ttl, p.source, p.at, p.degraded = found.TTL, found.Source, found.At, found.away
	p.untracked = found.Untracked
	p.aged(hit.Now, found.began)
	p.staled(a, hit.Verdict == freshness.Outdated)
}

// outcome is said of what a flight has answered, as inMemory is.
func (a asked) outcome(p *provenance, out *outcome) {
	now := out.judged
	if now == 0 {
		now = a.link.Now()
	}
	p.ttl, p.source, p.at, p.degraded, p.waited = time.Duration(max(out.ends-now, 0)), out.source, a.wall(out.at), out.bare, out.waited
	if out.ends == 0 && out.by == nil {
		p.ttl = -1
	}
	p.aged(now, out.began)
	p.staled(a, isStale(out, now, a.grace))
}

// alone is said of what was loaded for the call alone, from began on.
func (a asked) alone(p *provenance, began int64) {
	*p = provenance{source: SourceLoader, at: a.wall(began), age: time.Duration(a.link.Now() - began)}
}

// aged notes when the load of the value began; 0: not known.
func (p *provenance) aged(now, began int64) {
	p.age = -1
	if began != 0 {
		p.age = time.Duration(max(now-began, 0))
	}
}

func (p *provenance) staled(a asked, stale bool) {
	if p.stale = stale; stale {
		p.staleErr = a.refreshes.failure(a.key)
	}
}

// collected are the answers to a call for many keys: values, or, where it is asked where they are
// from, results. Of one goroutine.
type collected[T any] struct {
	*Client
	grace   time.Duration        // that the call gives values
	prefix  int                  // bytes of keys that are the view's prefix, which its callers do not see
	values  map[string]T         // nil if results is not
	results map[string]Result[T] // nil if values is not

	undrilled bool // see plan
}

func (to *collected[T]) inMemory(key string, value T, hit *near.Hit) {
	if to.results == nil {
		to.values[key[to.prefix:]] = value
		return
	}
	var how provenance
	asked{to.Client, key, to.grace}.inMemory(&how, hit)
	to.results[key[to.prefix:]] = resultOf(value, &how)
}

func (to *collected[T]) outcome(key string, value T, out *outcome) {
	if to.results == nil {
		to.values[key[to.prefix:]] = value
		return
	}
	var how provenance
	asked{to.Client, key, to.grace}.outcome(&how, out)
	to.results[key[to.prefix:]] = resultOf(value, &how)
}

func (to *collected[T]) alone(key string, value T, began int64) {
	if to.results == nil {
		to.values[key[to.prefix:]] = value
		return
	}
	var how provenance
	asked{to.Client, key, to.grace}.alone(&how, began)
	to.results[key[to.prefix:]] = resultOf(value, &how)
}

// drop forgets keys that have changed since.
func (to *collected[T]) drop(keys []string) {
	for _, key := range keys {
		delete(to.values, key[to.prefix:])
		delete(to.results, key[to.prefix:])
	}
}

// waited notes that the call has waited for a refresh of keys, if p says so, which may have failed.
func (to *collected[T]) waited(keys []string, p *plan) {
	if to.results == nil || !p.waited {
		return
	}
	for _, key := range keys {
		if result, ok := to.results[key[to.prefix:]]; ok {
			result.Waited, result.StaleErr = true, to.refreshes.failure(key)
			to.results[key[to.prefix:]] = result
		}
	}
}
