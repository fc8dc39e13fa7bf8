// Package trials is what simulations have in common: many trials, each by its number, on all processors, and what is
// counted of them.
package trials

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
)

const chunk = 1000 // trials that a worker takes at once

// Run does n trials. Each worker begins with a world of its own, and has what it counted merged at its end, by one
// worker at a time.
func Run(n int, begin func() (trial func(number int), end func())) {
	var mu sync.Mutex // held by whoever merges
	var next atomic.Int64
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() { // ends with the trials
			trial, end := begin()
			for {
				from := int(next.Add(chunk)) - chunk
				if from >= n {
					break
				}
				for number := from; number < min(from+chunk, n); number++ {
					trial(number)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			end()
		})
	}
	workers.Wait()
}

// Earliest is the lesser of two numbers of trials, of which -1 is none.
func Earliest(a, b int) int {
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

// Grouped is n with a comma between thousands.
func Grouped(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", Grouped(n/1000), n%1000)
}
