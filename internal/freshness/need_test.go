package freshness_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redaside/aside/internal/freshness"
)

func TestACallGetsWhatItNeeds(t *testing.T) {
	t.Parallel()
	const now, ttl = int64(100 * time.Hour), time.Hour
	at := func(d time.Duration) int64 { return now + int64(d) }
	never := func() float64 { return 0 }
	always := func() float64 { return math.Inf(1) }
	for name, row := range map[string]struct {
		need  freshness.Need
		value freshness.Value
		drawn func() float64
		want  freshness.Verdict
	}{
		"any":                              {freshness.Need{}, freshness.Value{Ends: at(time.Second)}, always, freshness.Good},
		"any, as long as it is there":      {freshness.Need{}, freshness.Value{Ends: at(0)}, always, freshness.Good},
		"fresh":                            {freshness.Need{Grace: time.Minute}, freshness.Value{Ends: at(time.Minute + 1)}, always, freshness.Good},
		"stale":                            {freshness.Need{Grace: time.Minute}, freshness.Value{Ends: at(time.Minute)}, always, freshness.Outdated},
		"for ever":                         {freshness.Need{Grace: time.Minute, Bounded: true, Ahead: 0.5}, freshness.Value{Ends: math.MaxInt64}, always, freshness.Good},
		"its own grace":                    {freshness.Need{}, freshness.Value{Ends: at(time.Minute), TTL: ttl, Grace: time.Minute}, always, freshness.Outdated},
		"it has no grace":                  {freshness.Need{Grace: time.Minute}, freshness.Value{Ends: at(1), TTL: ttl}, always, freshness.Good},
		"nothing stale":                    {freshness.Need{Grace: time.Minute, Bounded: true}, freshness.Value{Ends: at(time.Minute)}, always, freshness.Unfit},
		"nothing stale, and fresh":         {freshness.Need{Grace: time.Minute, Bounded: true}, freshness.Value{Ends: at(time.Minute + 1)}, always, freshness.Good},
		"stale for a moment":               {freshness.Need{Grace: time.Minute, Bounded: true, MaxStale: time.Second}, freshness.Value{Ends: at(59 * time.Second)}, always, freshness.Outdated},
		"stale for longer":                 {freshness.Need{Grace: time.Minute, Bounded: true, MaxStale: time.Second}, freshness.Value{Ends: at(59*time.Second - 1)}, always, freshness.Unfit},
		"young":                            {freshness.Need{MaxAge: time.Second}, freshness.Value{Ends: at(1), Began: at(-time.Second)}, always, freshness.Good},
		"old":                              {freshness.Need{MaxAge: time.Second}, freshness.Value{Ends: at(1), Began: at(-time.Second - 1)}, always, freshness.Unfit},
		"of unknown age":                   {freshness.Need{MaxAge: time.Second}, freshness.Value{Ends: math.MaxInt64}, always, freshness.Unfit},
		"made stale":                       {freshness.Need{Grace: time.Minute}, freshness.Value{Ends: math.MaxInt64, Expired: true}, always, freshness.Outdated},
		"made stale, for who is strict":    {freshness.Need{Grace: time.Minute, Bounded: true, MaxStale: time.Hour}, freshness.Value{Ends: at(time.Hour), Expired: true}, always, freshness.Unfit},
		"proven":                           {freshness.Need{Proven: true}, freshness.Value{Ends: math.MaxInt64, Began: now}, always, freshness.Unfit},
		"ahead, too early":                 {freshness.Need{Ahead: 0.1}, freshness.Value{Ends: at(6*time.Minute + 1), Took: time.Hour}, always, freshness.Good},
		"ahead, in the window":             {freshness.Need{Ahead: 0.1}, freshness.Value{Ends: at(6 * time.Minute), Took: time.Second}, always, freshness.Due},
		"ahead, not drawn":                 {freshness.Need{Ahead: 0.1}, freshness.Value{Ends: at(1), Took: time.Second}, never, freshness.Good},
		"ahead of the grace":               {freshness.Need{Ahead: 0.1, Grace: time.Hour}, freshness.Value{Ends: at(time.Hour + 6*time.Minute), Took: time.Second}, always, freshness.Due},
		"ahead, by its own ttl":            {freshness.Need{Ahead: 0.1}, freshness.Value{Ends: at(time.Minute), TTL: time.Minute, Took: time.Second}, always, freshness.Good},
		"ahead, as long as its load takes": {freshness.Need{Ahead: 0.1}, freshness.Value{Ends: at(time.Second), Took: time.Second}, func() float64 { return 1 }, freshness.Due},
		"ahead, longer":                    {freshness.Need{Ahead: 0.1}, freshness.Value{Ends: at(time.Second + 1), Took: time.Second}, func() float64 { return 1 }, freshness.Good},
		"ahead, of an unknown load":        {freshness.Need{Ahead: 0.1}, freshness.Value{Ends: at(90 * time.Second)}, func() float64 { return 1 }, freshness.Due},
		"ahead, of an unknown load, early": {freshness.Need{Ahead: 0.1}, freshness.Value{Ends: at(90*time.Second + 1)}, func() float64 { return 1 }, freshness.Good},
	} {
		require.Equal(t, row.want, row.need.Judge(now, ttl, row.value, row.drawn), name)
	}
}

