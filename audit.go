package aside

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/redaside/aside/internal/audit"
	"github.com/redaside/aside/internal/near"
)

// An auditor looks whether what a view serves from memory is still what its source has.
//
//	a hit is drawn             a random number for each hit, and nothing else
//	there is room              Audit.AtOnce, Audit.PerSecond; else the hit is skipped
//	the loader                 runs in the background, as for a refresh: its context has no values
//	it returns the same        same
//	something else, and         nobody knows which is newer: overtaken
//	the entry has changed
//	something else, and         stale: whoever changed the source has told nobody. A change may be on its
//	the entry stands for       way, so this is decided only when StaleLease has passed as well
//	StaleLease still
//
// What was loaded is compared and forgotten: nothing of it is cached.

// AuditReport says what the audits of a view have found so far.
type AuditReport struct {
	Name      string // of the view, see WithName
	Sampled   int64  // hits that were drawn
	Skipped   int64  // of these, hits that were not audited: too many audits ran, or had begun in this second
	Same      int64  // audits in which the loader returned what was cached: reloads that changed nothing
	Stale     int64  // audits in which it returned something else, though no change of the key was heard of
	Overtaken int64  // audits in which nobody knows: the cached value changed or ended meanwhile, or Redis was lost
	Failed    int64  // audits in which the loader failed, or there was no place for it

	// SuggestedTTL is the longest ttl with which, as far as the audits show, no more than
	// Audit.StaleShare of the hits are stale; 0 as long as fewer than 100 audits were the same or
	// stale, or where nearly all were stale. docs/OPERATIONS.md has the rule, and its limits.
	SuggestedTTL time.Duration
}

// WithAudit has a share of the view's hits in memory loaded again in the background, and compared:
// [TypedClient.AuditReport] has what comes of it, and hits that are stale are logged, at most one a
// second. Nothing that is cached is replaced by an audit. Use it to learn whether all who change the
// source also tell the cache, and whether the ttl may be longer, or must be shorter.
//
// An audit runs the loader of its call with a context that has the deadline of the view's loads, and no
// values, like a refresh ([WithGrace]). It takes a place of MaxLoaders, MaxLoads and WithMaxLoads. Hits that
// are not audited cost one random number. Counts are those of the view: make it once. A client
// without memory has no hits to audit.
func WithAudit[T any](a Audit[T]) ViewOption {
	return viewOption(func(o *viewOptions) {
		bad := func(field string, value any, remedy string) {
			o.invalid = fmt.Errorf("%w: Audit.%s is %v: %s", ErrInvalidArgument, field, value, remedy)
		}
		switch {
		case !(a.Fraction > 0 && a.Fraction <= 1): // nor may it be no number
			bad("Fraction", a.Fraction, "must be above 0 and at most 1, the share of the hits")
		case a.AtOnce < 0 || a.AtOnce > math.MaxInt32:
			bad("AtOnce", a.AtOnce, "must be positive, or 0 for 1")
		case !(a.PerSecond >= 0 && a.PerSecond <= 1e6) || a.PerSecond > 0 && a.PerSecond < 1e-6:
			bad("PerSecond", a.PerSecond, "must be from 0.000001 to 1000000, or 0 for 10")
		case !(a.StaleShare >= 0 && a.StaleShare < 1):
			bad("StaleShare", a.StaleShare, "must be below 1, or 0 for 0.01")
		}
		a.AtOnce, a.PerSecond, a.StaleShare = cmp.Or(a.AtOnce, 1), cmp.Or(a.PerSecond, 10), cmp.Or(a.StaleShare, 0.01)
		o.audit = a
	})
}

// AuditReport returns what the audits of the view have found so far; zero without [WithAudit].
func (t *TypedClient[T]) AuditReport() AuditReport {
	if t.audits == nil {
		return AuditReport{}
	}
	r := t.audits.Report()
	return AuditReport{
		Name: t.audits.name, Sampled: r.Sampled, Skipped: r.Skipped,
		Same: r.Same, Stale: r.Stale, Overtaken: r.Overtaken, Failed: r.Failed, SuggestedTTL: r.SuggestedTTL,
	}
}

