package sim

import (
	"fmt"
	"strings"
)

// Policy is a way to replay what was written while the server was away.
type Policy int

// The policies, from the plainest to ours.
const (
	PlainSet Policy = iota // values by SET; deletes are forgotten
	SetNX                  // values by SET NX; deletes are forgotten
	SetNXDel               // values by SET NX, deletes by DEL
	Stamps                 // the newest stamp wins; it is kept with the value and goes with it, so a delete leaves none
	Draft                  // as ours was drawn first: of two Sets the newest wins, deletes win within the margin over Sets only
	Ours                   // Replay
)

var policyNames = [...]string{"plain-set", "set-nx", "set-nx-del", "stamps", "draft", "ours"}

func (p Policy) String() string { return policyNames[p] }

// Policies returns them all.
func Policies() []Policy { return []Policy{PlainSet, SetNX, SetNXDel, Stamps, Draft, Ours} }

// PolicyNamed finds a policy by its name.
func PolicyNamed(name string) (Policy, error) {
	for i, n := range policyNames {
		if n == name {
			return Policy(i), nil
		}
	}
	return 0, fmt.Errorf("no policy is called %q; there are %s", name, strings.Join(policyNames[:], ", "))
}

// LooksAtClocks reports whether the errors of clocks matter to the policy.
func (p Policy) LooksAtClocks() bool { return p >= Stamps }

func (p Policy) apply(s State, w Write, e Env) (State, Outcome) {
	if p >= Draft {
		return Apply(s, w, e)
	}
	s = s.At(e.Now)
	if e.Now > w.NotAfter {
		return s, Late
	}
	if p != Stamps {
		if w.Op == OpDel {
			return State{}, Applied
		}
		return State{}.holding(w.Value, ms(e.Now)+w.TTL), Applied
	}
	if w.Op == OpDel {
		return State{}, Applied
	}
	w.Stamp.Time = max(e.Now, w.Stamp.Time, s.Companion.Time+1)
	return stamped(w.Value, ms(e.Now)+w.TTL, w.Stamp), Applied
}

func (p Policy) fill(s State, m Marker, value string, ttl int64, e Env) (State, bool) {
	s, ok := Fill(s, m, value, ttl, e)
	if ok && p == Stamps {
		s = stamped(value, s.Expires, Stamp{Time: m.Time})
	}
	return s, ok
}

func (p Policy) replay(s State, r Record, e Env) (State, Outcome) {
	switch p {
	case Ours:
		return Replay(s, r, e)
	case Draft:
		return replayDraft(s, r, e)
	}
	s = s.At(e.Now)
	if r.Op != OpDel && ms(e.Now) >= r.Expires {
		return s, Dropped
	}
	switch p {
	case PlainSet:
		if r.Op == OpDel {
			return s, Dropped
		}
		return State{}.holding(r.Value, r.Expires), Applied
	case SetNX, SetNXDel:
		switch {
		case r.Op == OpDel && p == SetNXDel:
			return State{}, Applied
		case r.Op == OpDel, s.Content != Nothing:
			return s, Dropped
		}
		return State{}.holding(r.Value, r.Expires), Applied
	}
	if s.Content == Value && s.Companion.Compare(r.Stamp) >= 0 {
		return s, Superseded
	}
	if r.Op == OpDel {
		return State{}, Applied
	}
	return stamped(r.Value, r.Expires, r.Stamp), Applied
}

// stamped is a value with a stamp that goes with it.
func stamped(value string, expires int64, stamp Stamp) State {
	s := State{}.holding(value, expires)
	s.Companion = Companion{Stamp: stamp, Expires: expires}
	return s
}

// replayDraft is the rule as it was before the simulation. A Set that leaves a stamp without a
// value has valueless there.
func replayDraft(s State, r Record, e Env) (State, Outcome) {
	s = s.At(e.Now)
	if r.Op == OpFill {
		return replayFill(s, r, e)
	}
	const valueless = 1
	verdict := Applied
	if r.Op == OpSet && (ms(e.Now) >= r.Expires || e.Now > r.Stamp.Time+e.StampTTL) {
		r.Op, verdict = OpDel, TooOld
	}
	c, u := s.Companion, e.Margin
	if c.Expires != 0 {
		isSet := c.ValueExpires != 0
		var newer bool
		switch {
		case c.Client == r.Stamp.Client && c.Counter >= r.Stamp.Counter:
			return s, Done
		case c.Client == r.Stamp.Client:
		case r.Op == OpDel && isSet:
			newer = c.Time > r.Stamp.Time+u
		case r.Op == OpSet && !isSet:
			newer = c.Time+u >= r.Stamp.Time
		default:
			newer = c.Stamp.Compare(r.Stamp) >= 0
		}
		if newer {
			return s, Superseded
		}
	}
	loading := s.Content == Lock && s.Marker.Time > r.Stamp.Time+u
	theirs := s.Content == Value && ms(e.Now) >= c.ValueExpires
	switch {
	case r.Op == OpDel:
		if !loading {
			s = s.emptied()
		}
		return s.leave(Companion{Stamp: r.Stamp}, e), verdict
	case loading || theirs:
		if theirs {
			s = s.emptied()
		}
		return s.leave(Companion{Stamp: r.Stamp, ValueExpires: valueless}, e), Reloads
	}
	return s.holding(r.Value, r.Expires).leave(Companion{Stamp: r.Stamp, ValueExpires: r.Expires}, e), Applied
}
