package main

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/ops"
	"github.com/redaside/aside/fallback"
)

type inspectCmd struct {
	Dir   string  `arg:"" help:"The fallback directory; nothing in it is changed, and a proxy may be using it."`
	Key   *string `arg:"" optional:"" help:"Show this key only, with its value."`
	JSON  bool    `name:"json" help:"Print JSON."`
	Limit int     `name:"limit" default:"100" help:"Show so many keys at most. 0: all."`
}

// Help implements kong.HelpProvider.
func (*inspectCmd) Help() string {
	return "Exit code 1: the directory cannot be read, or has nothing of KEY. Values stand there as they will stand in Redis."
}

// inspected is the JSON of `aside inspect`.
type inspected struct {
	Dir       string        `json:"dir"`
	Process   int           `json:"process,omitempty"` // that has it, or had it when it was killed
	Running   bool          `json:"running"`
	Pending   int           `json:"pending"`
	Summary   ops.Summary   `json:"summary"`
	Journal   journalJSON   `json:"journal"`
	Files     filesJSON     `json:"files"`
	Records   []recordJSON  `json:"records"`
	Truncated int           `json:"truncated,omitempty"` // records that are not shown, because of --limit
	Problems  []ops.Problem `json:"problems"`
}

type journalJSON struct {
	Parts   int   `json:"parts"`
	Records int   `json:"records"`
	Bytes   int64 `json:"bytes"`
}

type filesJSON struct {
	Records    int   `json:"records"`
	Bytes      int64 `json:"bytes"`
	Unfinished int   `json:"unfinished"`
}

type recordJSON struct {
	DB          int       `json:"db"`
	Op          string    `json:"op"`
	Key         string    `json:"key"`
	KeyEncoding string    `json:"keyEncoding,omitempty"` // "base64" of what is no text
	Bytes       int       `json:"bytes"`                 // of the value
	Written     time.Time `json:"written,omitzero"`
	Expires     time.Time `json:"expires,omitzero"`
	Expired     bool      `json:"expired"`
	Stamp       string    `json:"stamp"`
	Slack       int64     `json:"slackMicros"`
	File        string    `json:"file"`

	Operations *ops.Operations `json:"operations,omitempty"`

	Value         *string `json:"value,omitempty"` // of KEY only
	ValueEncoding string  `json:"valueEncoding,omitempty"`
}

// listed is a record, perhaps without its value.
type listed struct {
	ops.Record

	bytes      int             // of the value
	operations *ops.Operations // if it has some
}

func asText(s string) (text, encoding string) {
	if utf8.ValidString(s) {
		return s, ""
	}
	return base64.StdEncoding.EncodeToString([]byte(s)), "base64"
}

