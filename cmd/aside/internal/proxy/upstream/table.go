package upstream

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Table is what a server's COMMAND has said of its commands. Immutable.
type Table struct {
	commands map[string]*Command // by name in upper case; subcommands are with their command
}

// Command is one of the server's commands. Immutable.
type Command struct {
	Name  string // in upper case; of a subcommand OBJECT|ENCODING
	Lower string // the same in lower case

	Write    bool // by its flags, it changes data; of a script that is not said
	ReadOnly bool // by its flags, it changes none
	Blocking bool // it may wait for others

	Plain bool // what Options.Plain has said of it

	categories       []string // of ACLs, without the @
	first, last, per int      // where keys stand, as COMMAND said it before Redis 7; 0, 0, 0 for none
	movable          bool     // those are not all
	specs            []keySpec
	channels         []keySpec           // where sharded channels stand, whose slots count like those of keys
	join             Join                // see Join
	tipped           bool                // the server says what is for all primaries
	subcommands      map[string]*Command // by their own name, in upper case; before Redis 7 none
}

// keySpec says where some of the keys are. See redis.io/docs/reference/key-specs.
type keySpec struct {
	unknown bool   // only the server can tell
	keyword string // behind which they are; "": index counts
	index   int    // where they begin; with a keyword, from where it is looked for, negative from the end

	counted          bool // their number stands at number, counted from where they begin, the first of them at first
	number, firstKey int
	last, limit      int // otherwise: the last, counted from where they begin, or if negative from the end; of what is left, 1/limit at most
	step             int
}

// newTable reads what COMMAND has answered.
func newTable(reply []byte) (*Table, error) {
	value, _, err := decode(reply)
	if err != nil {
		return nil, err
	}
	if refused, ok := value.(ServerError); ok {
		return nil, fmt.Errorf("upstream: Redis refuses COMMAND, which says where keys stand: %w", refused)
	}
	all, ok := value.([]any)
	if !ok {
		return nil, errProtocol
	}
	t := &Table{make(map[string]*Command, len(all))}
	for _, entry := range all {
		command, err := newCommand(entry)
		if err != nil {
			return nil, err
		}
		t.commands[command.Name] = command
	}
	return t, nil
}

func newCommand(entry any) (*Command, error) {
	fields, _ := entry.([]any)
	if len(fields) < 6 {
		return nil, fmt.Errorf("%w: COMMAND has an entry of %d fields", errProtocol, len(fields))
	}
	name, _ := fields[0].(string)
	c := &Command{Name: strings.ToUpper(name), Lower: strings.ToLower(name), first: intOf(fields[3]), last: intOf(fields[4]), per: intOf(fields[5])}
	for _, flag := range stringsOf(fields[2]) {
		switch flag {
		case "write":
			c.Write = true
		case "readonly":
			c.ReadOnly = true
		case "blocking":
			c.Blocking = true
		case "movablekeys":
			c.movable = true
		}
	}
	c.Blocking = c.Blocking || slices.Contains(blocking, c.Name)
	if len(fields) > 6 {
		for _, category := range stringsOf(fields[6]) {
			c.categories = append(c.categories, strings.TrimPrefix(category, "@"))
		}
	}
	if len(fields) > 9 {
		c.tipped = true
		c.join = joinOf(stringsOf(fields[7]))
		specs, _ := fields[8].([]any)
		for _, spec := range specs {
			if s, isKey := newKeySpec(spec); isKey {
				c.specs = append(c.specs, s)
			} else {
				c.channels = append(c.channels, s)
			}
		}
		subcommands, _ := fields[9].([]any)
		for _, entry := range subcommands {
			sub, err := newCommand(entry)
			if err != nil {
				return nil, err
			}
			if c.subcommands == nil {
				c.subcommands = make(map[string]*Command, len(subcommands))
			}
			_, own, _ := strings.Cut(sub.Name, "|")
			c.subcommands[own] = sub
		}
	}
	return c, nil
}

