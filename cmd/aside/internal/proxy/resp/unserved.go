package resp

import "strings"

// Commands that are neither served nor passed on, and what becomes of those that follow them. A client that pipelines
// has sent these already: they must not mean something else than they would have.
//
//	MULTI refused             what follows was to be done at EXEC, or never. It is refused until EXEC, DISCARD or RESET.
//	SELECT refused            what follows was meant for another database. It is refused until a SELECT that is not, or RESET (see selectDB).
//	CLIENT REPLY refused      replies would be read as those of other commands, so it is served (see replyMode).
//	WATCH refused             only an EXEC would have heeded it, and none is done.
//	ASKING, READONLY and the like   a Redis that is no cluster refuses them too, and goes on.
//	SUBSCRIBE refused         what follows was meant as it stands. Redis would refuse it (RESP2) or do it (RESP3).

const (
	execAbort       = "EXECABORT Transaction discarded because of previous errors."
	noWait          = "ERR this proxy does not say which replicas have what was written on connections that clients share"
	clusterDisabled = "ERR This instance has cluster support disabled"
	wrongDB         = "ERR DB index is out of range: the SELECT before this was refused, as there is one database only, so nothing is done until a SELECT that is not, or RESET"
)

// unserved answers a command that is not served.
func (c *conn) unserved(args []string) {
	switch name := strings.ToUpper(args[0]); name {
	case "MULTI":
		switch {
		case len(args) > 1:
			c.error(wrongNumber("multi"))
		case c.aborted:
			c.error("ERR MULTI calls can not be nested")
		default:
			c.aborted = true
			c.error("ERR unknown command 'MULTI': there are no transactions here, so nothing that follows is done until EXEC, DISCARD or RESET")
		}
	case "EXEC", "DISCARD":
		switch {
		case name == "DISCARD" && len(args) > 1:
			c.error(wrongNumber("discard"))
		case !c.aborted:
			c.error("ERR " + name + " without MULTI")
		case name == "EXEC":
			c.aborted = false
			if c.server.busy() {
				c.error(execAbortedBy + busy)
			} else {
				c.error(execAbort)
			}
		default:
			c.aborted = false
			c.ok()
		}
	default:
		switch {
		case c.aborted:
			c.error(notDone(args[0]))
		case name == "WATCH":
			c.error("ERR unknown command 'WATCH': there are no transactions here; SET with NX, XX or GET is one step")
		case name == "WAIT", name == "WAITAOF":
			c.error(noWait)
		case name == "ASKING", name == "READONLY", name == "READWRITE", name == "CLUSTER":
			c.error(clusterDisabled)
		default:
			c.error(unknownCommand(args))
		}
	}
}

// notDone answers a command between a refused MULTI and its end.
func notDone(name string) string {
	return "ERR '" + beginning(name, 128) + "' was not done: its MULTI was refused, or lost; EXEC, DISCARD or RESET ends it"
}

// replyMode is CLIENT REPLY.
func (c *conn) replyMode(mode string) {
	switch strings.ToUpper(mode) {
	case "ON":
		c.silent, c.out.mute = false, false
		c.ok()
	case "OFF":
		c.silent = true
		c.out.mute = true
	case "SKIP":
		c.skip = !c.silent
	default:
		c.error(syntaxError)
	}
}
