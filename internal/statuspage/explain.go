package statuspage

import (
	"context"
	_ "embed" // the page
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/redaside/aside"
)

// Explained is an explanation of a key as it is shown: as JSON, as a page, and as text.
type Explained struct {
	x        aside.Explanation
	Sections []Section
}

// Section is what one place has of the key.
type Section struct {
	Name  string // in JSON
	Title string
	Facts []Fact // none: there is nothing
}

// Fact is one thing that is known.
type Fact struct {
	Name  string // in JSON
	Label string
	Value any // in JSON
	Text  string
}

// Question is what is asked of a key.
type Question struct {
	Key    string
	Value  bool
	Format string // "html", "json" or "text"
}

// Asked reads ?key=K, &value=1 and &format=json; without a format the Accept header decides. The
// error names field, value and remedy.
func Asked(r *http.Request) (q Question, err error) {
	fields, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, fmt.Errorf("query: %w; encode each byte that is no letter or digit as %%XX", err)
	}
	for name, all := range fields {
		switch {
		case name != "key" && name != "value" && name != "format":
			return q, fmt.Errorf("query: %.40q is not known here; use key, value, format", name)
		case len(all) > 1:
			return q, fmt.Errorf("%s: is given %d times; give it once", name, len(all))
		}
	}
	if !fields.Has("key") {
		return q, errors.New("key: is missing; ask for explain?key=K")
	}
	q.Key = fields.Get("key")
	switch value := fields.Get("value"); value {
	case "", "0":
	case "1":
		q.Value = true
	default:
		return q, fmt.Errorf("value: %.40q is neither 0 nor 1", value)
	}
	switch q.Format = fields.Get("format"); q.Format {
	case "html", "json", "text":
	case "":
		q.Format = accepted(r.Header.Get("Accept"))
	default:
		return q, fmt.Errorf("format: %.40q is not known; use html, json or text", q.Format)
	}
	return q, nil
}

// accepted is the format of what comes first in an Accept header: a page for browsers, JSON for who
// says nothing.
func accepted(accept string) string {
	for part := range strings.SplitSeq(accept, ",") {
		kind, _, _ := strings.Cut(strings.TrimSpace(part), ";")
		switch kind {
		case "text/html":
			return "html"
		case "text/plain":
			return "text"
		}
	}
	return "json"
}

// Explain has a client explain key, with its value if that is asked for.
func Explain(ctx context.Context, client *aside.Client, key string, value bool) (*Explained, error) {
	var options []aside.ExplainOption
	if value {
		options = append(options, aside.ExplainValue())
	}
	x, err := client.Explain(ctx, key, options...)
	if err != nil {
		return nil, err
	}
	return Show(x), nil
}

// Show shows an explanation.
func Show(x aside.Explanation) *Explained {
	e := &Explained{x: x}
	f := facts{now: x.At}
	for _, s := range []struct {
		name, title string
		of          func(*facts, *aside.Explanation)
	}{
		{"memory", "Memory of this process", memoryFacts},
		{"redis", "Redis", redisFacts},
		{"stamp", "Last write (the stamp)", stampFacts},
		{"lock", "Lock of a load", func(f *facts, x *aside.Explanation) { f.lock(x.Lock) }},
		{"refresh", "Lock of a refresh", refreshFacts},
		{"record", "Fallback store", recordFacts},
		{"process", "This process", processFacts},
		{"value", "Value", valueFacts},
	} {
		f.all = nil
		s.of(&f, &x)
		if s.name == "value" && f.all == nil {
			continue
		}
		e.Sections = append(e.Sections, Section{s.name, s.title, f.all})
	}
	return e
}

// facts collects those of a section.
type facts struct {
	now time.Time
	all []Fact
}

func (f *facts) add(name, label string, value any, text string) {
	f.all = append(f.all, Fact{name, label, value, text})
}

func (f *facts) text(name, label, text string) {
	if text != "" {
		f.add(name, label, text, text)
	}
}

func (f *facts) count(name, label string, n int64) {
	f.add(name, label, n, strconv.FormatInt(n, 10))
}

func (f *facts) yes(name, label string, is bool, yes, no string) {
	f.add(name, label, is, map[bool]string{true: yes, false: no}[is])
}

// time adds a moment, unless it is zero.
func (f *facts) time(name, label string, at time.Time) {
	if at.IsZero() {
		return
	}
	if at.Sub(f.now) > aside.LongestTTL/2 {
		f.add(name, label, nil, "never")
		return
	}
	text := at.UTC().Format("2006-01-02 15:04:05.000 MST")
	switch d := f.now.Sub(at); {
	case d >= 0:
		text += ", " + span(d) + " ago"
	default:
		text += ", in " + span(-d)
	}
	f.add(name, label, at.UTC(), text)
}

func (f *facts) duration(name, label string, d time.Duration) {
	f.add(name+"_ms", label, float64(d.Microseconds())/1000, span(d))
}

// span is a duration for people.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond / 10).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func errorText(err error) string { return strings.TrimPrefix(err.Error(), "aside: ") }

