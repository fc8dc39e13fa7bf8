package resp

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the table of docs/PROXY.md instead of comparing it")

const (
	manual     = "../../../../../docs/PROXY.md"
	tableBegin = "<!-- outage: made by go test -C cmd/aside ./internal/proxy/resp -run Outage -update -->\n"
	tableEnd   = "<!-- end of outage -->\n"
)

// outageTable is what docs/PROXY.md says of Outages.
func outageTable() string {
	var b strings.Builder
	b.WriteString("\n| command | while Redis is away | what it depends on |\n|---|---|---|\n")
	for _, row := range Outages {
		all := make([]string, len(row.Commands))
		for i, command := range row.Commands {
			name, options, _ := strings.Cut(command, " ")
			all[i] = "`" + name + "`"
			if options != "" {
				all[i] += " with `" + strings.ReplaceAll(strings.ToUpper(options), "|", "` `") + "`"
			}
		}
		b.WriteString("| " + strings.Join(all, ", ") + " | " + row.Outage.String() + " | " + row.Needs + " |\n")
	}
	b.WriteString("| all others | " + Refused.String() + " | |\n\n")
	return b.String()
}

func TestTheManualSaysWhatBecomesOfEachCommandInAnOutage(t *testing.T) {
	text, err := os.ReadFile(manual)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), tableBegin)
	require.True(t, ok, "docs/PROXY.md has no line %q", tableBegin)
	table, after, ok := strings.Cut(rest, tableEnd)
	require.True(t, ok, "docs/PROXY.md has no line %q", tableEnd)
	if *update {
		require.NoError(t, os.WriteFile(manual, []byte(before+tableBegin+outageTable()+tableEnd+after), 0o600))
		return
	}
	require.Equal(t, outageTable(), table, "go test -C cmd/aside ./internal/proxy/resp -run Outage -update")
}

// What the table says is done here has a step, and what has a step is in the table.
func TestTheTableOfOutagesIsComplete(t *testing.T) {
	for name := range commands {
		require.NotEqual(t, Refused, OutageOf([]string{name}), name)
	}
	for name, outage := range outages {
		switch outage {
		case Answered, KeptIfKnown, KeptAsOperation:
			require.True(t, steps[name] != nil || slices.Contains([]string{"MULTI", "EXEC", "DISCARD"}, name), name)
		case Works:
			require.NotContains(t, steps, name)
		}
	}
	for name, st := range steps {
		outage, ok := outages[name]
		require.True(t, ok, name)
		if name != "GETEX" {
			require.Equal(t, outage == Answered, st.reads, name)
		}
	}
	for text, want := range map[string]Outage{
		"SET a 1": Kept, "set a 1 ex 10": Kept, "SET a NX": Kept, "SET a 1 nx": KeptIfKnown, "SET a 1 EX 10 GET": KeptIfKnown, "GETEX a": Answered, "GETEX a PERSIST": KeptIfKnown,
		"rename a b": KeptIfKnown, "ZADD z 1 a": Refused, "EVAL x 0": Refused, "PING": Works, "KEYS *": Listed,
	} {
		require.Equal(t, want, OutageOf(line(text)), text)
	}
	require.Equal(t, Refused, OutageOf(nil))
}
