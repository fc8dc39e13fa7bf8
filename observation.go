package aside

import (
	"context"
	"strings"
	"time"
)

// observation is a call, a write or a refresh of which the Observer is told at its end, and a Tracer
// at its beginning, too. Nil: there is no Observer. The goroutine of the call has it, and nobody
// else.
//
// What happens meanwhile, while the call holds what others wait for, is told at the end as well: an
// Observer may ask for it.
type observation struct {
	r     *reports
	who   *caller         // the context that the Observer gets, so that it ends with the call even where one keeps it
	ctx   context.Context //nolint:containedctx // what a Tracer has made of who
	began int64           // in reports.clock's time
	e     Event
	waits []Event // EventShared and EventLockWait
}

// watch begins what takes time: it goes on with the context that is returned, and end must follow.
func (r *reports) watch(ctx context.Context, e Event) (*observation, context.Context) {
	if r.observer == nil {
		return nil, ctx
	}
	e.Key = strings.Clone(e.Key) // it may be a buffer's that is written again
	o := &observation{r: r, who: enterCall(ctx), began: r.clock(), e: e}
	o.ctx = r.tellStart(o.who, e)
	return o, o.ctx
}

// tellStart tells a Tracer, and returns the context that it has made. It must descend from ctx:
// deadlines, values, and which load a call is part of, depend on that.
func (r *reports) tellStart(ctx context.Context, e Event) context.Context {
	if r.tracer == nil {
		return ctx
	}
	mark := new(byte) // of this start
	var made context.Context
	err := r.life.contained("Options.Observer", func() {
		if made = r.tracer.Start(context.WithValue(ctx, startKey{}, mark), e); made == nil || made.Value(startKey{}) != any(mark) {
			made = nil
		}
	})
	switch {
	case err != nil:
		r.warn(&r.seldomObserver, "Options.Observer did not return", "error", err, "event", e.Kind.String())
	case made == nil:
		r.warn(&r.seldomObserver, "the context that the Start of Options.Observer has returned does not descend from the one that it was given, so it is not used", "event", e.Kind.String())
	default:
		return made
	}
	return ctx
}

// startKey is the key of the mark by which a context is known to descend from that of a start.
type startKey struct{}

// end tells the Observer.
func (o *observation) end(err error) {
	if o == nil {
		return
	}
	o.e.Duration, o.e.Err = time.Duration(o.r.clock()-o.began), err
	for _, e := range o.waits {
		o.r.observe(o.ctx, e)
	}
	o.r.observe(o.ctx, o.e)
	o.who.leave()
}

// refreshed is end for a refresh that has loaded so many keys.
func (o *observation) refreshed(keys int, err error) {
	if o != nil {
		o.e.Keys = keys
		o.end(err)
	}
}

// found notes where an answer came from, and whether it is stale.
func (o *observation) found(source Source, stale bool) {
	if o == nil {
		return
	}
	if o.e.Source != SourceLoader {
		o.e.Source = source
	}
	o.e.Stale = o.e.Stale || stale
}

// shared notes that the call has waited, since then, for the answer to another call about key, and
// for which load; nil: none that a Tracer knows.
func (o *observation) shared(load context.Context, key string, since int64) {
	if o == nil {
		return
	}
	o.e.Shared = true
	o.waited(Event{Kind: EventShared, Key: key, Load: load}, since)
}

// lockWait notes that the call has waited, since then, for another process to fill key.
func (o *observation) lockWait(key string, since int64) {
	if o == nil {
		return
	}
	o.waited(Event{Kind: EventLockWait, Key: key}, since)
}

func (o *observation) waited(e Event, since int64) {
	e.View, e.Keys, e.Duration, e.At = o.e.View, 1, time.Duration(o.r.clock()-since), time.Now()
	o.e.Waited += e.Duration // of several keys of a call, it is their sum
	o.waits = append(o.waits, e)
}

func (o *observation) view() string {
	if o == nil {
		return ""
	}
	return o.e.View
}

// now is when something begins that is told later; 0: nobody is told.
func (o *observation) now() int64 {
	if o == nil {
		return 0
	}
	return o.r.clock()
}
