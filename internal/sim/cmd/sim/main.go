// Command sim runs the simulation of the replay policies and prints its tables in Markdown.
//
//	sim -trials 1000000                                          all tables
//	sim -policy ours -error 50ms                                 one row
//	sim -policy draft -error 0s -seed 1 -trial 18886             what happens in one trial
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redaside/aside/internal/sim"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

func run() error {
	trials := flag.Int("trials", 1_000_000, "trials for each row")
	seed := flag.Uint64("seed", 1, "where the random numbers begin")
	policy := flag.String("policy", "all", "all, or one of them")
	clockError := flag.Duration("error", -1, "by how much clocks may be off; each of those of the table by default")
	margin := flag.Duration("margin", 0, "within which writes are contested; by default twice the error, and 100ms at least")
	evictions := flag.Bool("evictions", false, "the server evicts values and stamps")
	deaths := flag.Bool("deaths", false, "processes die while they wait for the answer to a write")
	late := flag.Bool("late", false, "clocks may be off by ten margins more, as who has them knows")
	trial := flag.Int("trial", -1, "tell what happens in this one")
	flag.Parse()

	all := *policy == "all"
	policies, clockErrors := sim.Policies(), sim.ClockErrors()
	if !all {
		one, err := sim.PolicyNamed(*policy)
		if err != nil {
			return err
		}
		policies = []sim.Policy{one}
	}
	if *clockError >= 0 {
		clockErrors = []time.Duration{*clockError}
	}
	config := func(p sim.Policy, e time.Duration) sim.Config {
		return sim.Config{Policy: p, ClockError: e, Margin: *margin, Trials: *trials, Seed: *seed, Evictions: *evictions, Deaths: *deaths, Late: *late}
	}
	if *trial >= 0 {
		if all || *clockError < 0 {
			return fmt.Errorf("-trial wants -policy and -error")
		}
		return sim.Trace(config(policies[0], *clockError), *trial, os.Stdout)
	}

	begin := time.Now()
	var kept, beyond []sim.Config
	for _, p := range policies {
		for _, e := range clockErrors {
			kept = append(kept, config(p, e))
			if !p.LooksAtClocks() {
				break
			}
		}
	}
	if all && !*evictions && !*deaths && !*late {
		for _, e := range clockErrors {
			c := config(sim.Ours, e)
			c.Late = true
			kept = append(kept, c)
		}
		for _, e := range clockErrors {
			for _, deaths := range []bool{false, true} {
				c := config(sim.Ours, e)
				c.Evictions, c.Deaths = !deaths, deaths
				beyond = append(beyond, c)
			}
		}
	}
	rows := sim.Rows(kept)
	fmt.Printf("%d trials for each row, seed %d: 3 instances, 14 to 26 random events.\n\n", *trials, *seed)
	if err := sim.Report(os.Stdout, rows); err != nil {
		return err
	}
	if len(beyond) > 0 {
		fmt.Print("\nBeyond what is promised: the server evicts values and stamps; processes die while they wait for the answer to a write.\n\n")
		if err := sim.Report(os.Stdout, sim.Rows(beyond)); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "%v\n", time.Since(begin).Round(time.Second/10))
	var broken []string
	for _, r := range rows {
		if r.Broken() > 0 {
			broken = append(broken, fmt.Sprintf("%v at %v", r.Policy, r.ClockError))
		}
	}
	if broken != nil {
		return fmt.Errorf("broken: %s", strings.Join(broken, ", "))
	}
	return nil
}
