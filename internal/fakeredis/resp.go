package fakeredis

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// An answer is a string (bulk), an int64, nil, an []any of answers, or one of these.
type (
	status   string   // such as OK
	failure  string   // an error: what stands behind the minus
	verbatim string   // a text, where the client speaks RESP3
	pairs    []any    // a map, where it does: key, value, …
	push     []string // of an invalidated key; nil: of all
)

// Error makes it an error of those that ask the server from within the process.
func (f failure) Error() string { return string(f) }

const (
	okay      = status("OK")
	wrongType = failure("WRONGTYPE Operation against a key holding the wrong kind of value")
	syntax    = failure("ERR syntax error")
	notNumber = failure("ERR value is not an integer or out of range")
	isFull    = failure("OOM command not allowed when used memory > 'maxmemory'.")
)

// appendAnswer appends an answer as a client reads it that speaks this version of the protocol.
func appendAnswer(b []byte, answer any, resp int) []byte {
	line := func(kind byte, text string) []byte {
		return append(append(append(b, kind), text...), "\r\n"...)
	}
	list := func(kind byte, n int, elements []any) []byte {
		b = line(kind, strconv.Itoa(n))
		for _, element := range elements {
			b = appendAnswer(b, element, resp)
		}
		return b
	}
	switch v := answer.(type) {
	case nil:
		if resp < 3 {
			return line('$', "-1")
		}
		return line('_', "")
	case string:
		return append(append(line('$', strconv.Itoa(len(v))), v...), "\r\n"...)
	case verbatim:
		if resp < 3 {
			return appendAnswer(b, string(v), resp)
		}
		return append(append(line('=', strconv.Itoa(len(v)+4)), "txt:"+v...), "\r\n"...)
	case int64:
		return line(':', strconv.FormatInt(v, 10))
	case status:
		return line('+', string(v))
	case failure:
		return line('-', strings.NewReplacer("\r", " ", "\n", " ").Replace(string(v)))
	case []any:
		return list('*', len(v), v)
	case pairs:
		if resp < 3 {
			return list('*', len(v), v)
		}
		return list('%', len(v)/2, v)
	case push:
		if v == nil {
			return list('>', 2, []any{"invalidate", nil})
		}
		keys := make([]any, len(v))
		for i, key := range v {
			keys[i] = key
		}
		return list('>', 2, []any{"invalidate", keys})
	default:
		panic(fmt.Sprintf("fakeredis: an answer of type %T", answer))
	}
}

// The most that a command may have, as Redis has it.
const (
	mostArgs   = 1 << 20
	longestArg = 512 << 20
)

// readCommand reads the next command. An error that is a failure is to be answered before the
// connection is closed.
func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readHead(r, '*', mostArgs)
	if err != nil || n == 0 {
		return nil, err
	}
	args := make([]string, n)
	for i := range args {
		size, err := readHead(r, '$', longestArg)
		if err != nil {
			return nil, err
		}
		arg := make([]byte, size+2)
		if _, err := io.ReadFull(r, arg); err != nil {
			return nil, err
		}
		args[i] = string(arg[:size])
	}
	return args, nil
}

// readHead reads a line that is of this kind and has a number up to most.
func readHead(r *bufio.Reader, kind byte, most int) (int, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return 0, failure("ERR Protocol error: too big count string")
	}
	if err != nil {
		return 0, err
	}
	text := strings.TrimRight(string(line), "\r\n")
	if text == "" || text[0] != kind {
		return 0, failure(fmt.Sprintf("ERR Protocol error: expected '%c', got %q", kind, text))
	}
	n, err := strconv.Atoi(text[1:])
	if err != nil || n < 0 || n > most {
		return 0, failure("ERR Protocol error: invalid bulk length")
	}
	return n, nil
}
