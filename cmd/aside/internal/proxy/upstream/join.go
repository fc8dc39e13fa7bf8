package upstream

import (
	"bytes"
	"strconv"
	"strings"
)

// Join makes one reply of those of all primaries of a cluster. There is at least one.
type Join func(replies [][]byte) []byte

// joins are what a server's tips call response policies.
var joins = map[string]Join{
	"all_succeeded":   allSucceeded,
	"one_succeeded":   oneSucceeded,
	"agg_logical_and": joinNumbers(func(a, b int64) int64 { return min(a, b) }),
	"agg_logical_or":  joinNumbers(func(a, b int64) int64 { return max(a, b) }),
	"agg_sum":         joinNumbers(func(a, b int64) int64 { return a + b }),
	"agg_min":         joinNumbers(func(a, b int64) int64 { return min(a, b) }),
	"agg_max":         joinNumbers(func(a, b int64) int64 { return max(a, b) }),
}

// everywhere are commands for all primaries. Servers before Redis 7 do not say so.
var everywhere = map[string]string{
	"FLUSHDB": "all_succeeded", "FLUSHALL": "all_succeeded", "SCRIPT|LOAD": "all_succeeded", "SCRIPT|FLUSH": "all_succeeded", "SCRIPT|KILL": "one_succeeded",
	"SCRIPT|EXISTS": "agg_logical_and", "DBSIZE": "agg_sum", "CONFIG|SET": "all_succeeded", "CONFIG|RESETSTAT": "all_succeeded",
}

// Join returns how to make one reply of those of all primaries of a cluster; nil if the command is
// for one of them.
func (c *Command) Join(args []string) Join {
	if c.join != nil || c.tipped || c.first > 0 || len(c.specs) > 0 {
		return c.join
	}
	policy := everywhere[c.Name]
	if policy == "" && len(args) > 1 {
		policy = everywhere[strings.ToUpper(args[0]+"|"+args[1])]
	}
	return joins[policy]
}

func isError(reply []byte) bool {
	return len(reply) > 0 && (reply[0] == '-' || reply[0] == '!')
}

// allSucceeded is the first error, if there is one.
func allSucceeded(replies [][]byte) []byte {
	for _, reply := range replies {
		if isError(reply) {
			return reply
		}
	}
	return replies[0]
}

// oneSucceeded is an error only if all are.
func oneSucceeded(replies [][]byte) []byte {
	for _, reply := range replies {
		if !isError(reply) {
			return reply
		}
	}
	return replies[0]
}

// joinNumbers joins numbers, or lists of as many numbers, one by one. What is neither is joined as
// allSucceeded does.
func joinNumbers(of func(a, b int64) int64) Join {
	return func(replies [][]byte) []byte {
		var sum []int64
		var isList bool
		for i, reply := range replies {
			numbers, list, ok := numbersOf(reply)
			if !ok || i > 0 && len(numbers) != len(sum) {
				return allSucceeded(replies)
			}
			if i == 0 {
				sum, isList = numbers, list
				continue
			}
			for j, n := range numbers {
				sum[j] = of(sum[j], n)
			}
		}
		var joined bytes.Buffer
		if isList {
			joined.Write(appendLength(nil, '*', len(sum)))
		}
		for _, n := range sum {
			joined.WriteString(":" + strconv.FormatInt(n, 10) + "\r\n")
		}
		return joined.Bytes()
	}
}

func numbersOf(reply []byte) (numbers []int64, list, ok bool) {
	value, _, err := decode(reply)
	if err != nil {
		return nil, false, false
	}
	elements, list := value.([]any)
	if !list {
		elements = []any{value}
	}
	for _, element := range elements {
		n, ok := element.(int64)
		if !ok {
			return nil, false, false
		}
		numbers = append(numbers, n)
	}
	return numbers, list, true
}
