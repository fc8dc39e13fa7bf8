package aside

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/script"
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
	failures int   // in a row, while there was no lock to count them
	refusals int   // in a row
	err      error // with which the last one has failed
	erred    int64 // when its loader had
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

// failure returns why the last refresh of key has failed; nil if none has, or that was long ago.
func (rs *refreshes) failure(key string) error {
	s := rs.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if state := s.byKey[key]; state != nil {
		return state.err
	}
	return nil
}

// failedSince returns why the loader of the last refresh of key has failed, if that was since then.
func (rs *refreshes) failedSince(key string, then int64) error {
	s := rs.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if state := s.byKey[key]; state != nil && state.erred != 0 && state.erred >= then {
		return state.err
	}
	return nil
}

// failing notes why the refresh of key that runs has failed: its callers know before it ends.
func (rs *refreshes) failing(key string, err error, now int64) {
	s := rs.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if state := s.byKey[key]; state != nil {
		state.err, state.erred = err, now
	}
}

// begin notes that item is refreshed, unless it rests, and returns what was known; end must follow.
func (rs *refreshes) begin(item *refreshItem, now int64) (was refreshState, ok bool) {
	f := item.f
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
	case state.f != nil, !item.insists && state.restsLocked(item.gen, now):
		return refreshState{}, false
	case now-state.rests > countedFor:
		state.failures, state.refusals, state.err = 0, 0, nil
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
	old      *old    // the value that was found stale; nil: it has gone since
	failures int     // in a row
	refusals int     // in a row
	err      error   // with which it has failed, or the one before
	erred    int64   // when its loader had

	marker, print, end, stamp string // in the lock, and what the refresh sets out to replace; "" without a lock

	insists bool          // it is refreshed also where nobody should try, or it does not expire
	within  time.Duration // then also if so much is left of its key's ttl
	held    time.Duration // see outcome

	loads bool          // a load has it
	busy  bool          // somebody else refreshes it
	rest  time.Duration // for how long it rests after this
	ours  bool          // see refreshState
}

// failed has an item rest after a failure that Redis knows nothing of.
func (item *refreshItem) failed(err error) {
	item.failures++
	item.err = err
	item.rest, item.ours = freshness.Backoff(item.failures, rand.Float64()), true
}

// refused has an item rest after its result was refused. Somebody has written the key, or its lock
// was lost: where locks are evicted, that goes on.
func (item *refreshItem) refused() {
	item.refusals++
	item.err = nil
	item.rest, item.ours = soon<<min(item.refusals, 9), true
}

var errRefreshFailed = errors.New("aside: another process has failed to refresh the value, and the source is asked again after a back-off")

// due is for how long the key may still live at most, for script.Refresh to find that it is to be
// refreshed.
func (item *refreshItem) due(p *plan) string {
	ttl := p.ttl
	if item.old != nil && item.old.meta != nil && item.old.meta.TTL > 0 {
		ttl = item.old.meta.TTL
	}
	within := freshness.Sum(item.old.graceOr(p.options.grace), p.options.need.Window(ttl))
	if item.insists {
		return "+" + script.InMilliseconds(max(within, item.within))
	}
	return script.InMilliseconds(within)
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
	case len(answer) == 1 && numbers[0] == 0: // somebody has replaced it
		item.rest, item.err = soon, nil
		return false, nil
	case (len(answer) == 2 || len(answer) == 3) && numbers[0] == 1:
		if len(answer) == 3 {
			item.err = cmp.Or(item.err, errRefreshFailed)
		}
		item.busy, item.rest = true, max(time.Duration(numbers[1])*time.Millisecond, soon)
		item.held = item.rest
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
