package sim

import (
	"bytes"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/sim/trials"
)

const (
	usualTrials = 20_000
	skew        = 50 * time.Millisecond
)

// ran has what was run already: the tests of the rules compare with the same few Configs. They do
// not run in parallel.
var ran = map[Config]Counts{}

func run(c Config) Counts {
	if c.Trials == 0 {
		c.Trials = usualTrials
	}
	if c.Seed == 0 {
		c.Seed = 1
	}
	if _, ok := ran[c]; !ok {
		ran[c] = Run(c)
	}
	return ran[c]
}

// keeps says that nothing went wrong, or tells the first trial in which it did.
func keeps(t *testing.T, c Config) {
	t.Helper()
	c.Seed = 1
	n := run(c)
	r := Row{c, n}
	if r.Broken() == 0 {
		return
	}
	for _, trial := range []int{n.FirstStale, n.FirstUndone, n.FirstMeanwhile, n.FirstBack, n.FirstSetLost} {
		if trial >= 0 {
			var told bytes.Buffer
			require.NoError(t, Trace(c, trial, &told))
			t.Fatalf("stale %d, deletes undone %d, older shown %d, older put over newer %d, Sets lost %d\n%s\n%s",
				n.Stale, n.Undone, n.Meanwhile, n.Back, n.SetsLost, r.Command(trial), told.String())
		}
	}
}

func TestSimOursKeepsItsPromises(t *testing.T) {
	for _, e := range ClockErrors() {
		t.Run(e.String(), func(t *testing.T) { keeps(t, Config{Policy: Ours, ClockError: e}) })
		// Few events, so that nothing covers up what the one before did wrong.
		t.Run(e.String()+"/short", func(t *testing.T) {
			keeps(t, Config{Policy: Ours, ClockError: e, minEvents: 3, moreEvents: 6})
		})
		t.Run(e.String()+"/deletes only", func(t *testing.T) { keeps(t, Config{Policy: Ours, ClockError: e, dels: 1}) })
		t.Run(e.String()+"/writes and replays", func(t *testing.T) { keeps(t, Config{Policy: Ours, ClockError: e, mix: manyWrites}) })
		t.Run(e.String()+"/loads", func(t *testing.T) { keeps(t, Config{Policy: Ours, ClockError: e, mix: manyLoads}) })
		for name, m := range map[string]mix{"": {}, " and many writes": manyWrites, " and loads": manyLoads} {
			t.Run(e.String()+"/late answers"+name, func(t *testing.T) {
				keeps(t, Config{Policy: Ours, ClockError: e, Late: true, mix: m, minEvents: 3, moreEvents: 12})
			})
		}
	}
}

// A plainer policy that came out well would say that too little happens here.
func TestSimOthersDoNot(t *testing.T) {
	for _, p := range []Policy{PlainSet, SetNX, SetNXDel, Stamps} {
		n := run(Config{Policy: p})
		assert.Greater(t, n.Stale, usualTrials/20, p)
		assert.Greater(t, n.Undone, usualTrials/20, p)
	}
	assert.Positive(t, run(Config{Policy: Draft, Trials: 10 * usualTrials}).Stale, "also without any error of clocks")
	n := run(Config{Policy: Draft, ClockError: skew})
	assert.Positive(t, n.Stale)
	assert.Positive(t, n.Undone)
}

func TestSimIsTheSameEachTime(t *testing.T) {
	c := Config{Policy: Draft, ClockError: skew, Trials: 5000, Seed: 7}
	want := Run(c)
	before := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(before)
	assert.Equal(t, want, Run(c))
	require.GreaterOrEqual(t, want.FirstStale, 0)
	var once, twice bytes.Buffer
	require.NoError(t, Trace(c, want.FirstStale, &once))
	require.NoError(t, Trace(c, want.FirstStale, &twice))
	assert.Equal(t, once.String(), twice.String())
	assert.Contains(t, once.String(), "at rest")
}

