package crash

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// op is one Set or Del of one key.
type op struct {
	id      string // unique; grows within a life
	del     bool
	life    int
	begun   time.Time // when the parent heard of it, which is a little later
	kept    bool      // for replay, in the fallback directory
	outcome outcome
	note    string // the error
}

type outcome int

const (
	unanswered outcome = iota // the process was killed first
	acknowledged
	failed // with an error: it may have been done, or be done yet
)

func (o op) String() string {
	verb := "set"
	if o.del {
		verb = "del"
	}
	kept := "       "
	if o.kept {
		kept = "on disk"
	}
	return fmt.Sprintf("%s %-12s %s %s %s %s", o.begun.Format("05.000000"), o.id, verb, kept, [...]string{"unanswered", "acknowledged", "failed"}[o.outcome], o.note)
}

// history is what a key went through, in order: one worker at a time writes it, so that operations
// of one key never overlap. Not safe for concurrent use.
type history struct {
	ops []op
}

func (h *history) last() *op { return &h.ops[len(h.ops)-1] }

// candidates are the operations of which one must be in effect: the newest that was acknowledged,
// and all that were begun later.
func (h *history) candidates() []op {
	from := 0
	for i := range h.ops {
		if h.ops[i].outcome == acknowledged {
			from = i
		}
	}
	return h.ops[from:]
}

// check says what is wrong with a key that holds value; nil: it holds none.
func (h *history) check(key string, value *string) error {
	if value == nil {
		return h.checkID(key, none)
	}
	id, err := parseValue(key, *value)
	if err != nil {
		return err
	}
	return h.checkID(key, id)
}

const none = "-" // the id of what is not there

func (h *history) checkID(key, id string) error {
	may := h.candidates()
	settled := len(may) > 0 && may[0].outcome == acknowledged
	if id == none {
		if !settled || slices.ContainsFunc(may, func(o op) bool { return o.del }) {
			return nil
		}
		return fmt.Errorf("key %s is gone, its newest acknowledged operation was\n  %v", key, may[0])
	}
	if slices.ContainsFunc(may, func(o op) bool { return !o.del && o.id == id }) {
		return nil
	}
	if !settled {
		return fmt.Errorf("key %s holds %s, which nobody has begun", key, id)
	}
	return fmt.Errorf("key %s holds %s, its newest acknowledged operation was\n  %v", key, id, may[0])
}

// story is the end of what happened to the key.
func (h *history) story() string {
	const most = 30
	var b strings.Builder
	for _, o := range h.ops[max(0, len(h.ops)-most):] {
		fmt.Fprintf(&b, "  %v\n", o)
	}
	return b.String()
}

// A value says what it is and carries its own checksum, so that half of one is not taken for
// another:
//
//	<id> <key> <crc32 of the rest> <filling>
func newValue(key, id string, filling int) string {
	rest := strings.Repeat(id+".", filling/(len(id)+1)+1)
	return fmt.Sprintf("%s %s %08x %s", id, key, checksum(id, key, rest), rest)
}

func parseValue(key, value string) (id string, err error) {
	parts := strings.SplitN(value, " ", 4)
	if len(parts) != 4 {
		return "", fmt.Errorf("key %s holds half a value, %d bytes: %.80q", key, len(value), value)
	}
	sum, err := strconv.ParseUint(parts[2], 16, 32)
	switch {
	case err != nil || uint32(sum) != checksum(parts[0], parts[1], parts[3]):
		return "", fmt.Errorf("key %s holds a damaged value, %d bytes: %.80q", key, len(value), value)
	case parts[1] != key:
		return "", fmt.Errorf("key %s holds the value of key %s", key, parts[1])
	}
	return parts[0], nil
}

func checksum(parts ...string) uint32 { return crc32.ChecksumIEEE([]byte(strings.Join(parts, " "))) }

// The comparison itself: what it must find, and what it must not.
func TestTheComparisonFindsWhatIsLost(t *testing.T) {
	set := func(id string, o outcome) op { return op{id: id, outcome: o} }
	del := func(id string, o outcome) op { return op{id: id, del: true, outcome: o} }
	for name, row := range map[string]struct {
		ops  []op
		has  string
		lost bool
	}{
		"nothing happened":                      {nil, none, false},
		"nothing happened, and something is":    {nil, "1", true},
		"set":                                   {[]op{set("1", acknowledged)}, "1", false},
		"a set is lost":                         {[]op{set("1", acknowledged)}, none, true},
		"a set is undone":                       {[]op{set("1", acknowledged), set("2", acknowledged)}, "1", true},
		"a delete is undone":                    {[]op{set("1", acknowledged), del("2", acknowledged)}, "1", true},
		"killed before the first":               {[]op{set("1", unanswered)}, none, false},
		"killed after the first":                {[]op{set("1", unanswered)}, "1", false},
		"the kill undoes what was before":       {[]op{set("1", acknowledged), set("2", unanswered)}, none, true},
		"the kill leaves what was before":       {[]op{set("1", acknowledged), set("2", unanswered)}, "1", false},
		"the kill deletes":                      {[]op{set("1", acknowledged), del("2", unanswered)}, none, false},
		"an older unanswered one comes back":    {[]op{set("1", unanswered), set("2", acknowledged)}, "1", true},
		"failed, done":                          {[]op{set("1", acknowledged), set("2", failed)}, "2", false},
		"failed, not done":                      {[]op{set("1", acknowledged), set("2", failed)}, "1", false},
		"two that nobody answered for":          {[]op{set("1", acknowledged), set("2", unanswered), set("3", unanswered)}, "2", false},
		"an acknowledged delete, nothing there": {[]op{set("1", acknowledged), del("2", acknowledged)}, none, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := history{ops: row.ops}
			if err := h.checkID("k", row.has); row.lost {
				require.Error(t, err)
			} else {
				require.NoError(t, err)
			}
		})
	}
	value := newValue("k", "1.2.3", 100)
	id, err := parseValue("k", value)
	require.NoError(t, err)
	require.Equal(t, "1.2.3", id)
	_, err = parseValue("other", value)
	require.Error(t, err, "another key's")
	for n := range value {
		_, err := parseValue("k", value[:n])
		require.Error(t, err, "the first %d bytes", n)
	}
}
