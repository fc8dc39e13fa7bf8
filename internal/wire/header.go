package wire

import (
	"encoding/binary"
	"strings"
	"time"
)

// A header precedes a value of which more must be known than its view and its key's ttl say:
//
//	+------------------+---------+----------+--------+--------+------------------------------
//	| \x00 a s i d e : | version | kind     | length | fields | the value as its codec wrote it
//	|                  | 1       | h or m   | 2      |        | nothing, for kind m
//	+------------------+---------+----------+--------+--------+------------------------------
//
//	length   of the fields in bytes, big endian
//	kind 'h' a value; kind 'm' an absence (it is missing)
//	fields   each at most once, in this order. Numbers are unsigned varints (LEB128) in their
//	         shortest form, and those that are marked are not 0
//
//	'b' began*                when its load began, or it was set, by the clock of the key's server: µs since 1970
//	'l' ttl*, grace           for how long it was to be fresh, and to be kept afterwards: ms
//	'p' length*, seen         how much of the key is the prefix of a group, and the state in which that was seen
//	't' count*, then each     tags, in ascending order, each once:
//	    length*, tag, seen, seen  the state in which its two groups were seen: cleared, expired
//	'v' version*              of the value's type
//	'w' took*                 how long its load took: ms
//
// An entry whose header is of another form is unreadable: a miss, to be loaded and replaced. So is
// one with a field that is not known here, because nobody can tell what it demands. One header has
// one form, so that it is the same bytes wherever it is made.
const (
	HeaderPrefix       = Prefix + "1h"
	AbsentHeaderPrefix = Prefix + "1m"

	headerLength = 2 // bytes of the length
)

// Bounds of what a header says. MostTags times the longest tag and what stands beside it fit into
// its length.
const (
	MostTags   = 100
	LongestTag = 512
)

// Groups have keys of their own in Redis. A group is what its key is made of: the keys with a prefix,
// or the values with a tag; those with a tag are two groups, for being cleared and for being expired.
// The two have one hash tag, so that they are in one slot.
//
//	aside:group:{prefix or tag}:prefix   or :tag   or :expired
const (
	GroupPrefix = "aside:group:"

	groupOpen, groupClose = "{", "}:"
)

// PrefixGroup returns the key of the group of the keys that begin with prefix.
func PrefixGroup(prefix string) string {
	return GroupPrefix + groupOpen + prefix + groupClose + "prefix"
}

// IsPrefixGroup reports whether the key of a group is that of a prefix.
func IsPrefixGroup(key string) bool { return strings.HasSuffix(key, groupClose+"prefix") }

// TagGroup returns the key of the group that removes what has a tag, ExpiredGroup of the one that
// makes it stale.
func TagGroup(tag string) string { return GroupPrefix + groupOpen + tag + groupClose + "tag" }

// ExpiredGroup is said at TagGroup.
func ExpiredGroup(tag string) string { return GroupPrefix + groupOpen + tag + groupClose + "expired" }

// GroupOf is TagGroup and the others backwards: what the group with a key is made of, "prefix" or "tag",
// and which. false: it is the key of none.
func GroupOf(key string) (kind, name string, ok bool) {
	name, ok = strings.CutPrefix(key, GroupPrefix+groupOpen)
	at := strings.LastIndex(name, groupClose)
	if !ok || at < 0 {
		return "", "", false
	}
	switch kind = name[at+len(groupClose):]; kind {
	case "prefix", "tag":
	case "expired":
		kind = "tag"
	default:
		return "", "", false
	}
	return kind, name[:at], true
}

// Header is what is known of a value beside its bytes. The zero Header says nothing.
type Header struct {
	Began   int64         // when its load began, or it was set, by the clock of the key's server: µs since 1970; 0: unknown
	TTL     time.Duration // for how long it was to be fresh; 0: the header says nothing of TTL and Grace
	Grace   time.Duration // for how long it is kept after that
	Took    time.Duration // how long its load took; 0: unknown
	Version int64         // of the value's type; 0: none
	Prefix  Prefixed
	Tags    []Tag // in ascending order of their names, each once
	Absent  bool  // there is no value: an absence
}

// Prefixed is the group of keys with a prefix.
type Prefixed struct {
	Length int   // of the prefix, in bytes of the key; 0: the entry belongs to none
	Seen   int64 // the state of the group before the value was loaded; 0: unknown
}

// Tag is a tag of a value.
type Tag struct {
	Name string
	// The states of its two groups before the value was loaded; 0: unknown.
	SeenCleared, SeenExpired int64
}

// Says reports whether h says anything beside that there is no value.
func (h *Header) Says() bool {
	return h.Began > 0 || h.TTL > 0 || h.Took >= time.Millisecond || h.Version > 0 || h.Prefix.Length > 0 || len(h.Tags) > 0
}

// Grouped reports whether the value belongs to groups; false for nil.
func (h *Header) Grouped() bool { return h != nil && (h.Prefix.Length > 0 || len(h.Tags) > 0) }

