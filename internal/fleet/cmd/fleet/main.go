// Command fleet simulates many processes of this library on one Redis, and prints the tables of
// docs/SCALING.md:
//
//	fleet -n 10000
//	fleet -table docs/SCALING.md        writes them there
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/redaside/aside/internal/fleet"
)

func main() {
	n := flag.Int("n", 10_000, "processes")
	table := flag.String("table", "", "the page whose tables are replaced, instead of printing them")
	flag.Parse()
	costs, err := fleet.Measured()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet: measured.json cannot be read:", err)
		os.Exit(1)
	}
	if *n < 1 {
		fmt.Fprintf(os.Stderr, "fleet: -n is %d, must be at least 1\n", *n)
		os.Exit(2)
	}
	if *table == "" {
		fmt.Print(costs.Report(*n))
		return
	}
	page, err := os.ReadFile(*table)
	if err == nil {
		err = os.WriteFile(*table, []byte(fleet.Replace(string(page), costs.Report(*n))), 0o600) // the page is there: its mode stays
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}
