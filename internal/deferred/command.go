package deferred

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// kind is how a command is kept.
type kind struct {
	least, most int // words behind its name
	check       func(words []string, now int64) ([]string, error)
}

// kinds are the commands that can be kept: what each does to a key does not depend on what only
// Redis knows, or commutes with what others do.
var kinds = map[string]kind{
	"INCR":   {0, 0, func([]string, int64) ([]string, error) { return []string{"INCRBY", "1"}, nil }},
	"DECR":   {0, 0, func([]string, int64) ([]string, error) { return []string{"INCRBY", "-1"}, nil }},
	"INCRBY": {1, 1, add(1)}, "DECRBY": {1, 1, add(-1)}, "INCRBYFLOAT": {1, 1, float("INCRBYFLOAT")},
	"APPEND": {1, 1, asIs("APPEND")},
	"HSET":   {2, many, pairs}, "HMSET": {2, many, pairs}, "HSETNX": {2, 2, asIs("HSETNX")}, "HDEL": {1, many, asIs("HDEL")},
	"HINCRBY": {2, 2, integer("HINCRBY")}, "HINCRBYFLOAT": {2, 2, float("HINCRBYFLOAT")},
	"SADD": {1, many, asIs("SADD")}, "SREM": {1, many, asIs("SREM")},
	"LPUSH": {1, many, asIs("LPUSH")}, "RPUSH": {1, many, asIs("RPUSH")},
	"EXPIRE": {1, 1, until(1000, true)}, "PEXPIRE": {1, 1, until(1, true)},
	"EXPIREAT": {1, 1, until(1000, false)}, "PEXPIREAT": {1, 1, until(1, false)},
	"PERSIST": {0, 0, asIs("PERSIST")},
	"SET":     {1, 3, set}, "SETNX": {1, 1, asIs("SETNX")},
	"DEL": {0, 0, asIs("DEL")}, "UNLINK": {0, 0, asIs("DEL")},
}

// many bounds the words of a command: the script unpacks them on Lua's stack.
const many = 4000

// Normal returns a command, without its key, as it is kept: a time that begins now (in ms) as the
// time when it ends, one name for what does the same. The error says why it cannot be kept.
func Normal(command []string, now int64) ([]string, error) {
	if len(command) == 0 {
		return nil, fmt.Errorf("an operation without a command")
	}
	name, words := strings.ToUpper(command[0]), command[1:]
	k, ok := kinds[name]
	switch {
	case !ok:
		return nil, fmt.Errorf("%q cannot be kept; what can is %s", name, strings.Join(slices.Sorted(maps.Keys(kinds)), " "))
	case len(words) < k.least || len(words) > k.most:
		return nil, fmt.Errorf("%s with %d arguments behind the key cannot be kept: wrong number of arguments", name, len(words))
	}
	command, err := k.check(words, now)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be kept: %w", name, err)
	}
	return command, nil
}

func asIs(name string) func([]string, int64) ([]string, error) {
	return func(words []string, _ int64) ([]string, error) { return append([]string{name}, words...), nil }
}

// add is an INCRBY.
func add(sign int64) func([]string, int64) ([]string, error) {
	return func(words []string, _ int64) ([]string, error) {
		n, err := number(words[0])
		if err != nil || sign < 0 && n == math.MinInt64 {
			return nil, errInteger
		}
		return []string{"INCRBY", strconv.FormatInt(sign*n, 10)}, nil
	}
}

var errInteger = fmt.Errorf("value is not an integer or out of range")

// number reads a number as Redis does.
func number(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != s {
		return 0, errInteger
	}
	return n, nil
}

// integer is asIs of a command whose last word is a number.
func integer(name string) func([]string, int64) ([]string, error) {
	return func(words []string, _ int64) ([]string, error) {
		if _, err := number(words[len(words)-1]); err != nil {
			return nil, err
		}
		return append([]string{name}, words...), nil
	}
}

func float(name string) func([]string, int64) ([]string, error) {
	return func(words []string, _ int64) ([]string, error) {
		n, err := strconv.ParseFloat(words[len(words)-1], 64)
		if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
			return nil, fmt.Errorf("value is not a valid float")
		}
		return append([]string{name}, words...), nil
	}
}

func pairs(words []string, _ int64) ([]string, error) {
	if len(words)%2 != 0 {
		return nil, fmt.Errorf("wrong number of arguments")
	}
	return append([]string{"HSET"}, words...), nil
}

// until is a PEXPIREAT. unit is in ms.
func until(unit int64, fromNow bool) func([]string, int64) ([]string, error) {
	return func(words []string, now int64) ([]string, error) {
		at, err := moment(words[0], unit, fromNow, now)
		if err != nil {
			return nil, err
		}
		return []string{"PEXPIREAT", at}, nil
	}
}

func moment(word string, unit int64, fromNow bool, now int64) (string, error) {
	n, err := number(word)
	const most = 1 << 52 // ms; Redis itself takes 2^63, and a replay 2^53 µs of time
	if err != nil || n > most/unit || n < -most/unit {
		return "", errInteger
	}
	at := n * unit
	if fromNow {
		at += now
	}
	return strconv.FormatInt(max(at, 1), 10), nil
}

// set is a SET without a condition.
func set(words []string, now int64) ([]string, error) {
	switch len(words) {
	case 1:
		return []string{"SET", words[0]}, nil
	case 3:
		unit, fromNow := map[string]int64{"EX": 1000, "PX": 1, "EXAT": 1000, "PXAT": 1}[strings.ToUpper(words[1])], !strings.HasSuffix(strings.ToUpper(words[1]), "AT")
		if unit == 0 {
			break
		}
		if n, err := number(words[2]); err != nil || n <= 0 {
			return nil, fmt.Errorf("invalid expire time")
		}
		at, err := moment(words[2], unit, fromNow, now)
		if err != nil {
			return nil, err
		}
		return []string{"SET", words[0], "PXAT", at}, nil
	}
	return nil, fmt.Errorf("of its options only EX, PX, EXAT and PXAT can be")
}
