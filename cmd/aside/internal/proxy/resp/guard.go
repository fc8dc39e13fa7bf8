package resp

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unsafe"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// A request is an array of bulk strings, or a line:
//
//	*2\r\n $3\r\n GET\r\n $3\r\n key\r\n        (without the spaces)
//	GET key\r\n
//
// Bytes that are not end the connection, with Redis's own error. A request that is too large is
// read away, a buffer at a time, and answered with an error; what is larger than Redis itself would
// take ends the connection. A length is a claim: memory is taken for what has arrived, and at most
// as much again.
const (
	maxLine      = 64 << 10 // of an inline command, and of a line that says a length; as Redis
	maxArgs      = 1 << 20
	argBytes     = 16 // what a string costs, beside its bytes, towards limits.request
	firstBuffer  = 1 << 10
	usualBuffer  = 16 << 10 // for a connection that sends more at once than the first buffer takes
	trustedBytes = 4 << 10  // what is allocated at a client's word
	keptArgs     = 1 << 10  // an argument list longer than this is not kept for the next request

	mostBulk    = 512 << 20 // bytes of a string; as Redis
	mostRequest = 1 << 30   // bytes of a request; as Redis

	strangerArgs  = 10       // of a client that has yet to log in; as Redis
	strangerBytes = 16 << 10 // likewise
)

type limits struct {
	bulk    int // bytes of a string that is held
	request int // bytes of a request that is held
}

// protocolError ends a connection, and says why.
type protocolError string

func (e protocolError) Error() string { return "Protocol error: " + string(e) }

// guard reads requests. Not safe for concurrent use.
type guard struct {
	source io.Reader
	wait   func() error                // called before each read from source
	intern func([]byte) (string, bool) // names that need no allocation
	limits limits

	stranger bool // has yet to log in

	buf  []byte
	r, w int  // buf[r:w] has arrived and is not used yet
	full bool // the last read took all the room there was

	share proxy.Share // of what all connections may receive; held until the next request begins

	amid    bool // a request has begun to arrive, and not ended
	args    []string
	known   bool   // args[0] is what intern has returned
	refusal string // the request was read away, and this is the answer; "": it is there
}

