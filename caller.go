package aside

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// caller is the context of a call, for as long as the call lasts. Everything behind the exported
// methods uses it in place of the caller's own context, of which nothing may be touched once the
// call has returned: many a server keeps its contexts in a pool (gin, fasthttp), and by then this
// one may be another request's, of another tenant.
//
//	loader: Value(k)  -> caller: ctx.Value(k)                the first caller is inside
//	first caller's client has gone, its Get returns           it waits until the Value above is over
//	the server gives ctx to another request
//	loader: Value(k)  -> the next caller's ctx.Value(k), or nil
//
// The same holds for package context, which asks a parent from goroutines and timers of its own: it
// only ever sees a *caller as parent. Safe for concurrent use.
type caller struct {
	done <-chan struct{} // of the context; immutable
	load *load           // whose loader makes this call; nil: none does. Immutable

	mu    sync.Mutex
	ctx   context.Context //nolint:containedctx // guarded by mu; nil once the call is over
	using int             // calls of ctx's methods under way; guarded by mu
	idle  chan struct{}   // made by the leaver if there are any, closed by the last; guarded by mu
}

// enterCall begins a call with ctx. It must be followed by leave, before the call returns.
func enterCall(ctx context.Context) *caller { return new(caller).enter(ctx) }

// enter is enterCall with c, which nobody has used before.
func (c *caller) enter(ctx context.Context) *caller {
	c.ctx, c.done, c.load = ctx, ctx.Done(), loadOf(ctx)
	return c
}

// leave ends the call: when it returns nobody uses the context any more, nor will.
func (c *caller) leave() {
	c.mu.Lock()
	c.ctx = nil
	var idle chan struct{}
	if c.using > 0 {
		idle = make(chan struct{})
		c.idle = idle
	}
	c.mu.Unlock()
	if idle != nil {
		<-idle
	}
	if c.load != nil {
		c.leaveNested()
	}
}

// present reports whether the call still lasts.
func (c *caller) present() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ctx != nil
}

// inside reports whether the call still lasts and its context has values: where a loader makes it,
// one of that load's callers must be inside.
func (c *caller) inside() bool { return c.present() && (c.load == nil || c.load.caller() != nil) }

// errNoValues is what a call gets that goes on after the load that made it, as a goroutine of a
// loader may with context.WithoutCancel: what its own loader asks of the context nobody can answer
// any more, however often it is called.
var errNoValues = fmt.Errorf("aside: the load whose context this call has is over, so nobody gives its loader values: give what outlives a loader a context of its own: %w", context.Canceled)

// use returns the context, or nil once the call is over; release must follow if it does not.
func (c *caller) use() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx != nil {
		c.using++
	}
	return c.ctx
}

func (c *caller) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.using--; c.using == 0 && c.idle != nil {
		close(c.idle)
	}
}

// lookUp is Value that also reports whether the call still lasts.
func (c *caller) lookUp(key any) (value any, inside bool) {
	ctx := c.use()
	if ctx == nil {
		return nil, false
	}
	defer c.release()
	return ctx.Value(key), true
}

// Deadline implements [context.Context].
func (c *caller) Deadline() (deadline time.Time, ok bool) {
	ctx := c.use()
	if ctx == nil {
		return time.Time{}, false
	}
	defer c.release()
	return ctx.Deadline()
}

// Done implements [context.Context].
func (c *caller) Done() <-chan struct{} { return c.done }

// Err implements [context.Context].
func (c *caller) Err() error {
	if ctx := c.use(); ctx != nil {
		defer c.release()
		return ctx.Err()
	}
	select {
	case <-c.done: // whoever hears of it wants a reason
		return context.Canceled
	default:
		return nil
	}
}

// Value implements [context.Context].
func (c *caller) Value(key any) any {
	value, _ := c.lookUp(key)
	return value
}

// loadContext is the context of a load. It has the values of a caller that waits for the load, see
// Loader; it ends with the load, or at its deadline, and not with a caller's. Those of package
// context would be nine pieces of memory for each load. Safe for concurrent use.
type loadContext struct {
	l    *load // immutable
	ends int64 // its deadline, in link.Now's time; immutable

	mu    sync.Mutex
	err   error         // why it has ended, ErrLockLost among others; guarded by mu
	timer *time.Timer   // for the deadline; guarded by mu, nil until begin
	done  chan struct{} // made by the first who asks for it; guarded by mu
	after []*func()     // see AfterFunc; guarded by mu
}

