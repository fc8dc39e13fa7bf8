package upstream

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACursorHasAllOfItsParts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const awayCursor = 1 << 52 // of package resp
	for range 100_000 {
		own := random.Uint64N(1<<(lowBits+highBits)) >> random.IntN(lowBits+highBits)
		primary, layout := random.IntN(1<<primaryBits), uint16(random.Uint32())
		cursor := joinCursor(own, primary, layout)
		gotOwn, gotPrimary, gotLayout := splitCursor(cursor)
		require.Equal(t, []any{own, primary, layout}, []any{gotOwn, gotPrimary, gotLayout})
		require.Zero(t, cursor&awayCursor, "that bit is for cursors of an outage")
		if own < 1<<lowBits {
			require.Less(t, cursor, uint64(awayCursor), "JavaScript reads it as it is")
		}
		// A relapse would have a client of JavaScript go on elsewhere than where it was, and miss keys.
		read, err := strconv.ParseFloat(strconv.FormatUint(cursor, 10), 64)
		require.NoError(t, err)
		if read < 1<<64 && uint64(read) != cursor {
			_, _, other := splitCursor(uint64(read))
			require.NotEqual(t, layout, other)
		}
	}
}

func TestACursorThatHasNoRoomIsAnError(t *testing.T) {
	d := &spread{order: make([]*node, 3), layout: 7}
	for _, test := range []struct {
		own  uint64
		i    int
		want uint64
		err  error
	}{
		{5, 1, joinCursor(5, 1, 7), nil},
		{0, 1, joinCursor(0, 2, 7), nil},
		{0, 2, 0, nil},
		{1<<37 - 1, 2, joinCursor(1<<37-1, 2, 7), nil},
		{1 << 37, 0, 0, ErrCursor},
		{1<<64 - 1, 0, 0, ErrCursor},
	} {
		next, err := d.behind(test.own, test.i)
		require.ErrorIs(t, err, test.err)
		require.Equal(t, test.want, next)
	}
}

// The layout is that of the slots, whichever node is asked and by whichever address, and another one once a slot moves, or a
// replica takes over.
func TestALayoutIsThatOfTheSlots(t *testing.T) {
	p := New(Options{})
	t.Cleanup(p.Close)
	type row struct {
		first, last int
		port        int
		id          string
	}
	of := func(host, asked string, rows ...row) *slots {
		reply := fmt.Sprintf("*%d\r\n", len(rows))
		for _, r := range rows {
			reply += fmt.Sprintf("*3\r\n:%d\r\n:%d\r\n*3\r\n$%d\r\n%s\r\n:%d\r\n$%d\r\n%s\r\n", r.first, r.last, len(host), host, r.port, len(r.id), r.id)
		}
		s, err := p.newSlots([]byte(reply), asked)
		require.NoError(t, err)
		return s
	}
	ports := func(s *slots) (all []string) {
		for _, n := range s.spread.order {
			all = append(all, n.address)
		}
		return all
	}
	a, b := row{0, 8000, 2, "a"}, row{8001, 16383, 1, "b"}
	s := of("h", "h:1", a, b)
	require.True(t, s.spread.covered)
	require.Equal(t, []string{"h:2", "h:1"}, ports(s), "by id")
	for what, same := range map[string]*slots{
		"another order": of("h", "h:1", b, a), "in pieces": of("h", "h:1", row{0, 100, 2, "a"}, row{101, 8000, 2, "a"}, b), "another name": of("other", "h:1", a, b), "no name": of("", "h:1", a, b),
	} {
		require.Equal(t, s.spread.layout, same.spread.layout, what)
		require.Len(t, same.spread.order, 2)
	}
	for what, other := range map[string]*slots{
		"a slot has moved":     of("h", "h:1", row{0, 7999, 2, "a"}, row{8000, 16383, 1, "b"}),
		"another one has it":   of("h", "h:1", a, row{8001, 16383, 1, "c"}),
		"they have changed":    of("h", "h:1", row{0, 8000, 2, "b"}, row{8001, 16383, 1, "a"}),
		"one more":             of("h", "h:1", a, row{8001, 16000, 1, "b"}, row{16001, 16383, 3, "c"}),
		"one has lost all":     of("h", "h:1", row{0, 16383, 2, "a"}),
		"some have no primary": of("h", "h:1", a, row{8001, 16382, 1, "b"}),
		"also in the middle":   of("h", "h:1", row{0, 7999, 2, "a"}, b),
	} {
		require.NotEqual(t, s.spread.layout, other.spread.layout, what)
	}
	require.False(t, of("h", "h:1", a, row{8001, 16382, 1, "b"}).spread.covered)
}

// A slot that is on its way to a primary that is asked later costs nothing; to one that was asked, or is not asked as it has no slots
// yet, keys may have gone ahead.
func TestAPrimaryThatLosesASlotIsKnownByItsOwnLine(t *testing.T) {
	d := &spread{ids: []string{"a", "b", "c"}}
	lines := func(open string) string {
		return "txt:a h:1@11 master - 0 1 1 connected 0-5460 [7->-b]\n" +
			"b h:2@12,name myself,master - 0 0 2 connected 5461-10922 " + open + "\n" +
			"r h:4@14 slave b 0 0 2 connected\n" +
			"c h:3@13 master - 0 0 3 connected 10923-16383\n"
	}
	for open, want := range map[string]bool{
		"": false, "[5500->-c]": false, "[5500->-a]": true, "[5500->-new]": true, "[5500->-c] [5501->-a]": true, "[7-<-a]": false, "[10923-<-c]": false,
	} {
		require.Equal(t, want, d.loses(lines(open), 1), open)
	}
}
