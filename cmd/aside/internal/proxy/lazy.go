package proxy

import (
	"context"
	"sync"
	"time"
)

// LazyContext is context.WithDeadline for requests that mostly do not wait: a request that is
// answered from memory asks neither for Done nor derives a context, and then there is no timer, and
// nothing for the parent to remember. Safe for concurrent use, except for Begin.
type LazyContext struct {
	parent context.Context //nolint:containedctx // it is one; immutable

	mu       sync.Mutex
	deadline time.Time          // guarded by mu
	real     context.Context    //nolint:containedctx // made by the first call of Done; guarded by mu
	cancel   context.CancelFunc // of real; guarded by mu
	waited   time.Time          // when Done was called first; guarded by mu
	over     bool               // End was called; guarded by mu
}

// NewLazyContext returns a context that ends at the deadline, with its parent, and with End.
func NewLazyContext(parent context.Context, deadline time.Time) *LazyContext {
	return &LazyContext{parent: parent, deadline: deadline}
}

// Begin makes c a new context with the same parent. It may be called only where End has returned
// true.
func (c *LazyContext) Begin(deadline time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline, c.over = deadline, false
}

// End ends the context. It reports whether c may Begin again: nothing that outlives the request has
// hold of c, as everything that keeps a context asks for Done.
func (c *LazyContext) End() (again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.cancel != nil {
		c.cancel()
	}
	return c.real == nil
}

// Waited is when somebody began to wait for the context's end, beside what is waited for; zero if
// nobody did.
func (c *LazyContext) Waited() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waited
}

// Deadline implements [context.Context].
func (c *LazyContext) Deadline() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deadline, true
}

// Done implements [context.Context]. It makes the timer.
func (c *LazyContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		c.waited = time.Now()
		c.real, c.cancel = context.WithDeadline(c.parent, c.deadline)
		if c.over {
			c.cancel()
		}
	}
	return c.real.Done()
}

// Err implements [context.Context].
func (c *LazyContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.real != nil:
		return c.real.Err()
	case c.over:
		return context.Canceled
	case !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	}
	return c.parent.Err()
}

// Value implements [context.Context]. It asks the context with the timer once there is one, so that
// contexts which derive from c find what to attach to.
func (c *LazyContext) Value(key any) any {
	c.mu.Lock()
	timed := c.real
	c.mu.Unlock()
	if timed != nil {
		return timed.Value(key)
	}
	return c.parent.Value(key)
}
