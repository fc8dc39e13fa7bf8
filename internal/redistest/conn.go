package redistest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// ReplyError is an error that the server answered with, such as "WRONGTYPE Operation against …".
type ReplyError string

func (e ReplyError) Error() string { return string(e) }

// conn is a RESP2 connection that does one thing at a time. It is not rueidis, so that what a test
// looks at a server with shares nothing with what the test is about: no pool, no retry, no
// tracking, no cluster redirection.
type conn struct {
	net.Conn
	r *bufio.Reader
}

// dial connects, authenticates, and gives everything on the connection until a deadline.
func (s settings) dial(addr string) (*conn, error) {
	deadline := time.Now().Add(answerWithin)
	nc, err := (&net.Dialer{Deadline: deadline}).Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = nc.SetDeadline(deadline)
	if s.clientTLS != nil {
		nc = tls.Client(nc, s.clientTLS)
	}
	c := &conn{nc, bufio.NewReader(nc)}
	if s.password != "" {
		if _, err := c.do("AUTH", s.password); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	return c, nil
}

// do sends one command on a connection of its own.
func (s settings) do(addr string, args ...any) (any, error) {
	c, err := s.dial(addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.do(args...)
}

// info is the server's INFO, or a section of it, by field.
func (s settings) info(addr string, section ...any) (map[string]string, error) {
	reply, err := s.do(addr, append([]any{"INFO"}, section...)...)
	if err != nil {
		return nil, err
	}
	return fields(reply), nil
}

// fields reads lines of name:value; none if the reply is something else.
func fields(reply any) map[string]string {
	list := map[string]string{}
	text, _ := reply.(string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			list[name] = value
		}
	}
	return list
}

// inSync is whether a reply to ROLE is that of a primary, or of a replica that has all its primary
// has.
func inSync(role any) bool {
	row, _ := role.([]any)
	return len(row) > 0 && (row[0] == "master" || row[0] == "slave" && row[3] == "connected")
}

func (c *conn) do(args ...any) (any, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		s, ok := arg.([]byte)
		if !ok {
			s = fmt.Append(nil, arg)
		}
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(s), s)
	}
	if _, err := c.Write(b.Bytes()); err != nil {
		return nil, err
	}
	return c.reply()
}

func (c *conn) reply() (any, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	kind, line := line[0], strings.TrimSpace(line[1:])
	switch kind {
	case '+':
		return line, nil
	case '-':
		return nil, ReplyError(line)
	}
	n, err := strconv.ParseInt(line, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("not a RESP2 reply: %q", string(kind)+line)
	}
	switch {
	case kind == ':':
		return n, nil
	case n < 0:
		return nil, nil
	case kind == '$':
		payload := make([]byte, n+2)
		_, err := io.ReadFull(c.r, payload)
		return string(payload[:n]), err
	case kind == '*':
		list := make([]any, n)
		for i := range list {
			item, err := c.reply()
			if _, isReply := errors.AsType[ReplyError](err); isReply { // as in the reply of EXEC: an element like others
				item, err = err, nil
			}
			if err != nil {
				return nil, err
			}
			list[i] = item
		}
		return list, nil
	}
	return nil, fmt.Errorf("not a RESP2 reply: %q", string(kind)+line)
}