var (
	manyWrites = mix{write: 40, link: 20, replay: 30, wire: 8, clock: 4, process: 2}
	manyLoads  = mix{write: 20, read: 20, load: 20, renew: 5, link: 15, replay: 15, wire: 8}
	renewals   = mix{write: 20, read: 20, load: 20, renew: 20, link: 12, replay: 10, wire: 8}
	restarts   = mix{write: 26, read: 16, load: 18, link: 12, replay: 10, wire: 10, empty: 6}
)

// Each rule is needed: without it, what it is there for goes wrong. So the simulation is able to
// notice that.
func TestSimNotices(t *testing.T) {
	stale := func(n Counts) int { return n.Stale }
	undone := func(n Counts) int { return n.Undone }
	back := func(n Counts) int { return n.Back }
	lost := func(n Counts) int { return n.SetsLost }
	for _, row := range []struct {
		name    string
		without rule
		in      Config
		sees    func(Counts) int
	}{
		{"that a client's own writes go by their counters", sameClientCounts, Config{}, lost},
		{"that the other of two contested writes is remembered", otherIsRemembered, Config{mix: manyWrites, Trials: 8 * usualTrials}, stale},
		{"that a record is contested with what is just newer", olderIsContested, Config{}, stale},
		{"that a deletion is", olderIsContested, Config{dels: 1}, undone},
		{"that a record is contested with what is just older", newerIsContested, Config{}, stale},
		{"that the later of contested stamps stays", topIsNewest, Config{mix: manyWrites, Trials: 4 * usualTrials}, stale},
		{"that a delete leaves its stamp", deleteLeavesStamp, Config{}, undone},
		{"that a value beside a delete's stamp is a load's", ownerIsNoDelete, Config{}, back},
		{"that a value after valueExpires is a load's", valueExpiresCounts, Config{Trials: 4 * usualTrials}, back},
		{"that a load's value is not overwritten", fillIsDeleted, Config{}, back},
		{"that an old Set is a delete", oldSetDeletes, Config{Trials: 4 * usualTrials}, stale},
		{"that a load that began before is voided", olderLoadIsVoided, Config{}, stale},
		{"that a Set which yields to a load leaves its stamp", yieldingLeavesStamp, Config{mix: manyLoads, Trials: 8 * usualTrials}, stale},
		{"that a marker keeps the start of its load", markerKeepsStart, Config{mix: renewals, dels: 1, Trials: 4 * usualTrials}, undone},
		{"that a fill minds stamps", fillMindsStamps, Config{}, stale},
		{"that an old fill is dropped", oldFillIsDropped, Config{mix: manyLoads, Trials: 8 * usualTrials}, stale},
		{"that an unsure record happens now", unsureIsNow, Config{unsure: true}, stale},
		{"that a write has the server's time", writesHaveServersTime, Config{Late: true}, stale},
		{"that a Set has it, which a Del undoes", writesHaveServersTime, Config{Late: true, sets: 1, dels: 1}, undone},
		{"that a stamp says how far it may be off", marginIsRemembered, Config{Late: true}, stale},
		{"that a late write is refused", lateIsRefused, Config{}, stale},
		{"that a write in doubt is waited out", waitsItOut, Config{}, stale},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.in.Policy, row.in.ClockError = Ours, skew
			with := run(row.in)
			row.in.without = row.without
			without := run(row.in)
			t.Log("with the rule", row.sees(with), "without", row.sees(without))
			assert.Zero(t, row.sees(with))
			assert.Positive(t, row.sees(without))
		})
	}
}

