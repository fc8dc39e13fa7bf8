package link

import "time"

// outageLog is what the log says of an outage. Guarded by whoever guards what it is about.
type outageLog struct {
	since time.Time    // when it began
	attrs func() []any // how it goes, as those above tell it
	said  time.Time    // when a line was written last
}

const outageLineEvery = time.Minute

// begin notes that an outage has just been said, or that the client begins without Redis.
func (o *outageLog) begin(l *Link, now time.Time) {
	*o = outageLog{since: now, attrs: l.up.Outage(), said: now}
}

// due reports whether it is time for a line, and takes it as written.
func (o *outageLog) due(now time.Time) bool {
	if now.Sub(o.said) < outageLineEvery {
		return false
	}
	o.said = now
	return true
}

// line is how it goes, for the log: since when, and what those above know.
func (o *outageLog) line(now time.Time) []any {
	return append([]any{"since", o.since.UTC().Format(time.RFC3339), "after", AsText(now.Sub(o.since))}, o.attrs()...)
}

// remind says once a minute that sh is away, and how it goes.
func (l *Link) remind(sh *Shard) {
	now := time.Now()
	sh.state.mu.Lock()
	if Mode(sh.mode.Load()) != Degraded || sh.gone.Load() || !sh.state.away.due(now) {
		sh.state.mu.Unlock()
		return
	}
	attrs := append(sh.state.away.line(now), "error", sh.state.errLocked())
	sh.state.mu.Unlock()
	l.opt.Logger.Warn("aside: Redis is still away", append([]any{"address", l.Address(sh)}, attrs...)...)
}

// AsText is a duration for the log, which a JSON handler would write as a number of nanoseconds.
func AsText(d time.Duration) string {
	if d > time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}
