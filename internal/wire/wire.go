// Package wire says what stands in a data key.
package wire

import "strings"

// A value is raw: what the codec wrote, so that redis-cli and other languages can read it.
// Only where a feature needs it does a header stand in front:
//
//	+------------------+---------+------+-----------
//	| \x00 a s i d e : | version | kind | payload…
//	+------------------+---------+------+-----------
//
//	version '1'. kind 'n': cached absence, no payload. kind 'e': escape, the payload is a value that itself begins
//	with the seven bytes of the prefix. The version is read before anything after it; where version 1 expects a kind
//	that it does not know, or the version is another, the entry is unreadable: a miss, to be loaded and replaced.
//
// A lock marker begins with the same prefix and the word "lock", so that no version will ever be 'l':
//
//	\x00aside:lock:<UUIDv7 of the client>:<counter>:<server time at the start of the load, 16 digits of µs>
const (
	Prefix     = "\x00aside:"
	Absent     = Prefix + "1n"
	Escape     = Prefix + "1e"
	LockPrefix = Prefix + "lock:"
)

// Content is what the bytes in a data key say.
type Content int

// The contents.
const (
	None       Content = iota // nothing
	Value                     // a value
	Absence                   // the cached answer "there is none"
	Lock                      // somebody is loading it
	Unreadable                // a header that this version does not know
)

// Pack returns the bytes to store for a value.
func Pack(value string) string {
	if strings.HasPrefix(value, Prefix) {
		return Escape + value
	}
	return value
}

// Unpack says what stored bytes mean; value is set for Value only.
func Unpack(stored string) (value string, c Content) {
	switch {
	case !strings.HasPrefix(stored, Prefix):
		return stored, Value
	case strings.HasPrefix(stored, LockPrefix):
		return "", Lock
	case stored == Absent:
		return "", Absence
	case strings.HasPrefix(stored, Escape+Prefix):
		return stored[len(Escape):], Value
	default:
		return "", Unreadable
	}
}