func TestSimNoticesAMarginThatIsTooSmall(t *testing.T) {
	for _, e := range []time.Duration{skew, 10 * skew} {
		for _, margin := range []time.Duration{e, 2*e - e/10} {
			n := run(Config{Policy: Ours, ClockError: e, Margin: margin})
			assert.Positive(t, n.Stale, "u = %v for e = %v", margin, e)
			assert.Positive(t, n.Undone, "u = %v for e = %v", margin, e)
		}
	}
	// And none is needed, nor helps, where clocks agree; 100 ms are for what is not known of them.
	keeps(t, Config{Policy: Ours, ClockError: 5 * time.Millisecond, Margin: 10 * time.Millisecond})
}

// What was loaded is as old as the load's start.
func TestSimNoticesFillsStampedWhenTheyAreStored(t *testing.T) {
	n := run(Config{Policy: Ours, ClockError: skew, mix: manyLoads, Trials: 12 * usualTrials, fillsStampedLate: true})
	assert.Positive(t, n.Stale, "the fill of a load that began before stamps were forgotten")
	n = run(Config{Policy: Ours, ClockError: skew, mix: renewals, Trials: 4 * usualTrials, without: markerKeepsStart})
	assert.Positive(t, n.Stale, "the fill of a load that began before a delete, and has been renewed since")
}

func TestSimNoticesExpiredSetsDropped(t *testing.T) {
	for _, rules := range []rule{expiredSetDeletes, stampOutlivesValue, expiredSetDeletes | stampOutlivesValue} {
		assert.Positive(t, run(Config{Policy: Ours, without: rules}).Stale)
	}
}

func TestSimNoticesStampsThatDieWithTheValue(t *testing.T) {
	assert.Positive(t, run(Config{Policy: Ours, without: stampOutlivesValue}).Stale)
}

// Deletes only, and a server that may restart empty: then an unacknowledged loss can come from
// fills alone.
func TestSimNoticesFillsThatAreNotFenced(t *testing.T) {
	c := Config{Policy: Ours, mix: restarts, dels: 1}
	n := run(c)
	assert.Positive(t, n.Lost)
	assert.Zero(t, n.Stale+n.LostStale)
	c.without = fillIsFenced
	assert.Positive(t, run(c).LostStale)
}

// Leaving newer loads alone saves work, nothing else.
func TestSimNoticesLoadsThatAreVoidedForNothing(t *testing.T) {
	c := Config{Policy: Ours}
	saved := run(c)
	c.without = newerLoadStays
	assert.Greater(t, run(c).Refused, saved.Refused)
}

// A process that does not know the time is no danger to others.
func TestSimUnsureClocksUndoNothing(t *testing.T) {
	n := run(Config{Policy: Ours, ClockError: skew, unsure: true})
	assert.Zero(t, n.Stale+n.Undone+n.Meanwhile+n.Back)
}

// What is not promised is seen, too: a server that forgets stamps, and writers that die before they
// know.
func TestSimShowsWhatIsNotPromised(t *testing.T) {
	assert.Positive(t, run(Config{Policy: Ours, Evictions: true}).Stale)
	assert.Positive(t, run(Config{Policy: Ours, Deaths: true}).Stale)
	assert.Positive(t, run(Config{Policy: Ours}).LostStale)
}

func TestReportIsATable(t *testing.T) {
	rows := Rows([]Config{{Policy: PlainSet, Trials: 2000, Seed: 3}, {Policy: Ours, ClockError: skew, Trials: 2000, Seed: 3}})
	var b bytes.Buffer
	require.NoError(t, Report(&b, rows))
	assert.Contains(t, b.String(), "| ours | 50ms | 0 | 0 | 0 | 0 | 0 |")
	assert.Contains(t, b.String(), "go run ./internal/sim/cmd/sim -policy plain-set -error 0s -seed 3 -trial ")
	assert.Zero(t, rows[0].Broken()+rows[1].Broken())
	assert.Equal(t, "1,234,567", trials.Grouped(1234567))
}

func BenchmarkTrial(b *testing.B) {
	c := Config{Policy: Ours, ClockError: skew}.withDefaults()
	w := newWorld(&c)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		w.trial(n)
	}
}
