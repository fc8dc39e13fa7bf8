package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// DefaultFile is the file that is read where none is named, if it is there.
const DefaultFile = "conf.yaml"

// Sources are what Load reads.
type Sources struct {
	File    string            // "": DefaultFile, if it is there
	Environ []string          // as os.Environ has it
	Flags   map[string]string // by Setting.Name

	// ParseURL says what is wrong with a redis.url. It must not quote it. Defaults to none.
	ParseURL func(url string) error
}

// Problem is one thing that is wrong.
type Problem struct {
	Where  string // "conf.yaml:3", "ASIDE_CACHE_CAPACITY", "--cache-capacity"; "" where nothing was set
	What   string // names setting and value
	Remedy string
}

func (p Problem) String() string {
	s := p.What + ": " + p.Remedy
	if p.Where != "" {
		s = p.Where + ": " + s
	}
	return s
}

// Problems is the error of Load: all that is wrong.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// Load reads the file, the environment and the flags; the later one wins. The error is
// Problems. Warnings are of environment variables that look like settings and are none (they may be
// somebody else's), and of files that every user of the machine may read or change.
func Load(from Sources) (c Config, warnings []string, err error) {
	c = Default()
	l := loader{from: from, byName: make(map[string]*Setting), set: make(map[string]origin), failed: make(map[string]bool), fromFile: make(map[string]bool)}
	table := c.settings()
	for i := range table {
		l.byName[table[i].Name] = &table[i]
		l.names = append(l.names, table[i].Name)
	}
	l.readFile()
	warnings = l.readEnviron()
	for _, name := range l.names {
		if text, ok := from.Flags[name]; ok {
			l.apply(name, text, origin{layerFlag, "--" + l.byName[name].Flag(), 0})
		}
	}
	l.readSecrets()
	l.check(&c)
	warnings = append(warnings, l.warnOfRights()...)
	if len(l.problems) > 0 {
		slices.SortStableFunc(l.problems, func(a, b located) int {
			return cmp.Or(cmp.Compare(a.at.layer, b.at.layer), cmp.Compare(a.at.line, b.at.line))
		})
		problems := make(Problems, len(l.problems))
		for i := range l.problems {
			problems[i] = l.problems[i].Problem
		}
		return c, warnings, problems
	}
	return c, warnings, nil
}

// layer is where a setting comes from. A greater one wins.
type layer int

const (
	layerDefault layer = iota
	layerFile
	layerEnv
	layerFlag
)

// origin is where just this value stands.
type origin struct {
	layer layer
	where string
	line  int // in the file
}

type loader struct {
	from     Sources
	byName   map[string]*Setting
	names    []string
	set      map[string]origin // of what was set, well or badly
	failed   map[string]bool   // of these, badly: what follows from it is not reported, too
	file     string            // that was read; "" for none
	fromFile map[string]bool   // secrets that were read from a file of their own
	problems []located
}

// located is a Problem that knows its place among others.
type located struct {
	Problem
	at origin
}

func (l *loader) bad(at origin, what, remedy string) {
	l.problems = append(l.problems, located{Problem{at.where, what, remedy}, at})
}

// shown is a value as it may be shown.
func (s Setting) shown(text string) string {
	switch {
	case s.Secret:
		return s.Name
	case s.Name == "redis.url" && strings.Contains(text, "@"):
		return s.Name + " (not shown, as it may hold a password)"
	}
	return fmt.Sprintf("%s is %q", s.Name, text)
}

func (l *loader) apply(name, text string, at origin) {
	s := l.byName[name]
	l.set[name], l.failed[name] = at, false
	if err := s.value.Set(text); err != nil {
		l.failed[name] = true
		remedy := err.Error()
		if s.Default != "" {
			remedy += "; the default is " + s.Default
		}
		l.bad(at, s.shown(text), remedy)
	}
}

func (l *loader) readFile() {
	name := cmp.Or(l.from.File, DefaultFile)
	content, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && l.from.File == "":
		return
	case err != nil:
		l.bad(origin{layerFile, name, 0}, "the configuration file cannot be read", fmt.Sprintf("%v: name another one with --config", errors.Unwrap(err)))
		return
	}
	l.file = name
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var doc yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return // nothing but comments
	} else if err != nil {
		l.bad(yamlPlace(name, err), "it is not YAML", strings.TrimPrefix(err.Error(), "yaml: ")+": mend it; indentation is by spaces")
		return
	}
	var more yaml.Node
	if err := decoder.Decode(&more); err == nil {
		l.bad(origin{layerFile, fmt.Sprintf("%s:%d", name, more.Line), more.Line}, "a second document begins here", "keep all settings in one")
	} else if !errors.Is(err, io.EOF) {
		l.bad(yamlPlace(name, err), "it is not YAML", strings.TrimPrefix(err.Error(), "yaml: ")+": mend it; indentation is by spaces")
	}
	l.section(name, "", doc.Content[0], 0)
}

// yamlPlace finds the line in an error of the parser, which has it in its text only.
func yamlPlace(name string, err error) origin {
	line := 0
	if _, scanErr := fmt.Sscanf(err.Error(), "yaml: line %d:", &line); scanErr != nil {
		return origin{layerFile, name, 0}
	}
	return origin{layerFile, fmt.Sprintf("%s:%d", name, line), line}
}

