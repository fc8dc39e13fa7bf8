package upstream

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

const (
	mostLine  = 1 << 20   // bytes of a line of a reply that is kept: an error holds what a client has sent
	mostBulk  = 512 << 20 // bytes of a string in a reply; as Redis
	bulkPiece = 64 << 10  // is read, or thrown away, at a time
)

// errProtocol means that the server has sent what is no reply.
var errProtocol = errors.New("upstream: the server has sent what is no reply")

// A reply is read as the bytes that it consists of; nothing is decoded but its lengths. A reply
// that is too large is read to its end, and its bytes are dropped.
//
//	$5\r\nhello\r\n          one line, and as many bytes
//	*2\r\n:1\r\n$-1\r\n      one line, and as many replies
//	%1\r\n+a\r\n:1\r\n       twice as many
//	|1\r\n…                  twice as many, and then the reply that they are about
type frameReader struct {
	*bufio.Reader
	share *proxy.Share // what is read is held in it; nil: there is room for all
}

// next appends the next reply to buf. kind is its first byte. tooLarge: its bytes were dropped, and
// buf is as it was.
func (r *frameReader) next(buf []byte) (all []byte, kind byte, tooLarge bool, err error) {
	before := len(buf)
	for left := 1; left > 0; left-- {
		line, err := r.ReadSlice('\n')
		cut := false
		if errors.Is(err, bufio.ErrBufferFull) { // a long line: an error, say
			line, cut, err = r.long(line)
		}
		if err != nil {
			return buf[:before], 0, false, err
		}
		if len(line) < 3 || line[len(line)-2] != '\r' {
			return buf[:before], 0, false, errProtocol
		}
		first := line[0]
		if kind == 0 || kind == '|' && left == 1 { // attributes stand before the reply
			kind = first
		}
		n := 0
		switch first {
		case '$', '=', '!', '*', '~', '>', '%', '|':
			var ok bool
			if n, ok = length(line[1 : len(line)-2]); !ok || cut {
				return buf[:before], 0, false, errProtocol
			}
		case '+', '-', ':', ',', '#', '_', '(':
		default:
			return buf[:before], 0, false, fmt.Errorf("%w: it begins with %q", errProtocol, first)
		}
		if tooLarge = tooLarge || cut || !r.room(len(line)); !tooLarge {
			buf = append(buf, line...)
		}
		switch first {
		case '$', '=', '!':
			if n < 0 {
				break
			}
			if tooLarge = tooLarge || !r.room(n+2); tooLarge {
				_, err = io.CopyN(io.Discard, r.Reader, int64(n+2))
			} else {
				buf, err = r.bulk(buf, n+2)
			}
			if err != nil {
				return buf[:before], 0, false, err
			}
		case '*', '~', '>':
			left += max(n, 0)
		case '%':
			left += 2 * max(n, 0)
		case '|':
			left += 2*max(n, 0) + 1
		}
	}
	if tooLarge {
		buf = buf[:before]
	}
	return buf, kind, tooLarge, nil
}

func (r *frameReader) room(n int) bool { return r.share == nil || r.share.Hold(n) }

// long goes on with a line that is longer than the buffer. cut: it is too long as well, and line is
// its first byte and what stands at its end.
func (r *frameReader) long(begun []byte) (line []byte, cut bool, err error) {
	line = append([]byte(nil), begun...)
	for read := len(line); ; {
		more, err := r.ReadSlice('\n')
		if read += len(more); read > mostBulk {
			return nil, false, errProtocol
		}
		if cut = cut || read > mostLine; cut {
			line = append(line[:1], line[len(line)-1]) // which may be the \r
		}
		line = append(line, more...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, cut, err
		}
	}
}

// bulk appends n bytes. Memory is taken for what has arrived, and at most as much again.
func (r *frameReader) bulk(buf []byte, n int) ([]byte, error) {
	for n > 0 {
		piece := min(n, max(bulkPiece, len(buf)))
		begin := len(buf)
		buf = append(buf, make([]byte, piece)...)
		if _, err := io.ReadFull(r.Reader, buf[begin:]); err != nil {
			return buf[:begin], err
		}
		n -= piece
	}
	return buf, nil
}

// length reads a length; -1 is that of what is not there.
func length(digits []byte) (int, bool) {
	if string(digits) == "-1" {
		return -1, true
	}
	if len(digits) == 0 || len(digits) > 10 {
		return 0, false
	}
	n := 0
	for _, b := range digits {
		if b < '0' || b > '9' {
			return 0, false
		}
		n = 10*n + int(b-'0')
	}
	return n, n <= mostBulk
}

// AppendCommand appends a command as clients send it.
func AppendCommand[S ~[]string](buf []byte, args S) []byte {
	buf = appendLength(buf, '*', len(args))
	for _, arg := range args {
		buf = appendLength(buf, '$', len(arg))
		buf = append(buf, arg...)
		buf = append(buf, '\r', '\n')
	}
	return buf
}

func appendLength(buf []byte, kind byte, n int) []byte {
	buf = append(buf, kind)
	buf = strconv.AppendInt(buf, int64(n), 10)
	return append(buf, '\r', '\n')
}
