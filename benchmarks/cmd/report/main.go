// Report reads the output of the benchmarks and prints what they say as ratios, beside the targets.
// Ratios travel from one machine to another; nanoseconds do not. Each figure is the median of its
// samples, and has the least and the greatest beside it.
//
//	go run ./cmd/report bench.txt
//	go run ./cmd/report -markdown bench.txt     # for docs/BENCHMARKS.md
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

func main() {
	markdown := flag.Bool("markdown", false, "print a Markdown table")
	flag.Parse()
	in := io.Reader(os.Stdin)
	if flag.NArg() > 0 {
		f, err := os.Open(flag.Arg(0))
		if err != nil {
			fmt.Fprintln(os.Stderr, "report:", err)
			os.Exit(1)
		}
		defer f.Close()
		in = f
	}
	write(os.Stdout, parse(in), *markdown)
}

// samples holds what was measured, by "HotHit/aside ns/op".
type samples map[string][]float64

func parse(in io.Reader) samples {
	all := make(samples)
	for lines := bufio.NewScanner(in); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if dash := strings.LastIndexByte(name, '-'); dash > strings.IndexByte(name, '=') {
			if _, err := strconv.Atoi(name[dash+1:]); err == nil {
				name = name[:dash] // the number of processors
			}
		}
		name = strings.Replace(name, "lib=", "", 1)
		for i := 2; i+1 < len(fields); i += 2 {
			if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
				all[name+" "+fields[i+1]] = append(all[name+" "+fields[i+1]], v)
			}
		}
	}
	return all
}

// figure is what samples come to.
type figure struct {
	value, low, high float64
	of               int // samples; 0: nothing was measured
}

// newFigure is the median, between the least and the greatest.
func newFigure(of []float64) figure {
	v := slices.Sorted(slices.Values(of))
	if len(v) == 0 {
		return figure{}
	}
	return figure{value: (v[len(v)/2] + v[(len(v)-1)/2]) / 2, low: v[0], high: v[len(v)-1], of: len(v)}
}

func write(w io.Writer, s samples, markdown bool) {
	format := "%-74s %12s %15s %12s  %s\n"
	if markdown {
		format = "| %s | %s | %s | %s | %s |\n"
	}
	fmt.Fprintf(w, format, "what", "measured", "least … most", "target", "")
	if markdown {
		fmt.Fprintln(w, "|---|---:|---:|---:|---|")
	} else {
		fmt.Fprintln(w, strings.Repeat("-", 74+1+12+1+15+1+12+2+4))
	}
	for _, r := range rows {
		measured, spread, verdict := "not run", "", ""
		if f := r.value(s); f.of > 0 {
			number := func(v float64) string { return strconv.FormatFloat(v, 'f', r.digits, 64) }
			measured = number(f.value) + r.unit
			if low, high := number(f.low), number(f.high); low != high {
				spread = low + " … " + high
			}
			// Compared as printed, so that nobody wonders about "1.30 misses 1.30".
			v, _ := strconv.ParseFloat(number(f.value), 64)
			verdict = "yes"
			if r.atMost && v > r.target || !r.atMost && v < r.target {
				verdict = "NO"
			}
		}
		sign := "≥ "
		if r.atMost {
			sign = "≤ "
		}
		target := sign + strconv.FormatFloat(r.target, 'g', 3, 64) + r.unit
		if r.noTarget {
			target, verdict = "", ""
		}
		fmt.Fprintf(w, format, r.what, measured, spread, target, verdict)
	}
}
