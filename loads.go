package aside

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/internal/script"
)

// loads are the loads of a client that run, and what they share. Safe for concurrent use.
type loads struct {
	bare *places // of Options.MaxLoaders, for those that run without a lock
	most *places // of Options.MaxLoads, for all; nil: no bound

	ended lastLoads // for Explain

	// earlyBytes are loaded values that callers have and Redis has not acknowledged, see fill.go.
	earlyBytes atomic.Int64

	mu      sync.Mutex
	running *load // the latest of those that run, which lead to the others; guarded by mu

	valueTTLs, absentTTLs ttlTexts
}

func (ls *loads) add(l *load) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.next = ls.running; l.next != nil {
		l.next.previous = l
	}
	ls.running = l
}

func (ls *loads) remove(l *load) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.next != nil {
		l.next.previous = l.previous
	}
	if l.previous != nil {
		l.previous.next = l.next
	} else {
		ls.running = l.next
	}
	l.next, l.previous = nil, nil
}

func (ls *loads) all() (all []*load) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for l := ls.running; l != nil; l = l.next {
		all = append(all, l)
	}
	return all
}

// due returns the locks that are older than age, and counts them as renewed now.
func (ls *loads) due(age, now int64) (items []*loadItem) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for l := ls.running; l != nil; l = l.next {
		l.mu.Lock()
		if (!l.ended || l.storing) && now-l.renewed >= age {
			l.renewed = now
			clones := slices.Clone(l.items) // the load goes on with its own
			for i := range clones {
				if clones[i].n = i; !clones[i].lost {
					items = append(items, &clones[i])
				}
			}
		}
		l.mu.Unlock()
	}
	return items
}

// has reports whether a load that has not ended for key holds its lock with marker.
func (ls *loads) has(key, marker string) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for l := ls.running; l != nil; l = l.next {
		for i := range l.items {
			if item := &l.items[i]; item.marker == marker && item.f.key == key { // store may be writing the rest of it
				return !item.f.isFinished()
			}
		}
	}
	return false
}

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

// overloadWait is how long a load waits for its place.
const overloadWait = time.Second

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

// ttlTexts writes ttls as Redis takes them. It remembers what was asked for twice in a row: most loads
// have the ttl of the last one, or each its own. Safe for concurrent use.
type ttlTexts struct {
	last  atomic.Int64 // the latest that was asked for
	known atomic.Pointer[ttlText]
}

// ttlText is immutable.
type ttlText struct {
	ttl  time.Duration
	text string
}

// of is script.InMilliseconds.
func (t *ttlTexts) of(ttl time.Duration) string {
	if known := t.known.Load(); known != nil && known.ttl == ttl {
		return known.text
	}
	text := script.InMilliseconds(ttl)
	if t.last.Swap(int64(ttl)) == int64(ttl) {
		t.known.Store(&ttlText{ttl, text})
	}
	return text
}
