package link

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"
)

// Health is how a shard, or all of them, are doing.
type Health struct {
	Addr   string // of a shard, where there are several
	Mode   Mode   // the worst of its shards'
	Since  time.Time
	Err    error // why it is degraded, or what does not work although it is not
	Shards []Health

	Untracked bool // of a shard, or of one at least: it was not asked to tell us of changes
}

// Health says how the shards are doing. It asks nobody.
func (l *Link) Health() Health {
	h := Health{Mode: Degraded, Since: l.began, Err: l.notReached()}
	t := l.topo.Load()
	if t == nil {
		return h
	}
	for i, sh := range t.shards {
		sh.state.mu.Lock()
		s := Health{Addr: sh.Addr, Mode: Mode(sh.mode.Load()), Since: sh.state.since, Err: sh.state.errLocked(), Untracked: !sh.Valid.Tracked()}
		sh.state.mu.Unlock()
		h.Shards = append(h.Shards, s)
		h.Untracked = h.Untracked || s.Untracked
		if i == 0 || badness(s.Mode) > badness(h.Mode) || s.Mode == h.Mode && h.Err == nil && s.Err != nil {
			h.Mode, h.Since, h.Err = s.Mode, s.Since, s.Err
		}
	}
	slices.SortFunc(h.Shards, func(a, b Health) int { return cmp.Compare(a.Addr, b.Addr) })
	if t.holes && h.Mode != Degraded {
		h.Mode, h.Since, h.Err = Degraded, t.since, errHoles
	}
	return h
}

func badness(m Mode) int { return [...]int{Healthy: 0, Recovering: 1, Degraded: 2}[m] }

var errHoles = errors.New("aside: some slots of the cluster have no primary that is known")

// flaw is something of a shard that does not work although it answers.
type flaw string

const (
	flawClock  flaw = "clock"  // it does writes by another clock than the one that it shows
	flawPushes flaw = "pushes" // it does not tell us of changes
)

// flawed notes that something does not work although sh answers, or, with nil, that it does. What
// is new is logged once.
func (l *Link) flawed(sh *Shard, what flaw, why error) {
	if why == nil && sh.flaws.Load() == 0 {
		return
	}
	sh.state.mu.Lock()
	_, known := sh.state.flaws[what]
	switch {
	case why == nil:
		delete(sh.state.flaws, what)
	case sh.state.flaws == nil:
		sh.state.flaws = make(map[flaw]error)
		fallthrough
	default:
		sh.state.flaws[what] = why
	}
	sh.flaws.Store(int32(len(sh.state.flaws)))
	sh.state.mu.Unlock()
	if why != nil && !known {
		l.opt.Logger.Warn("aside: Redis answers, but does not work as it should", "address", l.Address(sh), "error", why)
	}
}

// errLocked is what Health says of it.
func (s *modeState) errLocked() error {
	if s.err != nil {
		return s.err
	}
	var errs []error
	for _, what := range slices.Sorted(maps.Keys(s.flaws)) {
		errs = append(errs, s.flaws[what])
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}
