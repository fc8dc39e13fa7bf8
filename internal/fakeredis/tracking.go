package fakeredis

import (
	"cmp"
	"slices"
)

// Redis remembers which keys a client has read, and pushes to it once that such a key has changed;
// then it forgets that the client has read it. To other clients the push goes at once, to the one
// whose command has changed the key right behind that command's answer.

// How a client is tracked.
type tracking struct {
	on            bool
	optIn, optOut bool
	noLoop        bool
	caching       bool // CLIENT CACHING was said, of the next command
}

// heeds reports whether what the next command reads is to be remembered.
func (t *tracking) heeds() bool {
	return t.on && (!t.optIn || t.caching) && (!t.optOut || !t.caching)
}

// remember notes that a client has read keys.
func (s *Server) remember(c *client, keys []string) {
	if !c.tracking.heeds() {
		return
	}
	for _, key := range keys {
		if s.readers[key] == nil {
			s.readers[key] = make(map[*client]bool)
		}
		s.readers[key][c] = true
	}
}

// touched tells those that have read key that it has changed.
func (s *Server) touched(key string) {
	readers := s.readers[key]
	delete(s.readers, key)
	for _, c := range inOrder(readers) {
		switch {
		case !c.tracking.on || c.resp < 3 || c.gone:
		case c != s.current:
			c.say(push{key})
		case !c.tracking.noLoop:
			c.pending = append(c.pending, push{key})
		}
	}
}

// flushed tells everybody that all is gone.
func (s *Server) flushed() {
	clear(s.readers)
	for _, c := range inOrder(s.clients) {
		switch {
		case !c.tracking.on || c.resp < 3:
		case c != s.current:
			c.say(push(nil))
		default:
			c.pending = append(c.pending, push(nil))
		}
	}
}

// inOrder are clients in the order in which they came, so that a test sees the same each time.
func inOrder(of map[*client]bool) []*client {
	clients := make([]*client, 0, len(of))
	for c := range of {
		clients = append(clients, c)
	}
	slices.SortFunc(clients, func(a, b *client) int { return cmp.Compare(a.id, b.id) })
	return clients
}
