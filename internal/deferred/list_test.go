package deferred

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/stamp"
)

// at is the stamp of so many µs, and of a client.
func at(micros int64) string {
	return stamp.Stamp{Micros: micros, Client: "00000000000000aa", Number: 1}.String()
}

func TestAListIsReadAsItWasWritten(t *testing.T) {
	l := List{ID: at(1), Ops: []Op{{at(1), []string{"SADD", "a", "<&>\"\\", "\u2028"}}, {at(2), []string{"APPEND", "\xff\x00\r\n"}}, {at(3), []string{"PERSIST"}}}}
	for _, opened := range []bool{false, true} {
		l.Opened = opened
		got, err := Parse(l.String())
		require.NoError(t, err)
		require.Equal(t, l, got)
		require.Equal(t, len(l.Ops)+1, strings.Count(l.String(), "\n"), "one operation a line")
	}
	note := List{ID: at(1), Opened: true}
	got, err := Parse(note.String())
	require.NoError(t, err)
	require.Empty(t, got.Ops)
	packed, ok := l.Packed()
	require.True(t, ok)
	ops, err := Unpack(packed)
	require.NoError(t, err)
	require.Len(t, ops, 3)
	require.Equal(t, l.Ops[1].Command, ops[1].Command)
	for n := range len(packed) {
		if ops, err := Unpack(packed[:n]); err == nil {
			require.Less(t, len(ops), 3)
		}
	}
	for _, bad := range []string{"", "{}", `{"id": "x"}`, `{"id": "x", "opened": true, "operations": [{"stamp": "1"}]}`, `{"id": "x", "operations": [{"stamp": "2", "command": ["A"]}, {"stamp": "1", "command": ["A"]}]}`} {
		_, err := Parse(bad)
		require.Error(t, err, bad)
	}
}

// What is appended is what would have been written at once, whatever came before.
func TestWhatIsAppendedComesBehind(t *testing.T) {
	for _, opened := range []bool{false, true} {
		want := List{ID: at(1), Opened: opened, Ops: []Op{{at(1), []string{"SADD", "a"}}}}
		log := LogOf(want)
		for i := int64(2); i < 6; i++ {
			op := Op{at(i), []string{"LPUSH", fmt.Sprint(i)}}
			before, was := log, want.String()
			want.Ops = append(want.Ops, op)
			log = log.With([]Op{op})
			require.Equal(t, want.String(), log.String())
			require.Equal(t, log.String(), log.With([]Op{op}).String(), "it is there already")
			require.Equal(t, was, before.String(), "it stays as it was")
		}
		require.Equal(t, at(1), log.ID())
	}
}

// Additions of one second are one, unless somebody may have done the first.
func TestAdditionsArePutTogether(t *testing.T) {
	add := func(micros int64, n string) List {
		return List{ID: at(1), Ops: []Op{{at(micros), []string{"INCRBY", n}}}}
	}
	sum := func(first List, more ...List) string {
		t.Helper()
		log := LogOf(first)
		for _, l := range more {
			log = log.With(l.Ops)
		}
		l, err := Parse(log.String())
		require.NoError(t, err)
		var all []string
		for _, op := range l.Ops {
			all = append(all, op.Command[1])
		}
		return strings.Join(all, " ")
	}
	require.Equal(t, "6", sum(add(1, "1"), add(2, "2"), add(3, "3")))
	require.Equal(t, "3 3", sum(add(1, "1"), add(2, "2"), add(1_000_003, "3")), "of the next second")
	require.Equal(t, "1 -3", sum(add(1, "1"), add(2, "-3")), "together they may not overflow where each does")
	require.Equal(t, "9223372036854775807 1", sum(add(1, "9223372036854775807"), add(2, "1")))
	opened := add(1, "1")
	opened.Opened = true
	require.Equal(t, "1 2 3", sum(opened, add(2, "2"), add(3, "3")))
	both := List{ID: at(1), Ops: []Op{{at(2), []string{"INCRBY", "2"}}, {at(3), []string{"INCRBY", "3"}}, {at(4), []string{"APPEND", "x"}}, {at(5), []string{"INCRBY", "5"}}}}
	require.Equal(t, "6 x 5", sum(add(1, "1"), both))
}

func TestCommandsHaveOneForm(t *testing.T) {
	for command, want := range map[string]string{
		"incr": "INCRBY 1", "DECR": "INCRBY -1", "DECRBY 5": "INCRBY -5", "INCRBY -5": "INCRBY -5", "HMSET f v": "HSET f v", "UNLINK": "DEL", "EXPIRE 10": "PEXPIREAT 11000",
		"PEXPIRE 10": "PEXPIREAT 1010", "EXPIREAT 7": "PEXPIREAT 7000", "PEXPIREAT 7": "PEXPIREAT 7", "EXPIRE -5": "PEXPIREAT 1", "SET v": "SET v", "SET v ex 5": "SET v PXAT 6000", "SET v PXAT 5": "SET v PXAT 5",
	} {
		got, err := Normal(strings.Fields(command), 1000)
		require.NoError(t, err, command)
		require.Equal(t, want, strings.Join(got, " "))
	}
	for _, bad := range []string{"", "GET", "INCR 1", "INCRBY", "INCRBY 1.5", "INCRBY +5", "DECRBY -9223372036854775808", "HSET f", "HSET f v g", "SADD", "EXPIRE 1 NX", "EXPIRE 9223372036854775807", "SET v NX", "SET v EX 0", "SET v EX", "INCRBYFLOAT nan", "ZADD 1 m"} {
		_, err := Normal(strings.Fields(bad), 1000)
		require.Error(t, err, bad)
	}
}

