package sim

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/redaside/aside/internal/sim/trials"
)

// ClockErrors are the errors of clocks for which a Report is made.
func ClockErrors() []time.Duration {
	return []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond}
}

// Row is one line of a Report.
type Row struct {
	Config
	Counts
}

// Rows runs each of configs.
func Rows(configs []Config) []Row {
	rows := make([]Row, len(configs))
	for i, c := range configs {
		rows[i] = Row{c, Run(c)}
	}
	return rows
}

// Broken counts the trials in which something happened that Ours must never let happen. Where
// servers forget stamps, or processes die in the middle of a write, nothing is promised.
func (r Row) Broken() int {
	if r.Policy != Ours || r.Evictions || r.Deaths {
		return 0
	}
	return r.Stale + r.Undone + r.Meanwhile + r.Back + r.SetsLost
}

// Report writes rows as a table in Markdown, and below it how to be told a trial that went wrong,
// where there was one.
func Report(to io.Writer, rows []Row) error {
	var b bytes.Buffer
	b.WriteString("| policy | clock error | stale | deletes undone | older shown on the way | older put over newer | Sets lost | Sets gone, contested | Sets left to a load | server lost data (stale then) |\n")
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %v | %s | %s | %s | %s | %s | %s | %s | %s (%s) |\n", r.name(), r.ClockError,
			trials.Grouped(r.Stale), trials.Grouped(r.Undone), trials.Grouped(r.Meanwhile), trials.Grouped(r.Back),
			trials.Grouped(r.SetsLost), trials.Grouped(r.SetsContested), trials.Grouped(r.SetsReload+r.SetsTooOld), trials.Grouped(r.Lost), trials.Grouped(r.LostStale))
	}
	b.WriteString("\n")
	for _, r := range rows {
		for _, f := range []struct {
			what  string
			trial int
		}{
			{"stale", r.FirstStale}, {"delete undone", r.FirstUndone}, {"older shown on the way", r.FirstMeanwhile},
			{"older put over newer", r.FirstBack}, {"Set lost", r.FirstSetLost},
		} {
			if f.trial >= 0 {
				fmt.Fprintf(&b, "    %s: %s\n", r.Command(f.trial), f.what)
				if r.Broken() == 0 {
					break // one is enough to see why
				}
			}
		}
	}
	_, err := b.WriteTo(to)
	return err
}

// Command is what tells one trial of the row.
func (r Row) Command(trial int) string {
	more := ""
	if r.Margin != 0 {
		more += fmt.Sprintf(" -margin %v", r.Margin)
	}
	if r.Evictions {
		more += " -evictions"
	}
	if r.Deaths {
		more += " -deaths"
	}
	if r.Late {
		more += " -late"
	}
	return fmt.Sprintf("go run ./internal/sim/cmd/sim -policy %s -error %v%s -seed %d -trial %d", r.Policy, r.ClockError, more, r.Seed, trial)
}

func (r Row) name() string {
	name := r.Policy.String()
	if r.Evictions {
		name += ", evictions"
	}
	if r.Deaths {
		name += ", deaths"
	}
	if r.Late {
		name += ", late answers"
	}
	if r.Margin != 0 {
		name += fmt.Sprintf(", margin %v", r.Margin)
	}
	return name
}
