package resp

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

// Commands about the connection itself.

const (
	noAuth      = "NOAUTH Authentication required."
	noAuthHello = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> " +
		"option can be used to authenticate the client and select the RESP protocol version at the same time"
	wrongPass   = "WRONGPASS invalid username-password pair or user is disabled."
	noPassword  = "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"
	syntaxError = "ERR syntax error"
	notInteger  = "ERR value is not an integer or out of range"

	noTracking = "ERR this proxy pushes no invalidations: connect without client-side caching (rueidis: DisableCache: true)"
)

func ping(c *conn, args []string) {
	switch len(args) {
	case 0:
		c.simple("PONG")
	case 1:
		c.bulk(args[0])
	default:
		c.error(wrongNumber("ping"))
	}
}

func echo(c *conn, args []string) { c.bulk(args[0]) }

func quit(c *conn, _ []string) {
	c.ok()
	c.closing = true
}

func selectDB(c *conn, args []string) {
	switch n, ok := number(args[0]); {
	case !ok:
		c.error(notInteger)
	case n != int64(c.server.options.DB):
		c.astray = true
		c.error("ERR DB index is out of range")
	default:
		c.astray = false
		c.ok()
	}
}

func reset(c *conn, _ []string) {
	c.setStranger(*c.server.password.Load() != "")
	c.name.Store(nil)
	c.setProtocol(2)
	c.aborted, c.astray = false, false
	c.endOwn()
	if c.silent {
		c.silent, c.out.mute = false, false
	}
	c.simple("RESET")
}

func auth(c *conn, args []string) {
	user, password := "default", args[len(args)-1]
	switch {
	case len(args) > 2:
		c.error(syntaxError)
		return
	case !c.mayLogIn(len(args) == 2 && c.logsIn(args[0])):
		return
	case len(args) == 2 && c.logsIn(args[0]):
		own, ok := c.dialAs(args[0], password, c.protocol())
		if ok {
			c.ok()
		}
		if own != nil {
			c.through(&relay{own: own, user: true})
		}
		return
	case len(args) == 2:
		user = args[0]
	case *c.server.password.Load() == "":
		c.error(noPassword)
		return
	}
	if !c.login(user, password) {
		c.refuseLogin()
		return
	}
	c.ok()
}

// login reports whether a client may come in. Without a password every client may, if it gives the
// right user, as in Redis.
func (c *conn) login(user, password string) bool {
	needed := *c.server.password.Load()
	// Of equal length, so that the time that it takes says nothing.
	want, got := sha256.Sum256([]byte(needed)), sha256.Sum256([]byte(password))
	if user != "default" || needed != "" && subtle.ConstantTimeCompare(want[:], got[:]) == 0 {
		return false
	}
	c.guesses = 0
	c.setStranger(false)
	if c.user.Named() {
		c.endUser()
	}
	return true
}

// setStranger notes whether the client has yet to log in. Its time for that begins when it had: a
// stranger's RESET gives it no more.
func (c *conn) setStranger(yes bool) {
	if yes && !c.stranger {
		c.strange = time.Now()
	}
	c.stranger, c.in.stranger = yes, yes
	c.intake.barred.Store(yes)
}

func (c *conn) setProtocol(version int64) {
	three := version == 3
	if three != c.resp3 && c.transaction.own != nil { // which speaks the other version
		c.loseOwn()
	}
	c.three.Store(three)
	c.resp3 = three
}

func hello(c *conn, args []string) {
	version := int64(2)
	if c.resp3 {
		version = 3
	}
	if len(args) > 0 {
		n, ok := number(args[0])
		switch {
		case !ok:
			c.error("ERR Protocol version is not an integer or out of range")
			return
		case n != 2 && n != 3:
			c.error("NOPROTO unsupported protocol version")
			return
		}
		version, args = n, args[1:]
	}
	var user, password, name string
	var withAuth, withName bool
	for len(args) > 0 {
		switch option := strings.ToUpper(args[0]); {
		case option == "AUTH" && len(args) > 2:
			user, password, withAuth, args = args[1], args[2], true, args[3:]
		case option == "SETNAME" && len(args) > 1:
			name, withName, args = args[1], true, args[2:]
		default:
			c.error("ERR Syntax error in HELLO option '" + args[0] + "'")
			return
		}
	}
	var own *upstream.Own // of a user of Redis's own
	switch {
	case version == 2 && c.tracking != nil:
		c.error("ERR HELLO 2 is not served while CLIENT TRACKING is on")
		return
	case withAuth && !c.mayLogIn(c.logsIn(user)):
		return
	case withAuth && c.logsIn(user):
		var ok bool
		if own, ok = c.dialAs(user, password, int(version)); !ok {
			return
		}
	case withAuth && !c.login(user, password):
		c.refuseLogin()
		return
	case c.stranger:
		c.error(noAuthHello)
		return
	}
	if withName && !c.setName(name) {
		if withAuth && c.logsIn(user) {
			if own != nil {
				own.Close()
			}
			c.endOwn()
			c.setStranger(*c.server.password.Load() != "")
		}
		return
	}
	c.setProtocol(version)
	c.mapping(7)
	c.bulk("server")
	c.bulk("redis")
	c.bulk("version")
	c.bulk(redisVersion)
	c.bulk("proto")
	c.int(version)
	c.bulk("id")
	c.int(c.id)
	c.bulk("mode")
	c.bulk("standalone")
	c.bulk("role")
	c.bulk("master")
	c.bulk("modules")
	c.array(0)
	if own != nil {
		c.through(&relay{own: own, user: true})
	}
}

