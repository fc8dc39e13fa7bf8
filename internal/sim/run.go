package sim

import (
	"bytes"
	"io"
	"time"

	"github.com/redaside/aside/internal/sim/trials"
)

// Config says what is simulated. The same Config gives the same Counts.
type Config struct {
	Policy     Policy
	ClockError time.Duration // e: by how much any clock may be off
	Margin     time.Duration // u; zero: twice ClockError, and 100 ms at least
	Trials     int
	Seed       uint64
	Evictions  bool // the server also evicts values and companions
	Deaths     bool // processes also die while they wait for an answer, so that a write is neither acknowledged nor recalled
	Late       bool // clocks may be off by much more than ClockError, and instances know by how much

	mix                   mix // zero: the usual one
	minEvents, moreEvents int
	sets, dels            int  // how often which explicit write; zero: two Sets for a Del
	unsure                bool // instances that are cut off may lose their clocks, which they know
	fillsStampedLate      bool // fills have the time of their load's end
	without               rule
}

var usual = mix{write: 26, read: 16, load: 18, renew: 2, link: 12, replay: 10, wire: 10, process: 3, clock: 2, snapshot: 2, empty: 1, older: 1}

func (c Config) withDefaults() Config {
	if c.mix == (mix{}) {
		c.mix = usual
	}
	if c.Margin == 0 {
		c.Margin = max(2*c.ClockError, 100*time.Millisecond)
	}
	if c.Evictions {
		c.mix.evict += 4
	}
	if c.minEvents == 0 {
		c.minEvents, c.moreEvents = 14, 12
	}
	if c.sets+c.dels == 0 {
		c.sets, c.dels = 2, 1
	}
	return c
}

// Run runs the trials on all processors.
func Run(c Config) Counts {
	c = c.withDefaults()
	total := newCounts()
	trials.Run(c.Trials, func() (func(int), func()) {
		w, mine := newWorld(&c), newCounts()
		return func(n int) { mine.add(n, w.trial(n)) }, func() { total.merge(mine) }
	})
	return total
}

// Trace runs one trial and tells what happens in it.
func Trace(c Config, trial int, to io.Writer) error {
	c = c.withDefaults()
	w := newWorld(&c)
	var text bytes.Buffer
	w.log = &text
	w.trial(trial)
	_, err := text.WriteTo(to)
	return err
}
