package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// table prints rounds as they come: redrawn in place on a terminal, where the last ones stay in
// view; a line each elsewhere; not at all with -json.
type table struct {
	out   *os.File
	set   settings
	live  bool
	drawn int      // lines to go up before the next drawing
	last  []string // rows in view
}

const inView = 12

func newTable(out *os.File, set settings) *table {
	info, err := out.Stat()
	t := &table{out: out, set: set, live: err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"}
	t.say("%d processes × %d callers ask for one cold key per round; its loader takes %v (it sleeps, for a slow query).\n"+
		"wake-up: from the loader's return to a caller's having the value\n", set.processes, set.callers, set.loader)
	if !t.live {
		t.say("%s", heading)
	}
	return t
}

func (t *table) say(format string, args ...any) {
	if !t.set.json {
		fmt.Fprintf(t.out, format+"\n", args...)
	}
}

const (
	heading   = "     round  loader calls     latency p50       p99       max     wake-up p50       p99"
	rowFormat = "%10s  %12d      %10s%10s%10s      %10s%10s"
)

func line(name string, loads int, r round) string {
	return fmt.Sprintf(rowFormat, name, loads,
		short(quantile(r.latencies, 0.5)), short(quantile(r.latencies, 0.99)), short(quantile(r.latencies, 1)),
		short(quantile(r.wakes, 0.5)), short(quantile(r.wakes, 0.99)))
}

func short(d time.Duration) string { return fmt.Sprintf("%.2fms", ms(d)) }

func (t *table) row(n int, r round, so *summary) {
	if t.set.json {
		return
	}
	text := line(fmt.Sprintf("%d/%d", n, t.set.rounds), r.loads, r)
	if !t.live {
		fmt.Fprintln(t.out, text)
		return
	}
	t.last = append(t.last, text)
	t.last = t.last[max(0, len(t.last)-inView):]
	lines := append([]string{heading}, t.last...)
	lines = append(lines, fmt.Sprintf("%10s  %12d", "so far", so.LoaderCalls))
	var b strings.Builder
	if t.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", t.drawn)
	}
	for _, l := range lines {
		b.WriteString("\r\x1b[2K" + l + "\n")
	}
	t.drawn = len(lines)
	fmt.Fprint(t.out, b.String())
}

func (t *table) end(s *summary) {
	if t.set.json {
		e := json.NewEncoder(t.out)
		e.SetIndent("", "  ")
		_ = e.Encode(s)
		return
	}
	t.say("\n%s", line("all", s.LoaderCalls, round{latencies: s.latencies, wakes: s.wakes}))
	verdict := fmt.Sprintf("The loader was called once in each of %d rounds, for %d callers in %d processes.", s.Rounds, s.Processes*s.Callers, s.Processes)
	if !s.Once {
		verdict = fmt.Sprintf("The loader was called %d times in %d rounds, up to %d times in one.", s.LoaderCalls, s.Rounds, s.MostPerRound)
	}
	t.say("\n%s", verdict)
}
