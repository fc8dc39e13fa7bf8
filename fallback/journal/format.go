package journal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"hash/crc32"
	"math"
	"strconv"
	"unsafe"
)

// A part is a Redis append-only file. A record is an annotation, which is a comment to Redis, and
// the commands that it stands for, as RESP arrays:
//
//	record, repeated
//	+-------------------------------------------------------------------+-------------+-----------------------------+
//	| #aside <version> <salt> <seq> <op> <db> <stamp> <slack> <crc>\r\n | SELECT <db> | SET <key> <value> PXAT <ms> |
//	+-------------------------------------------------------------------+-------------+-----------------------------+
//	  always, a line                                                      if it changes  of s; DEL <key> of d; see o, t; else nothing
//
//	version  1; 2 of o and p, which version 1 did not have; 3 of t, which version 2 did not have. It is read before anything after it.
//	         Version, salt and their places stay in all versions. A program that does not know the version of a record refuses the
//	         journal that it is in, and changes nothing
//	salt     16 hex digits, drawn at random for each part. A reader that has lost its place takes no line without it for one of
//	         ours: a value may hold a copy of another part, or what somebody would like us to replay
//	seq      decimal, as all numbers here: the record's number, from 1
//	op       s, d, x, o, p, t: see Op. t has its parts, see below. o has its commands, with the key behind their names, between MULTI and EXEC if there are several. n: the numbers from <slack> to <seq> were given up, and are not missing
//	db       for our readers. The SELECT is for Redis, at the beginning of a part and where the database differs from the record before
//	stamp    1 to 64 printable ASCII characters without spaces
//	slack    µs, of s and d; of o with a comma and the List behind it. Of x and p: 32 hex digits, the KeyHash, as they have no commands.
//	         The stamp of p is the List. Of t: how many parts it has, as its parts have stamps, and it has "-"
//	crc      8 hex digits: CRC32C of all bytes of the record except this field and the line's end
//
// The commands of t stand between MULTI and EXEC. Each of its parts has a line before its own, which is a comment to Redis, too:
//
//	part of t, repeated
//	+----------------------------------+-----------------------------+
//	| #part <op> <stamp> <slack>\r\n    | SET <key> <value> PXAT <ms> |
//	+----------------------------------+-----------------------------+
//	  op is s, d or o, with the fields    as of a record with that op,
//	  of such a record                    without a MULTI and EXEC of its own
//
// One checksum covers all: a Redis that loads a part of the journal which ends amid a t does nothing of it, as we do.
//
// There is one way to write a record: no field is empty, no number has leading zeros, hex digits
// are small. A line is less than maxLine bytes; Redis reads annotations of up to 1024. Lengths are
// bounded before anything is allocated for them.
const (
	version   = 3 // the latest
	magic     = "#aside "
	partMagic = "#part " // must not begin as magic does: whoever has lost his place does not look for it
	maxLine   = 512
	saltLen   = 16
	crcLen    = 8
	lineEnd   = "\r\n"
	noStamp   = "-" // of n and t
	noDB      = -1
	maxSeq    = 1 << 62 // a number beyond is damage, and one can be added to any
	pxat      = "$4\r\nPXAT\r\n"
	setHead   = "*5\r\n$3\r\nSET\r\n"
	delHead   = "*2\r\n$3\r\nDEL\r\n"
	selHead   = "*2\r\n$6\r\nSELECT\r\n"
	multi     = "*1\r\n$5\r\nMULTI\r\n"
	execute   = "*1\r\n$4\r\nEXEC\r\n"
	hexDigits = "0123456789abcdef"
)

