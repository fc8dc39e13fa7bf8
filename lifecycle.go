package aside

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// lifecycle is a client's, from New to the end of Close: every goroutine of ours, for which Close
// waits. Safe for concurrent use.
type lifecycle struct {
	ctx    context.Context    // ends with Close; immutable
	cancel context.CancelFunc // of ctx; immutable
	idle   chan task          // to a worker that waits for work; immutable
	apart  chan task          // to a goroutine of contained's that does; immutable

	calls     sync.Pool // of *containedCall: a client's own, as a channel of a synctest bubble serves in no other
	callbacks sync.Map  // the numbers of the goroutines that run callbacks, see contain.go

	mu         sync.RWMutex   // held while ctx ends; for reading by those who must not begin anything afterwards
	background sync.WaitGroup // every goroutine of ours; may be added to with mu held, or by one of them
	closedAt   atomic.Int64   // when Close was called, in link.Now's time; set before ctx ends

	closeOnce sync.Once
	closed    chan struct{} // closed when Close is over; immutable
	closeErr  error         // set before closed is closed
}

// begin begins it, once.
func (lc *lifecycle) begin() {
	lc.idle, lc.apart, lc.closed = make(chan task), make(chan task), make(chan struct{})
	lc.ctx, lc.cancel = context.WithCancel(context.Background())
}

// enter begins work that Close waits for; the caller ends it with background.Done. false: the
// client is closed.
func (lc *lifecycle) enter() bool { return lc.enterAll(1) }

// enterAll is enter for several parts of work, each of which ends by itself.
func (lc *lifecycle) enterAll(parts int) bool {
	lc.mu.RLock()
	defer lc.mu.RUnlock()
	if lc.ctx.Err() != nil {
		return false
	}
	lc.background.Add(parts)
	return true
}

// inBackground runs fn in a goroutine that Close waits for; not at all once the client is closed.
func (lc *lifecycle) inBackground(fn func()) bool {
	if !lc.enter() {
		return false
	}
	go func() { // ends with fn
		defer lc.background.Done()
		fn()
	}()
	return true
}

// task is what a worker does: a load, or what is left of one.
type task interface{ do() }

// work does a task in a goroutine: one that has just finished another, if there is one, because it
// has the stack that a load needs; growing a new one was a fifteenth of what a miss costs us.
func (lc *lifecycle) work(t task) {
	select {
	case lc.idle <- t:
	default:
		lc.background.Add(1) // not from zero: the load counts until it has ended
		go lc.worker(t)
	}
}

func (lc *lifecycle) worker(t task) {
	defer lc.background.Done()
	lc.serve(t, lc.idle)
}

// serve does t, and then what comes, one after the other. It ends when nothing has come for one to
// two seconds, with Close, or with a task that ends its goroutine. (A timer would have to be set anew
// after each task.)
func (lc *lifecycle) serve(t task, tasks <-chan task) {
	defer lc.callback()()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for used := true; ; {
		if t != nil {
			t.do()
			t, used = nil, true // what is done must not be kept in memory
		}
		select {
		case t = <-tasks:
		case <-tick.C:
			if !used {
				return
			}
			used = false
		case <-lc.ctx.Done():
			return
		}
	}
}

// finish begins the end, at now: nothing begins in the background after it.
func (lc *lifecycle) finish(now int64) {
	lc.mu.Lock()
	defer lc.mu.Unlock()
	lc.closedAt.Store(now)
	lc.cancel()
}

// ended waits until every goroutine of ours has ended, for so long; false: some have not.
func (lc *lifecycle) ended(within time.Duration) bool {
	all := make(chan struct{})
	go func() { // ends when the last loader returns
		lc.background.Wait()
		close(all)
	}()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-all:
		return true
	case <-timer.C:
		return false
	}
}

// close has shutDown run, once, and returns its error when it has ended; in a callback that it
// waits for, an error at once.
func (lc *lifecycle) close(shutDown func() error) error {
	inside := lc.inCallback()
	lc.closeOnce.Do(func() {
		go func() { // ends in bounds, see Close
			defer close(lc.closed)
			lc.closeErr = shutDown()
		}()
	})
	if inside {
		return errCloseInside
	}
	<-lc.closed
	return lc.closeErr
}

var errCloseInside = errors.New("aside: Close was called by a callback that it would wait for (a loader, Observer, OnModeChange, ...): the client closes without waiting for it, call Close elsewhere to wait until it has")

// contained calls fn in another goroutine and waits for it. The error is a *PanicError, or says
// that fn, which is called what, has ended its goroutine. That one serves others, too, as to learn
// its number takes longer than most callbacks. Close does not wait for it, but for who waits here.
func (lc *lifecycle) contained(what string, fn func()) error {
	c, ok := lc.calls.Get().(*containedCall)
	if !ok {
		c = &containedCall{done: make(chan error, 1)}
	}
	c.what, c.fn = what, fn
	select {
	case lc.apart <- c:
	default:
		go lc.serve(c, lc.apart)
	}
	err := <-c.done
	c.fn = nil
	lc.calls.Put(c)
	return err
}

// containedCall is a task of contained's.
type containedCall struct {
	what string
	fn   func()
	done chan error // takes one, so that nobody need wait
}

func (c *containedCall) do() {
	returned := false
	defer func() {
		switch p := recover(); {
		case returned:
			c.done <- nil
		case p != nil:
			c.done <- newPanicError(p)
		default:
			c.done <- goexited(c.what)
		}
	}()
	c.fn()
	returned = true
}

// callback notes that this goroutine runs a callback, until the returned function is called: Close
// must not wait for it there.
func (lc *lifecycle) callback() (over func()) {
	id := goroutine()
	lc.callbacks.Store(id, nil)
	return func() { lc.callbacks.Delete(id) }
}

// inCallback reports whether the caller is called by a callback, in its goroutine.
func (lc *lifecycle) inCallback() bool {
	_, ok := lc.callbacks.Load(goroutine())
	return ok
}

// goroutine is the number of this goroutine, as a stack trace has it; 0 should that change its
// form: then Close waits in vain for a callback that calls it.
func goroutine() int64 {
	var room [64]byte
	trace := room[:runtime.Stack(room[:], false)]
	trace, _ = bytes.CutPrefix(trace, []byte("goroutine "))
	number, _, _ := bytes.Cut(trace, []byte(" "))
	id, _ := strconv.ParseInt(string(number), 10, 64)
	return id
}
