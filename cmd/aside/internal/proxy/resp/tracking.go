package resp

import (
	"slices"
	"strings"
	"sync"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

// CLIENT TRACKING before a Redis Cluster. A client that tracks is not connected through: it has connections that track
// at each node (upstream.Tracking), and is answered nothing from memory, as Redis must see what it reads. What the nodes
// push comes at any time, on other goroutines than the client's. A client that hears of a change before it gets
// the older reply would keep that, so what is pushed while its commands are at work waits until their replies are sent:
//
//	GET k → node; k=1 comes; k is changed; >invalidate k comes     the client gets: 1, then >invalidate k
//
// OPTIN and OPTOUT say which of what is read is to be tracked. Here all is: a client hears of more than it must.

// tracking is what a client is to be told beside replies. Safe for concurrent use.
type tracking struct {
	mode   string // OPTIN, OPTOUT or ""; immutable, as what follows
	noLoop bool

	mu    sync.Mutex // guards what follows; held while what is pushed is written
	queue []byte     // waits for the client's goroutine
	idle  bool       // that writes nothing until it says so; it alone changes this, so it may look without mu
	over  bool       // nothing more is for the client
}

const mostPushed = 1 << 20 // bytes that wait; if there were more, the client forgets all

// track is CLIENT TRACKING with what stands behind it, before a cluster.
func (c *conn) track(args []string) outcome {
	t, text := trackingOf(args)
	switch {
	case text != "":
		return c.refuse(text)
	case t == nil:
		c.settle()
		c.untrack()
		c.ok()
		return answered
	case !c.resp3:
		return c.refuse("ERR CLIENT TRACKING before a Redis Cluster needs RESP3, as nothing is redirected (HELLO 3)")
	case c.transaction.watching || c.transaction.lost:
		return c.refuse("ERR CLIENT TRACKING is not served while keys are watched")
	}
	c.settle()
	var options []string
	if t.noLoop {
		options = append(options, "NOLOOP")
	}
	var login *upstream.Login
	err := c.during(func() error {
		return c.server.store.Pass(c.ctx, proxy.Passing{}, func() (err error) {
			push := func(raw []byte) {
				if !t.pushed(c, raw) {
					c.net.Close() // its goroutine sees it
				}
			}
			login, err = c.server.pool.Track(c.ctx, c.user, &upstream.Tracking{Options: options, Push: push}, c.anySlot())
			return err
		})
	})
	if err != nil {
		if login != nil {
			login.Close()
		}
		return c.refuse(c.describePassed(err, false))
	}
	if c.tracking != nil { // of what it has read so far it is not told any more
		t.queue = append(t.queue, upstream.Forget...)
	}
	c.endUser()
	c.user, c.tracking = login, t
	c.wire.stalled = func() { // two goroutines cannot read what is ahead: not where a push is written
		if !t.idle {
			c.intake.readAhead()
		}
	}
	c.ok()
	return answered
}

// trackingOf reads what stands behind CLIENT TRACKING; nil for OFF. refusal is the answer to what is not served.
func trackingOf(args []string) (t *tracking, refusal string) {
	if len(args) == 0 {
		return nil, wrongNumber("client|tracking")
	}
	t = new(tracking)
	for _, option := range args[1:] {
		switch option = strings.ToUpper(option); option {
		case "NOLOOP":
			t.noLoop = true
		case "OPTIN", "OPTOUT":
			if t.mode != "" && t.mode != option {
				return nil, "ERR You can't use both OPTIN and OPTOUT modes"
			}
			t.mode = option
		case "BCAST", "PREFIX":
			return nil, "ERR CLIENT TRACKING with BCAST is not served before a Redis Cluster: while a node cannot be reached, nobody would tell of its keys"
		case "REDIRECT":
			return nil, "ERR CLIENT TRACKING with REDIRECT is not served: the connections to Redis are the proxy's, and not those that CLIENT ID is about"
		default:
			return nil, syntaxError
		}
	}
	switch strings.ToUpper(args[0]) {
	case "ON":
		return t, ""
	case "OFF":
		return nil, ""
	}
	return nil, syntaxError
}

// pushed tells the client what was pushed, now or once its goroutine rests. false: it cannot be told.
func (t *tracking) pushed(c *conn, raw []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.over:
	case t.idle:
		_, err := c.net.Write(raw)
		return err == nil
	case len(t.queue)+len(raw) > mostPushed:
		t.queue = append(t.queue[:0], upstream.Forget...)
	default:
		t.queue = append(t.queue, raw...)
	}
	return true
}

// rests is called when all replies are sent and the client's goroutine is about to wait, for it or for Redis.
func (c *conn) rests() error {
	t := c.tracking
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) > 0 {
		if _, err := c.net.Write(t.queue); err != nil {
			return err
		}
		t.queue = nil
	}
	t.idle = true
	return nil
}

// goesOn is called before the client's goroutine does anything again.
func (c *conn) goesOn() {
	if t := c.tracking; t != nil {
		t.mu.Lock()
		t.idle = false
		t.mu.Unlock()
	}
}

// untrack ends it. The client stays the user that it is.
func (c *conn) untrack() {
	if c.tracking == nil {
		return
	}
	login := c.server.pool.Untracked(c.user)
	c.endUser()
	c.user = login
}

// endTracking is part of endUser.
func (c *conn) endTracking() {
	t := c.tracking
	if t == nil {
		return
	}
	t.mu.Lock()
	t.over, t.queue = true, nil
	t.mu.Unlock()
	c.tracking = nil
	c.wire.stalled = c.intake.readAhead
}

// caching is CLIENT CACHING.
func (c *conn) caching(args []string) {
	t := c.tracking
	switch {
	case len(args) != 1:
		c.error(wrongNumber("client|caching"))
	case t == nil && c.server.inCluster():
		c.error("ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled")
	case t == nil:
		c.error(noTracking)
	case t.mode == "OPTIN" && strings.EqualFold(args[0], "YES"), t.mode == "OPTOUT" && strings.EqualFold(args[0], "NO"):
		c.ok()
	case !slices.Contains([]string{"YES", "NO"}, strings.ToUpper(args[0])):
		c.error(syntaxError)
	default:
		c.error("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode, CLIENT CACHING NO in OPTOUT mode")
	}
}

// trackingInfo is CLIENT TRACKINGINFO.
func (c *conn) trackingInfo() {
	flags, redirect := []string{"off"}, int64(-1)
	if t := c.tracking; t != nil {
		flags, redirect = []string{"on"}, 0
		if t.mode != "" {
			flags = append(flags, strings.ToLower(t.mode))
		}
		if t.noLoop {
			flags = append(flags, "noloop")
		}
	}
	c.mapping(3)
	c.bulk("flags")
	c.setOf(len(flags))
	for _, flag := range flags {
		c.bulk(flag)
	}
	c.bulk("redirect")
	c.int(redirect)
	c.bulk("prefixes")
	c.array(0)
}
