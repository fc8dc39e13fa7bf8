package journal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Findings are what Scan has found in a part.
type Findings struct {
	Records     int    // valid ones, Settles included
	Bytes       int64  // of the whole part
	First, Last uint64 // the least and the greatest number, of those that were given up, too; 0 if there is no record
	Damages     []Damage
	Gaps        []Gap
}

// Damage is a stretch of a part that is no record, or more than one.
type Damage struct {
	Part   string // the file; "" from Scan
	Offset int64
	Length int64
	Reason string // what is wrong with its beginning
	Tail   bool   // nothing valid follows in this part
	Begins int    // how many records seem to begin behind its first byte; too many where values look like records
	Saved  string // the file in the quarantine that has these bytes; "" if they are where they were
}

// Gap says that the records with these numbers are missing.
type Gap struct{ From, To uint64 }

// VersionError says that a part was written by a newer version of aside. Nothing is lost: the part
// is left as it is. Run that version until nothing is pending, or move the directory away and
// replay it with that version later.
type VersionError struct {
	Part    string // the file; "" from Scan
	Offset  int64
	Version uint64
}

func (e *VersionError) Error() string {
	part := e.Part
	if part == "" {
		part = "the part"
	}
	return fmt.Sprintf("journal: %s has version %d of the format at byte %d, and this program knows version %d: a newer aside "+
		"wrote it. Nothing is lost: run that until nothing is pending, or move the directory away, keep it, and replay it with that later", part, e.Version, e.Offset, version)
}

// Scan reads a part and changes nothing. It calls each with every valid record, as it was written,
// and the offset at which it begins. It returns its findings so far with an error of r or of each,
// or a [*VersionError].
func Scan(r io.Reader, each func(r Record, offset int64) error) (Findings, error) {
	return scan(r, defaultMaxRecordBytes, func(r *Record, _ string, offset int64) error {
		if r.Op == skip {
			return nil
		}
		return each(*r, offset)
	})
}

// scan is Scan that also yields what stands for numbers that were given up, and the salt.
func scan(r io.Reader, maxRecord int64, each func(r *Record, salt string, offset int64) error) (f Findings, err error) {
	s := scanner{r: r, max: maxRecord}
	var numbers order
	var damage *Damage // the one that we are in
	defer func() {
		if damage != nil && s.err == nil {
			damage.Length = s.offset() - damage.Offset
			f.Damages = append(f.Damages, *damage)
		}
		f.Bytes = s.offset()
		f.First, f.Last = numbers.first, numbers.last
		if err == nil && s.err != nil {
			err = fmt.Errorf("journal: at byte %d: %w", s.base+int64(len(s.buf)), s.err)
		}
	}()
	for s.fill(1) {
		found := s.record()
		switch {
		case found.bad == "" && found.newer == 0:
			if damage != nil {
				damage.Length = s.offset() - damage.Offset
				damage.Begins-- // this one is whole
				f.Damages, damage = append(f.Damages, *damage), nil
			}
			s.salt = found.salt
			if found.record.Op != skip {
				f.Records++
			}
			if _, gap := numbers.next(&found.record); gap != nil {
				f.Gaps = append(f.Gaps, *gap)
			}
			if err := each(&found.record, s.salt, s.offset()); err != nil {
				return f, err
			}
			s.pos += found.length
			continue
		case s.err != nil: // what could not be read is not damaged
			return f, nil
		case found.newer != 0 && (damage == nil || numbers.first == 0):
			return f, &VersionError{Offset: s.offset(), Version: found.newer}
		case damage == nil:
			damage = &Damage{Offset: s.offset(), Reason: found.bad}
		}
		// From here on we have lost our place, and a value may say anything. The salt tells our
		// lines from others. Where no record has told us the salt yet, this line does, if it can be
		// read; unless its salt is what is damaged: then the record ends where it says, at an
		// annotation with another one.
		if s.salt == "" {
			if found.length > 0 && s.stands(found.length, magic) && !s.isLine(found.length, found.salt) {
				s.pos += found.length
				continue
			}
			s.salt = found.salt
		}
		damage.Begins += s.seekLine()
	}
	if damage != nil {
		damage.Tail = true
	}
	return f, nil
}

// order follows the numbers of records.
type order struct{ first, last uint64 } // 0: none yet

// next reports whether r comes for the first time, and which numbers are missing before it.
func (o *order) next(r *Record) (isNew bool, missing *Gap) {
	from := r.from()
	if o.first == 0 {
		o.first, o.last = from, r.Seq // what was before was dropped
		return true, nil
	}
	if r.Seq <= o.last {
		return false, nil
	}
	if from > o.last+1 {
		missing = &Gap{o.last + 1, from - 1}
	}
	o.last = r.Seq
	return true, missing
}

