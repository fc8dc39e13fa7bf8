package resp

import (
	"strconv"
	"strings"
)

// The replies, in the client's version of the protocol. Those that are asked for most are written
// without the library's Fprintf.

func (c *conn) ok() { _, _ = c.w.WriteString("+OK\r\n") }

// bulk writes a string. A long one is not copied as a whole.
func (c *conn) bulk(s string) {
	_ = c.w.WriteByte('$')
	_, _ = c.w.Write(strconv.AppendInt(c.w.AvailableBuffer(), int64(len(s)), 10))
	_, _ = c.w.WriteString("\r\n")
	_, _ = c.w.WriteString(s)
	_, _ = c.w.WriteString("\r\n")
}

func (c *conn) int(n int64) {
	_ = c.w.WriteByte(':')
	_, _ = c.w.Write(strconv.AppendInt(c.w.AvailableBuffer(), n, 10))
	_, _ = c.w.WriteString("\r\n")
}

// text writes a string that is meant to be read by people.
func (c *conn) text(s string) {
	if !c.peer.Resp3 {
		c.bulk(s)
		return
	}
	_, _ = c.w.WriteString("=" + strconv.Itoa(len(s)+4) + "\r\ntxt:")
	_, _ = c.w.WriteString(s)
	_, _ = c.w.WriteString("\r\n")
}

func (c *conn) null()           { c.peer.WriteNull() }
func (c *conn) simple(s string) { c.peer.WriteInline(s) }

func (c *conn) strings(all []string) {
	c.peer.WriteLen(len(all))
	for _, s := range all {
		c.bulk(s)
	}
}

// error writes an error reply: a word in upper case, and a text, which may hold what a client has
// sent. The library's WriteError would change what is no UTF-8.
func (c *conn) error(text string) {
	c.failed = true
	c.degraded = strings.HasPrefix(text, degradedReply)
	_ = c.w.WriteByte('-')
	_, _ = c.w.WriteString(oneLine.Replace(text))
	_, _ = c.w.WriteString("\r\n")
}

var oneLine = strings.NewReplacer("\r", " ", "\n", " ")