func (c *inspectCmd) Run(e *env) error {
	now := time.Now()
	var sum ops.Summary
	var records []listed
	found, err := ops.Read(c.Dir, func(r ops.Record) error {
		sum.Add(&r, now)
		if c.Key == nil || r.Key == *c.Key {
			l := listed{Record: r, bytes: len(r.Value)}
			if o, ok := r.Operations(); ok {
				l.operations = &o
			}
			if c.Key == nil {
				l.Value = "" // a directory may hold more than memory does
			}
			records = append(records, l)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(records, func(a, b listed) int { return cmp.Or(cmp.Compare(a.DB, b.DB), cmp.Compare(a.Key, b.Key)) })
	truncated := 0
	if c.Limit > 0 && len(records) > c.Limit {
		truncated = len(records) - c.Limit
		records = records[:c.Limit]
	}
	switch {
	case c.JSON:
		out := inspected{
			Dir: c.Dir, Process: found.Holder, Running: found.Running, Pending: sum.Pending(), Summary: sum,
			Journal: journalJSON{found.Parts, found.Journaled, found.JournalBytes},
			Files:   filesJSON{found.Files, found.FileBytes, found.Unfinished},
			Records: make([]recordJSON, 0, len(records)), Truncated: truncated, Problems: append([]ops.Problem{}, found.Problems...),
		}
		for i := range records {
			out.Records = append(out.Records, c.record(&records[i], now))
		}
		if err := e.printJSON(out); err != nil {
			return err
		}
	case c.Key != nil:
		for i := range records {
			c.one(e, &records[i], now)
		}
	default:
		c.table(e, records, now)
		if truncated > 0 {
			e.printf("… and %d more (--limit 0 shows all)\n", truncated)
		}
		c.sums(e, &sum, &found, len(records) > 0)
	}
	if len(found.Problems) > 0 {
		fmt.Fprintf(e.stderr, "aside: %s in this directory: see aside verify %s\n", count(len(found.Problems), "problem"), c.Dir)
	}
	if c.Key != nil && len(records) == 0 {
		fmt.Fprintf(e.stderr, "aside: nothing is known of %s\n", strconv.Quote(*c.Key))
		return errFound
	}
	return nil
}

func (c *inspectCmd) record(r *listed, now time.Time) recordJSON {
	out := recordJSON{
		DB: r.DB, Op: string(r.Op), Bytes: r.bytes, Written: r.Written(), Expires: r.Ends(), Expired: r.Expired(now),
		Stamp: r.Stamp, Slack: r.Slack, File: r.File, Operations: r.operations,
	}
	out.Key, out.KeyEncoding = asText(r.Key)
	if c.Key != nil && r.Op != fallback.OpDel {
		value, encoding := asText(r.Value)
		out.Value, out.ValueEncoding = &value, encoding
	}
	return out
}

func (c *inspectCmd) table(e *env, records []listed, now time.Time) {
	if len(records) == 0 {
		return
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DB\tOP\tKEY\tBYTES\tWRITTEN\tEXPIRES\tIN")
	for i := range records {
		r := &records[i]
		bytes := strconv.Itoa(r.bytes)
		if r.Op == fallback.OpDel {
			bytes = "-"
		}
		where, _, _ := strings.Cut(r.File, "/")
		if where == "db" {
			where = "file"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", r.DB, r.Op, shownKey(r.Key, 60), bytes, moment(r.Written()), ends(&r.Record, now), where)
	}
	_ = w.Flush() // to standard output, as are all others
	c.operations(e, records)
}

// operations is a table of the keys that have operations.
func (c *inspectCmd) operations(e *env, records []listed) {
	with := func(r listed) bool { return r.operations != nil }
	if !slices.ContainsFunc(records, with) {
		return
	}
	e.printf("\n")
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DB\tKEY\tOPERATIONS\tCOMMANDS\tSINCE\tSENT TO REDIS")
	for i := range records {
		if r := &records[i]; with(*r) {
			o := r.operations
			fmt.Fprintf(w, "%d\t%s\t%d\t%s\t%s\t%s\n", r.DB, shownKey(r.Key, 60), o.Count, strings.Join(o.Commands, " "), moment(o.Since), sent(o))
		}
	}
	_ = w.Flush()
}

func sent(o *ops.Operations) string {
	if o.Sent {
		return "yes, or about to be: some may have been done"
	}
	return "no"
}

// shownKey is a key on one line of a terminal.
func shownKey(key string, most int) string {
	s := strconv.Quote(key)
	if s == `"`+key+`"` && key != "" && !strings.ContainsAny(key, " ") {
		s = key
	}
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:most-1]) + "…"
	}
	return s
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format("2006-01-02T15:04:05Z")
}

func ends(r *ops.Record, now time.Time) string {
	switch at := r.Ends(); {
	case at.IsZero():
		return "-"
	case at.Sub(r.Written()) > aside.LongestTTL:
		return "never"
	case r.Expired(now):
		return moment(at) + " (expired)"
	default:
		return moment(at)
	}
}

func (c *inspectCmd) sums(e *env, sum *ops.Summary, found *ops.Findings, table bool) {
	if table {
		e.printf("\n")
	}
	e.printf("pending     %d: %s\n", sum.Pending(), sum.Waits(count))
	if !sum.Oldest.IsZero() {
		e.printf("oldest      %s\n", moment(sum.Oldest))
	}
	e.printf("loaded      %s, kept while Redis is away; they may be lost\n", count(sum.Fills, "value"))
	if sum.Expired > 0 {
		e.printf("expired     %d of these: a set will be replayed as a delete, a loaded value not at all\n", sum.Expired)
	}
	e.printf("values      %s\n", byteCount(sum.ValueBytes))
	e.printf("journal     %s in %s, %s\n", count(found.Journaled, "record"), count(found.Parts, "part"), byteCount(found.JournalBytes))
	e.printf("files       %s, %s\n", count(found.Files, "record"), byteCount(found.FileBytes))
	e.printf("process     %s\n", holder(found))
}

func holder(found *ops.Findings) string {
	switch {
	case found.Holder == 0:
		return "none has the directory"
	case found.Running:
		return fmt.Sprintf("%d has the directory", found.Holder)
	default:
		return fmt.Sprintf("%d had the directory and was killed, or runs where this command cannot see it", found.Holder)
	}
}

func (c *inspectCmd) one(e *env, r *listed, now time.Time) {
	e.printf("key         %s\n", strconv.Quote(r.Key))
	e.printf("database    %d\n", r.DB)
	e.printf("op          %s\n", r.Op)
	e.printf("written     %s\n", moment(r.Written()))
	if o := r.operations; o != nil {
		e.printf("operations  %d: %s\n", o.Count, strings.Join(o.Commands, " "))
		e.printf("since       %s\n", moment(o.Since))
		e.printf("sent        %s\n", sent(o))
	}
	e.printf("expires     %s\n", ends(&r.Record, now))
	e.printf("stamp       %s\n", r.Stamp)
	if r.Slack < 0 {
		e.printf("slack       Redis had not been reached: by this machine's clock\n")
	} else {
		e.printf("slack       %v\n", time.Duration(r.Slack)*time.Microsecond)
	}
	e.printf("file        %s\n", r.File)
	if r.Op == fallback.OpOperations && r.operations != nil {
		for _, command := range r.Commands() {
			words := make([]string, len(command))
			for i, word := range command {
				words[i] = shownKey(word, 60)
			}
			e.printf("%s\n", strings.Join(words, " "))
		}
		return
	}
	if r.Op != fallback.OpDel {
		e.printf("value       %s\n", byteCount(int64(len(r.Value))))
		e.printf("%s\n", plain(r.Value))
	}
}

// byteCount is "12 bytes", "3.4 KiB".
func byteCount(n int64) string {
	const unit = 1024
	if n < unit {
		return count(int(n), "byte")
	}
	f, units := float64(n)/unit, "KMGTPE"
	for f >= unit && len(units) > 1 {
		f, units = f/unit, units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", f, units[0])
}