var states = map[string]string{
	"verified":   "verified: it is served, and changes of the key are told to this process",
	"unverified": "unverified: it is served while Redis is away",
	"untracked":  "untracked: it is served, for UntrackedTTL, and nobody tells of changes",
	"expired":    "expired: it is not served",
	"unproven":   "unproven: it is not served until Redis has shown that changes are told",
	"grouped":    "grouped: a group of it was cleared, or Redis must be asked for its groups first",
	"outdated":   "outdated: it is not served, as changes may have been missed",
}

func memoryFacts(f *facts, x *aside.Explanation) {
	m := x.Memory
	if m == nil {
		return
	}
	f.add("state", "state", m.State, states[m.State])
	if len(m.Changed) > 0 {
		f.add("changed", "because of", m.Changed, quotedList(m.Changed))
	}
	f.yes("absent", "holds", m.Absent, "that there is no value", "a value")
	f.count("bytes", "bytes", int64(m.Bytes))
	f.yes("read", "from", m.Read, "Redis", "this process, which has loaded or set it")
	f.time("at", "since", m.At)
	f.time("expires", "served until", m.Expires)
	f.yes("decoded", "decoded", m.Decoded, "yes", "no")
}

var contents = map[string]string{
	"nothing": "nothing", "value": "a value", "absence": "that there is no value, by a loader's word", "lock": "a lock: it is being loaded",
	"unreadable": "an entry of a version that is not known here: it counts as a miss", "other": "what is no string: calls of this library do not read it",
}

func redisFacts(f *facts, x *aside.Explanation) {
	r := x.Redis
	f.text("shard", "shard", x.Shard)
	f.add("mode", "mode", x.Mode, x.Mode.String())
	if r.Err != nil {
		f.add("error", "not known", r.Err.Error(), errorText(r.Err))
		return
	}
	f.add("holds", "holds", r.Holds, contents[r.Holds])
	if r.Holds == "nothing" {
		return
	}
	f.text("type", "type", r.Type)
	if r.Holds != "other" {
		f.count("bytes", "bytes", r.Bytes)
	}
	if r.TTL < 0 {
		f.add("ttl_ms", "ttl", nil, "none: it does not expire")
	} else {
		f.duration("ttl", "ttl", r.TTL)
	}
	if h := r.Header; h != nil {
		headerFacts(f, h)
	}
}

func headerFacts(f *facts, h *aside.HeaderExplanation) {
	f.time("header_began", "load began", h.Began)
	if h.TTL > 0 {
		f.duration("header_ttl", "ttl when stored", h.TTL)
		f.duration("header_grace", "grace", h.Grace)
	}
	if h.Took > 0 {
		f.duration("header_took", "load took", h.Took)
	}
	if h.Version != 0 {
		f.count("header_version", "version of its type", h.Version)
	}
	if h.Prefix > 0 {
		f.add("header_prefix", "group of the prefix", h.Prefix, fmt.Sprintf("its first %d bytes", h.Prefix))
	}
	if len(h.Tags) > 0 {
		f.add("header_tags", "tags", h.Tags, quotedList(h.Tags))
	}
	if h.Groups != "" {
		f.add("header_groups", "its groups", h.Groups, groups[h.Groups])
	}
	if len(h.Changed) > 0 {
		f.add("header_changed", "because of", h.Changed, quotedList(h.Changed))
	}
}

var groups = map[string]string{
	"unchanged": "unchanged since it was loaded", "cleared": "cleared since it was loaded: it counts as a miss", "expired": "expired since it was loaded: it is stale",
	"unknown": "not known: Redis does not tell",
}

func quotedList(all []string) string {
	quoted := make([]string, len(all))
	for i, s := range all {
		quoted[i] = strconv.Quote(s)
	}
	return strings.Join(quoted, ", ")
}

// who names a client by its id.
func who(id string, ours bool) string {
	switch {
	case ours:
		return id + " (this process)"
	case id == "":
		return "another library"
	}
	return id + " (another process)"
}

func stampFacts(f *facts, x *aside.Explanation) {
	s := x.Stamp
	if s == nil {
		return
	}
	f.yes("deleted", "was", s.Deleted, "a Del", "a Set")
	f.time("at", "at", s.At)
	f.add("by", "by", s.By, who(s.By, s.Ours))
	f.add("ours", "its number", s.Ours, fmt.Sprintf("%d of that client's writes", s.Number))
	f.time("ends", "its value ends", s.Ends)
	f.time("contested", "another write, perhaps later", s.Contested)
}

func (f *facts) lock(l *aside.LockExplanation) {
	if l == nil {
		return
	}
	f.add("by", "by", l.By, who(l.By, l.Ours))
	if l.By == "" {
		f.text("token", "mark", strconv.Quote(l.Token))
	} else {
		f.duration("age", "age", l.Age)
		f.time("made", "that client was made", l.Made)
	}
	f.duration("left", "ends in, unless renewed", l.Left)
}

