package upstream

import (
	"fmt"
	"slices"
	"strings"
)

// Deny are commands that are not passed on. The zero value denies none. Immutable.
type Deny struct {
	all        bool
	names      map[string]bool // in upper case; of subcommands CONFIG|SET
	parts      map[string]bool // commands of which some subcommands are denied
	categories []string
}

// NewDeny reads a list: names of commands (flushall), of subcommands (config|set), categories of
// Redis's ACLs (@dangerous), "*" for all, and "none", alone, for no command.
func NewDeny(list []string) (Deny, error) {
	d := Deny{names: make(map[string]bool, len(list)), parts: make(map[string]bool)}
	for _, item := range list {
		switch category, isCategory := strings.CutPrefix(item, "@"); {
		case item == "none" && len(list) > 1:
			return Deny{}, fmt.Errorf("%q stands beside others: it is for an empty list", item)
		case item == "none":
		case item == "*":
			d.all = true
		case isCategory && category != "" && plainName(category):
			d.categories = append(d.categories, strings.ToLower(category))
		case item != "" && plainName(strings.Replace(item, "|", "", 1)):
			name := strings.ToUpper(item)
			d.names[name] = true
			if command, _, ok := strings.Cut(name, "|"); ok {
				d.parts[command] = true
			}
		default:
			return Deny{}, fmt.Errorf("%q is no command, no subcommand like config|set, no category like @admin, and neither * nor none", item)
		}
	}
	return d, nil
}

func plainName(s string) bool {
	return strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// All reports whether nothing is passed on.
func (d Deny) All() bool { return d.all }

// Categories reports whether the list has any: then only the server can say what it denies.
func (d Deny) Categories() bool { return len(d.categories) > 0 }

// Names reports whether the list names a command as a whole.
func (d Deny) Names(command string) bool { return d.all || d.names[command] }

// NamesPart reports whether the list names a subcommand of a command.
func (d Deny) NamesPart(command string) bool { return d.parts[command] }

// Denies reports whether c, which args is, is denied.
func (d Deny) Denies(c *Command, args []string) bool {
	name := strings.ToUpper(args[0])
	if d.all || d.names[name] {
		return true
	}
	if len(args) > 1 && d.parts[name] && d.names[strings.ToUpper(args[0]+"|"+args[1])] {
		return true
	}
	return slices.ContainsFunc(d.categories, c.In)
}
