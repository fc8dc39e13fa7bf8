package resp

import "strings"

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
func (c *conn) mayServe(name string) bool { return c.user == nil || c.aborted || ofConnection[name] }

// passAs sees to a command of a user's that is not to be passed on. ours: it is one.
func (c *conn) passAs(args []string) (_ outcome, ours bool) {
	switch name := strings.ToUpper(args[0]); {
	case name == "CLIENT" && len(args) > 1 && strings.EqualFold(args[1], "TRACKING"):
		return notPassed, false // is refused there
	case name == "CLIENT" && len(args) > 1 && !ofItself[strings.ToUpper(args[1])]:
		return c.refuse("ERR '" + beginning(strings.ToLower(args[0]+"|"+args[1]), 128) + "' is not served for a user of Redis's own: it is about connections of others"), true
	case ofConnection[name]:
		return notPassed, true
	case listsKeys[name]:
		return c.refuse("ERR '" + strings.ToLower(name) + "' is not served for a user of Redis's own: it would show the proxy's own keys"), true
	}
	return notPassed, false
}

// endUser makes the client the proxy's own user again.
func (c *conn) endUser() {
	if c.user != nil {
		c.user.Close()
		c.user = nil
	}
}