// blocking are commands that may wait for others. Servers before Redis 7 do not say so.
var blocking = []string{"BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "XREAD", "XREADGROUP"}

func newKeySpec(entry any) (s keySpec, isKey bool) {
	fields := mapOf(entry)
	flags := stringsOf(fields["flags"])
	begin, find := mapOf(fields["begin_search"]), mapOf(fields["find_keys"])
	beginning, finding := mapOf(begin["spec"]), mapOf(find["spec"])
	switch begin["type"] {
	case "index":
		s.index = intOf(beginning["index"])
	case "keyword":
		s.keyword, _ = beginning["keyword"].(string)
		s.index = intOf(beginning["startfrom"])
	default:
		s.unknown = true
	}
	switch find["type"] {
	case "range":
		s.last, s.step, s.limit = intOf(finding["lastkey"]), intOf(finding["keystep"]), intOf(finding["limit"])
	case "keynum":
		s.counted = true
		s.number, s.firstKey, s.step = intOf(finding["keynumidx"]), intOf(finding["firstkey"]), intOf(finding["keystep"])
	default:
		s.unknown = true
	}
	s.unknown = s.unknown || slices.Contains(flags, "incomplete")
	s.step = max(s.step, 1)
	return s, !slices.Contains(flags, "not_key")
}

// joinOf is what the tips of a command say of how to join the replies of all primaries; nil if it is
// for one of them, or nobody can tell.
func joinOf(tips []string) (join Join) {
	all := false
	for _, tip := range tips {
		switch policy, value, _ := strings.Cut(tip, ":"); policy {
		case "request_policy":
			all = value == "all_shards" || value == "all_nodes"
		case "response_policy":
			join = joins[value]
		}
	}
	if !all {
		return nil
	}
	return join
}

// Lookup returns the command that args is, or its subcommand; nil if the server has none.
func (t *Table) Lookup(args []string) *Command {
	if len(args) == 0 {
		return nil
	}
	c := t.commands[strings.ToUpper(args[0])]
	if c != nil && len(args) > 1 && c.subcommands != nil {
		if sub := c.subcommands[strings.ToUpper(args[1])]; sub != nil {
			return sub
		}
	}
	return c
}

// Channel returns the first sharded channel among args; false if there is none.
func (c *Command) Channel(args []string) (string, bool) {
	for i := range c.channels {
		s := &c.channels[i]
		if named := s.appendKeys(nil, args, s.begin(args, s.index)); len(named) > 0 {
			return named[0], true
		}
	}
	return "", false
}

// Fixed reports whether the command has keys, no subcommands, and its keys always at the same places.
func (c *Command) Fixed() bool {
	if c.subcommands != nil || c.movable || len(c.specs) == 0 && c.first <= 0 {
		return false
	}
	for _, s := range c.specs {
		if s.unknown || s.counted || s.keyword != "" {
			return false
		}
	}
	return true
}

// In reports whether an ACL category, without its @, has the command.
func (c *Command) In(category string) bool { return slices.Contains(c.categories, category) }

// Keys returns the keys among args, which may be of the wrong number. ask: only the server can tell
// (COMMAND GETKEYS).
func (c *Command) Keys(args []string) (keys []string, ask bool) {
	if c.Name == "XREAD" || c.Name == "XREADGROUP" {
		return streams(args)
	}
	return c.AppendKeys(nil, args)
}

// AppendKeys is Keys that appends to a list; XREAD and XREADGROUP are not for it.
func (c *Command) AppendKeys(keys, args []string) (_ []string, ask bool) {
	if len(c.specs) == 0 {
		if c.movable {
			return nil, true
		}
		return c.plainKeys(keys, args), false
	}
	for i := range c.specs {
		s := &c.specs[i]
		if s.unknown {
			return nil, true
		}
		begin := s.begin(args, s.index)
		keys = s.appendKeys(keys, args, begin)
		for s.repeats() && begin > 0 {
			begin = s.begin(args, begin)
			keys = s.appendKeys(keys, args, begin)
		}
	}
	return keys, false
}

// streams returns the keys of XREAD and XREADGROUP. A group or a consumer may be named STREAMS, so
// options are read one by one; only the server can tell of one that is not known here.
func streams(args []string) (keys []string, ask bool) {
	for i := 1; i < len(args); i++ {
		switch strings.ToUpper(args[i]) {
		case "NOACK":
		case "COUNT", "BLOCK", "CLAIM":
			i++
		case "GROUP":
			i += 2
		case "STREAMS":
			return slices.Clone(args[i+1 : i+1+len(args[i+1:])/2]), false
		default:
			return nil, true
		}
	}
	return nil, false
}

func (c *Command) plainKeys(keys, args []string) []string {
	if c.first <= 0 {
		return keys
	}
	last := c.last
	if last < 0 {
		last += len(args)
	}
	for i := c.first; i <= last && i < len(args); i += max(c.per, 1) {
		keys = append(keys, args[i])
	}
	return keys
}

func (s *keySpec) appendKeys(keys, args []string, begin int) []string {
	n := len(args)
	if begin <= 0 || begin >= n {
		return keys
	}
	first := begin
	var last int
	switch {
	case s.counted:
		at := begin + s.number
		if at >= n {
			return keys
		}
		count, err := strconv.Atoi(args[at])
		if err != nil || count <= 0 || count > math.MaxInt32 {
			return keys
		}
		first = begin + s.firstKey
		last = first + (count-1)*s.step
	case s.last >= 0:
		last = first + s.last
	case s.limit <= 1:
		last = n + s.last
	default:
		last = first + (n-first)/s.limit + s.last
	}
	for i := first; i <= last && i < n; i += s.step {
		keys = append(keys, args[i])
	}
	return keys
}

// repeats reports whether the keyword may stand among args more than once, as STORE may: which of
// them holds, only the command knows, so the keys of all count. It is an option, with a key or two
// behind it; where keys go on to the end, there is one.
func (s *keySpec) repeats() bool { return s.keyword != "" && s.index > 0 && !s.counted && s.last >= 0 }

// begin is where the keys begin; 0 if there are none. from is where the keyword is looked for.
func (s *keySpec) begin(args []string, from int) int {
	if s.keyword == "" {
		return s.index
	}
	if s.index > 0 {
		for i := from; i < len(args); i++ {
			if strings.EqualFold(args[i], s.keyword) {
				return i + 1
			}
		}
		return 0
	}
	for i := len(args) + s.index; i > 0; i-- {
		if strings.EqualFold(args[i], s.keyword) {
			return i + 1
		}
	}
	return 0
}

// keysOf reads what COMMAND GETKEYS has answered. Where the server finds none, the command has none
// or is wrong, which the server will say.
func keysOf(reply []byte) ([]string, error) {
	value, _, err := decode(reply)
	if err != nil {
		return nil, err
	}
	if refused, ok := value.(ServerError); ok {
		if strings.HasPrefix(string(refused), "ERR ") {
			return nil, nil
		}
		return nil, refused // NOPERM: nobody knows
	}
	return stringsOf(value), nil
}

func intOf(value any) int {
	n, _ := value.(int64)
	return int(n)
}

func stringsOf(value any) []string {
	all, _ := value.([]any)
	texts := make([]string, 0, len(all))
	for _, element := range all {
		if text, ok := element.(string); ok {
			texts = append(texts, text)
		}
	}
	return texts
}

func mapOf(value any) map[string]any {
	all, _ := value.([]any)
	m := make(map[string]any, len(all)/2)
	for i := 0; i+1 < len(all); i += 2 {
		if name, ok := all[i].(string); ok {
			m[name] = all[i+1]
		}
	}
	return m
}
