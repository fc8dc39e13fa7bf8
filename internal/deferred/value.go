package deferred

import (
	"math"
	"strconv"

	"github.com/redaside/aside/internal/stamp"
)

// Value is a string that a key holds, as far as operations can be followed.
type Value struct {
	Known  bool   // what follows is so
	Exists bool   // the key holds a string; false: nothing
	Text   string // of what exists
	Ends   int64  // in ms since 1970; 0: it does not expire
}

// After returns what a key holds after operations where it held v before. What cannot be followed, as
// a command of another type, makes it unknown, until a SET or DEL.
func (v Value) After(ops []Op) Value {
	for _, op := range ops {
		if at, ok := stamp.Micros(op.Stamp); ok && v.Known && v.Ends > 0 && at/1000 >= v.Ends {
			v = Value{Known: true} // it had expired by then
		}
		v = v.after(op.Command)
	}
	return v
}

func (v Value) after(command []string) Value {
	switch command[0] {
	case "SET":
		v = Value{Known: true, Exists: true, Text: command[1]}
		if len(command) == 4 {
			v.Ends, _ = strconv.ParseInt(command[3], 10, 64)
		}
		return v
	case "DEL":
		return Value{Known: true}
	}
	if !v.Known {
		return v
	}
	switch command[0] {
	case "SETNX":
		if !v.Exists {
			return Value{Known: true, Exists: true, Text: command[1]}
		}
		return v
	case "INCRBY":
		was := int64(0)
		if v.Exists {
			n, err := number(v.Text)
			if err != nil {
				return v // Redis refuses it, and leaves what is there
			}
			was = n
		}
		more, _ := strconv.ParseInt(command[1], 10, 64)
		if more > 0 && was > math.MaxInt64-more || more < 0 && was < math.MinInt64-more {
			return v
		}
		v.Exists, v.Text = true, strconv.FormatInt(was+more, 10)
		return v
	case "APPEND":
		v.Exists, v.Text = true, v.Text+command[1]
		return v
	case "PEXPIREAT":
		if v.Exists {
			v.Ends, _ = strconv.ParseInt(command[1], 10, 64)
		}
		return v
	case "PERSIST":
		v.Ends = 0
		return v
	case "INCRBYFLOAT":
		return Value{} // Redis knows how many digits it writes
	}
	if v.Exists { // of another type: refused
		return v
	}
	switch command[0] {
	case "HDEL", "SREM":
		return v
	}
	return Value{} // a hash, a set or a list
}
