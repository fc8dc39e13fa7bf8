package aside

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// places are those of Options.MaxLoaders: where loaders run that have no lock to spare the
// database. A loader that waits for another one does not ask the database meanwhile, so that one
// runs on its place: else loaders that wait would fill all places, and those that they wait for
// have none.
//
//	a loader asks for a key, and the load of that needs a place      it runs on its parent's, one at a time
//	a loader asks for a key whose load waits for a place             that moves to its place
//
// Safe for concurrent use.
type places struct {
	mu      sync.Mutex
	free    int
	waiting []*load // in the order in which they have come
}

// place is guarded by the mu of its places, and so is seating.
type place struct{ loads int }

// seating is where a load runs.
type seating struct {
	place    *place    // nil: it has none
	borrower *load     // that runs on its place; nil: none
	lender   *load     // whose place it is; nil: its own
	asking   []*caller // the nested calls that wait for the load, those that have left among them
	turn     chan struct{}
}

// enter waits for a place for l. leave must follow if there is one.
func (p *places) enter(ctx context.Context, l *load) error {
	p.mu.Lock()
	for i := range l.items {
		for _, who := range l.items[i].f.present() {
			if who.load != nil {
				l.seating.asking = append(l.seating.asking, who)
			}
		}
	}
	if p.seatLocked(l) {
		p.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	l.seating.turn = turn
	p.waiting = append(p.waiting, l)
	p.mu.Unlock()

	timer := time.NewTimer(overloadWait)
	defer timer.Stop()
	var err error
	select {
	case <-turn:
		return nil
	case <-timer.C:
		err = fmt.Errorf("%w: Options.MaxLoaders (%d) run, and none has returned within %v", ErrOverloaded, l.c.opt.MaxLoaders, overloadWait)
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.waiting, l)
	if i < 0 {
		return nil // it got one after all
	}
	p.waiting = slices.Delete(p.waiting, i, i+1)
	if ctx.Err() == nil {
		l.c.counted.overloaded.Add(1)
	}
	return err
}

// seatLocked gives l a place, if there is one.
func (p *places) seatLocked(l *load) bool {
	s := &l.seating
	for _, who := range s.asking {
		if !who.present() {
			continue
		}
		for outer := who.load; outer != nil; outer = outer.parent {
			if outer.c == l.c && outer.seating.place != nil && outer.seating.borrower == nil {
				outer.seating.borrower = l
				s.lender, s.place = outer, outer.seating.place
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

// leave gives back the place of l. One that it has lent stays with the load that runs there.
func (p *places) leave(l *load) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &l.seating
	if s.lender != nil { // it has lent its place until the last borrower has left
		s.lender.seating.borrower = s.borrower
	}
	if s.borrower != nil {
		s.borrower.seating.lender = s.lender
	}
	if s.place.loads--; s.place.loads == 0 {
		p.free++
	}
	s.place, s.lender, s.borrower = nil, nil, nil
	p.waiting = slices.DeleteFunc(p.waiting, p.calledLocked)
}

// calledLocked seats a load that waits, and reports whether it could.
func (p *places) calledLocked(l *load) bool {
	if !p.seatLocked(l) {
		return false
	}
	close(l.seating.turn)
	return true
}

// joined is called when who, which a loader calls, waits for l.
func (p *places) joined(l *load, who *caller) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.seating.asking = append(l.seating.asking, who)
	if i := slices.Index(p.waiting, l); i >= 0 && p.calledLocked(l) {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
}
