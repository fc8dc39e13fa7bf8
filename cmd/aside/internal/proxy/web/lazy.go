package web

import (
	"context"
	"sync"
	"time"
)

// lazyContext is context.WithDeadline for who mostly does not wait: a value from memory is returned
// without anybody asking for Done, and then there need be no timer, and nothing for the parent to
// remember.
type lazyContext struct {
	parent   context.Context // immutable, as is deadline; has none of its own that is sooner
	deadline time.Time

	once   sync.Once
	inner  context.Context // set by once, which Done and whoever finds the deadline passed go through
	cancel context.CancelFunc
}

func (c *lazyContext) start() context.Context {
	c.once.Do(func() { c.inner, c.cancel = context.WithDeadline(c.parent, c.deadline) })
	return c.inner
}

// end frees what start has made. It is called when everybody has finished with c.
func (c *lazyContext) end() {
	c.once.Do(func() { c.inner, c.cancel = over, func() {} }) // nobody has asked; who still does finds it over
	c.cancel()
}

// over is a context that has been cancelled.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// Deadline, Done, Err and Value implement [context.Context].

func (c *lazyContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *lazyContext) Done() <-chan struct{} { return c.start().Done() }

func (c *lazyContext) Err() error {
	if err := c.parent.Err(); err != nil {
		return err
	}
	return c.start().Err()
}

func (c *lazyContext) Value(key any) any { return c.start().Value(key) }
