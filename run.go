package aside

import (
	"context"
	"slices"
	"time"

	"github.com/redaside/aside/internal/script"
)

// How a load runs, from start until what its loader has returned is handed on: to store (fill.go), or
// to fail.

// start calls the loader and returns at once.
func (l *load) start() {
	c := l.c
	c.loads.add(l)
	if !c.enterAll(2) { // the loader's goroutine, and whoever settles the load
		c.loads.remove(l)
		l.release(ErrClosed)
		return
	}
	for i := range l.items {
		item := &l.items[i]
		item.f.stripe.mu.Lock()
		item.f.load = l
		item.f.stripe.mu.Unlock()
	}
	if l.drill != nil && !l.drill.Begins(l.drilled) {
		l.values.cancel(context.Canceled)
	}
	l.values.begin()
	c.work(l)
}

// do calls the loader and, unless the load has expired meanwhile, settles it. It ends when the
// loader returns.
func (l *load) do() {
	c := l.c
	defer c.background.Done()
	notFound, err := l.run()
	mine, deserted := l.end()
	if !mine {
		return
	}
	l.done = c.link.Now()
	took := time.Duration(l.done - l.began)
	switch {
	case deserted, l.values.lockLost(): // what it returned may have been made without values, or by halves
		l.fail(err, deserted, took)
		l.settled()
	case err == nil:
		l.observe(nil, took)
		l.store()
	case notFound:
		l.missing = err
		l.observe(err, took)
		clear(l.out)
		l.store()
	default:
		l.unheld = ofContext(err)
		l.fail(err, deserted, took)
		l.settled()
	}
}

// run calls the loader, and examines its errors. A panic becomes an error, and so does the end of
// its goroutine (runtime.Goexit, t.FailNow).
func (l *load) run() (notFound bool, err error) {
	seated := 0
	defer func() {
		for _, s := range slices.Backward(l.seats[:seated]) {
			s.of.leave(s)
		}
	}()
	for ; seated < len(l.seats); seated++ {
		if err := l.seats[seated].of.enter(&l.values, l.seats[seated]); err != nil {
			return false, err
		}
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		if p := recover(); p != nil {
			notFound, err = false, newPanicError(p)
			return
		}
		// Goexit cannot be stopped: this goroutine ends after its deferred calls, so settle here.
		if mine, deserted := l.end(); mine {
			l.fail(goexited("the loader"), deserted, 0)
			l.settled()
		}
	}()
	l.seeGroups()
	err = l.call.load(l.trace(), l.keys, l.out)
	notFound = examine(err)
	if wrong := l.saidWrong(); wrong != nil && (err == nil || notFound) {
		notFound, err = false, wrong
	}
	for i := range l.out {
		examine(l.out[i].err)
	}
	returned = true
	return notFound, err
}

// renewer keeps the locks of loaders that are slow: all that are due, with one command per shard. A
// lock that is lost stays lost: its fill will be refused. Those that ran out in an outage do not
// count as lost: all processes would start all their loads over when Redis is back. It ends with
// Close.
func (c *Client) renewer() {
	tick := time.NewTicker(c.opt.LockTTL / 6)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.lifecycle.ctx.Done():
			return
		}
		// Due after a third of LockTTL, found within half of it at the latest.
		if items := c.loads.due(int64(c.opt.LockTTL/3), c.link.Now()); len(items) > 0 {
			c.over(items, overLocks{one: script.Renew, many: script.Renew, head: []string{c.renewedTTL()}, answer: c.renewed})
		}
	}
}

// renewed is told whether a lock was still ours.
func (c *Client) renewed(_ bool, item *loadItem, ours bool, err error) {
	l, outage := item.f.loading(), c.link.Home(item.f.key).Valid.Outage()
	switch {
	case l == nil || err != nil:
	case ours && outage != item.held:
		l.lockHeld(item.n, outage)
	case !ours && outage == item.held:
		l.lockLost(item.n)
	}
}
