package link

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
)

// pinged is a client that answers PING, or, while it is silent, nothing.
type pinged struct {
	rueidis.Client
	silent bool
	pings  int
}

func (p *pinged) B() rueidis.Builder { return rueidis.Builder{} }

func (p *pinged) Do(ctx context.Context, _ rueidis.Completed) rueidis.RedisResult {
	p.pings++
	if p.silent {
		<-ctx.Done()
		return rueidis.NewErrorResult(ctx.Err())
	}
	return rueidis.RedisResult{}
}

// newIdle makes a shard that is well, and that nobody has used for a while.
func newIdle(l *Link, redis rueidis.Client) (*Shard, *rest) {
	sh := newShardOf(l)
	sh.client = redis
	epoch := sh.Valid.Epoch()
	sh.Valid.Prove(epoch, l.Now()+int64(l.opt.StaleLease))
	sh.run.Store(&runID{id: "r", connection: sh.Valid.Connection()})
	sh.proof.epoch, sh.proof.good = epoch, l.Now()
	sh.fresh.Store(false)
	sh.alive.Store(l.Now() + int64(l.opt.StaleLease))
	return sh, &rest{used: l.Now() - int64(l.opt.RestAfter)}
}

// A prober rests when nobody uses its shard, and nothing else is to be found out or replayed.
func TestAProberRestsWhenNobodyUsesItsShard(t *testing.T) {
	unreplayed := false
	for name, row := range map[string]struct {
		happens func(l *Link, sh *Shard)
		rests   bool // its pauses are long
		whole   bool // the next probe is
	}{
		"nothing":                      {func(*Link, *Shard) {}, true, false},
		"a command":                    {func(_ *Link, sh *Shard) { sh.use() }, false, true},
		"an entry is served":           {func(l *Link, sh *Shard) { sh.Valid.ServesRead(sh.Valid.Epoch(), l.Now()) }, false, true},
		"an entry whose lease is over": {func(_ *Link, sh *Shard) { sh.Valid.ServesRead(sh.Valid.Epoch(), never) }, false, true},
		"an entry of a lost connection is asked for": {func(l *Link, sh *Shard) { sh.Valid.ServesRead(sh.Valid.Epoch()-1, l.Now()) }, true, false},
		"something is to be replayed":                {func(*Link, *Shard) { unreplayed = true }, false, true},
		"it is away":                                 {func(l *Link, sh *Shard) { l.happened(sh, lost, nil) }, false, true},
		"it is recovering":                           {func(l *Link, sh *Shard) { l.happened(sh, lost, nil); l.happened(sh, back, nil) }, false, true},
		"the connection is lost":                     {func(_ *Link, sh *Shard) { sh.newEpoch() }, true, true},
		"pushes do not arrive":                       {func(l *Link, sh *Shard) { l.deafened(sh, ErrNoInvalidations) }, true, true},
		"its clock is odd":                           {func(l *Link, sh *Shard) { l.flawed(sh, flawClock, errClocks) }, true, true},
		"a minute":                                   {func(l *Link, sh *Shard) { sh.proof.good -= int64(wholeEvery) }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			unreplayed = false
			l := newLoose(func(_ *Options, up *Hooks) { up.Unreplayed = func(*Shard) bool { return unreplayed } })
			sh, r := newIdle(l, &pinged{})
			row.happens(l, sh)
			pause := l.pause(sh, r)
			require.Equal(t, row.rests, r.resting)
			require.Equal(t, row.rests, sh.resting.Load())
			require.Equal(t, row.whole, l.mustBeWhole(sh, r))
			if row.rests {
				require.GreaterOrEqual(t, pause, restEvery*4/5)
			} else {
				require.LessOrEqual(t, pause, probeEvery*6/5)
			}
		})
	}
}

// A shard is in use for RestAfter, and whoever asks after that wakes the prober.
func TestUseEndsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoose()
		sh, r := newIdle(l, &pinged{})
		drain := func() (woken bool) {
			select {
			case <-sh.kick:
				return true
			default:
				return false
			}
		}
		sh.use()
		l.pause(sh, r)
		drain()
		time.Sleep(l.opt.RestAfter - time.Millisecond)
		l.pause(sh, r)
		require.False(t, r.resting)
		sh.use()
		require.False(t, drain(), "it looks soon anyhow")
		l.pause(sh, r)
		time.Sleep(l.opt.RestAfter)
		l.pause(sh, r)
		require.True(t, r.resting)
		sh.use()
		require.True(t, drain())
		require.True(t, l.mustBeWhole(sh, r), "what it looks for first is the lease")
	})
}

// A server that falls silent is noticed within 2 seconds, though nobody uses it; one that was slow
// once is not given up.
func TestAnOutageIsNoticedAtRest(t *testing.T) {
	look := func(l *Link, sh *Shard, r *rest) {
		timer := time.NewTimer(l.pause(sh, r))
		select {
		case <-timer.C:
		case <-sh.kick:
		}
		l.look(sh, r)
	}
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			l, redis := newLoose(), &pinged{}
			sh, r := newIdle(l, redis)
			for range 20 {
				look(l, sh, r)
			}
			require.True(t, sh.Asks())
			require.GreaterOrEqual(t, l.Now(), int64(20*restEvery*4/5))
			require.LessOrEqual(t, redis.pings, 21)

			redis.silent = true
			look(l, sh, r)
			require.True(t, sh.Asks(), "one PING without an answer is no outage")
			redis.silent = false
			look(l, sh, r)
			look(l, sh, r)
			require.True(t, sh.Asks())

			redis.silent = true
			began := l.Now()
			for sh.Asks() {
				look(l, sh, r)
			}
			require.LessOrEqual(t, time.Duration(l.Now()-began), 2*time.Second)
		})
	}
}

// pongOnly answers PING, as a proxy may, and nothing else.
type pongOnly struct{ rueidis.Client }

// B returns a builder for keys of any slot, which rueidis makes for its own clients only.
func (*pongOnly) B() (b rueidis.Builder) {
	const noSlot = 1<<14 | 1<<15
	*(*uint16)(unsafe.Pointer(&b)) = noSlot
	return b
}

func (*pongOnly) Do(context.Context, rueidis.Completed) rueidis.RedisResult {
	return rueidis.RedisResult{}
}

func (*pongOnly) DoMulti(ctx context.Context, all ...rueidis.Completed) []rueidis.RedisResult {
	<-ctx.Done()
	out := make([]rueidis.RedisResult, len(all))
	for i := range out {
		out[i] = rueidis.NewErrorResult(ctx.Err())
	}
	return out
}

func TestAWholeProbeThatFailsAtRestIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoose()
		sh, r := newIdle(l, &pongOnly{})
		for began := l.Now(); sh.Asks() && time.Duration(l.Now()-began) < 30*time.Minute; {
			timer := time.NewTimer(l.pause(sh, r))
			select {
			case <-timer.C:
			case <-sh.kick:
			}
			l.look(sh, r)
		}
		require.False(t, sh.Asks(), "half an hour of whole probes without an answer")
	})
}
