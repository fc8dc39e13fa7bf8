package contract

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// teller notes what a test is told, and goes on.
type teller struct {
	testing.TB
	skips, failures []string
}

func (t *teller) Helper()          {}
func (t *teller) Skip(args ...any) { t.skips = append(t.skips, fmt.Sprint(args...)) }
func (t *teller) Fatalf(text string, a ...any) {
	t.failures = append(t.failures, fmt.Sprintf(text, a...))
}
func (t *teller) Errorf(text string, a ...any) { t.Fatalf(text, a...) }

// clumsy cannot be frozen.
type clumsy struct{ Server }

func (clumsy) Kill() {}

func (clumsy) Cannot(what Capability) string {
	if what == Frozen {
		return "it runs in this process"
	}
	return ""
}

func TestARuleThatAServerCannotShowIsSkippedAndNeverSilently(t *testing.T) {
	start := able(func(testing.TB) Server { return clumsy{} }, []Capability{Killed, Frozen})
	const reason = "a server that cannot be frozen (it runs in this process) cannot show this"

	t.Setenv("ASIDE_NO_SKIP", "")
	var told teller
	start(&told)
	require.Equal(t, []string{reason}, told.skips)
	require.Empty(t, told.failures)

	t.Setenv("ASIDE_NO_SKIP", "1")
	told = teller{}
	start(&told)
	require.Len(t, told.failures, 1)
	require.Contains(t, told.failures[0], reason)
}

func TestARuleThatDoesNotSayWhatItNeedsFails(t *testing.T) {
	var told teller
	able(func(testing.TB) Server { return clumsy{} }, nil)(&told).Kill()
	require.Equal(t, []string{"this rule does not say that its server has to be killed"}, told.failures)
}

func TestEveryRuleHasANameAndAReasonOfItsOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rules() {
		require.NotEmpty(t, r.why, r.name)
		require.False(t, seen[r.name], r.name)
		seen[r.name] = true
	}
}
