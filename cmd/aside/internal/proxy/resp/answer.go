package resp

import (
	"strconv"
	"strings"
)

// The replies, in the client's version of the protocol.

func (c *conn) ok() { _, _ = c.w.WriteString("+OK\r\n") }

// bulk writes a string. A long one is not copied as a whole.
func (c *conn) bulk(s string) {
	c.line('$', int64(len(s)))
	_, _ = c.w.WriteString(s)
	_, _ = c.w.WriteString("\r\n")
}

func (c *conn) int(n int64) { c.line(':', n) }

// line writes a kind of reply, and a number.
func (c *conn) line(kind byte, n int64) {
	_ = c.w.WriteByte(kind)
	_, _ = c.w.Write(strconv.AppendInt(c.w.AvailableBuffer(), n, 10))
	_, _ = c.w.WriteString("\r\n")
}

// array begins a list of n replies.
func (c *conn) array(n int) { c.line('*', int64(n)) }

// mapping begins n pairs of replies: a name and a value.
func (c *conn) mapping(n int) {
	if c.resp3 {
		c.line('%', int64(n))
		return
	}
	c.array(2 * n)
}

// setOf begins a set of n replies.
func (c *conn) setOf(n int) {
	if c.resp3 {
		c.line('~', int64(n))
		return
	}
	c.array(n)
}

// text writes a string that is meant to be read by people.
func (c *conn) text(s string) {
	if !c.resp3 {
		c.bulk(s)
		return
	}
	_, _ = c.w.WriteString("=" + strconv.Itoa(len(s)+4) + "\r\ntxt:")
	_, _ = c.w.WriteString(s)
	_, _ = c.w.WriteString("\r\n")
}

func (c *conn) null() {
	if c.resp3 {
		_, _ = c.w.WriteString("_\r\n")
		return
	}
	_, _ = c.w.WriteString("$-1\r\n")
}

// simple writes a reply of one line.
func (c *conn) simple(s string) {
	_ = c.w.WriteByte('+')
	_, _ = c.w.WriteString(oneLine.Replace(s))
	_, _ = c.w.WriteString("\r\n")
}

// flushReply passes a reply on to out, as long as mute says whether it is for anybody.
func (c *conn) flushReply() { _ = c.w.Flush() }

func (c *conn) strings(all []string) {
	c.array(len(all))
	for _, s := range all {
		c.bulk(s)
	}
}

// error writes an error reply: a word in upper case, and a text, which may hold what a client has
// sent.
func (c *conn) error(text string) {
	c.failed = true
	c.degraded = strings.HasPrefix(text, degradedReply)
	_ = c.w.WriteByte('-')
	_, _ = c.w.WriteString(oneLine.Replace(text))
	_, _ = c.w.WriteString("\r\n")
}

var oneLine = strings.NewReplacer("\r", " ", "\n", " ")
