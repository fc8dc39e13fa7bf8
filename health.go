package aside

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"
)

// state is how a shard, or all of them, are doing.
type linkHealth struct {
	addr   string   // of a shard, where there are several
	mode   linkMode // the worst of its shards'
	since  time.Time
	err    error // why it is degraded, or what does not work although it is not
	shards []linkHealth
}

// health says how the shards are doing. It asks nobody.
func (l *link) health() linkHealth {
	h := linkHealth{mode: linkDegraded, since: l.began, err: l.notReached()}
	t := l.topo.Load()
	if t == nil {
		return h
	}
	for i, sh := range t.shards {
		sh.state.mu.Lock()
		s := linkHealth{addr: sh.addr, mode: linkMode(sh.mode.Load()), since: sh.state.since, err: sh.state.errLocked()}
		sh.state.mu.Unlock()
		h.shards = append(h.shards, s)
		if i == 0 || badness(s.mode) > badness(h.mode) || s.mode == h.mode && h.err == nil && s.err != nil {
			h.mode, h.since, h.err = s.mode, s.since, s.err
		}
	}
	slices.SortFunc(h.shards, func(a, b linkHealth) int { return cmp.Compare(a.addr, b.addr) })
	if t.holes && h.mode != linkDegraded {
		h.mode, h.since, h.err = linkDegraded, t.since, errHoles
	}
	return h
}

func badness(m linkMode) int { return [...]int{linkHealthy: 0, linkRecovering: 1, linkDegraded: 2}[m] }

var errHoles = errors.New("aside: some slots of the cluster have no primary that is known")

// flaw is something of a shard that does not work although it answers.
type flaw string

const (
	flawClock  flaw = "clock"  // it does writes by another clock than the one that it shows
	flawPushes flaw = "pushes" // it does not tell us of changes
)

// flawed notes that something does not work although sh answers, or, with nil, that it does. What is new is logged once.
func (l *link) flawed(sh *shard, what flaw, why error) {
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
		l.opt.Logger.Warn("aside: Redis answers, but does not work as it should", "address", l.address(sh), "error", why)
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
