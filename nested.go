package aside

import (
	"fmt"
	"slices"
)

// Loaders that ask for other keys. A nested call is made with the context of a load, its parent, or
// one that descends from it.
//
//	a loader asks for a key that it, or the load that it was asked by, is loading      it would wait for itself
//	the loader of A asks for B, and that of B asks for A                               each would wait for the other
//
// Both are found when the call that would close the circle is about to wait, and that gets
// ErrRecursiveLoad. So no load ever waits for itself, and a load that takes its values from a
// nested call never asks itself for them.

// join returns a ticket for the flight of key, whose generation was gen before.
func (fs *flights) join(who *caller, key string, gen uint64, room *flightRoom) (ticket, error) {
	if who.load != nil {
		return fs.joinNested(who, key, gen, room)
	}
	s := fs.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return fs.joinLocked(s, who, key, gen, room), nil
}

// joinNested is join for a call that a loader makes.
func (fs *flights) joinNested(who *caller, key string, gen uint64, room *flightRoom) (t ticket, _ error) {
	nesting.Lock()
	defer nesting.Unlock()
	for outer := who.load; outer != nil; outer = outer.parent {
		if &outer.c.flights == fs && outer.isLoading(key) {
			return ticket{}, fmt.Errorf("%w: %s", ErrRecursiveLoad, quoted(key))
		}
	}
	s := fs.stripe(key)
	for {
		s.mu.Lock()
		f := s.byKey[key]
		s.mu.Unlock()
		if f != nil && f.leadsTo(who.load, make(map[*flight]bool)) {
			return ticket{}, fmt.Errorf("%w: %s, whose loader waits for this one", ErrRecursiveLoad, quoted(key))
		}
		s.mu.Lock()
		if s.byKey[key] != f {
			s.mu.Unlock()
			continue
		}
		t = fs.joinLocked(s, who, key, gen, room)
		its := t.f.load
		s.mu.Unlock()
		if its != nil {
			its.joined(who)
		}
		break
	}
	if who.load.nested == nil {
		who.load.nested = make(map[*caller][]*flight)
	}
	who.load.nested[who] = append(who.load.nested[who], t.f)
	return t, nil
}

// leadsTo reports whether f waits, by its load and what that waits for, for l. nesting is held.
func (f *flight) leadsTo(l *load, seen map[*flight]bool) bool {
	if seen[f] {
		return false
	}
	seen[f] = true
	f.stripe.mu.Lock()
	its := f.load
	f.stripe.mu.Unlock()
	if its == nil || its.over() {
		return false
	}
	if its == l {
		return true
	}
	for _, waits := range its.nested {
		if slices.ContainsFunc(waits, func(next *flight) bool { return next.leadsTo(l, seen) }) {
			return true
		}
	}
	return false
}

// recursion returns an error if the loader that makes the call, or one that waits for it, loads key.
func (c *caller) recursion(of *Client, key string) error {
	for outer := c.load; outer != nil; outer = outer.parent {
		if outer.c == of && outer.isLoading(key) {
			return fmt.Errorf("%w: %s", ErrRecursiveLoad, quoted(key))
		}
	}
	return nil
}
