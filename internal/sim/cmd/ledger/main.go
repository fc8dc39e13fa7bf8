// Command ledger runs the simulation of operations that are kept, and prints its tables in Markdown.
//
//	ledger -trials 200000                                     all tables
//	ledger -mix kills -error 50ms                             one row
//	ledger -mix kills -error 50ms -seed 1 -trial 92637        what happens in one trial
//	ledger -mix ledgers -error 50ms -forgets -without "step 1" -trial 452
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/redaside/aside/internal/sim/ledger"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "ledger:", err)
		os.Exit(1)
	}
}

func run() error {
	trials := flag.Int("trials", 200_000, "trials for each row")
	seed := flag.Uint64("seed", 1, "where the random numbers begin")
	mix := flag.String("mix", "", "what happens, and how often; all by default")
	clockError := flag.Duration("error", -1, "by how much clocks may be off; each of those of the table by default")
	forgets := flag.Bool("forgets", false, "the server evicts ledgers, stamps and values, and ledgers expire")
	late := flag.Bool("late", false, "clocks may be off by more, as who has them knows")
	without := flag.String("without", "", "leave out a rule, as the second table names it")
	trial := flag.Int("trial", -1, "tell what happens in this one")
	flag.Parse()

	c := ledger.Config{Mix: *mix, ClockError: *clockError, Trials: *trials, Seed: *seed, Forgets: *forgets, Late: *late}
	if *without != "" {
		found := false
		for _, m := range ledger.Mutants() {
			if m.Name == *without {
				c.Without, found = m.Config.Without, true
			}
		}
		if !found {
			return fmt.Errorf("no rule is called %q", *without)
		}
	}
	if *trial >= 0 {
		if *mix == "" || *clockError < 0 {
			return errors.New("-trial wants -mix and -error")
		}
		return ledger.Trace(c, *trial, os.Stdout)
	}

	begin := time.Now()
	mixes, clockErrors := ledger.Mixes(), ledger.ClockErrors()
	if *mix != "" {
		mixes = []string{*mix}
	}
	if *clockError >= 0 {
		clockErrors = []time.Duration{*clockError}
	}
	whole := *mix == "" && *clockError < 0 && c.Without == 0 && !*forgets && !*late
	var rows []ledger.Row
	broken := 0
	add := func(c ledger.Config) {
		r := ledger.Row{Config: c, Counts: ledger.Run(c)}
		rows, broken = append(rows, r), broken+r.Broken()
	}
	for _, c.Mix = range mixes {
		for _, c.ClockError = range clockErrors {
			if whole && c.ClockError != ledger.ClockErrors()[1] && c.Mix != mixes[0] {
				continue // one error of clocks for the mixes, one mix for the errors
			}
			add(c)
		}
		if whole {
			more := c
			more.ClockError = ledger.ClockErrors()[1]
			more.Forgets = true
			add(more)
		}
	}
	if whole {
		c.Mix, c.ClockError, c.Late = mixes[0], ledger.ClockErrors()[1], true
		add(c)
	}
	fmt.Printf("%d trials for each row, seed %d: 3 processes, 12 to 36 random events.\n\n", *trials, *seed)
	if err := ledger.Report(os.Stdout, rows); err != nil {
		return err
	}
	if whole {
		var mutants []ledger.Row
		for _, m := range ledger.Mutants() {
			m.Config.Seed, m.Config.Trials = *seed, min(*trials, m.Within)
			mutants = append(mutants, ledger.Row{Config: m.Config, Counts: ledger.Run(m.Config)})
		}
		fmt.Print("\nWithout one of its rules, in as many trials as the last column says:\n\n")
		if err := ledger.ReportMutants(os.Stdout, mutants); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "%v\n", time.Since(begin).Round(time.Second/10))
	if broken > 0 && c.Without == 0 {
		return fmt.Errorf("broken in %d trials", broken)
	}
	return nil
}