type loadContextKey struct{}

// loadFromKey is that of the load whose loader has a context. Unlike loadContextKey, it is not of the
// load around a loader that runs for one call alone.
type loadFromKey struct{}

// begin has the load expire when the context ends, at its deadline or by cancel, which may have
// been already.
func (c *loadContext) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go c.l.expire() // ends in bounds; counts as whoever settles the load
		return
	}
	c.timer = time.AfterFunc(c.l.options.loadTimeout, func() {
		if c.end(context.DeadlineExceeded) {
			c.l.expire()
		}
	})
}

// cancel ends the context, and so the load if that has not been settled.
func (c *loadContext) cancel(why error) {
	if c.end(why) {
		go c.l.expire() // ends in bounds; counts as whoever settles the load
	}
}

// end ends the context, once. expires reports whether it has ended now, and the load is to expire
// by that.
func (c *loadContext) end(why error) (expires bool) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return false
	}
	c.err = why
	if c.timer != nil {
		c.timer.Stop()
		expires = true
	}
	if c.done != nil {
		close(c.done)
	}
	after := c.after
	c.after = nil
	c.mu.Unlock()
	for _, f := range after {
		(*f)()
	}
	return expires
}

// Deadline implements [context.Context].
func (c *loadContext) Deadline() (deadline time.Time, ok bool) {
	return c.l.c.link.Began().Add(time.Duration(c.ends)), true
}

// Done implements [context.Context].
func (c *loadContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
	}
	return c.done
}

// Err implements [context.Context].
func (c *loadContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == ErrLockLost { //nolint:errorlint // ours, never wrapped
		return context.Canceled
	}
	return c.err
}

// lockLost reports whether it has ended because its locks were lost.
func (c *loadContext) lockLost() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == ErrLockLost //nolint:errorlint // ours, never wrapped
}

// AfterFunc is how package context ends the contexts that a loader derives: without it each would
// take a goroutine. stop reports whether it has kept f from being called.
func (c *loadContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f() // as package context does
		return func() bool { return false }
	}
	mine := &f
	c.after = append(c.after, mine)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		i := slices.Index(c.after, mine)
		if i >= 0 {
			c.after = slices.Delete(c.after, i, i+1)
		}
		return i >= 0
	}
}

// cancelKey is what package context asks a context for to learn whether it is one of its own, and,
// in context.Cause, why that has ended. A load's must not answer with a caller's: Cause would tell
// why that has ended. Once its locks are lost it answers with endedByLockLost, which has the cause
// that it is to have itself. (Its Done is another, so that nothing is derived from it.)
var cancelKey = func() any {
	var asked keyOf
	_, cancel := context.WithCancel(&asked)
	cancel()
	return asked.key
}()

// endedByLockLost is a context of package context that has ended with the cause ErrLockLost.
var endedByLockLost = func() any {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(ErrLockLost)
	return ctx.Value(cancelKey)
}()

// keyOf notes the key that it is asked for.
type keyOf struct{ key any }

func (*keyOf) Deadline() (deadline time.Time, ok bool) { return deadline, false }
func (*keyOf) Done() <-chan struct{}                   { return make(chan struct{}) }
func (*keyOf) Err() error                              { return nil }
func (k *keyOf) Value(key any) any                     { k.key = key; return nil }
func (*keyOf) AfterFunc(func()) (stop func() bool)     { return func() bool { return true } }

func (c *loadContext) Value(key any) any {
	switch key {
	case loadContextKey{}, loadFromKey{}:
		return c.l
	case cancelKey:
		if c.lockLost() {
			return endedByLockLost
		}
		return nil
	}
	for who := c.l.caller(); who != nil; who = c.l.caller() {
		if value, inside := who.lookUp(key); inside && (value != nil || who.inside()) {
			return value
		}
	}
	c.l.mu.Lock()
	c.l.blind = c.l.blind || !c.l.tracing
	c.l.mu.Unlock()
	return nil
}

func loadOf(ctx context.Context) *load {
	l, _ := ctx.Value(loadContextKey{}).(*load)
	return l
}

// nesting guards what nested calls wait for, in all clients: a circle may lead through several. It
// is taken before the mu of a stripe or a load.
var nesting sync.Mutex

// leaveNested ends what a nested call waits for.
func (c *caller) leaveNested() {
	nesting.Lock()
	defer nesting.Unlock()
	delete(c.load.nested, c)
}
