//go:build !race

package ledger

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// Not under the race detector: it takes a minute there, and a trial has one goroutine, of which the detector has nothing
// to say.

// Each rule is needed: without it, what it is there for goes wrong. So the simulation is able to notice that.
func TestEachRuleIsNeeded(t *testing.T) {
	for _, row := range Mutants() {
		t.Run(row.Name, func(t *testing.T) {
			c := row.Config
			c.Seed, c.Trials = 1, row.Within
			n := Run(c)
			t.Logf("%+v", n)
			assert.Positive(t, row.Sees(n), "within %d trials", row.Within)
		})
	}
}
