// Report reads what go test -json prints and says what matters of it: each package as it ends, what
// failed and why, what was skipped, and every half minute which tests are running. It adds "passed
// failed skipped" as a line to a file.
//
//	make test TESTFLAGS=-json | report counts.txt
//	go test -json ./... | report -skips counts.txt
//
// It fails if a test failed, if there was none, or, without -skips, if one was skipped.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// event is a line of go test -json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

// test names a test, or with an empty name its package.
type test struct{ pkg, name string }

type report struct {
	output                  map[test]*strings.Builder // of what has not ended yet
	since                   map[test]time.Time        // tests that are running
	passed, failed, skipped int
	broken                  bool // a package failed without any test to blame
}

func main() {
	skips := flag.Bool("skips", false, "a skipped test is no failure, and a module without tests is none either")
	flag.Parse()
	r := report{output: map[test]*strings.Builder{}, since: map[test]time.Time{}}
	lines := make(chan string)
	go func() { // ends with the input
		defer close(lines)
		in := bufio.NewReader(os.Stdin)
		for {
			line, err := in.ReadString('\n')
			if line != "" {
				lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(30 * time.Second)
	for open := true; open; {
		var line string
		select {
		case line, open = <-lines:
			r.take(line)
		case <-tick.C:
			r.running()
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	if err := r.save(flag.Arg(0)); err != nil {
		fmt.Println("report:", err)
		os.Exit(2)
	}
	if r.failed > 0 || r.broken || !*skips && (r.skipped > 0 || r.passed == 0) {
		os.Exit(1)
	}
}

func (r *report) take(line string) {
	var e event
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
		fmt.Print(line) // from make, or a compiler
		return
	}
	t := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Print(e.Output)
	case "run", "cont":
		r.since[t] = time.Now()
	case "pause": // until others that run beside it have ended
		delete(r.since, t)
	case "output":
		if r.output[t] == nil {
			r.output[t] = &strings.Builder{}
		}
		r.output[t].WriteString(e.Output)
	case "pass", "fail", "skip":
		r.end(t, e)
	}
}

func (r *report) end(t test, e event) {
	if t.name == "" {
		r.endPackage(t, e)
		return
	}
	switch e.Action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		fmt.Printf("FAIL %s %s\n%s", t.pkg, t.name, r.said(t))
	case "skip":
		r.skipped++
		fmt.Printf("SKIP %s %s\n%s", t.pkg, t.name, r.said(t))
	}
	delete(r.output, t)
	delete(r.since, t)
}

// endPackage also ends the tests of the package that a panic or a timeout kept from ending.
func (r *report) endPackage(t test, e event) {
	fmt.Printf("%-4s %s %.1fs\n", map[string]string{"pass": "ok", "skip": "--", "fail": "FAIL"}[e.Action], t.pkg, e.Elapsed)
	failed := r.failed
	for other := range maps.Clone(r.output) {
		if other.pkg == t.pkg && other.name != "" && e.Action == "fail" {
			r.end(other, event{Action: "fail"})
		}
	}
	if e.Action == "fail" {
		fmt.Print(r.said(t))
		r.broken = r.broken || failed == r.failed
	}
	delete(r.output, t)
}

func (r *report) said(t test) string {
	if out := r.output[t]; out != nil {
		return out.String()
	}
	return ""
}

func (r *report) running() {
	longest := slices.SortedFunc(maps.Keys(r.since), func(a, b test) int {
		return cmp.Or(r.since[a].Compare(r.since[b]), cmp.Compare(a.name, b.name))
	})
	for _, t := range longest[:min(3, len(longest))] {
		fmt.Printf("     running for %.0fs: %s %s\n", time.Since(r.since[t]).Seconds(), t.pkg, t.name)
	}
}

func (r *report) save(name string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, r.passed, r.failed, r.skipped)
	return cmp.Or(err, f.Close())
}
