package aside

import "time"

// What is remembered of a load that has failed (Options.ErrorTTL), in this process only.
//
//	held      the flight stays attached to its key, and answers new callers
//	changed   somebody else has changed the key: a value may be there, or another process has locked it, perhaps
//	          to fail, too. The next caller asks Redis, and waits for a lock. Where there is nothing in the
//	          end, the error is held again
//	over      its time has passed, this process has written the key, or there is a value
//
// Processes would make each other forget, if a change alone ended it: a lock is one, so they would ask
// a failing source one after the other, all the time.

// maxHeld bounds the errors of loaders that a stripe holds for longer than defaultErrorTTL: 16,384
// in all.
const maxHeld = 64

// holdsLocked returns how long the error of f's loader answers new callers too (Options.ErrorTTL),
// so that a failing database is not asked by a hundred waiters one after another. So does, for as
// long, a value that cannot be cached because Redis does not tell the state of its groups.
func (fs *flights) holdsLocked(f *flight) time.Duration {
	err := f.out.err
	if err == nil && !(f.out.unsure && f.out.proven) || f.stripe.byKey[f.key] != f || f.written || isEncodeError(err) || fs.closing.Err() != nil {
		return 0
	}
	var hold time.Duration
	switch {
	case f.heldUntil > 0:
		hold = time.Duration(f.heldUntil - fs.now())
	case f.load == nil || f.load.unheld:
		return 0
	default:
		hold = f.load.options.errorTTL
	}
	if err == nil || !f.told || f.stripe.held >= maxHeld { // somebody may have written it already, of which no push will tell; or there are many
		return min(hold, defaultErrorTTL)
	}
	return hold
}

// keyChanged notes that key has changed, by somebody else: whether its error is held still is decided
// when Redis has said what the key holds.
func (fs *flights) keyChanged(key string) {
	s := fs.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.byKey[key]
	switch {
	case f == nil || !f.finished:
		return
	case f.out.err == nil:
		s.removeLocked(f)
		return
	}
	s.forgetLocked(key)
	if s.changed == nil {
		s.changed = make(map[string]*flight)
	}
	delete(s.byKey, key)
	s.changed[key] = f
}

// remember has f hold the error that is remembered though its key has changed, and returns it; nil:
// there is none.
func (fs *flights) remember(f *flight) error {
	s := f.stripe
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.changed[f.key]
	if was == nil {
		return nil
	}
	s.forgetLocked(f.key)
	if fs.now() >= was.heldUntil {
		return nil
	}
	f.heldUntil = was.heldUntil
	return was.out.err
}

// forgetLocked forgets the error of key, which has changed.
func (s *flightStripe) forgetLocked(key string) {
	if f := s.changed[key]; f != nil {
		delete(s.changed, key)
		f.release.Stop()
		s.held--
	}
}

// dropError ends the holding of an error of key, dropErrors of all: it was written by this process, or
// may have been by anybody.
func (fs *flights) dropError(key string) {
	s := fs.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.byKey[key]; f != nil && f.finished {
		s.removeLocked(f)
	}
	s.forgetLocked(key)
}

func (fs *flights) dropErrors() {
	for i := range fs.stripes {
		s := &fs.stripes[i]
		s.mu.Lock()
		for _, f := range s.byKey {
			if f.finished {
				s.removeLocked(f)
			}
		}
		s.forgetAllLocked()
		s.mu.Unlock()
	}
}

func (s *flightStripe) forgetAllLocked() {
	for key := range s.changed {
		s.forgetLocked(key)
	}
}
