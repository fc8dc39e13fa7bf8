package fakeredis

import (
	"fmt"
	"strconv"
	"strings"
)

// What is about connections.

func ping(_ *Server, _ *client, args []string) any {
	switch len(args) {
	case 0:
		return status("PONG")
	case 1:
		return args[0]
	}
	return badNumber("ping")
}

func hello(_ *Server, c *client, args []string) any {
	if len(args) > 0 {
		n, err := strconv.Atoi(args[0])
		switch {
		case err != nil:
			return failure("ERR Protocol version is not an integer or out of range")
		case n < 2 || n > 3:
			return failure("NOPROTO unsupported protocol version")
		}
		for rest := args[1:]; len(rest) > 0; {
			switch what := strings.ToUpper(rest[0]); {
			case what == "AUTH" && len(rest) >= 3: // no password is asked for
				rest = rest[3:]
			case what == "SETNAME" && len(rest) >= 2:
				c.name, rest = rest[1], rest[2:]
			default:
				return failure("ERR Syntax error in HELLO option '" + strings.ToLower(rest[0]) + "'")
			}
		}
		c.resp = n
	}
	return pairs{"server", "redis", "version", version, "proto", int64(c.resp), "id", c.id, "mode", "standalone", "role", "master", "modules", []any{}}
}

func selectDB(_ *Server, _ *client, args []string) any {
	n, err := strconv.Atoi(args[0])
	switch {
	case err != nil:
		return notNumber
	case n != 0:
		return failure("ERR DB index is out of range") // it has one
	}
	return okay
}

func clientCommand(s *Server, c *client, args []string) any {
	what, args := strings.ToUpper(args[0]), args[1:]
	switch what + " " + strconv.Itoa(len(args)) {
	case "ID 0":
		return c.id
	case "GETNAME 0":
		if c.name == "" {
			return nil
		}
		return c.name
	case "SETNAME 1":
		c.name = args[0]
		return okay
	case "SETINFO 2":
		c.library += " " + strings.ToLower(args[0]) + "=" + args[1]
		return okay
	case "NO-EVICT 1", "NO-TOUCH 1":
		return okay
	case "INFO 0":
		return verbatim(c.describe())
	case "LIST 0", "LIST 2":
		var list strings.Builder
		for _, other := range inOrder(s.clients) {
			list.WriteString(other.describe())
		}
		return verbatim(list.String())
	case "CACHING 1":
		return c.caching(strings.ToUpper(args[0]))
	}
	switch {
	case what == "TRACKING" && len(args) > 0:
		return c.track(s, args)
	case what == "KILL" && len(args) == 2:
		return kill(s, c, strings.ToUpper(args[0]), args[1])
	}
	return failure("ERR unknown subcommand or wrong number of arguments for '" + what + "'. Try CLIENT HELP.")
}

func (c *client) describe() string {
	return fmt.Sprintf("id=%d addr=%s name=%s resp=%d db=0%s\n", c.id, address{}, c.name, c.resp, c.library)
}

func (c *client) track(s *Server, args []string) any {
	var t tracking
	for _, arg := range args[1:] {
		switch strings.ToUpper(arg) {
		case "OPTIN":
			t.optIn = true
		case "OPTOUT":
			t.optOut = true
		case "NOLOOP":
			t.noLoop = true
		default:
			return failure("ERR this server knows OPTIN, OPTOUT and NOLOOP of CLIENT TRACKING, and not " + arg)
		}
	}
	switch strings.ToUpper(args[0]) {
	case "ON":
		if t.optIn && t.optOut {
			return failure("ERR You can't specify both OPTIN mode and OPTOUT mode")
		}
		t.on = true
	case "OFF":
		t = tracking{}
	default:
		return syntax
	}
	c.tracking = t
	if !t.on {
		for _, readers := range s.readers {
			delete(readers, c)
		}
	}
	return okay
}

func (c *client) caching(what string) any {
	t := &c.tracking
	switch {
	case !t.on:
		return failure("ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled")
	case what == "YES" && !t.optIn:
		return failure("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
	case what == "NO" && !t.optOut:
		return failure("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")
	case what != "YES" && what != "NO":
		return syntax
	}
	t.caching = true
	return okay
}

func kill(s *Server, c *client, by, whom string) any {
	before := len(s.clients)
	switch by {
	case "TYPE":
		if !strings.EqualFold(whom, "normal") {
			return int64(0)
		}
		s.hangUp(c)
	case "ID":
		for _, other := range inOrder(s.clients) {
			if strconv.FormatInt(other.id, 10) == whom && other != c {
				other.out = nil
				other.leave()
				_ = other.conn.Close()
			}
		}
	default:
		return syntax
	}
	return int64(before - len(s.clients))
}
