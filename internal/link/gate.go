package link

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"
)

// maxInFlight is how many commands may be out to a node at most: fewer where half of rueidis's ring
// is, which blocks whatever the context says when it is full.
const maxInFlight = 512

// gate lets so many in at a time as there is room for. Without contention it is one atomic
// addition.
//
// A command that its caller has given up stays in rueidis's ring, and keeps its room there until it
// is answered, of which nobody is told: but answers come in order, so it has been answered as soon
// as a later command is. Or the connection has broken.
type gate struct {
	in   atomic.Int64
	free chan struct{} // a token: somebody has left since; buffered
	room int64         // immutable

	mu     sync.Mutex
	behind int64 // commands that were given up; guarded by mu
	asked  int64 // when the latest of them was; guarded by mu
}

func (g *gate) enter(ctx context.Context) error {
	waited := false
	for g.in.Add(1) > g.room {
		g.in.Add(-1)
		waited = true
		select {
		case <-g.free:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if waited && g.in.Load() < g.room {
		g.hint() // two may have left and one token been lost: pass it on
	}
	return nil
}

func (g *gate) leave() {
	g.in.Add(-1)
	g.hint()
}

// giveUp is leave for a command that was sent then, and is still out.
func (g *gate) giveUp(asked int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.behind++
	g.asked = max(g.asked, asked)
}

// settled notes that a command that was sent then has been answered, so that nothing is left of
// earlier ones.
func (g *gate) settled(asked int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.behind > 0 && asked > g.asked {
		g.in.Add(-g.behind)
		g.behind = 0
		g.hint()
	}
}

func (g *gate) hint() {
	select {
	case g.free <- struct{}{}:
	default:
	}
}

// inFlightRoom is how many commands may be out to a node: half of the ring in which rueidis keeps
// them, and no more than maxInFlight. The other half is for the prober's and rueidis's own.
func (l *Link) inFlightRoom() int64 {
	return min(1<<(cmp.Or(l.opt.Redis.RingScaleEachConn, defaultRingScale)-1), int64(maxInFlight))
}