// skip says that numbers were given up: those from Slack to Seq. It is written when something may
// have reached the disk under them that was not acknowledged. A number never comes to stand for
// something else.
const skip Op = 'n'

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newSalt() string {
	var b [saltLen / 2]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// appendRecord writes r to buf. db is the database that is selected before it; it returns the one
// selected after it.
func appendRecord(buf []byte, r *Record, salt string, db int) ([]byte, int) {
	start := len(buf)
	buf = append(buf, magic...)
	buf = append(buf, r.Op.version(), ' ')
	buf = append(buf, salt...)
	buf = append(buf, ' ')
	buf = strconv.AppendUint(buf, r.Seq, 10)
	buf = append(buf, ' ', byte(r.Op), ' ')
	buf = strconv.AppendInt(buf, int64(r.DB), 10)
	buf = append(buf, ' ')
	switch {
	case r.Op == Transaction:
		buf = append(buf, noStamp+" "...)
		buf = strconv.AppendInt(buf, int64(len(r.Parts)), 10)
	case r.Op == Opened:
		buf = append(buf, r.List...)
		buf = append(buf, ' ')
		buf = appendHash(buf, r)
	case r.Op == Settle:
		buf = append(buf, r.Stamp...)
		buf = append(buf, ' ')
		buf = appendHash(buf, r)
	default:
		buf = appendStamp(buf, r)
	}
	buf = append(buf, ' ')
	crcAt := len(buf)
	buf = append(buf, "00000000\r\n"...)
	body := len(buf)

	if r.Op == Set || r.Op == Del || r.Op == Operations || r.Op == Transaction {
		if db != r.DB {
			db = r.DB
			buf = append(buf, selHead...)
			buf = appendNumber(buf, int64(db))
		}
	}
	several := r.Op == Transaction || r.Op == Operations && len(r.Commands) > 1
	if several {
		buf = append(buf, multi...)
	}
	if r.Op == Transaction {
		for i := range r.Parts {
			p := &r.Parts[i]
			buf = append(buf, partMagic...)
			buf = append(buf, byte(p.Op), ' ')
			buf = append(appendStamp(buf, p), lineEnd...)
			buf = appendCommands(buf, p)
		}
	} else {
		buf = appendCommands(buf, r)
	}
	if several {
		buf = append(buf, execute...)
	}

	crc := checksum(buf[start:crcAt], buf[body:])
	for i := range crcLen {
		buf[crcAt+i] = hexDigits[crc>>(28-4*i)&15]
	}
	return buf, db
}

func appendHash(buf []byte, r *Record) []byte {
	hash := r.KeyHash
	if hash == (KeyHash{}) {
		hash = HashKey(r.Key)
	}
	return hex.AppendEncode(buf, hash[:])
}

// appendStamp writes when a Set, a Del or Operations were made, and the slack.
func appendStamp(buf []byte, r *Record) []byte {
	buf = append(buf, r.Stamp...)
	buf = append(buf, ' ')
	buf = strconv.AppendInt(buf, r.Slack, 10)
	if r.Op == Operations {
		buf = append(buf, ',')
		buf = append(buf, r.List...)
	}
	return buf
}

// appendCommands writes what a record stands for, if that is not several.
func appendCommands(buf []byte, r *Record) []byte {
	switch r.Op {
	case Set:
		buf = append(buf, setHead...)
		buf = appendBulk(buf, r.Key)
		buf = appendBulk(buf, r.Value)
		buf = append(buf, pxat...)
		return appendNumber(buf, r.Expires)
	case Del:
		buf = append(buf, delHead...)
		return appendBulk(buf, r.Key)
	case Operations, Settle, Opened, Transaction, skip: // Operations alone have Commands
	}
	for _, command := range r.Commands {
		buf = append(buf, '*')
		buf = strconv.AppendInt(buf, int64(len(command)+1), 10)
		buf = append(buf, lineEnd...)
		buf = appendBulk(buf, command[0])
		buf = appendBulk(buf, r.Key)
		for _, word := range command[1:] {
			buf = appendBulk(buf, word)
		}
	}
	return buf
}

// version is the first version, as a digit, that has records of a kind.
func (op Op) version() byte {
	switch op {
	case Operations, Opened:
		return '2'
	case Transaction:
		return '3'
	case Set, Del, Settle, skip:
	}
	return '1'
}

func checksum(line, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(line, castagnoli), castagnoli, body)
}

func appendBulk(buf []byte, s string) []byte {
	buf = append(buf, '$')
	buf = strconv.AppendInt(buf, int64(len(s)), 10)
	buf = append(buf, lineEnd...)
	buf = append(buf, s...)
	return append(buf, lineEnd...)
}

func appendNumber(buf []byte, n int64) []byte {
	var digits [20]byte
	d := strconv.AppendInt(digits[:0], n, 10)
	buf = append(buf, '$')
	buf = strconv.AppendInt(buf, int64(len(d)), 10)
	buf = append(buf, lineEnd...)
	buf = append(buf, d...)
	return append(buf, lineEnd...)
}

