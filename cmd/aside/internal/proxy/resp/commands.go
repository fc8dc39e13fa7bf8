package resp

import (
	"maps"
	"slices"
	"strings"
)

// command is one that is served.
type command struct {
	lower   string // its name, as CLIENT LIST says it; set by init, of those in commands
	arity   int    // with its name, as COMMAND INFO says it; negative: at least
	run     func(c *conn, args []string)
	open    bool   // also to those who have yet to log in
	quick   bool   // of one key at most, mostly answered from memory: see tally
	steps   bool   // conn.away may do it while Redis is away; set by init
	flags   string // for COMMAND INFO, separated by spaces
	keys    [3]int // first, last, step, likewise
	summary string // for COMMAND DOCS
}

// keysAt are the keys among args, which begin behind the command's name, by the places of the first, the
// last, and the step from one to the next, as COMMAND INFO has them.
func keysAt(places [3]int, args []string) (keys []string) {
	first, last, step := places[0], places[1], places[2]
	if last < 0 {
		last += len(args) + 1
	}
	for i := first; first > 0 && i <= min(last, len(args)); i += step {
		keys = append(keys, args[i-1])
	}
	return keys
}

// data reports whether the command reads or writes what is stored.
func (c command) data() bool {
	return strings.HasPrefix(c.flags, "readonly") || strings.HasPrefix(c.flags, "write")
}

var (
	noKey   = [3]int{}
	oneKey  = [3]int{1, 1, 1}
	allKeys = [3]int{1, -1, 1}
)

// commands are all that are served. Filled by init, as some of them look at it; immutable after.
var commands map[string]command

