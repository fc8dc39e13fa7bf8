// Package stamp has the layout of stamps, and makes them. A stamp tells who wrote a key last, which
// decides what a replay may do, and which Redis does not record. So Set and Del leave a stamp
// beside the key, which outlives the value; loads leave none.
//
// The stamps of all keys of a slot stand in one hash, the slot's bucket:
//
//	key    aside:stamps:{<tag of the slot>}
//	field  the data key; with a zero byte in front, if it is empty or begins with one
//
//	       0      1         8         16      21      21, 24 or 27
//	       +------+---------+---------+-------+-------+--------+--------
//	value  | kind | time    | client  | number| end   | other  | margin
//	       | 1    | µs, 7   | random,8| 5     | 0,3,6 | 0 or 7 | 0 or 5
//	       +------+---------+---------+-------+-------+--------+--------
//	              `-- proposed by a client ---'
//
//	head   the field "": until when the bucket lives, and what its sweep goes by, see
//	       lib/stamps.lua of internal/script
//
// All numbers are big endian and have no sign. kind is 16, and 1 more if end has three bytes, 2 if
// it has six, 4 if there is an other, 8 if the key was changed, and perhaps not set or deleted (a
// kept operation is done over that: docs/adr/0016), and 32 if there is a margin. time is µs since 1970.
// client is a random id, number counts the operations of that client from 1 (0: a load). end is until when a value that the key
// holds is this writer's, in ms after time's; it is left out after a Del, and where a replayed Set
// was not written. other is the time of another client's write, if nobody can tell which of the two
// was later. margin is how close in time, in µs, another client's write must be for that; left out, it
// is LeastMargin. A value of any other form is of a version that we do not know: it orders nothing, the
// next write overwrites it, and a replay empties the key. The tag puts the bucket into the slot.
//
// Records of the fallback store, and all of Go, have what a client proposes as text that sorts by
// time: µs in 16 digits, the client in 16 hexadecimal digits, the number in 12 digits.
//
// See docs/adr/0005 for what is made of stamps, docs/adr/0009 for where they stand, and
// lib/stamps.lua, which reads and writes them.
//
// A client proposes its estimate of the server's clock, always later than before. It does so
// once per operation, and retries, the journal and the replay go on using that stamp: an operation
// that meets its own stamp, or that of a later one of the same client, has nothing to do any more.
// What a server does at once has the server's own time. What is replayed has the time that was proposed,
// and its margin. A script that reads the stamp which is there leaves a later time, as a hybrid logical
// clock does (Kulkarni et al., 2014). Between operations of one client their numbers decide, which are
// exact; between those of different clients the times, and nothing does within the greater of their
// margins.
package stamp

import (
	"encoding/hex"
	"strconv"
	"time"

	"github.com/redaside/aside/internal/slot"
)

// KeyPrefix begins the keys of all buckets.
const KeyPrefix = "aside:stamps:"

// How long the parts of the text are, and where they end.
const (
	timeLen, clientLen, numberLen = 16, 16, 12

	timeEnd   = timeLen
	clientEnd = timeEnd + clientLen
	numberEnd = clientEnd + numberLen
)

// How long the parts of a stored stamp are, and what its kind says.
const (
	timeBytes, clientBytes, numberBytes = 7, clientLen / 2, 5
	shortEnd, longEnd, otherBytes       = 3, 6, 7
	marginBytes                         = 5

	proposedBytes = timeBytes + clientBytes + numberBytes
	kindOfNone    = 16 // has no end
	kindOther     = 4  // is added where there is an other
	kindChanged   = 8  // is added where the key was changed only
	kindMargin    = 32 // is added where there is a margin
)

// LeastMargin is how close in time two writes of different clients must be for nobody to know which was
// later, however good their clocks look: twice what is assumed of any clock.
const LeastMargin = 100 * time.Millisecond

// Bucket returns the key of the hash in which the stamp of a data key stands.
func Bucket(key string) string { return bucketOf(slot.Of(key)) }

func bucketOf(s uint16) string { return KeyPrefix + "{" + slot.Tag(s) + "}" }

// AppendBuckets appends the bucket of each key. Neighbours in a slot share a string.
func AppendBuckets(to []string, keys []string) []string {
	var bucket string
	last := -1
	for _, key := range keys {
		if s := slot.Of(key); int(s) != last {
			bucket, last = bucketOf(s), int(s)
		}
		to = append(to, bucket)
	}
	return to
}

// Field returns the field of a data key's stamp in its bucket.
func Field(key string) string {
	if key == "" || key[0] == 0 {
		return "\x00" + key
	}
	return key
}

// RefreshLock returns where the refresh lock of a data key stands: in its slot, as its stamp.
func RefreshLock(key string) string {
	return "aside:refresh:{" + slot.Tag(slot.Of(key)) + "}" + key
}

