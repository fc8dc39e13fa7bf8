package resp

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

// Of a hash or set of which clients read fields or members by name, these are remembered. A key has one place in memory, so
// what is read next is united with what is there (ReadReservation.Unite):
//
//	+---------+--------+--------+------+-------+--------...
//	| hearing | letter | united | full | count | fields
//	+---------+--------+--------+------+-------+--------...
//	     8        1        8       1       1
//
//	a field:  length of its name (4) | length of its value (4), absentField if it is not there | name | value
//
// Numbers are big endian. A member is a field without a value.
//
// What was read by two commands may be of two times until a proof says that all was told that had changed before the
// second was answered: united is that time, in ns since the Server began; 0: all is of one command.
//
// What there is no room for is not remembered: then the part is full, and stays as it is until the key changes.

const (
	fieldsPart, membersPart = 'f', 'm'

	partHead      = heardHead + 10
	mostParts     = 64       // fields
	mostPartBytes = 32 << 10 // of all
	absentField   = 1<<32 - 1
	fieldHead     = 8
)

// partRead is what a command reads by name.
func partRead(name string, args []string) (w wanted) {
	if len(args) < 3 {
		return w
	}
	switch name {
	case "HGET", "SISMEMBER":
		if len(args) > 3 {
			return w
		}
	case "HMGET", "SMISMEMBER":
	default:
		return w
	}
	if w.names = args[2:]; name[0] == 'H' {
		w.letter = fieldsPart
	} else {
		w.letter = membersPart
	}
	return w
}

// isIn reports whether content, which is remembered, makes it idle to remember w.
func (w wanted) isIn(content string) bool {
	letter := content[heardHead-1]
	if letter != fieldsPart && letter != membersPart {
		return true // it is all of the key
	}
	return letter == w.letter && (part(content).full() || part(content).has(w.names))
}

// part is what is remembered of a key of which only some fields are known.
type part string

func (p part) full() bool { return p[partHead-2] != 0 }

// number reads 4 bytes at i.
func (p part) number(i int) uint32 {
	return uint32(p[i])<<24 | uint32(p[i+1])<<16 | uint32(p[i+2])<<8 | uint32(p[i+3])
}

// field returns the field at i, and where the next one is.
func (p part) field(i int) (name, value string, there bool, next int) {
	size := p.number(i + 4)
	if there = size != absentField; !there {
		size = 0
	}
	begin := i + fieldHead
	end := begin + int(p.number(i))
	next = end + int(size)
	return string(p[begin:end]), string(p[end:next]), there, next
}

// has reports whether all fields of those names are known. They are often asked for in the order in which they were read, so each is
// looked for behind the one before it first.
func (p part) has(names []string) bool {
	from := partHead
	for _, name := range names {
		next := p.find(name, from, len(p))
		if next == 0 {
			next = p.find(name, partHead, from)
		}
		if next == 0 {
			return false
		}
		from = next
	}
	return true
}

// find looks for a field that begins within some bytes, and returns where the next one is; 0: there is none.
func (p part) find(name string, from, to int) int {
	for i := from; i < to; {
		begin, size, value := i+fieldHead, int(p.number(i)), p.number(i+4)
		if i = begin + size; value != absentField {
			i += int(value)
		}
		if size == len(name) && string(p[begin:begin+size]) == name {
			return i
		}
	}
	return 0
}

// entry completes e; nil if the part may be of different times, as nothing is proven since.
func (p part) entry(e *entry, proven time.Duration) *entry {
	if united := binary.BigEndian.Uint64([]byte(p[heardHead:])); united != 0 && proven <= time.Duration(united) {
		return nil
	}
	e.part, e.fields, e.members = true, map[string]hashField{}, map[string]bool{}
	for i := partHead; i < len(p); {
		name, value, there, next := p.field(i)
		if e.kind == aHash {
			e.fields[name] = hashField{value: value, there: there}
		} else {
			e.members[name] = there
		}
		i = next
	}
	return e
}

// keepPart remembers what a command has read by name. gone: its key was not there right after.
func (s *Server) keepPart(one hearing, number uint64, reply []byte, gone bool, ttl time.Duration) {
	values, err := upstream.Values(reply)
	if err != nil || len(values) != len(one.wanted.names) {
		return // it is refused, as the key holds another type, say
	}
	anything := false
	for _, value := range values {
		anything = anything || value != nil && value != int64(0)
	}
	switch {
	case gone && anything: // it has changed in between
	case gone:
		one.Keep(heardContent(number, '-', nil), -1)
	default:
		one.Unite(ttl, func(before string) string {
			if s.hearingOf(before) == nil { // it counts no more, or is nothing
				before = ""
			}
			return united(before, number, one.wanted, values, time.Since(s.began))
		})
	}
}

// united is the part that before becomes with values; "" if it stays what it is.
func united(before string, number uint64, w wanted, values []any, now time.Duration) string {
	if before != "" && before[heardHead-1] != fieldsPart && before[heardHead-1] != membersPart {
		return "" // it is all of the key
	}
	if fresh := heardContent(number, w.letter, make([]byte, partHead-heardHead)); before == "" || before[:heardHead] != fresh[:heardHead] {
		before = fresh // what is there is of another Hearing, or type
	}
	was, p := part(before), []byte(before)
	for i, name := range w.names {
		if p[partHead-2] != 0 {
			break
		}
		if was.has(w.names[i:i+1]) || slices.Contains(w.names[:i], name) {
			continue
		}
		value, there := values[i].(string)
		there = there || values[i] == int64(1)
		if p[partHead-1] == mostParts || len(p)+fieldHead+len(name)+len(value) > mostPartBytes {
			p[partHead-2] = 1
			break
		}
		size := uint32(absentField)
		if there {
			size = uint32(len(value))
		}
		p = binary.BigEndian.AppendUint32(p, uint32(len(name)))
		p = binary.BigEndian.AppendUint32(p, size)
		p = append(append(p, name...), value...)
		p[partHead-1]++
	}
	if string(p) == string(was) {
		return ""
	}
	if len(was) > partHead {
		binary.BigEndian.PutUint64(p[heardHead:], uint64(now))
	}
	return string(p)
}