// setName answers an error and returns false if that cannot be a name.
func (c *conn) setName(name string) bool {
	for i := range len(name) {
		if name[i] < '!' || name[i] > '~' {
			c.error("ERR Client names cannot contain spaces, newlines or special characters.")
			return false
		}
	}
	if name == "" {
		c.name.Store(nil)
		return true
	}
	c.name.Store(&name)
	return true
}

func client(c *conn, args []string) {
	sub := strings.ToUpper(args[0])
	want := map[string]int{"SETNAME": 2, "GETNAME": 1, "ID": 1, "INFO": 1, "SETINFO": 3, "NO-EVICT": 2, "NO-TOUCH": 2, "REPLY": 2,
		"GETREDIR": 1, "TRACKINGINFO": 1, "HELP": 1}
	if n, ok := want[sub]; ok && n != len(args) {
		c.error(wrongNumber("client|" + strings.ToLower(sub)))
		return
	}
	switch sub {
	case "SETNAME":
		if c.setName(args[1]) {
			c.ok()
		}
	case "GETNAME":
		if name := c.name.Load(); name != nil {
			c.bulk(*name)
		} else {
			c.null()
		}
	case "ID":
		c.int(c.id)
	case "INFO":
		c.text(c.describe() + "\n")
	case "LIST":
		c.list(args[1:])
	case "KILL":
		c.killClients(args[1:])
	case "UNBLOCK":
		c.unblock(args[1:])
	case "GETREDIR":
		if c.tracking != nil {
			c.int(0) // it is told itself
		} else {
			c.int(-1)
		}
	case "TRACKINGINFO":
		c.trackingInfo()
	case "HELP":
		c.help("CLIENT", "GETNAME", "GETREDIR", "ID", "INFO", "KILL <option>", "UNBLOCK <id> [TIMEOUT|ERROR]", "LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID <id> [...]]", "NO-EVICT (ON|OFF)", "NO-TOUCH (ON|OFF)",
			"REPLY (ON|OFF|SKIP)", "SETINFO (LIB-NAME|LIB-VER) <value>", "SETNAME <name>", "TRACKINGINFO")
	case "SETINFO":
		switch strings.ToUpper(args[1]) {
		case "LIB-NAME":
			name := strings.Clone(args[2])
			c.library = &name
			c.ok()
		case "LIB-VER": // is of no use here
			c.ok()
		default:
			c.error("ERR Unrecognized option '" + args[1] + "'")
		}
	case "NO-EVICT", "NO-TOUCH": // clients are not evicted here, and what they touch is their own business
		switch strings.ToUpper(args[1]) {
		case "ON", "OFF":
			c.ok()
		default:
			c.error(syntaxError)
		}
	case "REPLY":
		c.replyMode(args[1])
	case "TRACKING":
		c.error(noTracking)
	case "CACHING":
		c.caching(args[1:])
	default:
		c.error(unknownSubcommand("CLIENT", args[0]))
	}
}

// help answers HELP of a command with the subcommands that are served, as Redis does.
func (c *conn) help(command string, subcommands ...string) {
	c.array(len(subcommands) + 3)
	c.simple(command + " <subcommand> [<arg> [value] [opt] ...]. Subcommands are:")
	for _, sub := range append(subcommands, "HELP") {
		c.simple(sub)
	}
	c.simple("    Of Redis's own these are served here.")
}

// describe is a line of CLIENT LIST: Redis's fields, as programs look for them by name; what cannot
// be said is 0. Safe for concurrent use.
func (c *conn) describe() string {
	name, command, version := "", "NULL", 2
	if given := c.name.Load(); given != nil {
		name = *given
	}
	if latest := c.latest.Load(); latest != nil {
		command = *latest
	}
	if c.three.Load() {
		version = 3
	}
	idle := max(time.Since(time.Unix(0, c.latestAt.Load())), 0)
	return fmt.Sprintf("id=%d addr=%s laddr=%s fd=0 name=%s age=%d idle=%d flags=N db=%d sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 "+
		"rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=%s user=default redir=-1 resp=%d", c.id, c.net.RemoteAddr(), c.net.LocalAddr(), name,
		int64(time.Since(c.since).Seconds()), int64(idle.Seconds()), c.server.options.DB, command, version)
}

// list is CLIENT LIST with what stands behind it.
func (c *conn) list(args []string) {
	var ids map[int64]bool // nil: all
	none := false
	for len(args) > 0 {
		switch option := strings.ToUpper(args[0]); {
		case option == "TYPE" && len(args) > 1:
			switch strings.ToLower(args[1]) {
			case "normal":
			case "master", "replica", "slave", "pubsub":
				none = true
			default:
				c.error("ERR Unknown client type '" + args[1] + "'")
				return
			}
			args = args[2:]
		case option == "ID" && len(args) > 1:
			ids = make(map[int64]bool)
			for args = args[1:]; len(args) > 0; args = args[1:] {
				id, ok := number(args[0])
				if !ok {
					c.error("ERR Invalid client ID")
					return
				}
				ids[id] = true
			}
		default:
			c.error(syntaxError)
			return
		}
	}
	var b strings.Builder
	for _, other := range c.server.connected() {
		if !none && (ids == nil || ids[other.id]) {
			b.WriteString(other.describe())
			b.WriteByte('\n')
		}
	}
	c.text(b.String())
}

// connected are all connections, in the order of their ids.
func (s *Server) connected() []*conn {
	s.mu.Lock()
	all := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b *conn) int { return cmp.Compare(a.id, b.id) })
	return all
}