// from is the least number that a record accounts for.
func (r *Record) from() uint64 {
	if r.Op == skip {
		return uint64(r.Slack)
	}
	return r.Seq
}

// minChunk is how much a scanner reads at a time, at least.
const minChunk = 64 << 10

// scanner reads a part through a buffer that holds at most twice what was really read of one
// record, or a chunk: a length that the file claims reserves nothing.
type scanner struct {
	r    io.Reader
	max  int64  // bytes of a record
	salt string // "" as long as it is not known

	buf  []byte
	base int64 // the offset of buf[0]
	pos  int   // in buf: what is looked at next
	eof  bool
	err  error // of r
	line []byte
}

func (s *scanner) offset() int64 { return s.base + int64(s.pos) }

// fill reads until there are n bytes from pos on. False: the part ends before, or s.err.
func (s *scanner) fill(n int) bool {
	for len(s.buf)-s.pos < n && !s.eof && s.err == nil {
		s.read()
	}
	return len(s.buf)-s.pos >= n
}

func (s *scanner) read() {
	if len(s.buf) == cap(s.buf) {
		kept := s.buf[s.pos:]
		to := s.buf[:0]
		if len(kept) > cap(s.buf)/2 || cap(s.buf) == 0 {
			to = make([]byte, 0, max(minChunk, 2*len(kept)))
		}
		s.base += int64(s.pos)
		s.buf, s.pos = append(to, kept...), 0
	}
	for range 100 {
		n, err := s.r.Read(s.buf[len(s.buf):cap(s.buf)])
		s.buf = s.buf[:len(s.buf)+n]
		switch {
		case errors.Is(err, io.EOF):
			s.eof = true
		case err != nil:
			s.err = err
		case n == 0:
			continue
		}
		return
	}
	s.err = io.ErrNoProgress
}

// found is what stands at one place.
type found struct {
	record Record
	length int    // of the record; also if only its checksum is wrong
	salt   string // "" if its line cannot be read
	bad    string // why there is no record
	newer  uint64 // or it is of this version
}

// The ways in which a record can be wrong.
const (
	noAnnotation = "no annotation where one should be"
	zeros        = "zeros where an annotation should be"
	noVersion    = "an annotation without a version"
	noLineEnd    = "an annotation without an end"
	badLineEnd   = "a line that ends in LF and not in CR LF, as if its line ends had been converted"
	badLine      = "the annotation is damaged"
	badCommand   = "a command is damaged"
	badLength    = "a length is impossible"
	badChecksum  = "the checksum is wrong"
	badVersion   = "the version is damaged"
	incomplete   = "the record is incomplete"
	nothing      = "nothing is in the part"
)

// record reads what stands at pos.
func (s *scanner) record() found {
	s.fill(maxLine) // one byte is there
	text := s.buf[s.pos:min(s.pos+maxLine, len(s.buf))]
	end := bytes.Index(text, []byte(lineEnd))
	if end < 0 {
		switch {
		case text[0] == 0:
			return found{bad: zeros}
		case !bytes.HasPrefix(text, []byte(magic)) && !bytes.HasPrefix([]byte(magic), text):
			return found{bad: noAnnotation}
		case bytes.IndexByte(text, '\n') >= 0:
			return found{bad: badLineEnd}
		case len(text) < maxLine:
			return found{bad: incomplete}
		}
		return found{bad: noLineEnd}
	}
	s.line = append(s.line[:0], text[:end]...) // buf moves when more is read
	l, bad := parseVersion(s.line)
	if bad != "" {
		return found{bad: bad}
	}
	bad = l.parse()
	switch {
	case l.version > version && bad != "":
		return found{newer: l.version}
	case bad != "":
		return found{bad: bad}
	}
	f := found{record: l.record, salt: s.salt}
	if string(l.salt) != s.salt {
		f.salt = string(l.salt)
	}
	switch f.record.Op {
	case Transaction: // its parts have them
	case Opened:
		f.record.Stamp = string(l.stamp)
		f.record.List = f.record.Stamp
	default:
		f.record.Stamp = string(l.stamp)
	}
	c := commands{s: s, at: end + len(lineEnd)}
	whole, parts := c.read(&f.record, l.parts)
	if c.bad != "" {
		f.bad = c.bad
	} else {
		f.length = c.at
		// The version counts as that of its kind: if the checksum is right then, it was a damaged
		// digit that said otherwise.
		own := f.record.Op.version()
		crc := crc32.Checksum(append([]byte(magic), own), castagnoli)
		crc = crc32.Update(crc, castagnoli, l.rest)
		crc = crc32.Update(crc, castagnoli, s.buf[s.pos+end+len(lineEnd):s.pos+c.at])
		switch {
		case crc != l.crc:
			f.bad = badChecksum
		case l.version != uint64(own-'0'):
			f.bad = badVersion
		}
	}
	if l.version > version && f.bad != badVersion {
		return found{newer: l.version}
	}
	if f.bad == "" {
		c.take(&f.record, whole)
		for i := range parts {
			c.take(&f.record.Parts[i], parts[i])
		}
	}
	return f
}