// auditHit audits a hit that was drawn: of e, which memory has for key, in a call with ttl whose
// loader is call.
func (t *TypedClient[T]) auditHit(ttl time.Duration, key string, e *near.Entry, call loadCaller) {
	if !t.audits.Begin() {
		t.c.counted.auditsSkipped.Add(1)
		return
	}
	key = strings.Clone(key)                                           // see obtain
	if !t.c.inBackground(func() { t.auditEntry(ttl, key, e, call) }) { // ends with the load, and StaleLease
		t.judged(audit.Failed, 0)
	}
}

// judged counts what has come of an audit.
func (t *TypedClient[T]) judged(v audit.Verdict, age time.Duration) {
	t.audits.Judge(v, age)
	t.c.counted.audits[v].Add(1)
}

func (t *TypedClient[T]) auditEntry(ttl time.Duration, key string, e *near.Entry, call loadCaller) {
	c, verdict := t.c, audit.Failed
	age := time.Duration(c.link.Now() - e.At())
	if ends, ok := e.Ends(); ok { // it may have been in Redis before it was read
		age = max(age, ttl+t.grace-time.Duration(ends-c.link.Now()))
	}
	defer func() { t.judged(verdict, age) }()
	gen := c.near.Generation(key)
	stands := func() bool {
		return c.near.Generation(key) == gen && c.near.Lookup(key) == e && !e.Expired(c.link.Now()) && c.link.Shard(key).Asks()
	}
	if !stands() || !e.Absent() && t.versionOf(e.Meta()) != itsVersion { // another version's compares with nothing
		verdict = audit.Overtaken
		return
	}
	out, err := t.loadAgain(ttl, key, call)
	if err != nil || out.err != nil || out.again {
		return
	}
	switch same, err := t.sameAs(e, &out); {
	case err != nil:
		t.warn(notDecoded, key, err)
		return
	case same:
		verdict = audit.Same
		return
	}
	verdict = audit.Overtaken
	if !stands() {
		return
	}
	timer := time.NewTimer(c.opt.StaleLease) // whoever changes the source first, and then the cache, may be in between
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.lifecycle.ctx.Done():
		return
	}
	if stands() {
		verdict = audit.Stale
		c.warn(&t.audits.rare, "a cached value is not what its source has, and no change was heard of: whoever changes the source should delete the key", keyAttr(key), "view", t.audits.name, "age", age.String())
	}
}

// loadAgain calls the loader beside what is cached, and keeps nothing.
func (t *TypedClient[T]) loadAgain(ttl time.Duration, key string, call loadCaller) (outcome, error) {
	c := t.c
	who := enterCall(context.Background()) // the loader's context has its values: none
	defer who.leave()
	options, err := c.callOptions(t.calls, nil)
	if err != nil {
		return outcome{}, err
	}
	f := &flight{key: key, stripe: c.flights.stripe(key), waiting: 1}
	l := c.newLoad(who, &plan{ttl: ttl, options: options, call: call, room: t.room}, []loadItem{{f: f}})
	l.items[0].outage = math.MaxUint64 // of which there is none: should Redis go away now, nothing is kept
	l.start()
	alone := ticket{f: f, of: &c.flights, leader: true}
	return alone.wait(who)
}

// sameAs reports whether what was loaded is what e holds.
func (t *TypedClient[T]) sameAs(e *near.Entry, out *outcome) (same bool, err error) {
	switch {
	case e.Absent() || out.absent:
		return e.Absent() == out.absent, nil
	case e.Raw() == out.raw:
		return true, nil
	case t.audits.equal == nil:
		return false, nil
	}
	cached, err := t.tryDecode(e.Raw())
	if err != nil {
		return false, err
	}
	loaded, err := t.tryDecode(out.raw)
	if err != nil {
		return false, err
	}
	if failed := t.c.contained("the function given to Audit.Equal", func() { same = t.audits.equal(cached, loaded) }); failed != nil {
		return false, failed
	}
	return same, nil
}
