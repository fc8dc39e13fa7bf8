package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Whatever happens: a lost shard is degraded, nothing but an answer brings it back, and nothing but
// the end of the replay makes it healthy where there was something to replay.
func TestTheModeMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mode, owed := Degraded, false // owed: it came back with records, and they have not been replayed
		for i, e := range rapid.SliceOf(rapid.SampledFrom([]modeEvent{lost, back, backEmpty, replayed})).Draw(t, "events") {
			was := mode
			mode = mode.after(e)
			switch {
			case e == lost:
				owed = false
			case was == Degraded && e == back:
				owed = true
			case e == replayed:
				owed = false
			}
			switch mode {
			case Degraded:
				if e != lost && was != Degraded {
					t.Fatalf("event %d made it degraded", i)
				}
			case Recovering:
				if !owed {
					t.Fatalf("event %d: recovering with nothing to replay", i)
				}
			case Healthy:
				if owed {
					t.Fatalf("event %d: healthy before the replay has ended", i)
				}
			}
		}
	})
}

func TestAShardComesBackAfterThreeGoodProbesAndSomeJitter(t *testing.T) {
	earliest, latest := int64(never), int64(0)
	for range 200 {
		var b comeback
		now := int64(1)
		require.False(t, b.probed(true, false, now))
		require.False(t, b.probed(true, false, now))
		require.False(t, b.probed(false, false, now), "a bad one: from the beginning")
		require.False(t, b.probed(true, false, now))
		require.False(t, b.probed(true, false, now))
		for n := int64(0); ; n += int64(10 * time.Millisecond) {
			if b.probed(true, false, now+n) {
				earliest, latest = min(earliest, n), max(latest, n)
				break
			}
		}
	}
	require.LessOrEqual(t, latest, int64(comebackJitter))
	require.Greater(t, latest-earliest, int64(comebackJitter/2), "they are spread")
	var fresh comeback
	require.True(t, fresh.probed(true, true, 1), "a server that was never away is taken at its word")
}

// newLoose makes a link that connects to nothing, with functions that change what it does without.
func newLoose(change ...func(*Options, *Hooks)) *Link {
	opt := Options{
		Redis: rueidis.ClientOption{InitAddress: []string{"127.0.0.1:6379"}}, RedisTimeout: 250 * time.Millisecond, StaleLease: time.Second, RestAfter: 3 * time.Second, DegradedTTL: 30 * time.Second,
		ClientBuilder: func(rueidis.ClientOption) (rueidis.Client, error) { return nil, errors.New("nobody is there") },
		Logger:        slog.New(slog.DiscardHandler),
	}
	up := Hooks{
		InBackground: func(fn func()) bool { go fn(); return true },
		Contain:      func(_ string, fn func()) error { fn(); return nil },
		Told:         func(_ string, fn func()) { fn() },
		Examine:      func(err error) error { return err },
		Warn:         func(string, ...any) {},
		Invalidated:  func(string) {},
		Lost:         func() {},
		Woken:        func() {},
		ModeChanged:  func(ModeChange) {},
		Observed:     func(Event) {},
		Outage:       func() func() []any { return func() []any { return nil } },
		Unreplayed:   func(*Shard) bool { return false },
		Started:      func(*Shard) {},
		TookOver:     func(Takeover) {},
		Flushed:      func(*Shard) int64 { return 0 },
	}
	for _, c := range change {
		c(&opt, &up)
	}
	return New(context.Background(), opt, up)
}

// newShardOf makes a shard of a link that has no Redis, as if it had one.
func newShardOf(l *Link) *Shard {
	sh := l.newShard("", nil, true)
	l.happened(sh, backEmpty, nil)
	return sh
}

func TestTheBreakersRules(t *testing.T) {
	silence := errors.New("no answer")
	for name, row := range map[string]struct {
		happens func(l *Link, sh *Shard)
		want    Mode
	}{
		"four timeouts of callers": {func(l *Link, sh *Shard) {
			for range 4 {
				l.failed(sh, silence, callersTimeout)
			}
		}, Healthy},
		"five": {func(l *Link, sh *Shard) {
			for range 5 {
				l.failed(sh, silence, callersTimeout)
			}
		}, Degraded},
		"five, with an answer in between": {func(l *Link, sh *Shard) {
			for i := range 5 {
				if i == 3 {
					l.conclude(sh, []*Call{{}}, attempt{limited: true, asked: l.Now()})
				}
				l.failed(sh, silence, callersTimeout)
			}
		}, Healthy},
		"one of the prober":   {func(l *Link, sh *Shard) { l.failed(sh, silence, probesTimeout) }, Healthy},
		"two of the prober":   {func(l *Link, sh *Shard) { l.failed(sh, silence, probesTimeout); l.failed(sh, silence, probesTimeout) }, Degraded},
		"a broken connection": {func(l *Link, sh *Shard) { l.failed(sh, silence, brokenOnly) }, Healthy},
		"one timeout, the lease has lapsed": {func(l *Link, sh *Shard) {
			sh.Valid.Prove(sh.Valid.Epoch(), l.Now())
			l.failed(sh, silence, callersTimeout)
		}, Degraded},
		"a broken connection, the lease has lapsed with it": {func(l *Link, sh *Shard) {
			sh.newEpoch()
			l.failed(sh, silence, brokenOnly)
		}, Healthy},
		"a refused dial": {func(l *Link, sh *Shard) { l.failed(sh, silence, decisive) }, Degraded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLoose()
				sh := newShardOf(l)
				sh.Valid.Prove(sh.Valid.Epoch(), never)
				row.happens(l, sh)
				require.Equal(t, row.want, Mode(sh.mode.Load()))
			})
		})
	}
}

// Each change is told once, in order, and the outages are counted.
func TestChangesOfAModeAreTold(t *testing.T) {
	var told []string
	l := newLoose(func(_ *Options, up *Hooks) {
		up.ModeChanged = func(m ModeChange) { told = append(told, fmt.Sprintf("%s>%s", m.From, m.To)) }
	})
	sh := newShardOf(l)
	why := errors.New("gone")
	l.happened(sh, lost, why)
	l.happened(sh, lost, why) // no change
	l.happened(sh, back, nil)
	l.happened(sh, replayed, nil)
	require.Equal(t, []string{"degraded>healthy", "healthy>degraded", "degraded>recovering", "recovering>healthy"}, told)
	require.EqualValues(t, 1, l.Counts().Outages)
}