// What a string becomes is followed as long as that can be.
func TestWhatAStringBecomes(t *testing.T) {
	after := func(v Value, commands ...string) Value {
		var ops []Op
		for i, c := range commands {
			ops = append(ops, Op{at(int64(i+1) * 1000), strings.Fields(c)})
		}
		return v.After(ops)
	}
	text := func(s string) Value { return Value{Known: true, Exists: true, Text: s} }
	require.Equal(t, text("7"), after(text("5"), "INCRBY 2"))
	require.Equal(t, text("2"), after(Value{Known: true}, "INCRBY 2"))
	require.Equal(t, text("x"), after(text("x"), "INCRBY 2"), "Redis refuses it")
	require.Equal(t, text("9223372036854775807"), after(text("9223372036854775807"), "INCRBY 1"))
	require.False(t, after(Value{}, "INCRBY 2", "APPEND x", "PERSIST").Known)
	require.Equal(t, text("v1"), after(Value{}, "SADD m", "SET v", "APPEND 1"))
	require.Equal(t, Value{Known: true}, after(text("v"), "DEL", "HDEL f"))
	require.False(t, after(text("v"), "DEL", "HSET f v").Known)
	require.False(t, after(text("1"), "INCRBYFLOAT 0.5").Known)
	require.Equal(t, text("v"), after(text("v"), "SADD m"), "Redis refuses it")
	require.Equal(t, Value{Known: true, Exists: true, Text: "v", Ends: 500}, after(text("v"), "PEXPIREAT 500"))
	require.Equal(t, text("1"), after(text("5"), "PEXPIREAT 2", "INCRBY 1"), "it has expired by then")
}

func TestWhatCameAtOnceIsKnown(t *testing.T) {
	last := stamp.Stamp{Micros: 1_700_000_000_000_009, Client: "0123456789abcdef", Number: 9}
	ops := Together("id", last.String(), [][]string{{"INCRBY", "1"}, {"INCRBY", "2"}, {"INCRBY", "3"}}).Ops
	require.True(t, AtOnce(ops[0], ops[1]))
	require.True(t, AtOnce(ops[1], ops[2]))
	require.False(t, AtOnce(ops[0], ops[2]))
	require.False(t, AtOnce(ops[1], ops[0]))
	for _, other := range []stamp.Stamp{
		{Micros: last.Micros + 1, Client: last.Client, Number: last.Number},
		{Micros: last.Micros + 2, Client: last.Client, Number: last.Number + 1},
		{Micros: last.Micros + 1, Client: "fedcba9876543210", Number: last.Number + 1},
	} {
		require.False(t, AtOnce(ops[2], Op{Stamp: other.String()}), other)
	}
	require.False(t, AtOnce(ops[2], Op{Stamp: "none"}))
}

func TestOnlyWhatIsSinceAFlushIsLeftOfAList(t *testing.T) {
	nth := func(n int64, command ...string) Op { // a call's commands are a microsecond and a number apart
		return Op{stamp.Stamp{Micros: n, Client: "00000000000000aa", Number: n}.String(), command}
	}
	set, del, one, two, three := nth(10, "SET", "1"), nth(10, "DEL"), nth(20, "APPEND", "1"), nth(21, "APPEND", "2"), nth(30, "APPEND", "3")
	behindSet := nth(11, "APPEND", "2")
	for name, row := range map[string]struct {
		all     []Op
		flushed int64 // up to this
		left    []Op
	}{
		"nothing is flushed":          {[]Op{set, one}, 9, []Op{set, one}},
		"the last one stays":          {[]Op{one, three}, 99, []Op{three}},
		"a SET":                       {[]Op{set, one, three}, 25, []Op{del, three}},
		"one that a call comes by":    {[]Op{set, behindSet, three}, 10, []Op{del, behindSet, three}},
		"half of a call":              {[]Op{one, two, three}, 20, []Op{one, two, three}},
		"half of a call on a SET":     {[]Op{set, one, two, three}, 20, []Op{del, one, two, three}},
		"a call":                      {[]Op{one, two, three}, 21, []Op{three}},
		"a SET in the middle":         {[]Op{nth(5, "APPEND", "0"), set, three}, 15, []Op{del, three}},
		"a SET behind another":        {[]Op{nth(5, "SET", "0"), set, three}, 15, []Op{del, three}},
		"a DEL, and what comes of it": {[]Op{nth(5, "DEL"), one, three}, 25, []Op{nth(5, "DEL"), three}},
	} {
		l := List{ID: row.all[0].Stamp, Opened: true, Ops: row.all}
		was := l.String()
		left, shorter := l.Since(func(by string) bool {
			micros, _ := stamp.Micros(by)
			return micros <= row.flushed
		})
		require.Equal(t, row.left, left.Ops, name)
		require.Equal(t, left.String() != was, shorter, name)
		require.Equal(t, l.ID, left.ID)
		require.True(t, left.Opened)
		require.Equal(t, was, l.String(), "%s: the list itself stays", name)
	}
}
