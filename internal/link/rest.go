package link

import (
	"context"
	"time"
)

// A client that nobody uses needs no lease and no fresh clock. Its prober rests: it lets the lease
// lapse and sends one PING now and then, so that an outage is noticed and a dropped connection is
// replaced.
//
//	used      a command was asked, or an entry of memory was wanted, within RestAfter; or something
//	          waits to be replayed: a whole probe several times a second
//	resting   otherwise: a PING every restEvery, and a whole probe every wholeEvery
//
// The first command after that ends the rest (Shard.use). The read that it belongs to goes to Redis,
// because the lease has lapsed, and a whole probe beside it begins a new epoch, as nobody has looked
// meanwhile whether invalidations arrive: what memory had is read anew. A write has the clock looked
// at first (Shard.Rests). An answer to a command of a caller is no proof of the lease: it does not
// show that invalidations arrive.
const (
	restEvery  = 1600 * time.Millisecond      // with restJitter and two probes without an answer it is 2 seconds
	restJitter = restEvery / 20               // up or down: enough to part those that began together, as it adds up
	wholeEvery = flushLookEvery + time.Second // so that it looks for a flush, too; the clock drifts by 12 ms meanwhile, see driftPPM
)

// rest is what a prober knows of the use of its shard. It belongs to the prober.
type rest struct {
	used    int64 // when the prober last saw that it was used, in Link.Now's time
	resting bool
}

// Rests reports whether sh's prober rests: what is known of the server's clock may be a minute old. A
// nil Shard does not.
func (sh *Shard) Rests() bool { return sh != nil && sh.resting.Load() }

// use notes that sh is about to be asked for a caller, and wakes its prober if that rests.
func (sh *Shard) use() {
	if sh.used.Load() {
		return
	}
	sh.used.Store(true)
	if sh.resting.Load() {
		sh.probeNow()
	}
}

// pause is how long the prober waits for the next probe.
func (l *Link) pause(sh *Shard, r *rest) time.Duration {
	asked, wanted := sh.used.Swap(false), sh.Valid.Wanted()
	if now := l.Now(); asked || wanted || Mode(sh.mode.Load()) != Healthy || l.up.Unreplayed(sh) {
		r.used, r.resting = now, false
	} else {
		r.resting = now >= r.used+int64(l.opt.RestAfter)
	}
	// A caller that comes now either sees that the prober rests, and wakes it, or is seen here.
	sh.resting.Store(r.resting)
	switch {
	case !sh.Asks():
		return Jitter(probeDownEvery)
	case !r.resting || sh.used.Load():
		return Jitter(min(probeEvery, l.opt.StaleLease/4))
	}
	pause := restEvery - 5*restJitter + Jitter(5*restJitter)
	if alive := sh.alive.Load(); alive > 0 { // nobody looks before that
		sh.alive.CompareAndSwap(alive, alive+int64(pause))
	}
	return pause
}

// look is the prober's next probe, whole or a PING.
func (l *Link) look(sh *Shard, r *rest) (ok, whole bool) {
	ok = l.probing(sh, func() bool {
		if whole = l.mustBeWhole(sh, r); whole {
			return l.probeWhole(sh)
		}
		return l.ping(sh)
	})
	return ok, whole
}

// mustBeWhole reports whether a PING does not do: sh is in use, or there is something to find out
// about its connection.
func (l *Link) mustBeWhole(sh *Shard, r *rest) bool {
	run, epoch := sh.run.Load(), sh.Valid.Epoch()
	return !r.resting || sh.used.Load() || !sh.Asks() || sh.flaws.Load() > 0 || run == nil || run.connection != sh.Valid.Connection() ||
		sh.Valid.Tracked() && !sh.several() && sh.proof.epoch != epoch || l.Now() >= sh.proof.good+int64(wholeEvery)
}

// ping finds out whether sh still answers, and nothing else.
func (l *Link) ping(sh *Shard) (ok bool) {
	limit := l.probeLimit(sh)
	ctx, cancel := context.WithTimeout(l.closing, limit)
	defer cancel()
	sh.proof.rested = true
	epoch, passed, sent := sh.Valid.Epoch(), sh.traffic.passed.Load(), l.Now()
	err := sh.client.Do(ctx, sh.client.B().Ping().Build()).Error()
	switch {
	case l.closing.Err() != nil:
		return false
	case err != nil:
		l.probeFailed(sh, err, sh.flows(sent, passed, l.Now(), limit))
		return false
	}
	l.answered(sh, sent, epoch)
	return true
}

// answered notes that sh has answered a probe that was sent then. same: on the connection that
// stands.
func (l *Link) answered(sh *Shard, sent int64, epoch uint64) (same bool) {
	p := &sh.proof
	p.badSince, p.redialed, p.pausing = 0, 0, 0
	sh.gate.settled(sent)
	sh.failing.Store(0)
	sh.broken.Store(false)
	if epoch != sh.Valid.Epoch() {
		return false
	}
	sh.alive.Store(sent + int64(l.opt.StaleLease))
	sh.seen.Store(sent)
	return true
}
