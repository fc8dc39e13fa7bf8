package resp

import (
	"strings"
	"time"
)

// Before a Redis Cluster a client that has logged in as a user of Redis's own has connections as that user,
// one to each primary that it needs (upstream.Login). Its commands are gathered and routed by slot like others
// that are passed on, and may be answered by several primaries:
//
//	GET a  HSET b  GET c   →   primary 1, as ann: GET a, GET c
//	                           primary 2, as ann: HSET b
//
// Redis answers everything that has to do with data, by the user's rights. Nothing is answered from memory,
// nothing is kept in an outage. What the proxy answers itself is about the connection to it (ofConnection).

// ofConnection are commands that the proxy answers for such a client, too.
var ofConnection = map[string]bool{"HELLO": true, "AUTH": true, "SELECT": true, "RESET": true, "QUIT": true, "CLIENT": true}

// ofItself are subcommands of CLIENT that are about nobody else's connection.
var ofItself = map[string]bool{
	"REPLY": true, "TRACKINGINFO": true, "GETREDIR": true, "ID": true, "GETNAME": true, "SETNAME": true, "SETINFO": true, "INFO": true, "NO-TOUCH": true, "CACHING": true, "HELP": true,
}

// mayServe reports whether the proxy itself may answer a command that nobody else has. What it has read was
// read by the proxy's own user.
//
// A client that tracks gets from Redis what it reads, and what it writes, as others do, only that the connections
// are its own.
func (c *conn) mayServe(name string) bool {
	return c.user == nil || c.aborted || ofConnection[name] || !c.user.Named() && (listsKeys[name] || name == "DBSIZE" || !served[name].data())
}

// passAs sees to a command of a user's that is not to be passed on. ours: it is one.
func (c *conn) passAs(args []string) (_ outcome, ours bool) {
	switch name := strings.ToUpper(args[0]); {
	case c.user.Tracks() && subscribing[name]:
		return c.refuse("ERR '" + strings.ToLower(name) + "' is not served while CLIENT TRACKING is on before a Redis Cluster: use another connection"), true
	case c.user.Tracks() && (name == "WAIT" || name == "WAITAOF"):
		return c.refuse("ERR " + name + " is not served while CLIENT TRACKING is on"), true
	case !c.user.Named():
		ours = c.in.known && c.mayServe(name) && !c.passesOn(args)
		return notPassed, ours
	case name == "CLIENT" && len(args) > 1 && strings.EqualFold(args[1], "TRACKING"):
		return notPassed, false // is done there
	case name == "CLIENT" && len(args) > 1 && !ofItself[strings.ToUpper(args[1])]:
		return c.refuse("ERR '" + beginning(strings.ToLower(args[0]+"|"+args[1]), 128) + "' is not served for a user of Redis's own: it is about connections of others"), true
	case ofConnection[name]:
		return notPassed, true
	case name == "WAIT", name == "WAITAOF":
		return c.awaitReplicas(args), true
	case listsKeys[name]:
		return c.refuse("ERR '" + strings.ToLower(name) + "' is not served for a user of Redis's own: it would show the proxy's own keys"), true
	}
	return notPassed, false
}

// awaitReplicas is WAIT, or WAITAOF: how many replicas have all that this user has written since its login.
func (c *conn) awaitReplicas(args []string) outcome {
	command, err := c.commandOf(args)
	switch {
	case err != nil:
		return c.refuse(c.describePassed(err, false))
	case command == nil:
		return notPassed
	case c.denied(args):
		return c.refuse(notPassedOn(command.Lower))
	case c.transaction.watching: // on a connection which may have written before
		return c.refuse("ERR " + command.Name + " is not served while keys are watched")
	}
	c.settle()
	c.flushReply()
	c.out.flush()
	_ = c.net.SetReadDeadline(time.Time{})
	c.deadline = time.Time{}
	c.uses(&command.Lower)
	var reply []byte
	err = c.during(func() (err error) {
		reply, err = c.user.Wait(c.ctx, c.protocol(), c.anySlot(), args, func() bool {
			c.intake.readAhead() // whether the client is still there
			return c.server.alive() && !c.server.draining.Load() && !c.intake.ended()
		})
		return err
	})
	if err != nil {
		return c.refuse(c.describeError(err, true))
	}
	c.failed = reply[0] == '-'
	_, _ = c.w.Write(reply)
	return answered
}

// endUser makes the client the proxy's own user again.
func (c *conn) endUser() {
	if c.user != nil {
		c.endTracking()
		c.user.Close()
		c.user = nil
	}
}