// seekLine moves pos from where it is to the next annotation that may begin a record of this part,
// or to the end. It need not begin a line: the end of the line before may be what is damaged. It
// returns how many annotations it has come to, those with another salt included.
func (s *scanner) seekLine() (met int) {
	s.pos++
	for {
		if at := bytes.Index(s.buf[s.pos:], []byte(magic)); at >= 0 {
			s.pos += at
			met++
			if s.salt == "" || s.isLine(0, s.salt) {
				return met
			}
			s.pos++
			continue
		}
		if s.eof || s.err != nil {
			s.pos = len(s.buf)
			return met
		}
		s.pos = max(s.pos, len(s.buf)-len(magic)+1)
		s.read()
	}
}

// stands is whether text stands at a distance from pos.
func (s *scanner) stands(distance int, text string) bool {
	return s.fill(distance+len(text)) && string(s.buf[s.pos+distance:][:len(text)]) == text
}

// isLine is whether a line of a part with this salt stands at a distance from pos.
func (s *scanner) isLine(distance int, salt string) bool {
	return s.stands(distance, magic+"1 "+salt+" ") || s.stands(distance, magic+"2 "+salt+" ") || s.stands(distance, magic+"3 "+salt+" ")
}

// commands reads the commands of a record, from at on, counted from the scanner's pos.
type commands struct {
	s   *scanner
	at  int
	bad string // what was wrong first; then all else does nothing
}

// content is where the key, the value and the commands of a record are.
type content struct {
	key, value span
	words      [][]span // of each command of Operations, without the key
}

// span is a stretch of the buffer, counted from the scanner's pos.
type span struct{ from, to int }

// read reads what r, which is without them, needs, of a Transaction so many parts. It fills in the Expires, and the Parts without their
// content.
func (c *commands) read(r *Record, n int) (whole content, parts []content) {
	switch r.Op {
	case Set, Del, Operations, Transaction:
	case Settle, Opened, skip:
		return whole, nil
	}
	if c.is(selHead) {
		if c.number() != int64(r.DB) {
			c.fail(badCommand)
		}
	}
	if r.Op == Operations {
		several := c.is(multi)
		whole = c.operations(func(read int) bool { return !several && read == 1 || several && read > 0 && c.is(execute) })
		if several && len(whole.words) < 2 {
			c.fail(badCommand) // there is one way to write a record
		}
		return whole, nil
	}
	if r.Op != Transaction {
		return c.one(r), nil
	}
	c.literal(multi)
	for len(parts) < n && c.bad == "" {
		part := c.part()
		part.DB = r.DB
		parts = append(parts, c.one(&part))
		r.Parts = append(r.Parts, part)
	}
	c.literal(execute)
	return whole, parts
}

// part consumes the line of a part of a Transaction.
func (c *commands) part() Record {
	c.literal(partMagic)
	if c.bad != "" {
		return Record{}
	}
	c.s.fill(c.at + maxLine)
	text := c.s.buf[c.s.pos+c.at : min(c.s.pos+c.at+maxLine, len(c.s.buf))]
	end := bytes.Index(text, []byte(lineEnd))
	if end < 0 {
		if len(text) < maxLine {
			c.fail(incomplete)
		}
		c.fail(badLine)
		return Record{}
	}
	r, ok := parsePart(text[:end])
	if !ok {
		c.fail(badLine)
	}
	c.at += end + len(lineEnd)
	return r
}

// one consumes the commands of a record, those of Operations as a part of a Transaction has them.
func (c *commands) one(r *Record) (has content) {
	switch r.Op {
	case Set:
		c.literal(setHead)
		has.key, has.value = c.bulk(), c.bulk()
		c.literal(pxat)
		if r.Expires = c.number(); r.Expires <= 0 {
			c.fail(badCommand)
		}
	case Del:
		c.literal(delHead)
		has.key = c.bulk()
	case Operations:
		has = c.operations(func(read int) bool { return read > 0 && (c.s.stands(c.at, partMagic) || c.s.stands(c.at, execute)) })
	case Settle, Opened, Transaction, skip:
	}
	return has
}

