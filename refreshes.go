package aside

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/link"
)

// refreshes knows which keys this process refreshes, and which rest. Safe for concurrent use.
type refreshes struct {
	seed    maphash.Seed // immutable
	stripes [64]refreshStripe
}

type refreshStripe struct {
	mu    sync.Mutex
	byKey map[string]*refreshState // guarded by mu; without those that rested long ago, but for at most as many as there were others
	sweep int                      // how many there may be before those are looked for; guarded by mu
	_     [24]byte
}

// refreshState is guarded by the stripe's mu.
type refreshState struct {
	f        *flight // of the refresh that runs; nil: none does
	rests    int64   // until when none is begun, in link.Now's time
	ours     bool    // it rests because of a failure here, not because of what Redis holds at generation gen
	gen      uint64
	failures int // in a row, while there was no lock to count them
	refusals int // in a row
}

// countedFor is how long after a rest its failures count.
const countedFor = int64(time.Minute)

// soon is how long a key rests that Redis says is not stale: what has changed it will be told.
const soon = 10 * time.Millisecond

func (rs *refreshes) stripe(key string) *refreshStripe {
	return &rs.stripes[maphash.String(rs.seed, key)%uint64(len(rs.stripes))]
}

// rests reports whether no refresh of key, whose generation is gen, should be begun now.
func (rs *refreshes) rests(key string, gen uint64, now int64) bool {
	s := rs.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.byKey[key]
	return state != nil && state.restsLocked(gen, now)
}

func (state *refreshState) restsLocked(gen uint64, now int64) bool {
	return state.f != nil || now < state.rests && (state.ours || state.gen == gen)
}

// running returns the flight of the refresh of key, or nil.
func (rs *refreshes) running(key string) *flight {
	s := rs.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if state := s.byKey[key]; state != nil {
		return state.f
	}
	return nil
}

// begin notes that a refresh of key is f, unless it rests, and returns what was known; end must follow.
func (rs *refreshes) begin(f *flight, gen uint64, now int64) (was refreshState, ok bool) {
	s := rs.stripe(f.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.byKey[f.key]
	switch {
	case state == nil:
		if len(s.byKey) >= max(s.sweep, 16) {
			for key, state := range s.byKey {
				if state.f == nil && now-state.rests > countedFor {
					delete(s.byKey, key)
				}
			}
			s.sweep = 2 * len(s.byKey)
		}
		if s.byKey == nil {
			s.byKey = make(map[string]*refreshState)
		}
		state = &refreshState{}
		s.byKey[f.key] = state
	case state.restsLocked(gen, now):
		return refreshState{}, false
	case now-state.rests > countedFor:
		state.failures, state.refusals = 0, 0
	}
	state.f = f
	return *state, true
}

// end notes that the refresh is over.
func (rs *refreshes) end(f *flight, rest refreshState) {
	s := rs.stripe(f.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if rest.rests == 0 {
		delete(s.byKey, f.key)
		return
	}
	*s.byKey[f.key] = rest
}

// count returns how many keys are refreshed.
func (rs *refreshes) count() (keys int) {
	for i := range rs.stripes {
		s := &rs.stripes[i]
		s.mu.Lock()
		for _, state := range s.byKey {
			if state.f != nil {
				keys++
			}
		}
		s.mu.Unlock()
	}
	return keys
}

// refreshItem is one key that is refreshed. One goroutine has it: the one that takes the lock, then
// that of the load, until its flight is complete.
type refreshItem struct {
	f        *flight // attached to no key: only those wait for it that have found the key stale
	lock     string  // the key of the refresh lock
	gen      uint64  // of the key, before Redis was asked
	failures int     // in a row
	refusals int     // in a row

	marker, print, end, stamp string // in the lock, and what the refresh sets out to replace; "" without a lock

	loads bool          // a load has it
	rest  time.Duration // for how long it rests after this
	ours  bool          // see refreshState
}

// failed has an item rest after a failure that Redis knows nothing of.
func (item *refreshItem) failed() {
	item.failures++
	item.rest, item.ours = freshness.Backoff(item.failures, rand.Float64()), true
}

// refused has an item rest after its result was refused. Somebody has written the key, or its lock
// was lost: where locks are evicted, that goes on.
func (item *refreshItem) refused() {
	item.refusals++
	item.rest, item.ours = soon<<min(item.refusals, 9), true
}

// locked reads the answer of script.Refresh.
func (item *refreshItem) locked(b *link.Batch) (mine bool, err error) {
	if b.Err != nil {
		return false, b.Err
	}
	answer, err := b.Reply.ToArray()
	if err != nil {
		return false, err
	}
	numbers := make([]int64, 2)
	for i := range min(len(answer), len(numbers)) {
		if numbers[i], err = answer[i].AsInt64(); err != nil {
			return false, err
		}
	}
	switch {
	case len(answer) == 1 && numbers[0] == 0:
		item.rest = soon
		return false, nil
	case len(answer) == 2 && numbers[0] == 1:
		item.rest = max(time.Duration(numbers[1])*time.Millisecond, soon)
		return false, nil
	case len(answer) == 5 && numbers[0] == 2:
		item.failures = int(numbers[1])
		for i, to := range []*string{&item.print, &item.end, &item.stamp} {
			if *to, err = answer[2+i].ToString(); err != nil {
				return false, err
			}
		}
		return true, nil
	}
	return false, fmt.Errorf("aside: a script answered %d elements about a refresh", len(answer))
}
