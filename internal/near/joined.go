package near

import (
	"time"
	"unsafe"

	"github.com/redaside/aside/internal/freshness"
)

// LookupJoined puts keys of up to these lengths together on its stack. Most keys fit into the shorter
// room, which has the prefix from the start.
const (
	shortJoined = 48
	mostJoined  = 128
)

// Prefix is what the keys of a caller begin with. Immutable.
type Prefix struct {
	text string
	room [shortJoined]byte // begins with text, as far as it fits
}

// NewPrefix returns the Prefix of a text.
func NewPrefix(text string) Prefix {
	p := Prefix{text: text}
	copy(p.room[:], text)
	return p
}

// LookupJoined is LookupFor for the key that is prefix and key together. It allocates nothing for a
// key of up to mostJoined bytes: the cache holds on to no key that it looks up, so that its bytes stay
// on the stack.
//
// The clock is read before the cache is asked: by then the bytes that were just written have left the
// processor's store buffer, from which the hash could not load them at once.
func (m *Memory) LookupJoined(prefix *Prefix, key string, ttl time.Duration, need *freshness.Need) (h Hit) {
	n := len(prefix.text) + len(key)
	if n > shortJoined || m.cache == nil {
		return m.lookupLong(prefix.text, key, ttl, need)
	}
	room := prefix.room
	copy(room[len(prefix.text):], key)
	now := m.opt.Now()
	if e, ok := m.cache.get(unsafe.String(&room[0], n)); ok {
		h.judged(e, now, ttl, need)
	}
	return h
}

// lookupLong is LookupJoined for keys that do not fit into its room.
func (m *Memory) lookupLong(prefix, key string, ttl time.Duration, need *freshness.Need) (h Hit) {
	if len(prefix)+len(key) > mostJoined || m.cache == nil {
		return m.LookupFor(prefix+key, ttl, need)
	}
	var room [mostJoined]byte
	n := copy(room[:], prefix)
	n += copy(room[n:], key)
	now := m.opt.Now()
	if e, ok := m.cache.get(unsafe.String(&room[0], n)); ok {
		h.judged(e, now, ttl, need)
	}
	return h
}