// take fills in the strings of a record, once its checksum was right.
func (c *commands) take(r *Record, has content) {
	r.Key, r.Value = c.text(has.key), c.text(has.value)
	for _, words := range has.words {
		command := make([]string, len(words))
		for i, word := range words {
			command[i] = c.text(word)
		}
		r.Commands = append(r.Commands, command)
	}
}

// operations consumes commands that all have the same key, until ended, which gets how many there were.
func (c *commands) operations(ended func(read int) bool) (has content) {
	for c.bad == "" && !ended(len(has.words)) {
		n := c.count()
		if c.bad == "" && (n < 2 || n > maxWords+1 || len(has.words) == maxCommands) {
			c.fail(badCommand)
			break
		}
		words := make([]span, 0, min(n, 16))
		for i := int64(0); i < n && c.bad == ""; i++ {
			word := c.bulk()
			switch {
			case i != 1:
				words = append(words, word)
			case len(has.words) == 0:
				has.key = word
			case c.text(word) != c.text(has.key):
				c.fail(badCommand)
			}
		}
		if c.bad == "" && !validName(c.text(words[0])) {
			c.fail(badCommand)
		}
		has.words = append(has.words, words)
	}
	return has
}

// text is what a span holds.
func (c *commands) text(s span) string { return string(c.s.buf[c.s.pos+s.from : c.s.pos+s.to]) }

// count consumes how many words a command has.
func (c *commands) count() int64 {
	const longest = len("*1048577\r\n")
	if c.bad != "" {
		return 0
	}
	c.s.fill(c.at + longest)
	head := c.s.buf[min(c.s.pos+c.at, len(c.s.buf)):min(c.s.pos+c.at+longest, len(c.s.buf))]
	end := bytes.Index(head, []byte(lineEnd))
	switch {
	case len(head) > 0 && head[0] != '*' || end < 0 && len(head) == longest:
		c.fail(badCommand)
		return 0
	case end < 0:
		c.fail(incomplete)
		return 0
	}
	n, ok := parseUint(head[1:end])
	if !ok || n > maxWords+1 {
		c.fail(badCommand)
		return 0
	}
	c.at += end + len(lineEnd)
	return int64(n)
}

func (c *commands) fail(bad string) {
	if c.bad == "" {
		c.bad = bad
	}
}

// is consumes text if it stands there.
func (c *commands) is(text string) bool {
	if c.bad != "" || !c.s.stands(c.at, text) {
		return false
	}
	c.at += len(text)
	return true
}

func (c *commands) literal(text string) {
	if c.bad != "" || c.is(text) {
		return
	}
	if rest := c.s.buf[c.s.pos+c.at:]; len(rest) < len(text) && string(rest) == text[:len(rest)] {
		c.fail(incomplete)
	}
	c.fail(badCommand)
}

// bulk consumes a string.
func (c *commands) bulk() span {
	const longest = len("$18446744073709551615\r\n")
	if c.bad != "" {
		return span{}
	}
	c.s.fill(c.at + longest)
	head := c.s.buf[min(c.s.pos+c.at, len(c.s.buf)):min(c.s.pos+c.at+longest, len(c.s.buf))]
	end := bytes.Index(head, []byte(lineEnd))
	switch {
	case len(head) > 0 && head[0] != '$':
		c.fail(badCommand)
		return span{}
	case end < 0 && len(head) < longest:
		c.fail(incomplete)
		return span{}
	case end < 0:
		c.fail(badLength)
		return span{}
	}
	length, ok := parseUint(head[1:end])
	from := c.at + end + len(lineEnd)
	if !ok || length > uint64(max(0, c.s.max-int64(from))) {
		c.fail(badLength)
		return span{}
	}
	to := from + int(length)
	if !c.s.fill(to + len(lineEnd)) {
		c.fail(incomplete)
		return span{}
	}
	c.at = to
	c.literal(lineEnd)
	return span{from, to}
}

// number consumes a string that is a number.
func (c *commands) number() int64 {
	text := c.bulk()
	if c.bad != "" {
		return 0
	}
	n, ok := parseInt(c.s.buf[c.s.pos+text.from : c.s.pos+text.to])
	if !ok {
		c.fail(badCommand)
	}
	return n
}