// next returns the next request that is not empty; it is the caller's until the next call. Of one
// that was refused there is its name at most. The error is a protocolError, or the source's;
// io.ErrUnexpectedEOF if it has ended amid a request.
func (g *guard) next() ([]string, error) {
	clear(g.args)
	if cap(g.args) > keptArgs {
		g.args = nil
	}
	g.args, g.known, g.refusal = g.args[:0], false, ""
	g.share.End()
	for len(g.args) == 0 && g.refusal == "" {
		g.amid = false
		if g.r == g.w {
			if err := g.fill(); err != nil {
				return nil, err
			}
		}
		g.amid = true
		var err error
		if g.buf[g.r] == '*' {
			err = g.array()
		} else {
			err = g.inline()
		}
		if err == io.EOF { //nolint:errorlint // it is our own read's; a wrapped one would be something else
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
	}
	return g.args, nil
}

func (g *guard) array() error {
	header, err := g.line("too big mbulk count string")
	if err != nil {
		return err
	}
	n, ok := number(header[1:])
	switch {
	case !ok || n > maxArgs:
		return protocolError("invalid multibulk length")
	case n > strangerArgs && g.stranger:
		return protocolError("unauthenticated multibulk length")
	}
	sum := int64(0)
	for ; n > 0; n-- {
		header, err := g.line("too big bulk count string")
		if err != nil {
			return err
		}
		if len(header) == 0 || header[0] != '$' {
			got := byte('\r')
			if len(header) > 0 {
				got = header[0]
			}
			return protocolError(fmt.Sprintf("expected '$', got '%c'", got))
		}
		size, ok := number(header[1:])
		switch {
		case !ok || size < 0 || size > int64(max(mostBulk, g.limits.bulk)):
			return protocolError("invalid bulk length")
		case size > strangerBytes && g.stranger:
			return protocolError("unauthenticated bulk length")
		}
		sum += size + argBytes
		switch {
		case sum > int64(max(mostRequest, g.limits.request)):
			return protocolError("the request is larger than " + strconv.Itoa(max(mostRequest, g.limits.request)) + " bytes")
		case g.refusal != "":
		case size > int64(g.limits.bulk):
			g.refuse(fmt.Sprintf("ERR a string of %d bytes is too large: the longest is of %d bytes (service.max_value_bytes); nothing was done", size, g.limits.bulk))
		case sum > int64(g.limits.request):
			g.refuse(fmt.Sprintf("ERR the request is too large: its strings may have %d bytes in sum; nothing was done, send fewer at once", g.limits.request))
		case !g.share.Hold(argBytes):
			g.refuse(tooMuchAtOnce)
		}
		if err := g.bulk(int(size)); err != nil {
			return err
		}
	}
	return nil
}

const tooMuchAtOnce = "ASIDEBUSY all clients together are sending more than may be received at once (service.max_receiving_bytes): nothing was done, try again"

// refuse has the rest of the request read away.
func (g *guard) refuse(answer string) {
	g.refusal = answer
	if len(g.args) > 1 {
		clear(g.args[1:])
		g.args = g.args[:1]
	}
	g.share.End()
}

func (g *guard) inline() error {
	line, err := g.line("too big inline request")
	if err != nil {
		return err
	}
	args, ok := splitInline(line, g.args)
	if !ok {
		return protocolError("unbalanced quotes in request")
	}
	if g.args = args; len(args) == 0 {
		return nil
	}
	// A browser was made to send this (an HTTP request), and would go on with what the page wants
	// us to do.
	if strings.EqualFold(args[0], "POST") || strings.EqualFold(args[0], "Host:") {
		return protocolError("this is not an HTTP server")
	}
	if name, ok := g.intern([]byte(args[0])); ok {
		args[0], g.known = name, true
	}
	return nil
}

// line returns the bytes up to the end of the line, without it; they are in buf, and gone with the
// next read.
func (g *guard) line(tooLong string) ([]byte, error) {
	for looked := 0; ; {
		if i := bytes.IndexByte(g.buf[g.r+looked:g.w], '\n'); i >= 0 {
			i += g.r + looked
			line := g.buf[g.r:i]
			if len(line) > maxLine {
				return nil, protocolError(tooLong)
			}
			g.r = i + 1
			if n := len(line); n > 0 && line[n-1] == '\r' {
				line = line[:n-1]
			}
			return line, nil
		}
		if looked = g.w - g.r; looked > maxLine {
			return nil, protocolError(tooLong)
		}
		if err := g.fill(); err != nil {
			return nil, err
		}
	}
}

// bulk appends the next n bytes, which a line's end must follow, to args, or reads them away.
func (g *guard) bulk(n int) error {
	if g.refusal == "" && g.w-g.r >= n {
		if g.share.Hold(n) {
			if arrived := g.buf[g.r : g.r+n]; len(g.args) > 0 {
				g.args = append(g.args, string(arrived))
			} else {
				g.name(arrived)
			}
			g.r += n
			return g.endOfBulk()
		}
		g.refuse(tooMuchAtOnce)
	}
	var arg []byte
	for left := n; left > 0; {
		if g.r == g.w {
			if err := g.fill(); err != nil {
				return err
			}
		}
		take := min(left, g.w-g.r)
		if g.refusal == "" && cap(arg)-len(arg) < take {
			room := min(n, max(trustedBytes, 2*(len(arg)+take)))
			if g.share.Hold(room - cap(arg)) {
				arg = append(make([]byte, 0, room), arg...)
			} else {
				g.refuse(tooMuchAtOnce)
			}
		}
		if g.refusal == "" {
			arg = append(arg, g.buf[g.r:g.r+take]...)
		} else {
			arg = nil
		}
		g.r += take
		left -= take
	}
	switch {
	case g.refusal != "":
	case len(g.args) == 0:
		g.name(arg)
	default:
		g.args = append(g.args, unsafe.String(unsafe.SliceData(arg), len(arg))) // nobody else has arg
	}
	return g.endOfBulk()
}

func (g *guard) endOfBulk() error {
	for g.w-g.r < 2 {
		if err := g.fill(); err != nil {
			return err
		}
	}
	// Redis does not look. With a wrong length we would take a value's content for commands.
	if g.buf[g.r] != '\r' || g.buf[g.r+1] != '\n' {
		return protocolError("expected the end of a line after a bulk string")
	}
	g.r += 2
	return nil
}

// name makes a word the first of args.
func (g *guard) name(word []byte) {
	name, ok := g.intern(word)
	if !ok {
		name = string(word)
	}
	g.args, g.known = append(g.args, name), ok
}

// fill reads at least one byte more.
func (g *guard) fill() error {
	switch {
	case g.r == g.w:
		g.r, g.w = 0, 0
		if size := len(g.buf); size == 0 {
			g.buf = make([]byte, firstBuffer)
		} else if g.full && size < usualBuffer {
			g.buf = make([]byte, 4*size)
		}
	case g.w < len(g.buf):
	case g.r > 0:
		g.w = copy(g.buf, g.buf[g.r:])
		g.r = 0
	default: // a line that goes on
		buf := make([]byte, 2*len(g.buf))
		copy(buf, g.buf)
		g.buf = buf
	}
	if err := g.wait(); err != nil {
		return err
	}
	for range 100 { // as bufio: a reader that says nothing for so long is broken
		n, err := g.source.Read(g.buf[g.w:])
		g.w += n
		g.full = g.w == len(g.buf)
		if n > 0 {
			return nil // an error will come again
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// number reads an integer as Redis does: no plus, no zeros before it, nothing beside it.
func number[T string | []byte](s T) (int64, bool) {
	if len(s) == 0 || len(s) > 20 {
		return 0, false
	}
	digits := s
	if s[0] == '-' {
		digits = s[1:]
	}
	if len(digits) == 0 || digits[0] == '0' && len(s) > 1 {
		return 0, false
	}
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return 0, false
		}
	}
	if len(digits) > 18 { // may overflow
		n, err := strconv.ParseInt(string(s), 10, 64)
		return n, err == nil
	}
	var n int64
	for i := range len(digits) {
		n = 10*n + int64(digits[i]-'0')
	}
	if s[0] == '-' {
		n = -n
	}
	return n, true
}
