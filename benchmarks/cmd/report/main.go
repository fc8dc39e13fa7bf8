// Report reads the output of the benchmarks and prints what they say as ratios, beside the targets. Ratios travel from one
// machine to another; nanoseconds do not. Each figure is the median of its samples.
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

// median is false where nothing was measured.
func (s samples) median(what string) (float64, bool) {
	v := slices.Sorted(slices.Values(s[what]))
	if len(v) == 0 {
		return 0, false
	}
	return (v[len(v)/2] + v[(len(v)-1)/2]) / 2, true
}

func (s samples) most(what string) (float64, bool) {
	if len(s[what]) == 0 {
		return 0, false
	}
	return slices.Max(s[what]), true
}

func write(w io.Writer, s samples, markdown bool) {
	format := "%-74s %12s %12s  %s\n"
	if markdown {
		format = "| %s | %s | %s | %s |\n"
	}
	fmt.Fprintf(w, format, "what", "measured", "target", "")
	if markdown {
		fmt.Fprintln(w, "|---|---:|---:|---|")
	} else {
		fmt.Fprintln(w, strings.Repeat("-", 74+1+12+1+12+2+4))
	}
	for _, r := range rows {
		measured, verdict := "not run", ""
		if v, ok := r.value(s); ok {
			measured = strconv.FormatFloat(v, 'f', r.digits, 64) + r.unit
			// Compared as printed, so that nobody wonders about "1.30 misses 1.30".
			v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'f', r.digits, 64), 64)
			verdict = "yes"
			if r.atMost && v > r.target || !r.atMost && v < r.target {
				verdict = "NO"
			}
		}
		sign := "≥ "
		if r.atMost {
			sign = "≤ "
		}
		target := sign + strconv.FormatFloat(r.target, 'f', -1, 64) + r.unit
		if r.noTarget {
			target, verdict = "", ""
		}
		fmt.Fprintf(w, format, r.what, measured, target, verdict)
	}
}
