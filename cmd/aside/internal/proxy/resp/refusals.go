package resp

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

// Refusal is what clients of one name were refused of one command, as Redis was away, or would be.
type Refusal struct {
	Command string // in upper case; of a subcommand OBJECT|ENCODING
	Client  string // as it calls itself, by CLIENT SETNAME, or its library, by CLIENT SETINFO; "" if it does not
	Outage  Outage // what becomes of it in an outage; Refused of what was refused in one
	Count   int64
	Last    time.Time
	Example string // the first one: its name and its keys; what else it had is left out
}

const (
	mostRefusals  = 1000 // kinds; further ones are counted as one of other commands
	longestName   = 64   // bytes of a client's or a command's name, and of a key in an example
	mostExample   = 4    // keys in an example
	degradedReply = "ASIDEDEGRADED "
)

// refusals counts what was refused. Safe for concurrent use.
type refusals struct {
	mu sync.Mutex // guards by
	by map[refusalOf]*Refusal
}

type refusalOf struct {
	command, client string
	outage          Outage
}

// add counts one more. example is called for the first of its kind only.
func (r *refusals) add(of refusalOf, at time.Time, example func() string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by[of] == nil && len(r.by) >= mostRefusals {
		of, example = refusalOf{command: "OTHER"}, func() string { return "" }
	}
	one := r.by[of]
	if one == nil {
		if r.by == nil {
			r.by = make(map[refusalOf]*Refusal)
		}
		one = &Refusal{Command: of.command, Client: of.client, Outage: of.outage, Example: example()}
		r.by[of] = one
	}
	one.Count++
	one.Last = at
}

// all are those that there were, the most frequent first.
func (r *refusals) all() []Refusal {
	r.mu.Lock()
	list := make([]Refusal, 0, len(r.by))
	for _, one := range r.by {
		list = append(list, *one)
	}
	r.mu.Unlock()
	slices.SortFunc(list, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Command, b.Command), strings.Compare(a.Client, b.Client), cmp.Compare(a.Outage, b.Outage))
	})
	return list
}

// Refusals are the commands that were refused since New because Redis was away, the most frequent
// first.
func (s *Server) Refusals() []Refusal { return s.refusals.all() }

// refused counts a command that was answered ASIDEDEGRADED. command is the server's; nil if it is
// none of those, or served here.
func (c *conn) refused(command *upstream.Command, args []string) {
	c.degraded = false
	if len(args) == 0 {
		return
	}
	name := nameOf(args)
	if command != nil {
		name = command.Name
	}
	c.server.refusals.add(refusalOf{name, c.calls(), Refused}, c.now, func() string { return c.example(name, args) })
}

// Checked are the commands that an outage would refuse, or answer or keep only where what they need
// is known here, the most frequent first. They are counted with Options.CheckApp, while Redis is well.
func (s *Server) Checked() []Refusal { return s.checked.all() }

// check counts what an outage would do to a command. What stands within a transaction is not looked
// at: its MULTI is.
func (c *conn) check(args []string) {
	if c.stranger || c.in.refusal != "" || len(args) == 0 || c.transaction.multi || !c.server.alive() {
		return
	}
	name := nameOf(args)
	outage := OutageOf(args)
	if outage == Listed && !c.server.options.KnownKeys || c.server.store.IsStrict(c.keysIn(name, args)...) {
		outage = Refused
	}
	if outage == Works || outage == Kept || name == "EXEC" || name == "DISCARD" || name == "UNWATCH" {
		return
	}
	if c.server.pool != nil {
		if command, err := c.commandOf(args); err == nil && command != nil {
			name = command.Name
		}
	}
	c.server.checked.add(refusalOf{name, c.calls(), outage}, c.now, func() string { return c.example(name, args) })
}

// nameOf is what a command calls itself. It does not keep a long one in memory.
func nameOf(args []string) string {
	if len(args[0]) > longestName {
		return strings.Clone(strings.ToUpper(args[0][:longestName]))
	}
	return strings.ToUpper(args[0])
}

// calls is what the client calls itself.
func (c *conn) calls() string {
	for _, name := range []*string{c.name.Load(), c.library} {
		if name != nil {
			return strings.Clone((*name)[:min(len(*name), longestName)])
		}
	}
	return ""
}

// keysIn are the keys of a command, as far as that is known without asking.
func (c *conn) keysIn(name string, args []string) (keys []string) {
	if served, ok := commands[name]; ok {
		return keysAt(served.keys, args[1:])
	}
	if c.server.pool != nil {
		if table := c.server.pool.Known(); table != nil {
			if command := table.Lookup(args); command != nil {
				keys, _ = command.Keys(args)
			}
		}
	}
	return keys
}

// example is a command without what is nobody's business.
func (c *conn) example(name string, args []string) string {
	keys := c.keysIn(name, args)
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(name, "|", " "))
	for _, key := range keys[:min(len(keys), mostExample)] {
		b.WriteString(" " + shown(key))
	}
	if words := strings.Count(name, "|") + 1; len(args) > words+min(len(keys), mostExample) {
		b.WriteString(" …")
	}
	return b.String()
}

// shown is a key for people.
func shown(key string) string {
	key = key[:min(len(key), longestName)]
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r == ' ' || r == '"' || r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
		return strconv.Quote(key)
	}
	return strings.Clone(key)
}