func init() {
	commands = map[string]command{
		"PING":    {arity: -1, run: ping, quick: true, flags: "fast", summary: "Returns PONG, or what it is given."},
		"ECHO":    {arity: 2, run: echo, flags: "fast", summary: "Returns what it is given."},
		"HELLO":   {arity: -1, run: hello, open: true, flags: "noscript loading stale fast no_auth", summary: "Selects the protocol's version, and logs in."},
		"AUTH":    {arity: -2, run: auth, open: true, flags: "noscript loading stale fast no_auth", summary: "Logs in."},
		"SELECT":  {arity: 2, run: selectDB, flags: "loading stale fast", summary: "Accepts the number of the one database."},
		"QUIT":    {arity: -1, run: quit, open: true, flags: "noscript loading stale fast no_auth", summary: "Closes the connection."},
		"RESET":   {arity: 1, run: reset, open: true, flags: "noscript loading stale fast no_auth", summary: "Makes the connection as it was in the beginning."},
		"COMMAND": {arity: -1, run: commandCommand, flags: "loading stale", summary: "Says which commands there are."},
		"INFO":    {arity: -1, run: info, flags: "loading stale", summary: "Says how the proxy is doing."},
		"CLIENT":  {arity: -2, run: client, flags: "noscript loading stale", summary: "Names a connection, and says what is known of it."},
		"CONFIG":  {arity: -2, run: config, flags: "noscript loading stale", summary: "GET answers what tools ask for."},

		"GET":    {arity: 2, run: get, quick: true, flags: "readonly fast", keys: oneKey, summary: "Returns the value of a key."},
		"MGET":   {arity: -2, run: mget, flags: "readonly fast", keys: allKeys, summary: "Returns the values of keys."},
		"EXISTS": {arity: -2, run: exists, flags: "readonly fast", keys: allKeys, summary: "Counts which of the keys there are."},
		"TYPE":   {arity: 2, run: typeOf, quick: true, flags: "readonly fast", keys: oneKey, summary: "Says what a key holds."},
		"TTL":    {arity: 2, run: ttl, quick: true, flags: "readonly fast", keys: oneKey, summary: "Says for how many seconds a key is there."},
		"PTTL":   {arity: 2, run: pttl, quick: true, flags: "readonly fast", keys: oneKey, summary: "Says for how many milliseconds a key is there."},
		"STRLEN": {arity: 2, run: strlen, quick: true, flags: "readonly fast", keys: oneKey, summary: "Returns the length of a value."},

		"SET":    {arity: -3, run: set, flags: "write denyoom", keys: oneKey, summary: "Sets the value of a key."},
		"SETEX":  {arity: 4, run: setex, flags: "write denyoom", keys: oneKey, summary: "Sets a value for a number of seconds."},
		"PSETEX": {arity: 4, run: psetex, flags: "write denyoom", keys: oneKey, summary: "Sets a value for a number of milliseconds."},
		"MSET":   {arity: -3, run: mset, flags: "write denyoom", keys: [3]int{1, -1, 2}, summary: "Sets the values of keys, each by itself."},
		"DEL":    {arity: -2, run: del, flags: "write", keys: allKeys, summary: "Deletes keys."},
		"UNLINK": {arity: -2, run: del, flags: "write fast", keys: allKeys, summary: "Deletes keys."},

		"SETNX":     {arity: 3, run: setnx, flags: "write denyoom fast", keys: oneKey, summary: "Sets a value if there is none."},
		"GETDEL":    {arity: 2, run: getdel, flags: "write fast", keys: oneKey, summary: "Returns a value and deletes it."},
		"GETEX":     {arity: -2, run: getex, flags: "write fast", keys: oneKey, summary: "Returns a value and gives it another end."},
		"EXPIRE":    {arity: -3, run: expire, flags: "write fast", keys: oneKey, summary: "Ends a key in a number of seconds."},
		"PEXPIRE":   {arity: -3, run: pexpire, flags: "write fast", keys: oneKey, summary: "Ends a key in a number of milliseconds."},
		"PERSIST":   {arity: 2, run: persist, flags: "write fast", keys: oneKey, summary: "Keeps a key without end."},
		"INCR":      {arity: 2, run: incr, flags: "write denyoom fast", keys: oneKey, summary: "Adds one to a number."},
		"DECR":      {arity: 2, run: decr, flags: "write denyoom fast", keys: oneKey, summary: "Takes one from a number."},
		"INCRBY":    {arity: 3, run: incrby, flags: "write denyoom fast", keys: oneKey, summary: "Adds to a number."},
		"DECRBY":    {arity: 3, run: decrby, flags: "write denyoom fast", keys: oneKey, summary: "Takes from a number."},
		"APPEND":    {arity: 3, run: appendTo, flags: "write denyoom fast", keys: oneKey, summary: "Appends to a value."},
		"SCAN":      {arity: -2, run: scan, flags: "readonly", keys: noKey, summary: "Lists some of the keys."},
		"RANDOMKEY": {arity: 1, run: randomKey, flags: "readonly", keys: noKey, summary: "Returns one of the keys."},
		"KEYS":      {arity: 2, run: keys, flags: "readonly", keys: noKey, summary: "Lists the keys that match a pattern."},
		"DBSIZE":    {arity: 1, run: dbsize, flags: "readonly", keys: noKey, summary: "Counts the keys."},
	}
	commandNames = slices.Sorted(maps.Keys(commands))
	interned, served = make(map[string]string, len(commands)), make(map[string]*command, len(commands))
	for _, name := range commandNames {
		interned[name] = name
		cmd := commands[name]
		cmd.steps = doneAway(name)
		cmd.lower = strings.ToLower(name)
		commands[name] = cmd
		served[name] = &cmd
	}
}

var (
	commandNames []string            // sorted
	interned     map[string]string   // from a name to itself
	served       map[string]*command // commands, not to be copied for each call
)

// intern returns the name of the command that is meant; false if there is no such.
func intern(word []byte) (string, bool) {
	var upper [9]byte // as the longest has
	if len(word) > len(upper) {
		return "", false
	}
	for i, b := range word {
		if b >= 'a' && b <= 'z' {
			b -= 'a' - 'A'
		}
		upper[i] = b
	}
	name, ok := interned[string(upper[:len(word)])]
	return name, ok
}

// unknownCommand is what Redis says, with at most 128 bytes of each, and of each what C's strings
// hold.
func unknownCommand(args []string) string {
	const most = 128
	var b strings.Builder
	b.WriteString("ERR unknown command '" + beginning(args[0], most) + "', with args beginning with: ")
	for begin, rest := b.Len(), args[1:]; len(rest) > 0 && b.Len()-begin < most; rest = rest[1:] {
		b.WriteString("'" + beginning(rest[0], most-(b.Len()-begin)) + "' ")
	}
	return b.String()
}

func beginning(s string, most int) string {
	s, _, _ = strings.Cut(s[:min(len(s), most)], "\x00")
	return s
}

func wrongNumber(name string) string {
	return "ERR wrong number of arguments for '" + name + "' command"
}

func unknownSubcommand(name, sub string) string {
	return "ERR unknown subcommand '" + sub[:min(len(sub), 128)] + "'. Try " + name + " HELP."
}
