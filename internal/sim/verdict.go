package sim

import (
	"fmt"

	"github.com/redaside/aside/internal/sim/trials"
)

// verdict is what became of a trial. What it counts is about acknowledged writes only.
type verdict struct {
	lost bool // the server lost what it had acknowledged: the rest promises nothing

	stale     bool // a value is visible that is older than the source's newest acknowledged version
	undone    bool // … than the newest acknowledged Del
	meanwhile bool // a value was visible that was older than a write that the server had done
	back      bool // a replay put an older value in the place of a newer

	refused int // fills

	set set // what became of the newest write, if it was a Set
}

// set is what became of the newest explicit write, if that was an acknowledged Set which has not
// expired.
type set int

const (
	setNone      set = iota // it was no such Set
	setThere                // or something newer is
	setContested            // gone: another write was closer to it than clocks can tell
	setReloads              // gone: a load's value or marker was there, the next read has the value from the source
	setTooOld               // gone: its record was older than companions live, or its clock was off
	setLost                 // gone without such a reason
)

func (w *world) judge() (v verdict) {
	v.lost, v.meanwhile, v.back, v.refused = w.lost, w.meanwhile, w.back, w.refused
	key := w.key.At(w.time())
	visible := 0
	if key.Content == Value {
		visible = version(key)
	}
	newest, del := 0, 0
	for i, o := range w.ops {
		if o.acked {
			newest = i + 1
			if o.op == OpDel {
				del = i + 1
			}
		}
	}
	v.stale = visible != 0 && visible < newest
	v.undone = visible != 0 && visible < del
	if n := len(w.ops); newest != 0 && newest == n && w.ops[n-1].op == OpSet && ms(w.now+max(2*w.e, w.ops[n-1].margin))+1 < w.ops[n-1].expires {
		v.set = setThere
		if visible < n {
			v.set = w.whyGone(n - 1)
		}
	}
	if w.log != nil {
		w.say("server  at rest: %s; newest acknowledged v%d, delete v%d", key, newest, del)
	}
	return v
}

func (w *world) whyGone(n int) set {
	mine := &w.ops[n]
	switch {
	case mine.outcome == Reloads:
		return setReloads
	case mine.outcome == TooOld:
		return setTooOld
	}
	u := mine.margin
	for _, o := range w.ops[:n] {
		u = max(u, o.margin) // a companion may still have it
	}
	for _, o := range w.ops[:n] {
		// Stamps are off by half of u at most, and what the server has done is stamped when it is done.
		if o.client != mine.client && mine.at-o.at <= 2*u+max(w.give, 2*u) {
			return setContested
		}
	}
	return setLost
}

// Counts sums up trials.
type Counts struct {
	Trials int
	Lost   int // trials in which the server lost what it had acknowledged; the others only are counted below

	Refused                                                          int // fills
	Stale, Undone, Meanwhile, Back                                   int
	Sets, SetsContested, SetsReload, SetsTooOld, SetsLost            int
	LostStale, LostUndone                                            int // in the trials where the server lost data
	FirstStale, FirstUndone, FirstMeanwhile, FirstBack, FirstSetLost int // trial numbers, or -1
}

func newCounts() Counts {
	return Counts{FirstStale: -1, FirstUndone: -1, FirstMeanwhile: -1, FirstBack: -1, FirstSetLost: -1}
}

func count(is bool, n, first *int, trial int) {
	if is {
		*n++
		*first = trials.Earliest(*first, trial)
	}
}

func (c *Counts) add(trial int, v verdict) {
	c.Trials++
	if v.lost {
		c.Lost++
		if v.stale {
			c.LostStale++
		}
		if v.undone {
			c.LostUndone++
		}
		return
	}
	c.Refused += v.refused
	count(v.stale, &c.Stale, &c.FirstStale, trial)
	count(v.undone, &c.Undone, &c.FirstUndone, trial)
	count(v.meanwhile, &c.Meanwhile, &c.FirstMeanwhile, trial)
	count(v.back, &c.Back, &c.FirstBack, trial)
	if v.set != setNone {
		c.Sets++
	}
	switch v.set {
	case setContested:
		c.SetsContested++
	case setReloads:
		c.SetsReload++
	case setTooOld:
		c.SetsTooOld++
	case setLost:
		count(true, &c.SetsLost, &c.FirstSetLost, trial)
	}
}

func (c *Counts) merge(d Counts) {
	c.Trials += d.Trials
	c.Lost += d.Lost
	c.Refused += d.Refused
	c.Stale += d.Stale
	c.Undone += d.Undone
	c.Meanwhile += d.Meanwhile
	c.Back += d.Back
	c.Sets += d.Sets
	c.SetsContested += d.SetsContested
	c.SetsReload += d.SetsReload
	c.SetsTooOld += d.SetsTooOld
	c.SetsLost += d.SetsLost
	c.LostStale += d.LostStale
	c.LostUndone += d.LostUndone
	c.FirstStale = trials.Earliest(c.FirstStale, d.FirstStale)
	c.FirstUndone = trials.Earliest(c.FirstUndone, d.FirstUndone)
	c.FirstMeanwhile = trials.Earliest(c.FirstMeanwhile, d.FirstMeanwhile)
	c.FirstBack = trials.Earliest(c.FirstBack, d.FirstBack)
	c.FirstSetLost = trials.Earliest(c.FirstSetLost, d.FirstSetLost)
}

// For traces: a stamp's time is printed in seconds since the trial began.

func (s Stamp) String() string {
	return fmt.Sprintf("%.6f/%04x/%d", float64(s.Time-epoch)/1e6, s.Client>>48, s.Counter)
}

func (m Marker) String() string {
	if m.ID == 0 {
		return "none"
	}
	return fmt.Sprintf("m%d@%.6f", m.ID, float64(m.Time-epoch)/1e6)
}

func (r Record) String() string {
	switch r.Op {
	case OpSet:
		return fmt.Sprintf("Set v%d @%s", r.Value[0], r.Stamp)
	case OpDel:
		return fmt.Sprintf("Del @%s", r.Stamp)
	}
	return fmt.Sprintf("fill v%d @%s", r.Value[0], r.Stamp)
}

func (s State) String() string {
	text := "holds nothing"
	switch s.Content {
	case Value:
		text = fmt.Sprintf("holds v%d", s.Value[0])
	case Lock:
		text = "holds marker " + s.Marker.String()
	}
	if c := s.Companion; c.Expires != 0 {
		text += fmt.Sprintf(", companion %s", c.Stamp)
		if c.ValueExpires != 0 {
			text += ", value its own"
		}
		if c.Other != 0 {
			text += fmt.Sprintf(", other %.6f", float64(c.Other-epoch)/1e6)
		}
		if c.Margin != 0 {
			text += fmt.Sprintf(", margin %.6f", float64(c.Margin)/1e6)
		}
	}
	return text
}
