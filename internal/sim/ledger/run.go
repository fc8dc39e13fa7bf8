package ledger

import (
	"bytes"
	"io"
	"time"

	"github.com/redaside/aside/internal/sim/trials"
)

// Config says what is simulated. The same Config gives the same Counts.
type Config struct {
	Mix        string        // one of Mixes; "": the first
	ClockError time.Duration // e: by how much any clock may be off
	Trials     int
	Seed       uint64
	Without    rule
	Late       bool // clocks may be off by much more than ClockError, and processes know by how much
	Forgets    bool // the server also evicts ledgers, stamps and values, and is left alone for longer than a ledger lives

	mix                   mix
	wrong                 int // per cent of operations of another type than the key
	minEvents, moreEvents int
}

// Mixes are what may happen, and how often.
func Mixes() []string {
	return []string{"usual", "writes", "kills", "losses", "ends", "flushes", "puts", "files", "ledgers"}
}

var mixes = map[string]mix{
	"usual":   {apply: 30, set: 4, del: 4, update: 3, call: 14, replay: 26, flush: 12, link: 14, kill: 6, clock: 2, wire: 10, restart: 2},
	"writes":  {apply: 24, set: 14, del: 14, update: 4, call: 16, replay: 22, flush: 6, link: 14, kill: 3, clock: 2, wire: 12, restart: 1},
	"kills":   {apply: 28, set: 4, del: 4, call: 14, replay: 30, flush: 20, link: 10, kill: 22, wire: 8, restart: 4},
	"losses":  {apply: 30, set: 4, del: 4, update: 3, call: 12, replay: 30, flush: 8, link: 12, kill: 6, clock: 2, wire: 10, restart: 2, snapshot: 4, older: 3, replica: 6},
	"ends":    {apply: 30, set: 8, del: 4, update: 2, expire: 20, call: 12, replay: 26, flush: 6, link: 14, kill: 4, clock: 2, wire: 8, restart: 1},
	"puts":    {first: 60, apply: 30, set: 14, del: 10, call: 40, replay: 8, flush: 2, link: 4, kill: 14},
	"files":   {first: 60, apply: 24, set: 2, del: 14, call: 8, replay: 26, flush: 30, link: 20, kill: 12},
	"ledgers": {first: 60, apply: 12, call: 6, replay: 50, flush: 4, link: 8, kill: 4, wire: 16, restart: 1},
	"flushes": {apply: 30, set: 6, del: 4, update: 2, call: 12, replay: 26, flush: 8, link: 14, kill: 4, clock: 2, wire: 8, restart: 1, wipe: 3},
}

func (c Config) withDefaults() Config {
	if c.Mix == "" {
		c.Mix = Mixes()[0]
	}
	c.mix = mixes[c.Mix]
	if c.Forgets {
		if c.mix.evict += 5; c.Mix == "ledgers" {
			c.mix.evict += 15
		}
	}
	if c.minEvents == 0 {
		c.minEvents, c.moreEvents = 12, 24
	}
	if c.wrong == 0 {
		c.wrong = 3
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