// Whatever is drawn, a value is never due before the window, and the later the likelier.
func TestAValueIsNotDueBeforeItsWindow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ttl := time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(24*time.Hour)).Draw(t, "ttl"))
		n := freshness.Need{Ahead: rapid.Float64Range(0.01, 0.9).Draw(t, "ahead")}
		took := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "took"))
		drawn := rapid.Float64Range(0, 100).Draw(t, "drawn")
		due := func(left time.Duration) bool {
			v := freshness.Value{Ends: int64(time.Hour) + int64(left), Took: took}
			return n.Judge(int64(time.Hour), ttl, v, func() float64 { return drawn }) == freshness.Due
		}
		if due(n.Window(ttl) + 1) {
			t.Fatal("too early")
		}
		early := time.Duration(rapid.Int64Range(2, max(int64(ttl), 3)).Draw(t, "early"))
		if due(early) && !due(early/2) {
			t.Fatal("later it is not due any more")
		}
	})
}

// What is fresh for certain is good, whatever is drawn.
func TestWhatIsFreshForCertainIsGood(t *testing.T) {
	t.Parallel()
	ttls := rapid.Int64Range(int64(time.Millisecond), int64(24*time.Hour))
	rapid.Check(t, func(t *rapid.T) {
		const now = int64(24 * time.Hour)
		n := freshness.Need{
			Grace: time.Duration(rapid.SampledFrom([]int64{0, 1, int64(time.Minute)}).Draw(t, "grace")), Ahead: rapid.Float64Range(0, 0.9).Draw(t, "ahead"),
			Bounded: rapid.Bool().Draw(t, "bounded"), Proven: rapid.IntRange(0, 9).Draw(t, "proven") == 0,
			MaxAge: time.Duration(rapid.SampledFrom([]int64{0, 0, 0, 1}).Draw(t, "age")),
		}
		ttl := time.Duration(ttls.Draw(t, "ttl"))
		ends := now + rapid.OneOf(ttls, rapid.Int64Range(-1, 1), rapid.Just(math.MaxInt64-now)).Draw(t, "ends")
		always := func() float64 { return math.Inf(1) }
		if n.Fresh(now, ttl, ends, n.Grace) && n.Judge(now, ttl, freshness.Value{Ends: ends}, always) != freshness.Good {
			t.Fatal("it is not")
		}
		own := freshness.Value{Ends: ends, TTL: time.Duration(ttls.Draw(t, "own")), Grace: time.Duration(rapid.SampledFrom([]int64{0, int64(time.Minute)}).Draw(t, "its"))}
		if n.Fresh(now, own.TTL, ends, own.Grace) && n.Judge(now, ttl, own, always) != freshness.Good {
			t.Fatal("it is not, by its own ttl")
		}
	})
	n := freshness.Need{Grace: time.Minute, Ahead: 0.1}
	require.True(t, n.Fresh(0, time.Hour, int64(7*time.Minute)+1, n.Grace))
	require.False(t, n.Fresh(0, time.Hour, int64(7*time.Minute), n.Grace))
}
