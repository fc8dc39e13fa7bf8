package aside

import (
	"maps"
	"slices"
	"sync"
)

// announcer tells watchers of events, in order, from a goroutine of its own: a slow one delays the next ones only.
type announcer[E any] struct {
	what string // they are called, for the log; immutable

	mu       sync.Mutex // guards all below
	watchers map[int]func(E)
	made     int
	queue    []E
	busy     bool // a goroutine works on the queue
}

func (a *announcer[E]) watch(f func(E)) (remove func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.watchers == nil {
		a.watchers = make(map[int]func(E))
	}
	a.made++
	id := a.made
	a.watchers[id] = f
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.watchers, id)
	}
}

// announce queues an event. What overtaken says yes to, if not nil, need not be told any more.
func (a *announcer[E]) announce(c *Client, event E, overtaken func(E) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.watchers) == 0 {
		return
	}
	if overtaken != nil {
		a.queue = slices.DeleteFunc(a.queue, overtaken)
	}
	a.queue = append(a.queue, event)
	if !a.busy {
		a.busy = c.inBackground(func() { a.tell(c) }) // ends with the queue
	}
}

func (a *announcer[E]) tell(c *Client) {
	for {
		a.mu.Lock()
		if len(a.queue) == 0 {
			a.busy = false
			a.mu.Unlock()
			return
		}
		event := a.queue[0]
		a.queue = a.queue[1:]
		ids := slices.Sorted(maps.Keys(a.watchers))
		told := make([]func(E), len(ids))
		for i, id := range ids {
			told[i] = a.watchers[id]
		}
		a.mu.Unlock()
		for _, f := range told {
			if err := c.contained(a.what, func() { f(event) }); err != nil {
				c.warn(&c.seldomObserver, a.what+" did not return", "error", err)
			}
		}
	}
}