func refreshFacts(f *facts, x *aside.Explanation) {
	r := x.Refresh
	switch {
	case r == nil:
	case r.Failures > 0:
		f.count("failures", "failed in a row", int64(r.Failures))
		f.duration("left", "counts for", r.Left)
	default:
		f.lock(&r.LockExplanation)
	}
}

func recordFacts(f *facts, x *aside.Explanation) {
	p := x.Pending
	if p == nil {
		return
	}
	f.yes("replays", "waits to be replayed", p.Replays, "yes", "no: it is of a load, and may be lost")
	if p.Err != nil {
		f.add("error", "cannot be read", p.Err.Error(), errorText(p.Err))
		return
	}
	f.text("op", "op", p.Op)
	f.time("at", "made", p.At)
	f.text("by", "by", p.By)
	if p.Op != "del" {
		f.count("bytes", "bytes", int64(p.Bytes))
	}
	f.time("expires", "its value ends", p.Expires)
}

func processFacts(f *facts, x *aside.Explanation) {
	f.text("client", "client", x.Client)
	f.yes("loading", "calls wait for the key", x.Loading, "yes", "no")
	f.yes("refreshing", "refreshes the key", x.Refreshing, "yes", "no")
	f.load("last_load", "latest load", x.LastLoad)
	f.load("last_error", "latest load that failed", x.LastError)
	if x.LastLoad == nil && x.LastError == nil {
		f.add("last_load", "latest load", nil, "none is remembered")
	}
}

func (f *facts) load(name, label string, l *aside.LoadExplanation) {
	if l == nil {
		return
	}
	text := fmt.Sprintf("%s ago, took %s", span(f.now.Sub(l.At)), span(l.Took))
	if l.Keys > 1 {
		text += fmt.Sprintf(", with %d other keys", l.Keys-1)
	}
	switch {
	case l.NotFound:
		text += ": not found"
	case l.Err != "":
		text += ": " + l.Err
	}
	f.add(name, label, map[string]any{"at": l.At.UTC(), "took_ms": float64(l.Took.Microseconds()) / 1000, "keys": l.Keys, "not_found": l.NotFound, "error": l.Err}, text)
}

func valueFacts(f *facts, x *aside.Explanation) {
	if x.Value == nil {
		return
	}
	value := *x.Value
	if utf8.ValidString(value) {
		f.add("text", "text", value, value)
		return
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(value))
	f.add("base64", "base64", encoded, encoded)
}

// MarshalJSON implements [json.Marshaler]: an object with the key, and one for each section; null
// where there is nothing.
func (e *Explained) MarshalJSON() ([]byte, error) {
	all := map[string]any{"at": e.x.At.UTC()}
	if utf8.ValidString(e.x.Key) {
		all["key"] = e.x.Key
	} else {
		all["key"], all["key_encoding"] = base64.StdEncoding.EncodeToString([]byte(e.x.Key)), "base64"
	}
	for _, s := range e.Sections {
		if len(s.Facts) == 0 {
			all[s.Name] = nil
			continue
		}
		of := make(map[string]any, len(s.Facts))
		for _, fact := range s.Facts {
			of[fact.Name] = fact.Value
		}
		all[s.Name] = of
	}
	return json.Marshal(all)
}

// Text is for a terminal.
func (e *Explained) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "key  %s\n", strconv.Quote(e.x.Key))
	for _, s := range e.Sections {
		fmt.Fprintf(&b, "\n%s\n", s.Title)
		if len(s.Facts) == 0 {
			b.WriteString("  nothing\n")
		}
		for _, fact := range s.Facts {
			text := fact.Text
			if s.Name == "value" {
				fmt.Fprintf(&b, "%s\n", strings.Map(printableLines, text))
				continue
			}
			fmt.Fprintf(&b, "  %-26s  %s\n", fact.Label, strings.Map(printable, text))
		}
	}
	return b.String()
}

// printable replaces what could move a terminal's cursor, or be a command to it.
func printable(r rune) rune {
	if unicode.IsControl(r) { // also U+0080 to U+009F, which some terminals take for escapes
		return ' '
	}
	return r
}

// printableLines is printable for what may have many lines.
func printableLines(r rune) rune {
	if r == '\n' || r == '\t' {
		return r
	}
	return printable(r)
}

//go:embed explain.html
var explainHTML string

var explainTemplate = template.Must(template.New("explain").Parse(explainHTML))

// explainPolicy is what the page of an explanation may do: it runs no scripts.
var explainPolicy = NewDocument(explainHTML).Policy

// Page returns the page of e. back is the address of the status page, mayValue whether the viewer
// may see values.
func (e *Explained) Page(back string, mayValue bool) Document {
	var b strings.Builder
	err := explainTemplate.Execute(&b, map[string]any{
		"Key": e.x.Key, "Quoted": strconv.Quote(e.x.Key), "Sections": e.Sections, "Back": back, "At": e.x.At.UTC().Format("15:04:05 MST"),
		"Offer": mayValue && e.x.Value == nil, "Text": utf8.ValidString(e.x.Key),
	})
	if err != nil {
		panic(fmt.Errorf("the page of an explanation: %w", err))
	}
	return Document{HTML: b.String(), Policy: explainPolicy}
}
