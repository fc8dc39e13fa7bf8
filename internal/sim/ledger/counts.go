package ledger

import "github.com/redaside/aside/internal/sim/trials"

// Counts sums up trials. Of faults it has the trials, of operations their number.
type Counts struct {
	Trials int

	Twice, Lost, Reported, Order, Undone, Stuck                               int // trials in which a promise was broken
	FirstTwice, FirstLost, FirstReported, FirstOrder, FirstUndone, FirstStuck int // their numbers, or -1
	Operations, Done, Dropped, Rejected, Refused, Covered, Hidden, DataLost   int
}

func newCounts() Counts {
	return Counts{FirstTwice: -1, FirstLost: -1, FirstReported: -1, FirstOrder: -1, FirstUndone: -1, FirstStuck: -1}
}

// Broken is in how many trials a promise was broken, if in each only one was.
func (c *Counts) Broken() int { return c.Twice + c.Lost + c.Reported + c.Order + c.Undone + c.Stuck }

func (c *Counts) add(trial int, v verdict) {
	c.Trials++
	for _, f := range c.faults(&Counts{}) {
		if f.of(&v) {
			*f.n++
			*f.first = trials.Earliest(*f.first, trial)
		}
	}
	c.Operations += v.operations
	c.Done += v.done
	c.Dropped += v.dropped
	c.Rejected += v.rejected
	c.Refused += v.refused
	c.Covered += v.covered
	c.Hidden += v.hidden
	c.DataLost += v.dataLost
}

// fault is one kind of broken promise.
type fault struct {
	name            string
	of              func(*verdict) bool
	n, first        *int
	other, earliest *int // of another Counts
}

func (c *Counts) faults(d *Counts) []fault {
	return []fault{
		{"done twice", func(v *verdict) bool { return v.twice > 0 }, &c.Twice, &c.FirstTwice, &d.Twice, &d.FirstTwice},
		{"lost in silence", func(v *verdict) bool { return v.lost > 0 }, &c.Lost, &c.FirstLost, &d.Lost, &d.FirstLost},
		{"reported for no reason", func(v *verdict) bool { return v.reported > 0 }, &c.Reported, &c.FirstReported, &d.Reported, &d.FirstReported},
		{"out of order", func(v *verdict) bool { return v.order > 0 }, &c.Order, &c.FirstOrder, &d.Order, &d.FirstOrder},
		{"undone", func(v *verdict) bool { return v.undone > 0 }, &c.Undone, &c.FirstUndone, &d.Undone, &d.FirstUndone},
		{"never settled", func(v *verdict) bool { return v.stuck }, &c.Stuck, &c.FirstStuck, &d.Stuck, &d.FirstStuck},
	}
}

func (c *Counts) merge(d Counts) {
	c.Trials += d.Trials
	for _, f := range c.faults(&d) {
		*f.n += *f.other
		*f.first = trials.Earliest(*f.first, *f.earliest)
	}
	c.Operations += d.Operations
	c.Done += d.Done
	c.Dropped += d.Dropped
	c.Rejected += d.Rejected
	c.Refused += d.Refused
	c.Covered += d.Covered
	c.Hidden += d.Hidden
	c.DataLost += d.DataLost
}
