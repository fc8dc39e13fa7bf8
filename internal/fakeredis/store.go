package fakeredis

import (
	"container/heap"
	"time"
)

// value is what a key holds: one of text, fields, list and members is its.
type value struct {
	kind    string // as TYPE has it
	text    string
	fields  map[string]string
	list    []string
	members map[string]bool

	ends int64 // ms since 1970; 0: it does not expire
}

// data is what a server holds, and when it ends. It belongs to whoever has Server.mu.
type data struct {
	byKey map[string]*value
	ends  endings
	bytes int64 // about how much byKey takes
	timer *time.Timer
}

// perKey is about what a key takes beyond its own bytes and its value's.
const perKey = 64

func (v *value) size() (n int64) {
	n = int64(len(v.text)) + perKey
	for field, text := range v.fields {
		n += int64(len(field) + len(text))
	}
	for _, text := range v.list {
		n += int64(len(text))
	}
	for member := range v.members {
		n += int64(len(member))
	}
	return n
}

// ending is that a key may end then.
type ending struct {
	key string
	at  int64 // ms
}

// endings are a heap, the soonest first. What is out of date stays until its turn comes.
type endings []ending

func (e *endings) Len() int           { return len(*e) }
func (e *endings) Less(i, j int) bool { return (*e)[i].at < (*e)[j].at }
func (e *endings) Swap(i, j int)      { (*e)[i], (*e)[j] = (*e)[j], (*e)[i] }
func (e *endings) Push(x any)         { *e = append(*e, x.(ending)) }
func (e *endings) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

// find returns what a key holds; nil if that is nothing, or has ended by now.
func (s *Server) find(key string) *value {
	v := s.data.byKey[key]
	if v != nil && v.ends != 0 && s.ms() > v.ends {
		s.remove(key)
		return nil
	}
	return v
}

// put has key hold v, which ends as v says.
func (s *Server) put(key string, v *value) {
	if old := s.data.byKey[key]; old != nil {
		s.data.bytes -= old.size() + int64(len(key))
	}
	s.data.byKey[key] = v
	s.data.bytes += v.size() + int64(len(key))
	s.expireAt(key, v, v.ends)
	s.touched(key)
}

// changed notes that what key holds was another size before; an empty one is removed.
func (s *Server) changed(key string, v *value, before int64) {
	s.data.bytes += v.size() - before
	if v.kind != "string" && len(v.fields)+len(v.list)+len(v.members) == 0 {
		s.remove(key)
		return
	}
	s.touched(key)
}

// remove reports whether there was anything.
func (s *Server) remove(key string) bool {
	v := s.data.byKey[key]
	if v == nil {
		return false
	}
	s.data.bytes -= v.size() + int64(len(key))
	delete(s.data.byKey, key)
	s.touched(key)
	return true
}

// expireAt has v, which key holds, end at ms; 0: never.
func (s *Server) expireAt(key string, v *value, ms int64) {
	v.ends = ms
	if ms == 0 || s.simulated != nil {
		return
	}
	heap.Push(&s.data.ends, ending{key, ms})
	s.armTimer()
}

// armTimer has what ends next removed when it does, so that who waits for it is told.
func (s *Server) armTimer() {
	if s.data.timer != nil {
		s.data.timer.Stop()
		s.data.timer = nil
	}
	if len(s.data.ends) > 0 && !s.frozen && !s.ended {
		next := time.UnixMilli(s.data.ends[0].at + 1)
		s.data.timer = time.AfterFunc(max(time.Until(next), time.Microsecond), s.expire)
	}
}

// expire removes what has ended.
func (s *Server) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen || s.ended {
		return
	}
	s.lookAtClock()
	for len(s.data.ends) > 0 && s.data.ends[0].at < s.ms() {
		s.find(heap.Pop(&s.data.ends).(ending).key)
	}
	s.armTimer()
}

// clear removes all.
func (s *Server) clear() {
	s.data.byKey, s.data.ends, s.data.bytes = make(map[string]*value), nil, 0
	s.armTimer()
}
