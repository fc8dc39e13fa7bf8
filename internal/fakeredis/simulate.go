package fakeredis

import (
	"maps"
	"slices"
)

// Simulated is a server for a simulation: it goes by a clock that it is given, what it holds can be saved and
// loaded, and each command that it does is told, also those of scripts. Nobody connects to it, it starts no
// goroutine, and no key is removed before it is asked for. Not safe for concurrent use.
type Simulated struct{ s *Server }

// Simulate makes an empty server that goes by clock, in µs since 1970, and tells watch of each command that it has
// done with its answer, an error if it is one.
func Simulate(clock func() int64, watch func(command []string, answer any)) *Simulated {
	s := New()
	s.simulated, s.watch = clock, watch
	for sum := range twins {
		s.known[sum] = true
	}
	return &Simulated{s}
}

// Do does a command, as Do of a Server.
func (s *Simulated) Do(args ...string) (any, error) { return s.s.Do(args...) }

// Held is what a server held.
type Held map[string]value

// Save returns what the server holds.
func (s *Simulated) Save() Held {
	all := make(Held, len(s.s.data.byKey))
	for key, v := range s.s.data.byKey {
		all[key] = v.copy()
	}
	return all
}

// Load has the server hold what was saved, and nothing else. It may have another clock from now on.
func (s *Simulated) Load(all Held) {
	s.s.clear()
	s.s.told = 0
	for key := range all {
		v := all[key]
		v = v.copy()
		s.s.data.byKey[key] = &v
		s.s.data.bytes += v.size() + int64(len(key))
	}
}

func (v *value) copy() value {
	c := *v
	c.fields, c.list, c.members = maps.Clone(v.fields), slices.Clone(v.list), maps.Clone(v.members)
	return c
}
