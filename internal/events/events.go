// Package events tells functions of events, in order, and without whoever announces them waiting.
package events

import (
	"slices"
	"sync"
	"time"
)

// Bus tells watchers of events, each event to all of them before the next, from a goroutine of its
// own: a slow watcher delays what comes later, and nobody else. The goroutine runs only while there
// is something to tell. Safe for concurrent use, also by watchers.
type Bus[E any] struct {
	start func(run func()) bool // immutable; runs run in a goroutine, or returns false: it was too late
	call  func(fn func())       // immutable; calls fn, which calls a watcher
	most  int                   // immutable; that queue may hold; 0: no bound

	mu       sync.Mutex // guards all below; held while start is called, never while a watcher is
	watchers []*watcher[E]
	queue    []E           // not told yet
	busy     chan struct{} // closed when the goroutine that works on queue ends; nil: there is none
}

type watcher[E any] struct{ f func(E) }

// New returns a Bus without watchers. start runs a function in a goroutine; where it returns false,
// events are kept until it does not. call calls a function that calls a watcher, and deals with
// what it may do, such as panic.
func New[E any](start func(run func()) bool, call func(fn func())) *Bus[E] {
	return &Bus[E]{start: start, call: call}
}

// NewBounded is New for events of which there may be more than watchers can be told: beyond most
// that wait, new ones are left out.
func NewBounded[E any](most int, start func(run func()) bool, call func(fn func())) *Bus[E] {
	return &Bus[E]{start: start, call: call, most: most}
}

// Watch has f called for each event to come, and perhaps for some that were announced before. Once
// remove has returned, f is not called for events to come.
func (b *Bus[E]) Watch(f func(E)) (remove func()) {
	w := &watcher[E]{f}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers = append(b.watchers, w)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.watchers = slices.DeleteFunc(slices.Clone(b.watchers), func(other *watcher[E]) bool { return other == w })
	}
}

// Announce queues an event, if there are watchers. Queued events for which overtaken, if not nil,
// returns true need not be told any more. It reports whether there was room.
func (b *Bus[E]) Announce(event E, overtaken func(queued E) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.watchers) == 0 {
		return true
	}
	if overtaken != nil {
		b.queue = slices.DeleteFunc(b.queue, overtaken)
	}
	if b.most > 0 && len(b.queue) >= b.most {
		return false
	}
	b.queue = append(b.queue, event)
	if b.busy == nil {
		if busy := make(chan struct{}); b.start(func() { b.tell(busy) }) { // ends with the queue
			b.busy = busy
		}
	}
	return true
}

// Flush waits until all events are told, for patience at most, and reports whether they are.
func (b *Bus[E]) Flush(patience time.Duration) bool {
	b.mu.Lock()
	busy, left := b.busy, len(b.queue)
	b.mu.Unlock()
	if busy == nil {
		return left == 0
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-busy:
		return true
	case <-timer.C:
		return false
	}
}

func (b *Bus[E]) tell(busy chan struct{}) {
	over := false
	defer func() {
		if !over { // a watcher has ended this goroutine: the next event begins another
			b.mu.Lock()
			b.busy = nil
			b.mu.Unlock()
		}
		close(busy)
	}()
	for {
		b.mu.Lock()
		if len(b.queue) == 0 {
			b.busy, over = nil, true
			b.mu.Unlock()
			return
		}
		event := b.queue[0]
		b.queue = b.queue[1:]
		watchers := b.watchers // never changed in place, but for what is appended
		b.mu.Unlock()
		for _, w := range watchers {
			b.call(func() { w.f(event) })
		}
	}
}
