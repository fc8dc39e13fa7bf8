package ledger

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/redaside/aside/internal/sim/trials"
)

// ClockErrors are the errors of clocks for which a Report is made.
func ClockErrors() []time.Duration {
	return []time.Duration{0, 50 * time.Millisecond, 500 * time.Millisecond}
}

// Row is one line of a Report.
type Row struct {
	Config
	Counts
}

// Command is what tells one trial of the row.
func (r Row) Command(trial int) string {
	more := ""
	if r.Forgets {
		more += " -forgets"
	}
	if r.Late {
		more += " -late"
	}
	without := ""
	if r.Without != 0 {
		for _, m := range Mutants() {
			if m.Config.Without == r.Without {
				without = fmt.Sprintf(" -without %q", m.Name)
			}
		}
	}
	more += without
	return fmt.Sprintf("go run ./internal/sim/cmd/ledger -mix %s -error %v%s -seed %d -trial %d", r.withDefaults().Mix, r.ClockError, more, r.Seed, trial)
}

func (r Row) name() string {
	name := r.withDefaults().Mix
	if r.Forgets {
		name += ", forgets"
	}
	if r.Late {
		name += ", late answers"
	}
	return name
}

// Report writes rows of the rule as a table in Markdown, and below it how to be told a trial that went wrong, where there
// was one.
func Report(to io.Writer, rows []Row) error {
	var b bytes.Buffer
	b.WriteString("| what happens | clock error | twice | lost | reported for no reason | out of order | undone | operations | done | dropped | reported: ledger lost | reported: refused | lost by Redis |\n")
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %v |", r.name(), r.ClockError)
		for _, n := range []int{r.Twice, r.Lost + r.Stuck, r.Reported, r.Order, r.Undone, r.Operations, r.Done, r.Dropped, r.Rejected, r.Refused, r.DataLost} {
			fmt.Fprintf(&b, " %s |", trials.Grouped(n))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, r := range rows {
		for _, f := range r.faults(&Counts{}) {
			if *f.first >= 0 {
				fmt.Fprintf(&b, "    %s: %s\n", r.Command(*f.first), f.name)
			}
		}
	}
	_, err := b.WriteTo(to)
	return err
}

// ReportMutants writes what comes of leaving out a rule.
func ReportMutants(to io.Writer, rows []Row) error {
	var b bytes.Buffer
	b.WriteString("| without | what happens | twice | lost | reported for no reason | out of order | undone | trials |\n")
	b.WriteString("|---|---|--:|--:|--:|--:|--:|--:|\n")
	for i, m := range Mutants() {
		r := rows[i]
		fmt.Fprintf(&b, "| %s | %s |", m.Name, r.name())
		for _, n := range []int{r.Twice, r.Lost + r.Stuck, r.Reported, r.Order, r.Undone, r.Counts.Trials} {
			fmt.Fprintf(&b, " %s |", trials.Grouped(n))
		}
		b.WriteString("\n")
	}
	_, err := b.WriteTo(to)
	return err
}
