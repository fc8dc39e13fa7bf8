package aside

import (
	"fmt"
	"slices"
	"sync"
)

// Loaders that ask for other keys. A nested call is made with the context of a load, its parent, or one that descends from it.
//
//	a loader asks for a key that it, or the load that it was asked by, is loading      it would wait for itself
//	the loader of A asks for B, and that of B asks for A                               each would wait for the other
//
// Both are found when the call that would close the circle is about to wait, and that gets ErrRecursiveLoad. So no load ever waits for itself, and a
// load that takes its values from a nested call (caller.go) never asks itself for them.

// nesting guards what nested calls wait for, in all clients: a circle may lead through several. It is taken before the mu of a stripe or a load.
var nesting sync.Mutex

// awaited is a flight that a nested call waits for.
type awaited struct {
	c *Client
	f *flight
}

// joinNested is join for a call that a loader makes.
func (c *Client) joinNested(who *caller, key string) (f *flight, leader, early bool, err error) {
	nesting.Lock()
	defer nesting.Unlock()
	for outer := who.load; outer != nil; outer = outer.parent {
		if outer.c == c && outer.isLoading(key) {
			return nil, false, false, fmt.Errorf("%w: %s", ErrRecursiveLoad, quoted(key))
		}
	}
	s := c.flights.stripe(key)
	for {
		s.mu.Lock()
		f = s.byKey[key]
		s.mu.Unlock()
		if f != nil && leadsTo(awaited{c, f}, who.load, make(map[*flight]bool)) {
			return nil, false, false, fmt.Errorf("%w: %s, whose loader waits for this one", ErrRecursiveLoad, quoted(key))
		}
		s.mu.Lock()
		if s.byKey[key] != f {
			s.mu.Unlock()
			continue
		}
		f, leader, early = c.joinLocked(s, who, key)
		its := f.load
		s.mu.Unlock()
		if its != nil && its.bare {
			c.places.joined(its, who)
		}
		break
	}
	if who.load.nested == nil {
		who.load.nested = make(map[*caller]struct{})
	}
	who.load.nested[who] = struct{}{}
	who.waits = append(who.waits, awaited{c, f})
	return f, leader, early, nil
}

// leadsTo reports whether a flight waits, by its load and what that waits for, for l. nesting is held.
func leadsTo(a awaited, l *load, seen map[*flight]bool) bool {
	if seen[a.f] {
		return false
	}
	seen[a.f] = true
	s := a.c.flights.stripe(a.f.key)
	s.mu.Lock()
	its := a.f.load
	s.mu.Unlock()
	if its == nil || its.over() {
		return false
	}
	if its == l {
		return true
	}
	for who := range its.nested {
		if slices.ContainsFunc(who.waits, func(next awaited) bool { return leadsTo(next, l, seen) }) {
			return true
		}
	}
	return false
}

// leaveNested ends what a nested call waits for.
func (c *caller) leaveNested() {
	nesting.Lock()
	defer nesting.Unlock()
	c.waits = nil
	delete(c.load.nested, c)
}

func (l *load) isLoading(key string) bool { return !l.over() && slices.Contains(l.keys, key) }

// over reports whether the load has been settled, or is about to be: nobody waits for its loader any more.
func (l *load) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}
