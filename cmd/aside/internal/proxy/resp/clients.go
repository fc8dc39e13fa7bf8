package resp

import (
	"strings"
	"time"
)

// What a client does to others: of the proxy's clients, which are not Redis's.

// killClients is CLIENT KILL with what stands behind it: an address, or conditions that must all
// hold.
func (c *conn) killClients(args []string) {
	switch len(args) {
	case 0:
		c.error(wrongNumber("client|kill"))
		return
	case 1:
		if c.endClients(func(other *conn) bool { return other.net.RemoteAddr().String() == args[0] }) == 0 {
			c.error("ERR No such client")
			return
		}
		c.ok()
		return
	}
	var conditions []func(other *conn) bool
	spares := true
	for ; len(args) > 1; args = args[2:] {
		value := args[1]
		var condition func(other *conn) bool
		switch strings.ToUpper(args[0]) {
		case "ID":
			id, ok := number(value)
			if !ok || id < 1 {
				c.error("ERR client-id should be greater than 0")
				return
			}
			condition = func(other *conn) bool { return other.id == id }
		case "ADDR":
			condition = func(other *conn) bool { return other.net.RemoteAddr().String() == value }
		case "LADDR":
			condition = func(other *conn) bool { return other.net.LocalAddr().String() == value }
		case "TYPE":
			switch strings.ToLower(value) {
			case "normal":
				condition = func(*conn) bool { return true }
			case "master", "replica", "slave", "pubsub":
				condition = func(*conn) bool { return false }
			default:
				c.error("ERR Unknown client type '" + value + "'")
				return
			}
		case "USER":
			if value != "default" {
				c.error("ERR No such user '" + value + "'")
				return
			}
			condition = func(*conn) bool { return true }
		case "MAXAGE":
			seconds, ok := number(value)
			if !ok {
				c.error(notInteger)
				return
			}
			condition = func(other *conn) bool { return time.Since(other.since) >= time.Duration(seconds)*time.Second }
		case "SKIPME":
			switch strings.ToLower(value) {
			case "yes", "no":
				spares = strings.EqualFold(value, "yes")
			default:
				c.error(syntaxError)
				return
			}
			continue
		default:
			c.error(syntaxError)
			return
		}
		conditions = append(conditions, condition)
	}
	if len(args) > 0 {
		c.error(syntaxError)
		return
	}
	c.int(c.endClients(func(other *conn) bool {
		if other == c && spares {
			return false
		}
		for _, condition := range conditions {
			if !condition(other) {
				return false
			}
		}
		return true
	}))
}

// endClients ends the connections of clients, this one behind its reply, and returns how many.
func (c *conn) endClients(which func(other *conn) bool) (n int64) {
	for _, other := range c.server.connected() {
		switch {
		case !which(other):
			continue
		case other == c:
			c.closing = true
		default:
			other.net.Close() // its goroutine sees it
		}
		n++
	}
	return n
}

// unblock is CLIENT UNBLOCK with what stands behind it. Redis knows the connection on which the
// client waits.
func (c *conn) unblock(args []string) {
	how := "TIMEOUT"
	if len(args) == 2 {
		how = strings.ToUpper(args[1])
	}
	if len(args) < 1 || len(args) > 2 {
		c.error(wrongNumber("client|unblock"))
		return
	}
	id, ok := number(args[0])
	switch {
	case !ok:
		c.error(notInteger)
		return
	case how != "TIMEOUT" && how != "ERROR":
		c.error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
		return
	}
	for _, other := range c.server.connected() {
		own := other.blocked.Load()
		if other.id != id || own == nil {
			continue
		}
		reply, err := c.server.pool.Unblock(c.ctx, own, how, c.inTime())
		if err != nil {
			c.failWrite(err)
			return
		}
		c.failed = reply[0] == '-'
		_, _ = c.w.Write(reply)
		return
	}
	c.int(0)
}
