package converge

import (
	"time"

	"github.com/redaside/aside/internal/link"
)

// What is known of the clocks and of the machine while a schedule runs: how close two writes must be for
// nobody to know which was later, and how late a process may have been.

// probe is one that a process has made of Redis, and that was answered: it tells the process what time
// it is there, and its answer may be as old as half of what the probe has taken.
type probe struct {
	began moment
	error time.Duration
}

// lag is how long a node took to answer what needs no Redis.
type lag struct{ from, to moment }

// probed notes a probe.
func (h *history) probed(w who, began moment, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.probes == nil {
		h.probes = make(map[who][]probe)
	}
	h.probes[w] = append(h.probes[w], probe{began, took / 2})
}

// drift is more than by what two clocks part while a schedule runs.
const drift = 2 * time.Millisecond

// errs is by how much the stamps that a process has proposed until then may be off: each is later than
// those before it, so the worst of the probes so far counts.
func (h *history) errs(w who, until moment) (most time.Duration) {
	for _, p := range h.probes[w] {
		if p.began <= until {
			most = max(most, p.error)
		}
	}
	return most + drift
}

// margin is u of docs/adr/0005: twice of what a stamp may be off as its process knows it, 100 ms at
// least. A process knows by how much its clock may be off (slack), and by how much its stamp is ahead of
// that clock, which is its error now and its error before.
func margin(slack time.Duration) time.Duration { return 2 * max(link.LeastClockError, 3*slack) }

// within is how close two writes must be, for nobody to know which was later, by processes whose stamps
// are off by slack: u, between stamps that are both off.
func within(slack time.Duration) time.Duration { return margin(slack) + 2*slack }

// tooClose reports whether the later y was so close to x that nobody knows which was later. What a node's
// next process writes is later for everybody where u is no more than the 100 ms that it takes to begin.
func (h *history) tooClose(x, y *write) bool {
	slack := max(h.errs(x.who, x.end), h.errs(y.who, y.end))
	if x.who == y.who || x.node == y.node && margin(slack) == margin(0) {
		return false
	}
	return y.call-x.end < within(slack)
}

// apart is how long after a write of x one of y is close to it no more, as is known now.
func (h *history) apart(x, y who, now moment) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return within(max(h.errs(x, now), h.errs(y, now)))
}

// mayStillDo reports whether Redis may do w, which has failed, at that time: the deadline that was sent
// with it is off by the error of its process's clock, and has that added.
func (h *history) mayStillDo(w *write, at moment) bool {
	return w.until > 0 && at < w.until+2*h.errs(w.who, w.end)
}

// lagged notes that node took so long to answer what needs no Redis, where that is long.
func (h *history) lagged(node int, from, to moment) {
	const atOnce = 5 * time.Millisecond
	if to-from <= atOnce {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lags == nil {
		h.lags = make(map[int][]lag)
	}
	h.lags[node] = append(h.lags[node], lag{from, to})
}

// behind is by when node has done what it began at from, and would have done by to if it had not been
// held up by the machine. For how long it was stopped is known otherwise.
func (h *history) behind(node int, from, to moment) moment {
	for _, l := range h.lags[node] {
		if l.to <= from || l.from >= to {
			continue
		}
		late := l.to - max(l.from, from)
		for _, s := range h.stops {
			if s.node == node {
				late -= max(0, min(l.to, s.to)-max(l.from, from, s.from))
			}
		}
		to += max(0, late)
	}
	return to
}
