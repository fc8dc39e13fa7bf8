// Package stamp has the layout of stamps, and makes them. A stamp tells who wrote a key last, which
// decides what a replay may do, and which Redis does not record. So Set and Del leave a stamp
// beside the key, in a key of its own in the same slot, which outlives the value; loads leave none.
//
//	key    aside:stamp:{<tag of the slot>}<the data key>
//
//	       0                16       32        44      60
//	       +----------------+--------+---------+-------+-------...
//	value  | time           | client | number  | other | end
//	       | µs, 16 digits  | 16 hex | 12      | µs,16 | ms, 1 to 19 digits
//	       +----------------+--------+---------+-------+-------...
//	       `------- proposed by a client ------'`- added by the script that leaves it
//
// All numbers are decimal, in ASCII. time is µs since 1970 and at most 16 digits, which last until
// the year 2286. client is a random id, number counts the operations of that client from 1 (0: a
// load). other is the time of another client's write, if nobody can tell which of the two was
// later, else 0. end is until when, in ms since 1970, a value that the key holds is this writer's:
// 0 after a Del, and where a replayed Set was not written. What does not have all this is no stamp,
// and is overwritten by the next one. The tag puts every possible key's stamp into the key's slot,
// also that of "}{" or "{}x". See docs/adr/0005 for what is made of it, and lib/stamps.lua of
// internal/script, which reads it, too.
//
// The time is a hybrid logical clock's (Kulkarni et al., 2014) that is anchored to the server's
// TIME: the greatest of that, of what the client proposes, and of one more than the stamp that is
// there. A client proposes its estimate of the server's clock, always later than before. It does so
// once per operation, and retries, the journal and the replay go on using that stamp: an operation
// that meets its own stamp, or that of a later one of the same client, has nothing to do any more.
// Between operations of one client their numbers decide, which are exact; between those of
// different clients the times, which are not.
package stamp

import (
	"strconv"

	"github.com/redaside/aside/internal/slot"
)

// KeyPrefix begins the keys of all stamps.
const KeyPrefix = "aside:stamp:"

// How long the parts are, and where they end.
const (
	timeLen, clientLen, numberLen, otherLen = 16, 16, 12, 16

	timeEnd   = timeLen
	clientEnd = timeEnd + clientLen
	numberEnd = clientEnd + numberLen // a proposed stamp ends here
	otherEnd  = numberEnd + otherLen

	maxEnd = 19 // digits of an end
)

// Key returns where the stamp of a data key stands.
func Key(key string) string {
	return KeyPrefix + "{" + slot.Tag(slot.Of(key)) + "}" + key
}

// RefreshLock returns where the refresh lock of a data key stands: in its slot, as its stamp.
func RefreshLock(key string) string {
	return "aside:refresh:{" + slot.Tag(slot.Of(key)) + "}" + key
}

// Stamp names an operation: a stamp as clients propose it, and as records of the fallback store
// have it.
type Stamp struct {
	Micros int64  // when it was, by the server's clock, in µs since 1970
	Client string // whose it was
	Number int64  // which of that client's it was
}

// Parse reads a proposed stamp. It reports false for anything else, such as a stamp from Redis.
func Parse(s string) (Stamp, bool) {
	if len(s) != numberEnd {
		return Stamp{}, false
	}
	return parse(s)
}

// parse reads what s begins with.
func parse(s string) (Stamp, bool) {
	micros, ok := number(s[:timeEnd])
	n, also := number(s[clientEnd:numberEnd])
	if !ok || !also {
		return Stamp{}, false
	}
	return Stamp{Micros: micros, Client: s[timeEnd:clientEnd], Number: n}, true
}

// String is what Parse reads. The client must have 16 characters.
func (s Stamp) String() string {
	var room [numberEnd]byte
	return string(s.append(room[:0]))
}

func (s Stamp) append(b []byte) []byte {
	b = AppendMicros(b, s.Micros)
	b = append(b, s.Client...)
	return appendDigits(b, s.Number, numberLen)
}

// Later reports whether s is later than other: by number if one client made both, else by time.
func (s Stamp) Later(other Stamp) bool {
	if s.Client == other.Client {
		return s.Number > other.Number
	}
	return s.Micros > other.Micros
}

// Left is a stamp as Redis holds it: a script has left it beside a key.
type Left struct {
	Stamp
	Other int64 // time of another client's write that may have been later, in µs since 1970; 0: none
	Ends  int64 // until when a value of the key is this writer's, in ms since 1970; 0: it has left none
}

// ParseLeft reads a stamp as Redis holds it. It reports false for anything else.
func ParseLeft(s string) (Left, bool) {
	if len(s) <= otherEnd || len(s) > otherEnd+maxEnd {
		return Left{}, false
	}
	by, ok := parse(s)
	if !ok {
		return Left{}, false
	}
	other, ok := number(s[numberEnd:otherEnd])
	ends, also := number(s[otherEnd:])
	if !ok || !also {
		return Left{}, false
	}
	return Left{Stamp: by, Other: other, Ends: ends}, true
}

// String is what ParseLeft reads. The client must have 16 characters.
func (l Left) String() string {
	var room [otherEnd + maxEnd]byte
	b := AppendMicros(l.append(room[:0]), l.Other)
	return string(strconv.AppendInt(b, max(l.Ends, 0), 10))
}

// Micros reads the time of a stamp, of either form.
func Micros(s string) (int64, bool) {
	if len(s) < numberEnd {
		return 0, false
	}
	return number(s[:timeEnd])
}

// AppendMicros appends a time in µs since 1970 as stamps have it, and lock markers as well.
func AppendMicros(b []byte, t int64) []byte { return appendDigits(b, t, timeLen) }

// appendDigits appends n in exactly that many digits; what is negative, such as a time before 1970,
// counts as 0.
func appendDigits(b []byte, n int64, digits int) []byte {
	const zeros = "0000000000000000"
	var room [20]byte
	text := strconv.AppendInt(room[:0], max(n, 0), 10)
	b = append(b, zeros[:max(digits-len(text), 0)]...)
	return append(b, text...)
}

// number reads digits only; strconv alone would take a sign, too.
func number(s string) (int64, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
