package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// ledger is what the service was promised: each line an operation, or many alike, and what Redis
// must hold in the end because of it.
type ledger struct{ entries []entry }

type entry struct {
	what, when string
	acked      string
	want       map[string]string // key and value; "": nothing
	right      string            // how to say that it is so
	either     bool              // nothing was promised, so nothing is wrong
}

func (l *ledger) note(what, when, acked, right string, want map[string]string) {
	l.entries = append(l.entries, entry{what: what, when: when, acked: acked, right: right, want: want})
}

// audit compares the ledger with what Redis itself says, prints the table, and reports whether all
// is right.
func (l *ledger) audit(ctx context.Context, s *screen, redis *server) (ok bool, err error) {
	const format = "     %-24s %-16s %6s   %-20s "
	fmt.Fprintln(s.out, s.in(dim, strings.TrimRight(fmt.Sprintf(format, "what", "when", "ack'ed", "now in Redis"), " ")))
	ok = true
	for _, e := range l.entries {
		keys := make([]string, 0, len(e.want))
		for key := range e.want {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		values, err := redis.values(ctx, keys)
		if err != nil {
			return false, err
		}
		now, verdict := e.right, s.in(green, "ok")
		var wrong []string
		for _, key := range keys {
			if value := values[key]; value != e.want[key] {
				wrong = append(wrong, fmt.Sprintf("%s holds %q, want %q", key, value, e.want[key]))
			}
		}
		switch {
		case e.either:
			if len(wrong) > 0 {
				now = "not done: fine, too"
			}
		case len(wrong) > 0:
			now, verdict, ok = fmt.Sprintf("%d of %d wrong", len(wrong), len(keys)), s.in(red, "WRONG"), false
		}
		fmt.Fprintf(s.out, format+"%s\n", e.what, e.when, e.acked, now, verdict)
		if !e.either && len(wrong) > 0 {
			s.verbatim(strings.Join(wrong[:min(3, len(wrong))], "; "))
		}
	}
	return ok, nil
}
