package link

import (
	"errors"
	"fmt"
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

// Mode says how far a shard can be relied upon. What leads from one to the other, aside.Mode tells.
//
//	        lost                      back, nothing to replay
//	Healthy ------> Degraded ------------------------------------> Healthy
//	   ^              |   ^
//	   |         back |   | lost
//	   |              v   |
//	   +--------- Recovering
//	     replayed
type Mode int32

// The modes.
const (
	Healthy    Mode = iota // it answers
	Degraded               // nobody asks it, but its prober
	Recovering             // it answers, and is being told what it has missed
)

// String is the name of m, as logs and the root have it.
func (m Mode) String() string {
	switch m {
	case Healthy:
		return "healthy"
	case Degraded:
		return "degraded"
	case Recovering:
		return "recovering"
	default:
		return fmt.Sprintf("Mode(%d)", int32(m))
	}
}

// MarshalText has a mode logged by its name, in JSON too.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// modeEvent is what may change a mode.
type modeEvent int

const (
	lost      modeEvent = iota
	back                // with records to replay
	backEmpty           // with none
	replayed
)

// after is the whole machine.
func (m Mode) after(e modeEvent) Mode {
	switch {
	case e == lost:
		return Degraded
	case e == back && m == Degraded:
		return Recovering
	case e == backEmpty && m == Degraded, e == replayed && m == Recovering:
		return Healthy
	}
	return m
}

// modeState is a shard's mode.
type modeState struct {
	mu    sync.Mutex // guards all below, and changes of shard.mode
	since time.Time
	err   error // why it is degraded, as of the latest attempt
	flaws map[flaw]error
	away  outageLog
}

// happened changes the mode of a shard that is in use: it logs that once, counts it and has those
// above told.
func (l *Link) happened(sh *Shard, e modeEvent, why error) {
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
		if primary := sh.primary.Load(); from == Healthy && primary != nil { // not what a connection that has just led elsewhere has told
			sh.runIDBefore = *primary
		}
	}
	if from == Degraded {
		server, _ := l.ServerTime(sh)
		sh.backAt.Store(server)
	}
	// In an outage, what memory holds may be used for a while yet: what was proven when the
	// connection was last known to be well.
	sh.changeModeLocked(to, l.until(l.opt.DegradedTTL))
	l.up.ModeChanged(ModeChange{Addr: sh.Addr, From: from, To: to, At: now, Err: why})
	sh.state.mu.Unlock()

	l.up.Observed(Event{Kind: EventMode, Addr: sh.Addr, From: from, To: to, Err: why})
	switch to {
	case Degraded:
		l.counts.outages.Add(1)
		l.opt.Logger.Warn("aside: Redis is away, going on without it", "address", l.Address(sh), "from", from.String(), "to", to.String(), "error", why)
		l.up.Observed(Event{Kind: EventAway, Addr: sh.Addr, Err: why})
		sh.probeNow()
		l.topologyMoved() // a replica may have taken over
		l.up.Woken()      // nobody need wait for a push or a lock's end
	case Recovering:
		l.opt.Logger.Info("aside: Redis answers again, replaying what was written meanwhile", "address", l.Address(sh), "from", from.String(), "to", to.String(), "after", AsText(after))
		l.up.Observed(Event{Kind: EventBack, Addr: sh.Addr})
		sh.ReplayNow()
	case Healthy:
		if first {
			l.opt.Logger.Info("aside: connected", "address", l.Address(sh))
		} else {
			l.opt.Logger.Info("aside: Redis is well", "address", l.Address(sh), "from", from.String(), "to", to.String(), "after", AsText(after))
		}
		sh.ReplayNow() // a write may have been kept since returned has looked
		if from == Degraded {
			l.up.Observed(Event{Kind: EventBack, Addr: sh.Addr})
		}
	}
}

// changeModeLocked is the one place where a mode is stored. unverifiedUntil is until when, if sh is
// degraded, what was read may be served.
func (sh *Shard) changeModeLocked(to Mode, unverifiedUntil int64) {
	switch was := Mode(sh.mode.Load()); {
	case to == Degraded:
		sh.Valid.Degrade(unverifiedUntil)
	case was == Degraded: // before anybody asks: a read must not get from the outage what a write of ours has let others see
		sh.Valid.Restore()
	}
	sh.mode.Store(int32(to))
}

// because notes why sh is degraded, if it is: the cause of an outage may change while it lasts.
func (sh *Shard) because(why error) {
	sh.state.mu.Lock()
	defer sh.state.mu.Unlock()
	if Mode(sh.mode.Load()) == Degraded {
		sh.state.err = why
	}
}

// failed notes that a command to sh was not answered, and decides whether the shard is lost.
func (l *Link) failed(sh *Shard, err error, weight int32) {
	if errors.Is(err, rueidis.ErrClosing) && l.closing.Err() == nil {
		sh.dead.Store(true)
		l.topologyMoved()
	}
	if weight < decisive {
		lapsed := weight > brokenOnly && sh.Valid.Tracked() && l.Now() >= max(sh.Valid.Lease(), sh.alive.Load())
		if sh.failing.Add(weight) < failuresToLose && !lapsed {
			sh.probeNow()
			return
		}
	}
	sh.fresh.Store(false)
	l.happened(sh, lost, explained(err))
}

// returned is called by whoever has found a shard to be well while it is degraded.
func (l *Link) returned(sh *Shard) {
	if l.up.Unreplayed(sh) {
		l.happened(sh, back, nil)
		return
	}
	l.happened(sh, backEmpty, nil)
}

// CaughtUp notes that nothing is left of what sh has missed.
func (l *Link) CaughtUp(sh *Shard) { l.happened(sh, replayed, nil) }

// until is the end of a duration that begins now, in Link.Now's time; -1 has none.
func (l *Link) until(d time.Duration) int64 {
	if now := l.Now(); d >= 0 && int64(d) < never-now {
		return now + int64(d)
	}
	return never
}

// comeback counts the good probes of a degraded shard. It belongs to the shard's prober.
type comeback struct {
	good int
	at   int64 // when the jitter ends, in Link.Now's time
}

const (
	goodProbes     = 3 // in a row, of a shard that has been away
	comebackJitter = time.Second
)

// probed notes a probe, and reports whether the shard may come back.
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