// PackHeader returns the bytes to store for a value of which h is known; value counts for nothing if
// h.Absent is set. Without anything to say, they are those of Pack, or Absent. Times are rounded to
// milliseconds: the ttl up, the others down. Tags beyond MostTags, and those that are empty or
// longer than LongestTag, are a mistake of the caller's.
func PackHeader(h Header, value string) string {
	var room [128]byte
	f := room[:0]
	number := func(n int64) { f = binary.AppendUvarint(f, uint64(max(n, 0))) }
	field := func(tag byte, n int64) {
		if n > 0 {
			f = append(f, tag)
			number(n)
		}
	}
	field('b', h.Began)
	if h.TTL > 0 {
		field('l', roundedUp(h.TTL))
		number(h.Grace.Milliseconds())
	}
	if h.Prefix.Length > 0 {
		field('p', int64(h.Prefix.Length))
		number(h.Prefix.Seen)
	}
	if len(h.Tags) > 0 {
		field('t', int64(len(h.Tags)))
		for _, t := range h.Tags {
			number(int64(len(t.Name)))
			f = append(f, t.Name...)
			number(t.SeenCleared)
			number(t.SeenExpired)
		}
	}
	field('v', h.Version)
	field('w', h.Took.Milliseconds())
	switch {
	case len(f) == 0 && h.Absent:
		return Absent
	case len(f) == 0:
		return Pack(value)
	case len(f) > 1<<(8*headerLength)-1: // not within the bounds
		panic("aside: a header is too long")
	}
	kind := HeaderPrefix
	if h.Absent {
		kind, value = AbsentHeaderPrefix, ""
	}
	var b strings.Builder
	b.Grow(len(kind) + headerLength + len(f) + len(value))
	b.WriteString(kind)
	b.WriteByte(byte(len(f) >> 8))
	b.WriteByte(byte(len(f)))
	b.Write(f)
	b.WriteString(value)
	return b.String()
}

func roundedUp(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d%time.Millisecond > 0 {
		ms++
	}
	return ms
}

// unpackHeader reads what follows the kind. It reports false for what has another form.
func unpackHeader(rest string, absent bool) (value string, h *Header, ok bool) {
	if len(rest) < headerLength {
		return "", nil, false
	}
	length := int(rest[0])<<8 | int(rest[1])
	rest = rest[headerLength:]
	if len(rest) < length {
		return "", nil, false
	}
	r := fieldReader{rest: rest[:length]}
	h = &Header{Absent: absent}
	r.read(h)
	value = rest[length:]
	if r.bad || r.rest != "" || !h.Says() || absent && value != "" {
		return "", nil, false
	}
	return value, h, true
}

// fieldReader reads fields in their one form. After something else, bad is set and it reads zeros.
type fieldReader struct {
	rest string
	bad  bool
}

func (r *fieldReader) read(h *Header) {
	if r.is('b') {
		h.Began = r.positive(maxMicros)
	}
	if r.is('l') {
		h.TTL = time.Duration(r.positive(maxMillis)) * time.Millisecond
		h.Grace = time.Duration(r.number(maxMillis)) * time.Millisecond
	}
	if r.is('p') {
		h.Prefix = Prefixed{Length: int(r.positive(maxPrefix)), Seen: r.number(maxMicros)}
	}
	if r.is('t') {
		h.Tags = make([]Tag, r.positive(MostTags))
		for i := range h.Tags {
			h.Tags[i] = Tag{Name: r.text(r.positive(LongestTag)), SeenCleared: r.number(maxMicros), SeenExpired: r.number(maxMicros)}
		}
		for i := 1; i < len(h.Tags); i++ {
			r.bad = r.bad || h.Tags[i-1].Name >= h.Tags[i].Name
		}
	}
	if r.is('v') {
		h.Version = r.positive(maxVersion)
	}
	if r.is('w') {
		h.Took = time.Duration(r.positive(maxMillis)) * time.Millisecond
	}
}

// The greatest numbers that fields have: what is greater is of another form, and cannot overflow
// what is reckoned with it.
const (
	maxMicros  = 1<<53 - 1
	maxMillis  = (1<<63 - 1) / 1_000_000
	maxPrefix  = 1 << 30
	maxVersion = 1<<63 - 1
)

// is reports whether the next field is that one, and takes its tag.
func (r *fieldReader) is(tag byte) bool {
	if r.bad || r.rest == "" || r.rest[0] != tag {
		return false
	}
	r.rest = r.rest[1:]
	return true
}

func (r *fieldReader) positive(most uint64) int64 {
	n := r.number(most)
	if n == 0 {
		r.bad = true
	}
	return n
}

func (r *fieldReader) number(most uint64) int64 {
	n, bytes := uint64(0), 0
	for shift := uint(0); ; shift += 7 {
		if r.bad || bytes == len(r.rest) || bytes == binary.MaxVarintLen64 {
			r.bad = true
			return 0
		}
		b := r.rest[bytes]
		bytes++
		if bytes == binary.MaxVarintLen64 && b > 1 || bytes > 1 && b == 0 { // too great, or not the shortest form
			r.bad = true
			return 0
		}
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			break
		}
	}
	if n > most {
		r.bad = true
		return 0
	}
	r.rest = r.rest[bytes:]
	return int64(n)
}

func (r *fieldReader) text(length int64) string {
	if r.bad || int64(len(r.rest)) < length {
		r.bad = true
		return ""
	}
	s := r.rest[:length]
	r.rest = r.rest[length:]
	return s
}
