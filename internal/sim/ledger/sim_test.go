package ledger

import (
	"bytes"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const skew = 50 * time.Millisecond

var usualTrials = 1_000 // fewer under the race detector

// keeps says that nothing went wrong, or tells the first trial in which it did.
func keeps(t *testing.T, c Config) Counts {
	t.Helper()
	c.Seed, c.Trials = 1, usualTrials
	n := Run(c)
	for _, f := range n.faults(&Counts{}) {
		if *f.first >= 0 {
			var told bytes.Buffer
			require.NoError(t, Trace(c, *f.first, &told))
			t.Fatalf("%s in %d trials of %d: %s\n%s", f.name, *f.n, n.Trials, Row{c, n}.Command(*f.first), told.String())
		}
	}
	return n
}

func TestOperationsAreDoneOnce(t *testing.T) {
	for i, e := range ClockErrors() {
		for _, mix := range Mixes() {
			if e != skew && mix != Mixes()[i] { // make sim has all
				continue
			}
			t.Run(e.String()+"/"+mix, func(t *testing.T) {
				n := keeps(t, Config{Mix: mix, ClockError: e})
				assert.Greater(t, n.Done, usualTrials, "or too little happens here")
				if mix != "ledgers" {
					assert.Positive(t, n.Dropped)
				}
				assert.Positive(t, n.Refused)
			})
		}
	}
	for _, mix := range Mixes() {
		t.Run("forgets/"+mix, func(t *testing.T) {
			n := keeps(t, Config{Mix: mix, ClockError: skew, Forgets: true})
			assert.Positive(t, n.Rejected, "what nobody knows is reported")
		})
		t.Run("late answers/"+mix, func(t *testing.T) { keeps(t, Config{Mix: mix, ClockError: skew, Late: true}) })
	}
	assert.Positive(t, Run(Config{Mix: "losses", ClockError: skew, Trials: usualTrials, Seed: 1}).Rejected)
}

func TestATrialIsTheSameEachTime(t *testing.T) {
	c := Config{Mix: "kills", ClockError: skew, Trials: 3000, Seed: 7, Without: openingIsNoted, Forgets: true}
	want := Run(c)
	before := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(before)
	assert.Equal(t, want, Run(c))
	var once, twice bytes.Buffer
	require.NoError(t, Trace(c, 5, &once))
	require.NoError(t, Trace(c, 5, &twice))
	assert.Equal(t, once.String(), twice.String())
	assert.Contains(t, once.String(), "at rest")
}

func BenchmarkTrial(b *testing.B) {
	c := Config{ClockError: skew}.withDefaults()
	w := newWorld(&c)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		w.trial(n)
	}
}