// maxDepth is more than settings are nested; an alias that leads to itself ends there.
const maxDepth = 8

func (l *loader) section(file, prefix string, node *yaml.Node, depth int) {
	at := func(n *yaml.Node) origin { return origin{layerFile, fmt.Sprintf("%s:%d", file, n.Line), n.Line} }
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return // a section in which nothing is set
	}
	if node.Kind != yaml.MappingNode || depth > maxDepth {
		what := cmp.Or(strings.TrimSuffix(prefix, "."), "the file")
		l.bad(at(node), what+" is no section", "write settings below it, as in "+l.example(prefix))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, content := node.Content[i], node.Content[i+1]
		name := prefix + key.Value
		if first, twice := seen[name]; twice {
			l.bad(at(key), name+" is set a second time", fmt.Sprintf("it stands in line %d, too: keep one of them", first))
			continue
		}
		seen[name] = key.Line
		if content.Kind == yaml.AliasNode {
			content = content.Alias
		}
		switch {
		case l.byName[name] != nil:
			l.scalar(name, content, at(key))
		case l.isSection(name):
			l.section(file, name+".", content, depth+1)
		default:
			l.bad(at(key), fmt.Sprintf("there is no setting %q", name), l.unknown(name))
		}
	}
}

func (l *loader) scalar(name string, node *yaml.Node, at origin) {
	switch {
	case node.Kind == yaml.ScalarNode && node.Tag == "!!null": // "token:" sets nothing
	case node.Kind == yaml.ScalarNode:
		l.apply(name, node.Value, at)
	case node.Kind == yaml.SequenceNode && l.byName[name].Type == (list{}).Type():
		items := make([]string, len(node.Content))
		for i, item := range node.Content {
			if item.Kind != yaml.ScalarNode {
				l.bad(at, fmt.Sprintf("item %d of %s is no text", i+1, name), "write - host:port")
				return
			}
			items[i] = item.Value
		}
		l.apply(name, strings.Join(items, ","), at)
	default:
		l.set[name], l.failed[name] = at, true
		l.bad(at, name+" has a section or a list below it", "write one value ("+l.byName[name].Type+") behind the colon")
	}
}

func (l *loader) isSection(name string) bool {
	return slices.ContainsFunc(l.names, func(s string) bool { return strings.HasPrefix(s, name+".") })
}

func (l *loader) example(prefix string) string {
	for _, name := range l.names {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return strings.ReplaceAll(rest, ".", ": ") + ": …"
		}
	}
	return l.names[0]
}

// unknown says what to write instead of a name that is none.
func (l *loader) unknown(name string) string {
	if near := nearest(name, l.names); near != "" {
		return "did you mean " + near + "?"
	}
	section, _, nested := strings.Cut(name, ".")
	if !nested || !l.isSection(section) {
		return "remove it; there are the sections redis, cache, service, fallback and log"
	}
	var known []string
	for _, n := range l.names {
		if rest, ok := strings.CutPrefix(n, section+"."); ok {
			known = append(known, rest)
		}
	}
	return "remove it; in " + section + " there are " + strings.Join(known, ", ")
}

func (l *loader) readEnviron() (warnings []string) {
	byEnv := make(map[string]string, len(l.names))
	var envs []string
	for _, name := range l.names {
		byEnv[l.byName[name].Env()] = name
		envs = append(envs, l.byName[name].Env())
	}
	for _, pair := range l.from.Environ {
		env, text, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(env, "ASIDE_") || env == "ASIDE_CONFIG" || env == "ASIDE_SERVICE_HOST" { // the latter is Kubernetes's
			continue
		}
		switch name := byEnv[env]; {
		case name != "" && text != "": // empty is how a variable is unset in many places
			l.apply(name, text, origin{layerEnv, env, 0})
		case name == "":
			if near := nearest(env, envs); near != "" {
				warnings = append(warnings, fmt.Sprintf("the environment variable %s is no setting and has no effect: did you mean %s?", env, near))
			}
		}
	}
	slices.Sort(warnings)
	return warnings
}

// readSecrets reads the files that hold secrets. Whichever of the two settings comes from the
// higher layer holds.
func (l *loader) readSecrets() {
	for _, name := range l.names {
		s := l.byName[name]
		at, isSet := l.set[name]
		if !s.isFile() || !isSet {
			continue
		}
		direct, both := l.set[s.file.of]
		switch {
		case both && direct.layer > at.layer:
			continue
		case both && direct.layer == at.layer:
			l.bad(at, fmt.Sprintf("%s and %s are both set", name, s.file.of), "keep one of them")
			continue
		}
		file := s.value.String()
		if file == "" {
			continue
		}
		content, err := os.ReadFile(file)
		secret := strings.TrimRight(string(content), "\r\n") // editors end a file with a line's end
		l.failed[s.file.of] = err != nil || secret == ""
		switch {
		case err != nil:
			l.bad(at, fmt.Sprintf("%s is %q", name, file), fmt.Sprintf("it cannot be read (%v): name a file that this user may read", errors.Unwrap(err)))
		case secret == "":
			l.bad(at, fmt.Sprintf("%s is %q", name, file), "the file is empty: write the secret into it")
		default:
			l.set[s.file.of], l.fromFile[s.file.of] = at, true
			_ = l.byName[s.file.of].value.Set(secret) // any text will do
		}
	}
}
