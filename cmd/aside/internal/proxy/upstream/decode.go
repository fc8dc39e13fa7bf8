package upstream

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// decode reads a reply: a string, an int64, an error, nil, or a []any, which a map is, too, each
// name before its value. It returns what stands behind the reply.
func decode(raw []byte) (value any, rest []byte, err error) {
	line, rest, ok := bytes.Cut(raw, []byte("\r\n"))
	if !ok || len(line) == 0 {
		return nil, nil, errProtocol
	}
	text := string(line[1:])
	switch line[0] {
	case '+', ',', '(', '#':
		return text, rest, nil
	case '-':
		return ServerError(text), rest, nil
	case '_':
		return nil, rest, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	switch line[0] {
	case ':':
		return int64(n), rest, nil
	case '$', '=', '!':
		if n < 0 {
			return nil, rest, nil
		}
		if len(rest) < n+2 {
			return nil, nil, errProtocol
		}
		return string(rest[:n]), rest[n+2:], nil
	case '%':
		n *= 2
	case '*', '~', '>':
	default:
		return nil, nil, errProtocol
	}
	if n < 0 {
		return nil, rest, nil
	}
	all := make([]any, 0, min(n, len(rest)))
	for range n {
		var element any
		if element, rest, err = decode(rest); err != nil {
			return nil, nil, err
		}
		all = append(all, element)
	}
	return all, rest, nil
}

// ServerError is an error reply, without the sign before it.
type ServerError string

func (e ServerError) Error() string { return string(e) }

// WrongPass reports whether it refuses a user or its password.
func (e ServerError) WrongPass() bool { return strings.HasPrefix(string(e), "WRONGPASS ") }

// Refused is the error that a reply is which should have been none.
func Refused(reply []byte) error {
	value, _, err := decode(reply)
	if refused, ok := value.(ServerError); ok {
		return refused
	}
	if err == nil {
		err = errProtocol
	}
	return err
}
