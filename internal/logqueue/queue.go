// Package logqueue keeps a log from holding anything up: what is logged waits in a bounded queue,
// in order, until its destination takes it. What does not fit is dropped and counted, and the count
// is logged as soon as there is room again. A destination may block for ever, panic, or end its
// goroutine; that costs lines, and at most one goroutine.
//
// [Queue] is the mechanism, for whatever a destination takes; [Handler] puts one in front of a
// slog.Handler.
package logqueue

import (
	"slices"
	"sync"
	"time"
)

// Limits bound a Queue.
type Limits struct {
	Items int // that wait
	Bytes int // of those that wait, together
}

// Queue hands items to a destination, one after the other, from a goroutine that lives as long as
// something waits. Safe for concurrent use.
type Queue[T any] struct {
	limits  Limits                  // immutable, as are the next three
	deliver func(T)                 // may block, panic, or end its goroutine
	size    func(T) int             // of an item, in bytes
	missed  func(n int64) (T, bool) // what says that n items were dropped; false: nothing does

	mu      sync.Mutex    // guards all below; never held while delivering
	items   []T           // oldest first; without the one that is being delivered
	bytes   int           // of items
	dropped int64         // since missed was last queued
	busy    bool          // a goroutine delivers
	idle    chan struct{} // closed when the goroutine ends; made anew with each
}

// New returns a Queue within limits. missed makes the item that says how many were dropped.
func New[T any](limits Limits, size func(T) int, missed func(n int64) (T, bool), deliver func(T)) *Queue[T] {
	return &Queue[T]{limits: limits, size: size, missed: missed, deliver: deliver}
}

// Put queues item, or drops and counts it if there is no room. It never waits for the destination.
func (q *Queue[T]) Put(item T) {
	size := q.size(item)
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) > 0 && (len(q.items) >= q.limits.Items || q.bytes+size > q.limits.Bytes) {
		q.dropped++
		return
	}
	q.sayMissedLocked()
	q.items = append(q.items, item)
	q.bytes += size
	if !q.busy {
		q.busy, q.idle = true, make(chan struct{})
		go q.run() // ends when nothing waits
	}
}

// sayMissedLocked queues the item that stands where others were dropped.
func (q *Queue[T]) sayMissedLocked() {
	n := q.dropped
	if n == 0 {
		return
	}
	q.dropped = 0
	if item, ok := q.missed(n); ok {
		q.items = append(q.items, item)
		q.bytes += q.size(item)
	}
}

// run delivers until nothing waits. If the destination ends the goroutine, another one goes on.
func (q *Queue[T]) run() {
	for q.deliverNext() {
	}
}

// deliverNext reports whether it had something to deliver.
func (q *Queue[T]) deliverNext() (more bool) {
	q.mu.Lock()
	if len(q.items) == 0 {
		q.sayMissedLocked()
	}
	if len(q.items) == 0 {
		q.items = nil
		q.busy = false
		close(q.idle)
		q.mu.Unlock()
		return false
	}
	item := q.items[0]
	q.items = slices.Delete(q.items, 0, 1)
	q.bytes -= q.size(item)
	q.mu.Unlock()
	returned := false
	defer func() {
		if !returned && recover() == nil { // runtime.Goexit, which nothing stops
			go q.run() // ends when nothing waits
			return
		}
		more = true
	}()
	q.deliver(item)
	returned = true
	return true
}

// Flush waits until the destination has taken all that was put before, for as long as within says,
// and returns how many items still wait or were dropped. The Queue can be used afterwards.
func (q *Queue[T]) Flush(within time.Duration) (left int) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		q.mu.Lock()
		busy, idle := q.busy, q.idle
		if busy {
			left = len(q.items) + 1 + int(q.dropped)
		}
		q.mu.Unlock()
		if !busy {
			return 0
		}
		select {
		case <-idle:
			return 0
		case <-timer.C:
			return left
		}
	}
}
