package near

// waiter wakes the callers that wait for a key to change.
type waiter struct {
	changed chan struct{}   // closed once, by whoever removes the waiter from its stripe
	waiting int             // guarded by the stripe's mu
	hints   []chan struct{} // of callers that wait for several keys at once; guarded by the stripe's mu
}

// takeLocked removes the waiter of key and returns it, for wake; nil if nobody waits.
func (s *stripe) takeLocked(key string) *waiter {
	w := s.waiters[key]
	delete(s.waiters, key)
	return w
}

// wake is called once, by whoever has removed w from its stripe, without the stripe's mu.
func (w *waiter) wake() {
	if w == nil {
		return
	}
	close(w.changed)
	for _, hint := range w.hints {
		select {
		case hint <- struct{}{}:
		default: // it has a token already
		}
	}
}

// Wait returns a channel that is closed when key changes, and a function to call when the caller no
// longer waits; hint, if not nil, gets a token then. ok is false if the key may have changed since
// the reservation: ask again.
func (m *Memory) Wait(key string, r Reservation, hint chan struct{}) (changed <-chan struct{}, leave func(), ok bool) {
	s := m.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != r.gen {
		return nil, nil, false
	}
	w := s.waiters[key]
	if w == nil {
		w = &waiter{changed: make(chan struct{})}
		if s.waiters == nil {
			s.waiters = make(map[string]*waiter)
		}
		s.waiters[key] = w
	}
	w.waiting++
	if hint != nil {
		w.hints = append(w.hints, hint)
	}
	return w.changed, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if w.waiting--; w.waiting == 0 && s.waiters[key] == w {
			delete(s.waiters, key)
		}
	}, true
}

// Wake wakes the callers that wait for a key that this process has filled or released itself,
// without waiting for the push. (A caller that has asked and does not wait yet gets the push, so
// reservations stay good.)
func (m *Memory) Wake(key string) {
	s := m.stripe(key)
	s.mu.Lock()
	w := s.takeLocked(key)
	s.mu.Unlock()
	w.wake()
}

// WakeAll wakes everybody: a connection is lost, so no push can be relied upon. Entries and
// reservations are voided by the epoch, which the caller has raised.
func (m *Memory) WakeAll() {
	for i := range m.stripes {
		s := &m.stripes[i]
		s.mu.Lock()
		s.gen++
		s.untold++
		woken := s.waiters
		s.waiters = nil
		s.mu.Unlock()
		for _, w := range woken {
			w.wake()
		}
	}
}
