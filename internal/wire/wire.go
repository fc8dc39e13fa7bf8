// Package wire is the format of data keys in Redis.
package wire

import (
	"slices"
	"strings"
	"time"
)

// A value is raw, as the codec wrote it, so that redis-cli and other languages can read it. A
// header precedes it only where a feature needs one:
//
//	+------------------+---------+------+-----------
//	| \x00 a s i d e : | version | kind | payload…
//	+------------------+---------+------+-----------
//
//	version '1'. kind 'n': cached absence, no payload. kind 'e': escape, the payload is a value that
//	itself begins with the seven bytes of the prefix, or that looks like another library's lock.
//	kinds 'h' and 'm': a value, or an absence, of which more is known, see header.go. The
//	version is read before anything after it. An entry with another version, or with a kind that
//	version 1 does not have, is unreadable: a miss, to be loaded and replaced.
//
// A lock marker begins with the same prefix and the word "lock", so that no version will ever be
// 'l':
//
//	\x00aside:lock:<UUIDv7 of the client>:<counter>:<server time at the start of the load, 16 digits of µs>
const (
	Prefix     = "\x00aside:"
	Absent     = Prefix + "1n"
	Escape     = Prefix + "1e"
	LockPrefix = Prefix + "lock:"
)

// LongestTTL is the longest ttl: with a longer one the key does not expire in Redis.
const LongestTTL = 100 * 365 * 24 * time.Hour

// Endless is the ttl of a value that does not expire, for its record and its stamp, which need one.
const Endless = 2 * LongestTTL

// peers begin the marks that other libraries leave in a data key while they load it: rueidisaside
// and valkeyaside (and an id, often a ULID), redcache (and a UUID, perhaps with a number). Their
// locks are not ours to fill, and none of them is ever a value.
var peers = [...]string{"rueidisid:", "valkeyid:", "__redcache:lock:"}

// PeerPrefixes returns the prefixes of other libraries' marks.
func PeerPrefixes() []string { return peers[:] }

// maxPeerID is more than any of them has behind its prefix.
const maxPeerID = 64

// PeerLock reports whether stored is such a mark.
func PeerLock(stored string) bool {
	for _, prefix := range peers {
		if id, ok := strings.CutPrefix(stored, prefix); ok {
			return id != "" && len(id) <= maxPeerID && !strings.ContainsFunc(id, notInID)
		}
	}
	return false
}

// beginsAsPeerLock reports whether value may have been escaped because it was such a mark: it may
// have grown since, by APPEND.
func beginsAsPeerLock(value string) bool {
	return slices.ContainsFunc(peers[:], func(prefix string) bool { return strings.HasPrefix(value, prefix) })
}

func notInID(r rune) bool {
	return !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || strings.ContainsRune("-_:{}", r))
}

// Content is the kind of the bytes in a data key.
type Content int

// The contents.
const (
	None       Content = iota // nothing
	Value                     // a value
	Absence                   // the cached answer "there is none"
	Lock                      // somebody is loading it, perhaps with another library
	Unreadable                // a header that this version does not know
)

// Pack returns the bytes to store for a value.
func Pack(value string) string {
	if strings.HasPrefix(value, Prefix) || PeerLock(value) {
		return Escape + value
	}
	return value
}

// Unpack returns the kind of stored bytes; value is set for Value only. h is what their header says
// of a value or an absence, nil where they have none.
func Unpack(stored string) (value string, h *Header, c Content) {
	switch {
	case PeerLock(stored):
		return "", nil, Lock
	case !strings.HasPrefix(stored, Prefix):
		return stored, nil, Value
	case strings.HasPrefix(stored, LockPrefix):
		return "", nil, Lock
	case stored == Absent:
		return "", nil, Absence
	case strings.HasPrefix(stored, Escape+Prefix), strings.HasPrefix(stored, Escape) && beginsAsPeerLock(stored[len(Escape):]):
		return stored[len(Escape):], nil, Value
	}
	if rest, ok := strings.CutPrefix(stored, HeaderPrefix); ok {
		if value, h, ok := unpackHeader(rest, false); ok {
			return value, h, Value
		}
	}
	if rest, ok := strings.CutPrefix(stored, AbsentHeaderPrefix); ok {
		if _, h, ok := unpackHeader(rest, true); ok {
			return "", h, Absence
		}
	}
	return "", nil, Unreadable
}
