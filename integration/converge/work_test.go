package converge

import (
	"math/rand/v2"
	"slices"
	"time"
)

// worker is one worker on node i. Each time do asks for something about k, and returns how long the
// worker rests then.
func (s *schedule) worker(i int, rng *rand.Rand, do func(n node, me who, k *keyOf, rng *rand.Rand, patience time.Duration) (rest time.Duration)) {
	for s.now() < s.active {
		n, me := s.process(i)
		if n == nil {
			time.Sleep(time.Millisecond)
			continue
		}
		patience := 2 * time.Second
		if rng.IntN(6) == 0 { // a caller with little time
			patience = time.Duration(5+rng.IntN(40)) * time.Millisecond
		}
		time.Sleep(do(n, me, s.keys[rng.IntN(len(s.keys))], rng, patience))
	}
}

func (s *schedule) work(n node, me who, k *keyOf, rng *rand.Rand, patience time.Duration) (rest time.Duration) {
	switch draw := rng.IntN(10); {
	case s.silent || draw < 4:
		s.write(n, me, k, rng, patience)
	default:
		s.read(n, me, k, rng, patience)
	}
	if rng.IntN(3) == 0 {
		rest = time.Duration(rng.IntN(8000)) * time.Microsecond
	}
	return rest
}

// glance looks at what node i has in its memory, also while its workers wait for Redis.
func (s *schedule) glance(i int, rng *rand.Rand) {
	for s.now() < s.active {
		k := s.keys[rng.IntN(len(s.keys))]
		if n, me := s.process(i); n != nil {
			s.look(n, me, request{Verb: "peek", Keys: []string{k.name}, Patience: 2 * time.Millisecond})
		}
		time.Sleep(time.Duration(1+rng.IntN(4)) * time.Millisecond)
	}
}

func (s *schedule) read(n node, me who, k *keyOf, rng *rand.Rand, patience time.Duration) {
	r := request{Verb: "get", Keys: []string{k.name}, TTL: time.Minute, Patience: patience}
	switch draw := rng.IntN(10); {
	case draw < 2:
		r.Verb = "peek"
	case draw < 4:
		r.Verb = "multi"
		r.Keys = nil
		for _, at := range rng.Perm(len(s.keys))[:1+rng.IntN(len(s.keys))] {
			r.Keys = append(r.Keys, s.keys[at].name)
		}
	}
	s.look(n, me, r)
}

// look asks n and takes down what it has found.
func (s *schedule) look(n node, me who, r request) {
	call := s.now()
	a := n.do(r)
	end := s.now()
	if a.Err != "" {
		return
	}
	for _, key := range r.Keys {
		value, ok := a.Found[key]
		version := 0
		if ok {
			if version = versionOf(key, value); version == 0 {
				s.t.Errorf("-seed=%d: %v %s of %s returned %q", s.seed, me, r.Verb, key, value)
			}
		}
		s.history.saw(&read{who: me, key: key, verb: r.Verb, version: version, call: call, end: end, asking: a.Asking})
	}
}

func (s *schedule) write(n node, me who, k *keyOf, rng *rand.Rand, patience time.Duration) {
	all := []*keyOf{k}
	if k.shared {
		if rng.IntN(3) == 0 {
			all = s.keys[:2]
		}
	} else {
		if !k.writing.TryLock() {
			return
		}
		defer k.writing.Unlock()
		if k.calm && k.last != me && s.now()-k.at < s.history.apart(k.last, me, s.now()) {
			return
		}
	}
	r := request{Verb: "del", Patience: patience}
	var writes []*write
	set := !k.shared && rng.IntN(5) < 3
	for _, k := range all {
		w := &write{who: me, key: k.name, set: set, ttl: k.ttl, source: s.now(), settled: never}
		w.version = s.source.update(k.name)
		writes = append(writes, w)
		r.Keys = append(r.Keys, k.name)
	}
	if set {
		r.Verb, r.TTL, r.Value = "set", k.ttl, valueOf(k.name, writes[0].version)
	}
	call := s.now()
	a := n.do(r)
	end := s.now()
	for _, w := range writes {
		w.call, w.end, w.note = call, end, a.Err
		if w.acknowledged = a.Err == ""; !w.acknowledged {
			w.until = end + s.config.RedisTimeout // it was sent while its caller was there
		}
		w.kept = slices.Contains(a.Kept, w.key)
		s.history.wrote(w)
	}
	if !k.shared {
		k.last, k.at = me, end
	}
}
