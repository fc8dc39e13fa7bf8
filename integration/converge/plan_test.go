package converge

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redaside/aside/fallback/journal"
)

// draw decides what kind of schedule it is.
func (s *schedule) draw() {
	s.active = time.Duration(300+s.rng.IntN(400)) * time.Millisecond
	if s.rng.IntN(5) == 0 {
		s.active += time.Duration(s.rng.IntN(1500)) * time.Millisecond
	}
	s.config = nodeConfig{
		Sync:       []journal.Sync{journal.Always, journal.EverySecond, journal.OS}[s.rng.IntN(3)],
		Flush:      []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, 3 * time.Second}[s.rng.IntN(3)],
		ReplayRate: []int{-1, 5000, 20}[s.rng.IntN(3)],
		StaleLease: []time.Duration{100 * time.Millisecond, 200 * time.Millisecond}[s.rng.IntN(2)],
		LockTTL:    []time.Duration{100 * time.Millisecond, 300 * time.Millisecond}[s.rng.IntN(2)],
	}
	s.config.RedisTimeout = 50 * time.Millisecond
	if s.rng.IntN(4) == 0 { // the lease is over before it is noticed that Redis does not answer
		s.config.RedisTimeout, s.config.StaleLease, s.config.LockTTL = 300*time.Millisecond, 60*time.Millisecond, 600*time.Millisecond
	}
	if s.rng.IntN(4) == 0 {
		s.config.DegradedTTL = 100 * time.Millisecond
	}
	if s.rng.IntN(8) == 0 {
		s.config.MemoryBytes = -1
	}
	switch draw := s.rng.IntN(20); {
	case draw < 10:
		s.kind = "partitions"
	case draw < 13:
		s.kind, s.silent = "writes only", true
	case draw < 16:
		s.kind, s.kills = "kills", true
	case draw < 18:
		s.kind, s.relapses = "relapses", 4
		s.active += time.Second
		s.config.ReplayRate = 20
	default:
		s.kind, s.lossy = "loss", true
	}
	prefix := fmt.Sprintf("%d/", s.runs) // nothing that an earlier schedule has left on its way can be meant
	s.keys = []*keyOf{
		{name: prefix + "shared0", shared: true}, {name: prefix + "shared1", shared: true},
		{name: prefix + "busy0", ttl: time.Hour}, {name: prefix + "busy1", ttl: time.Hour},
		{name: prefix + "calm0", calm: true, ttl: time.Hour}, {name: prefix + "calm1", calm: true, ttl: time.Hour}, {name: prefix + "calm2", calm: true, ttl: time.Hour},
		{name: prefix + "brief", calm: true, ttl: 80 * time.Millisecond},
	}
	s.source = &source{rows: make(map[string]int), rng: rand.New(rand.NewPCG(s.seed, 2))}
	for _, k := range s.keys {
		s.source.rows[k.name] = 1
		k.at = -time.Hour
	}
	s.history.lease = s.config.StaleLease
}

// fault is what is done to the world at a moment.
type fault struct {
	at   time.Duration
	what string
	do   func()
}

// plan draws the faults.
func (s *schedule) plan() (faults []fault) {
	add := func(at time.Duration, do func(), format string, args ...any) {
		faults = append(faults, fault{at, fmt.Sprintf(format, args...), do})
	}
	upTo := func(ms int) time.Duration { return time.Duration(s.rng.IntN(ms)) * time.Millisecond }
	for i, p := range s.proxies {
		well, pause := s.rng.IntN(8) == 0, 500
		if s.views != nil { // which are to be used in health, too; to come back takes a second
			well, pause = s.rng.IntN(2) == 0, 2500
		}
		if well {
			continue // this one is well all the time
		}
		for at := upTo(200); at < s.active; {
			long := 10*time.Millisecond + upTo(300)
			kind, healthy := s.rng.IntN(9), s.views != nil && s.views.healthy
			switch {
			case healthy:
				kind = 2 + s.rng.IntN(5)
			case s.views != nil && s.rng.IntN(4) == 0: // longer than a value and its grace
				long += upTo(2000)
			}
			switch kind {
			case 0, 1:
				add(at, p.Refuse, "node %d: refused", i)
			case 2, 3:
				add(at, p.BlackHole, "node %d: black hole", i)
			case 4:
				add(at, p.CutRequests, "node %d: requests are cut", i)
			case 5:
				add(at, p.CutReplies, "node %d: replies are cut", i)
			case 6:
				d := 2*time.Millisecond + upTo(40)
				add(at, func() { p.Delay(d) }, "node %d: delay %v", i, d)
			case 7:
				n := s.rng.IntN(4000)
				add(at, func() { p.ResetAfter(n) }, "node %d: reset after %d bytes", i, n)
			case 8:
				add(at, p.Stall, "node %d: stalled", i)
				add(at, p.Reset, "node %d: reset", i)
			}
			if healthy || s.rng.IntN(2) == 0 {
				add(at+long, p.Heal, "node %d: healed", i)
			} else {
				add(at+long, p.HealDropping, "node %d: healed, what was held is dropped", i)
			}
			at += long + 5*time.Millisecond + upTo(pause)
		}
	}
	at := upTo(int(s.active / time.Millisecond))
	switch draw := s.rng.IntN(10); {
	case s.views != nil:
		faults = append(faults, s.planViews(upTo)...)
	case s.lossy && draw < 5:
		add(at, func() { _, _ = s.server.TryDo("FLUSHALL") }, "FLUSHALL")
	case s.lossy:
		add(at, s.server.Restart, "the server is started again, empty")
	case draw < 2:
		add(at, s.server.Freeze, "the server freezes")
		add(at+20*time.Millisecond+upTo(250), s.server.Thaw, "the server thaws")
	case draw < 3 && s.server.CanSignal():
		add(at, func() {
			for _, p := range s.proxies { // so that nothing is acknowledged that it will not have
				p.Refuse()
			}
			s.server.RestartKeepingData()
			for _, p := range s.proxies {
				p.Heal()
			}
		}, "the server is started again, with its data")
	}
	if s.kills {
		for range 1 + s.rng.IntN(3) {
			i := s.rng.IntN(nodes)
			at := upTo(int(s.active / time.Millisecond))
			add(at, func() { s.killNode(i) }, "node %d: killed", i)
			add(at+upTo(200), func() { s.startNode(i) }, "node %d: started again", i)
		}
	}
	slices.SortStableFunc(faults, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
	return faults
}
