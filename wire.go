package aside

import "strings"

// What stands in a data key. A value is raw: what the codec wrote, so that redis-cli and other languages can read it.
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
	wirePrefix = "\x00aside:"
	wireAbsent = wirePrefix + "1n"
	wireEscape = wirePrefix + "1e"
	lockPrefix = wirePrefix + "lock:"
)

// content is what the bytes in a data key say.
type content int

const (
	contentNone       content = iota // nothing
	contentValue                     // a value
	contentAbsent                    // the cached answer "there is none"
	contentLock                      // somebody is loading it
	contentUnreadable                // a header that this version does not know
)

// pack returns the bytes to store for a value.
func pack(value string) string {
	if strings.HasPrefix(value, wirePrefix) {
		return wireEscape + value
	}
	return value
}

// unpack says what stored bytes mean; value is set for contentValue only.
func unpack(stored string) (value string, c content) {
	switch {
	case !strings.HasPrefix(stored, wirePrefix):
		return stored, contentValue
	case strings.HasPrefix(stored, lockPrefix):
		return "", contentLock
	case stored == wireAbsent:
		return "", contentAbsent
	case strings.HasPrefix(stored, wireEscape+wirePrefix):
		return stored[len(wireEscape):], contentValue
	default:
		return "", contentUnreadable
	}
}
