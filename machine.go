package aside

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// How much a command without an answer says, see failed.
const (
	failuresToLose = 5 // in a row
	callersTimeout = 1
	probesTimeout  = 3
	brokenOnly     = 0 // a connection is gone: the prober tries the next one
	decisive       = failuresToLose
)

// modeEvent is what may change a mode.
type modeEvent int

const (
	lost      modeEvent = iota
	back                // with records to replay
	backEmpty           // with none
	replayed
)

// modeState is a shard's mode.
type modeState struct {
	mu    sync.Mutex // guards all below, and changes of shard.mode
	since time.Time
	err   error // why it is degraded, as of the latest attempt
	flaws map[flaw]error
	away  outageLog
}

// happened is the one place where a shard changes its mode: it logs that once, counts it and has the observers told.
func (l *link) happened(sh *shard, e modeEvent, why error) {
	sh.state.mu.Lock()
	from := Mode(sh.mode.Load())
	to := from.after(e)
	if to == from || sh.gone.Load() {
		if to == Degraded && why != nil {
			sh.state.err = why
		}
		sh.state.mu.Unlock()
		return
	}
	now := time.Now()
	sh.state.since, sh.state.err = now, why
	first := sh.fresh.Load() && from == Degraded
	after := now.Sub(sh.state.away.since)
	if to == Degraded {
		sh.state.away.begin(l, now)
		// What memory holds may be used for a while yet: what was proven when the connection was last known to be well.
		sh.valid.Degrade(l.until(l.opt.DegradedTTL))
		if primary := sh.primary.Load(); from == Healthy && primary != nil { // not what a connection that has just led elsewhere has told
			sh.runIDBefore = *primary
		}
	}
	if from == Degraded {
		server, _ := l.serverTime(sh)
		sh.backAt.Store(server)
	}
	sh.mode.Store(int32(to))
	if from == Degraded {
		sh.valid.Restore()
	}
	l.up.ModeChanged(shardChange{Shard: sh, From: from, To: to, At: now, Err: why})
	sh.state.mu.Unlock()

	switch to {
	case Degraded:
		l.counts.outages.Add(1)
		l.opt.Logger.Warn("aside: Redis is away, going on without it", "address", l.address(sh), "from", from, "to", to, "error", why)
		l.up.Observed(linkEvent{Kind: linkAway, Addr: sh.addr, Err: why})
		sh.probeNow()
		l.topologyMoved() // a replica may have taken over
		l.up.Woken()      // nobody need wait for a push or a lock's end
	case Recovering:
		l.opt.Logger.Info("aside: Redis answers again, replaying what was written meanwhile", "address", l.address(sh), "from", from, "to", to, "after", asText(after))
		l.up.Observed(linkEvent{Kind: linkBack, Addr: sh.addr})
		sh.replayNow()
	case Healthy:
		if first {
			l.opt.Logger.Info("aside: connected", "address", l.address(sh))
		} else {
			l.opt.Logger.Info("aside: Redis is well", "address", l.address(sh), "from", from, "to", to, "after", asText(after))
		}
		sh.replayNow() // a write may have been kept since returned has looked
		if from == Degraded {
			l.up.Observed(linkEvent{Kind: linkBack, Addr: sh.addr})
		}
	}
}

// because notes why sh is degraded, if it is: the cause of an outage may change while it lasts.
func (sh *shard) because(why error) {
	sh.state.mu.Lock()
	defer sh.state.mu.Unlock()
	if Mode(sh.mode.Load()) == Degraded {
		sh.state.err = why
	}
}

// failed notes that a question to sh was not answered and decides whether the shard is lost.
func (l *link) failed(sh *shard, err error, weight int32) {
	if errors.Is(err, rueidis.ErrClosing) && l.closing.Err() == nil {
		sh.dead.Store(true)
		l.topologyMoved()
	}
	if weight < decisive {
		lapsed := weight > brokenOnly && sh.valid.Tracked() && l.now() >= max(sh.valid.Lease(), sh.alive.Load())
		if sh.failing.Add(weight) < failuresToLose && !lapsed {
			sh.probeNow()
			return
		}
	}
	sh.fresh.Store(false)
	l.happened(sh, lost, explained(err))
}

// returned is called by whoever has found a shard to be well while it is degraded.
func (l *link) returned(sh *shard) {
	if l.up.Unreplayed(sh) {
		l.happened(sh, back, nil)
		return
	}
	l.happened(sh, backEmpty, nil)
}

// until is the end of a duration that begins now, in Client.now's time; -1 has none.
func (l *link) until(d time.Duration) int64 {
	if now := l.now(); d >= 0 && int64(d) < never-now {
		return now + int64(d)
	}
	return never
}

// comeback counts the good probes of a degraded shard. It belongs to the shard's prober.
type comeback struct {
	good int
	at   int64 // when the jitter ends, in Client.now's time
}

const (
	goodProbes     = 3 // in a row, of a shard that has been away
	comebackJitter = time.Second
)

// probed notes a probe and says whether the shard may come back.
func (b *comeback) probed(ok, fresh bool, now int64) bool {
	if !ok {
		*b = comeback{}
		return false
	}
	if fresh {
		return true
	}
	if b.good++; b.good == goodProbes {
		b.at = now + rand.Int64N(int64(comebackJitter))
	}
	return b.good >= goodProbes && now >= b.at
}