// line is an annotation as it was read. Its bytes are the reader's.
type line struct {
	version uint64
	rest    []byte // what follows the version, from the space on; after parse without the crc
	salt    []byte
	stamp   []byte
	crc     uint32
	parts   int    // of a Transaction
	record  Record // without the stamp, and without what is in the commands
}

// parseVersion reads a line, without its end, as far as all versions are the same. bad says why it
// is none.
func parseVersion(text []byte) (l line, bad string) {
	text, ok := bytes.CutPrefix(text, []byte(magic))
	if !ok {
		return l, noAnnotation
	}
	number, _, found := bytes.Cut(text, []byte(" "))
	if l.version, ok = parseUint(number); !ok || !found || l.version == 0 {
		return l, noVersion
	}
	l.rest = text[len(number):]
	return l, ""
}

// parse reads what follows the version, as the versions that are known have it.
func (l *line) parse() (bad string) {
	var field [7][]byte
	rest := l.rest[1:]
	for i := range field {
		var more bool
		if field[i], rest, more = bytes.Cut(rest, []byte(" ")); more != (i < len(field)-1) {
			return badLine
		}
	}
	r := &l.record
	crc := field[6]
	l.rest = l.rest[:len(l.rest)-len(crc)]
	l.salt, l.stamp = field[0], field[4]
	var n uint64
	var ok bool
	if r.Seq, ok = parseUint(field[1]); !ok || r.Seq == 0 || r.Seq > maxSeq {
		return badLine
	}
	if len(field[2]) != 1 {
		return badLine
	}
	r.Op = Op(field[2][0])
	if n, ok = parseUint(field[3]); !ok || n > math.MaxInt32 {
		return badLine
	}
	r.DB = int(n)
	switch r.Op {
	case Set, Del, Operations:
		if !r.parseSlack(field[5]) {
			return badLine
		}
	case Transaction:
		if n, ok = parseUint(field[5]); !ok || n == 0 || n > maxParts || string(l.stamp) != noStamp {
			return badLine
		}
		l.parts = int(n)
	case Settle, Opened:
		if !isHex(field[5], 2*len(r.KeyHash)) {
			return badLine
		}
		_, _ = hex.Decode(r.KeyHash[:], field[5]) // was just looked at
		if r.KeyHash == (KeyHash{}) {
			return badLine // it would be written as something else
		}
	case skip:
		if r.Slack, ok = parseInt(field[5]); !ok || r.Slack <= 0 || uint64(r.Slack) > r.Seq {
			return badLine
		}
	default:
		return badLine
	}
	if !isHex(l.salt, saltLen) || !isHex(crc, crcLen) || !validStamp(l.stamp) {
		return badLine
	}
	n, _ = strconv.ParseUint(string(crc), 16, 32)
	l.crc = uint32(n)
	return ""
}

// parseSlack reads what appendStamp has written behind the stamp.
func (r *Record) parseSlack(text []byte) (ok bool) {
	if r.Op == Operations {
		slack, list, _ := bytes.Cut(text, []byte(","))
		if !validStamp(list) {
			return false
		}
		text, r.List = slack, string(list)
	}
	r.Slack, ok = parseInt(text)
	return ok
}

// parsePart reads the line of a part of a Transaction, without its beginning and end; false: it is none.
func parsePart(text []byte) (r Record, ok bool) {
	op, text, _ := bytes.Cut(text, []byte(" "))
	stamp, slack, _ := bytes.Cut(text, []byte(" "))
	if len(op) != 1 || !validStamp(stamp) {
		return r, false
	}
	r.Op, r.Stamp = Op(op[0]), string(stamp)
	return r, (r.Op == Set || r.Op == Del || r.Op == Operations) && r.parseSlack(slack)
}

// parseUint reads a number if it stands there as we write it.
func parseUint(text []byte) (uint64, bool) {
	if len(text) == 0 || len(text) > 20 || len(text) > 1 && text[0] == '0' || text[0] == '+' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	return n, err == nil
}

func parseInt(text []byte) (int64, bool) {
	digits, negative := bytes.CutPrefix(text, []byte("-"))
	n, ok := parseUint(digits)
	switch {
	case !ok || negative && n == 0:
		return 0, false
	case negative:
		return -int64(n), n <= 1<<63
	}
	return int64(n), n <= math.MaxInt64
}

func isHex(text []byte, length int) bool {
	for _, c := range text {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(text) == length
}

// bytesOf returns the bytes of s without copying them. They must not be written to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
