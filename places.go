package aside

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// places are those where so many loads may run at once: of Options.MaxLoaders for loads without a
// lock to spare the database, of Options.MaxLoads for all, of WithMaxLoads for those of a view. A
// loader that waits for another one does not ask the database meanwhile, so that one runs on its
// place: else loaders that wait would fill all places, and those that they wait for have none.
//
//	a loader asks for a key, and the load of that needs a place      it runs on its parent's, one at a time
//	a loader asks for a key whose load waits for a place             that moves to its place
//
// Where a load needs several places, it takes one after the other, in the same order as all loads,
// and keeps those that it has while it waits.
//
// Safe for concurrent use.
type places struct {
	option string // which says how many there are; immutable
	most   int    // immutable

	mu      sync.Mutex
	free    int
	waiting []*seating // in the order in which they have come
}

// newPlaces returns so many places as the option says.
func newPlaces(option string, n int) *places { return &places{option: option, most: n, free: n} }

// place is guarded by the mu of its places, and so is seating but for what is immutable.
type place struct{ loads int }

// seating is where a load runs, in one sort of places.
type seating struct {
	of       *places   // immutable
	load     *load     // immutable
	place    *place    // nil: it has none
	borrower *seating  // that runs on its place; nil: none
	lender   *seating  // whose place it is; nil: its own
	asking   []*caller // the nested calls that wait for the load, those that have left among them
	turn     chan struct{}
}

// seat returns where l runs in p; nil: it needs no place there.
func (l *load) seat(p *places) *seating {
	for _, s := range l.seats {
		if s.of == p {
			return s
		}
	}
	return nil
}

// enter waits for a place for s. leave must follow if there is one.
func (p *places) enter(ctx context.Context, s *seating) error {
	l := s.load
	p.mu.Lock()
	for i := range l.items {
		for _, who := range l.items[i].f.present() {
			if who.load != nil {
				s.asking = append(s.asking, who)
			}
		}
	}
	if p.seatLocked(s) {
		p.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	s.turn = turn
	p.waiting = append(p.waiting, s)
	p.mu.Unlock()

	timer := time.NewTimer(overloadWait)
	defer timer.Stop()
	var err error
	select {
	case <-turn:
		return nil
	case <-timer.C:
		err = fmt.Errorf("%w: %s (%d) run, and none has returned within %v", ErrOverloaded, p.option, p.most, overloadWait)
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.waiting, s)
	if i < 0 {
		return nil // it got one after all
	}
	p.waiting = slices.Delete(p.waiting, i, i+1)
	if ctx.Err() == nil {
		l.c.counted.overloaded.Add(1)
	}
	return err
}

// seatLocked gives s a place, if there is one.
func (p *places) seatLocked(s *seating) bool {
	for _, who := range s.asking {
		if !who.present() {
			continue
		}
		for outer := who.load; outer != nil; outer = outer.parent {
			if lender := outer.seat(p); lender != nil && lender.place != nil && lender.borrower == nil {
				lender.borrower = s
				s.lender, s.place = lender, lender.place
				s.place.loads++
				return true
			}
		}
	}
	if p.free == 0 {
		return false
	}
	p.free--
	s.place = &place{loads: 1}
	return true
}

// leave gives back the place of s. One that it has lent stays with the load that runs there.
func (p *places) leave(s *seating) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.lender != nil { // it has lent its place until the last borrower has left
		s.lender.borrower = s.borrower
	}
	if s.borrower != nil {
		s.borrower.lender = s.lender
	}
	if s.place.loads--; s.place.loads == 0 {
		p.free++
	}
	s.place, s.lender, s.borrower = nil, nil, nil
	p.waiting = slices.DeleteFunc(p.waiting, p.calledLocked)
}

// calledLocked seats a load that waits, and reports whether it could.
func (p *places) calledLocked(s *seating) bool {
	if !p.seatLocked(s) {
		return false
	}
	close(s.turn)
	return true
}

// joined is called when who, which a loader calls, waits for the load of s.
func (p *places) joined(s *seating, who *caller) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.asking = append(s.asking, who)
	if i := slices.Index(p.waiting, s); i >= 0 && p.calledLocked(s) {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
}
