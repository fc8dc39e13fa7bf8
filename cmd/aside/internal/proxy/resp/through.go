package resp

import (
	"bytes"
	"errors"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

// What the proxy has in memory and on disk is of one database, and was read by one user. A client
// that selects another database, or logs in as a user of Redis's own, is connected through
// (relay.go): Redis answers everything, by that user's rights, and nothing comes from memory or is
// kept in an outage. Before a Redis Cluster, who has logged in so is not connected through: user.go.

// isElsewhere reports whether args is a SELECT of another database than the proxy's own.
func (c *conn) isElsewhere(args []string) bool {
	if c.server.pool == nil || len(args) != 2 || c.server.inCluster() {
		return false
	}
	n, ok := number(args[1])
	return ok && n >= 0 && n != int64(c.server.options.DB)
}

// selectElsewhere is such a SELECT. If it fails, what follows is refused, see selectDB.
func (c *conn) selectElsewhere(args []string) outcome {
	c.astray = true
	if c.denied(args) {
		return c.refuse(notPassedOn("select"))
	}
	if c.transaction.watching {
		return c.refuse("ERR SELECT of another database is not served while keys are watched")
	}
	c.settle()
	own, err := c.newOwn(nil, 0)
	if err != nil {
		return c.refuse(c.describePassed(err, false))
	}
	var b upstream.Batch
	b.Add(args)
	if err := own.Do(&b, c.inTime()); err != nil {
		own.Close()
		return c.refuse(c.describePassed(err, false))
	}
	if !bytes.Equal(b.Replies, []byte("+OK\r\n")) {
		own.Close()
		return c.refuse(c.describeError(upstream.Refused(b.Replies), false))
	}
	c.astray = false
	c.ok()
	c.through(&relay{own: own, selects: true, elsewhere: true})
	return answered
}

// through connects the client through behind the reply of the command that asks for it, which
// CLIENT REPLY SKIP may be about.
func (c *conn) through(r *relay) {
	c.flushReply()
	c.out.mute = c.silent
	c.startRelay(r)
}

// dialAs logs in a user of Redis's own, and returns its connection; before a cluster there is c.user
// instead. ok: it is logged in; else that was answered.
func (c *conn) dialAs(user, password string, protocol int) (own *upstream.Own, ok bool) {
	if c.denied([]string{"AUTH"}) {
		c.error(notPassedOn("auth"))
		return nil, false
	}
	if !c.server.alive() {
		c.error(c.describeError(proxy.ErrDegraded, false))
		return nil, false
	}
	var login *upstream.Login
	var err error
	if c.server.inCluster() {
		login, err = c.server.pool.Login(c.ctx, protocol, user, password, c.anySlot())
	} else {
		own, err = c.server.pool.OwnAs(c.ctx, protocol, user, password)
	}
	if said := upstream.ServerError(""); errors.As(err, &said) && said.WrongPass() {
		c.refuseLogin()
		return nil, false
	}
	if err != nil {
		c.error(c.describeError(err, false))
		return nil, false
	}
	c.endOwn()
	c.user = login
	c.guesses = 0
	c.setStranger(false)
	return own, true
}

// mayLogIn answers a login, and returns false, if it would make the client another user while it watches
// keys: those are watched on the connection of the user that it was. other: it names one of Redis's own.
func (c *conn) mayLogIn(other bool) bool {
	switch t := &c.transaction; {
	case !other && !c.user.Named():
		return true
	case t.watching || t.lost:
		c.error("ERR AUTH as another user is not served while keys are watched")
	case c.tracking != nil:
		c.error("ERR AUTH as another user is not served while CLIENT TRACKING is on")
	default:
		return true
	}
	return false
}

// logsIn reports whether a user may be one of Redis's own, whom that logs in. The default user is the
// proxy's, by the proxy's password; without a name Redis would log in its own default user.
func (c *conn) logsIn(user string) bool {
	return user != "default" && user != "" && c.server.pool != nil
}

// kills reports whether args is what a server answers that runs a script and answers nothing else.
func kills(args []string) bool {
	return len(args) == 2 && strings.EqualFold(args[1], "KILL") && (strings.EqualFold(args[0], "SCRIPT") || strings.EqualFold(args[0], "FUNCTION"))
}

// kill is SCRIPT KILL and FUNCTION KILL. To the library a Redis that runs a script for longer than it
// permits is away, so they are sent whatever it says; and they are answered once Redis is back.
func (c *conn) kill(args []string) outcome {
	if c.denied(args) {
		return c.refuse(notPassedOn(strings.ToLower(args[0])))
	}
	c.settle()
	var reply []byte
	err := c.during(func() (err error) {
		if reply, err = c.server.pool.Urgent(c.ctx, c.user, c.protocol(), args); err == nil && reply[0] == '+' {
			c.awaitBack()
		}
		return err
	})
	if err != nil {
		return c.refuse(c.describeError(err, true))
	}
	c.failed = reply[0] == '-'
	_, _ = c.w.Write(reply)
	c.now = time.Now()
	return answered
}

// awaitBack waits until the library asks Redis again.
func (c *conn) awaitBack() {
	changed := make(chan struct{}, 1)
	remove := c.server.store.Client().OnModeChange(func(aside.ModeChange) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer remove()
	for !c.server.alive() {
		select {
		case <-changed:
		case <-c.ctx.Done():
			return
		}
	}
}

const (
	// busy is what Redis says while it runs a script for longer than it permits.
	busy          = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
	execAbortedBy = "EXECABORT Transaction discarded because of: "
)

// describePassed is describeError for a command that is passed on: where Redis is away as it is busy,
// it says so in Redis's words.
func (c *conn) describePassed(err error, wrote bool) string {
	if (errors.Is(err, proxy.ErrDegraded) || errors.Is(err, aside.ErrRedisAway)) && c.server.busy() {
		return busy
	}
	return c.describeError(err, wrote)
}

// busy reports whether Redis is away as it runs a script.
func (s *Server) busy() bool {
	if s.pool == nil {
		return false
	}
	said, ok := rueidis.IsRedisErr(s.store.Client().Health().Err)
	return ok && strings.HasPrefix(said.Error(), "BUSY ")
}