// Ledger returns where the ledger of a data key stands: in its slot, as its stamp. It has, for each list
// of operations that was kept for the key, the stamp of the last that was done.
func Ledger(key string) string {
	return "aside:ledger:{" + slot.Tag(slot.Of(key)) + "}" + key
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

// Packed returns a proposed stamp as scripts take it. It reports false for anything else.
func Packed(proposed string) (string, bool) {
	s, ok := Parse(proposed)
	if !ok {
		return "", false
	}
	b, ok := s.pack(make([]byte, 0, proposedBytes))
	return string(b), ok
}

// pack appends the time, the client and the number. It reports false if the client is not 16
// hexadecimal digits.
func (s Stamp) pack(b []byte) ([]byte, bool) {
	b = appendBytes(b, s.Micros, timeBytes)
	if len(s.Client) != clientLen {
		return b, false
	}
	b, err := hex.AppendDecode(b, []byte(s.Client))
	return appendBytes(b, s.Number, numberBytes), err == nil
}

// Left is a stamp as Redis holds it: a script has left it beside a key.
type Left struct {
	Stamp
	Other int64 // time of another client's write that may have been later, in µs since 1970; 0: none
	Ends  int64 // until when a value of the key is this writer's, in ms since 1970; 0: it has left none

	Margin  int64 // as LeastMargin, but of this stamp, in µs; 0: LeastMargin
	Changed bool  // it has changed what was there, and perhaps not set or deleted the key
}

// ParseLeft reads a stamp as Redis holds it. It reports false for anything else.
func ParseLeft(s string) (Left, bool) {
	if s == "" {
		return Left{}, false
	}
	kind := s[0] &^ (kindOther | kindChanged | kindMargin)
	endBytes, ok := map[byte]int{kindOfNone: 0, kindOfNone + 1: shortEnd, kindOfNone + 2: longEnd}[kind]
	otherAt := 1 + proposedBytes + endBytes
	length := otherAt
	if s[0]&kindOther != 0 {
		length += otherBytes
	}
	marginAt := length
	if s[0]&kindMargin != 0 {
		length += marginBytes
	}
	if !ok || len(s) != length {
		return Left{}, false
	}
	at := 1
	next := func(n int) string { at += n; return s[at-n : at] }
	l := Left{
		Stamp:   Stamp{Micros: bigEndian(next(timeBytes)), Client: hex.EncodeToString([]byte(next(clientBytes))), Number: bigEndian(next(numberBytes))},
		Changed: s[0]&kindChanged != 0,
	}
	if endBytes > 0 {
		l.Ends = l.Micros/1000 + bigEndian(next(endBytes))
	}
	l.Other, l.Margin = bigEndian(s[otherAt:marginAt]), bigEndian(s[marginAt:])
	if l.Margin <= LeastMargin.Microseconds() { // what scripts do not leave
		l.Margin = 0
	}
	return l, true
}

// String is what ParseLeft reads. The client must have 16 hexadecimal digits.
func (l Left) String() string {
	kind, endBytes, left := byte(kindOfNone), 0, l.Ends-max(l.Micros, 0)/1000
	switch {
	case l.Ends <= 0 || left <= 0:
	case left < 1<<(8*shortEnd):
		kind, endBytes = kindOfNone+1, shortEnd
	default:
		kind, endBytes = kindOfNone+2, longEnd
	}
	if l.Other > 0 {
		kind += kindOther
	}
	if l.Changed {
		kind += kindChanged
	}
	if l.Margin > LeastMargin.Microseconds() {
		kind += kindMargin
	}
	b, _ := l.pack([]byte{kind})
	b = appendBytes(b, left, endBytes)
	if l.Other > 0 {
		b = appendBytes(b, l.Other, otherBytes)
	}
	if kind&kindMargin != 0 {
		b = appendBytes(b, l.Margin, marginBytes)
	}
	return string(b)
}

// appendBytes appends n in exactly that many bytes. What does not fit counts as the greatest that
// does, and what is negative, such as a time before 1970, as 0.
func appendBytes(b []byte, n int64, bytes int) []byte {
	n = min(max(n, 0), 1<<(8*bytes)-1)
	for shift := 8 * (bytes - 1); shift >= 0; shift -= 8 {
		b = append(b, byte(n>>shift))
	}
	return b
}

func bigEndian(s string) (n int64) {
	for i := range len(s) {
		n = n<<8 | int64(s[i])
	}
	return n
}

// AppendDeed appends what the replay script is told of a record besides its value: op is its letter,
// margin is in µs, ends in ms since 1970.
func AppendDeed(b []byte, op byte, proposed Stamp, margin, ends int64) ([]byte, bool) {
	b, ok := proposed.pack(append(b, op))
	return appendBytes(appendBytes(b, margin, 7), ends, 6), ok
}

// Micros reads the time of a proposed stamp.
func Micros(s string) (int64, bool) {
	if len(s) < numberEnd {
		return 0, false
	}
	return number(s[:timeEnd])
}

// ReadMicros reads what AppendMicros appends.
func ReadMicros(s string) (int64, bool) {
	if len(s) != timeLen {
		return 0, false
	}
	return number(s)
}

// AppendMicros appends a time in µs since 1970 as stamps have it, and lock markers as well.
func AppendMicros(b []byte, t int64) []byte { return appendDigits(b, t, timeLen) }

// LastMicros reads what AppendMicros has appended to s.
func LastMicros(s string) (int64, bool) {
	if len(s) < timeLen {
		return 0, false
	}
	return number(s[len(s)-timeLen:])
}

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
