package fakeredis

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"

	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// The twins of the scripts that do operations.

func ledger(r *run) any {
	now := r.clock()
	if refusal := untimely(now, r.args[0]); refusal != nil {
		return refusal
	}
	lives := number(r.args[1])
	for i, key := range r.keys {
		all, _ := r.call("HKEYS", key).([]any)
		for _, of := range all {
			id := of.(string)
			if len(id) < 20 {
				r.call("HDEL", key, id)
			}
			if len(id) != 20 {
				continue
			}
			entry, _ := r.call("HMGET", key, id).([]any)[0].(string)
			moved := bigEndian(id[:7])
			if len(entry) >= 27 {
				moved = bigEndian(entry[20:27])
			}
			if moved < now-lives*1000 {
				r.call("HDEL", key, id, id+"!")
			}
		}
		r.call("HSETNX", key, r.args[i+2], strings.Repeat("\x00", 20)+micros(now))
		r.call("PEXPIRE", key, lives)
	}
	return int64(1)
}

// micros is a time as an entry of a ledger has it.
func micros(t int64) string { return string(binary.BigEndian.AppendUint64(nil, uint64(t))[1:]) }

// operation is one of those that operate does.
type operation struct {
	packed  string
	by      stamp.Stamp
	command []string
}

// operations reads them.
func operations(packed string) (all []operation) {
	ops, err := deferred.Unpack(packed)
	if err != nil {
		panic(failure("ERR " + err.Error()))
	}
	for _, op := range ops {
		all = append(all, operation{op.Stamp, proposed(op.Stamp), op.Command})
	}
	return all
}

// over reports whether what ends at ends has ended, and no later operation of before that has made it
// live longer, or has put something else in its place.
func over(ops []operation, j int, ends, ms int64) bool {
	if ends > ms {
		return false
	}
	for _, op := range ops[j+1:] {
		if op.by.Micros >= ends*1000 {
			break
		}
		switch op.command[0] {
		case "PERSIST", "PEXPIREAT", "SET", "DEL":
			return false
		}
	}
	return true
}

// forGood reports whether the same command would get an error again, whatever the server's state.
func forGood(err failure) bool {
	for _, part := range []string{
		"WRONGTYPE", "not an integer", "not a valid float", "not a float", "overflow", "NaN or Infinity", "out of range",
		"rong number of arg", "maximum allowed size", "invalid expire", "syntax error",
	} {
		if strings.Contains(string(err), part) {
			return true
		}
	}
	return strings.Contains(string(err), "nknown") && strings.Contains(string(err), "command")
}

func shrinks(op operation) bool {
	switch op.command[0] {
	case "DEL", "HDEL", "SREM", "PEXPIREAT", "PERSIST":
		return true
	}
	return false
}

// perform does an operation. ended is when the key has ended by it, 0 if it has not; ends when it ends by
// it: 0 if it does not end any more, asItWas if that is as it was.
func (r *run) perform(key string, ops []operation, j int, ms int64) (said any, ended, ends int64) {
	command := ops[j].command
	if command[0] == "SET" {
		if len(command) > 3 {
			ends = number(command[3])
		}
		switch {
		case ends > 0 && over(ops, j, ends, ms):
			r.call("UNLINK", key)
			return okay, ends, ends
		case ends > ms:
			return r.put(key, command[1], ends-ms), 0, ends
		}
		return r.pcall("SET", key, command[1]), 0, 0
	}
	ends = int64(math.MaxInt64)
	if command[0] == "PEXPIREAT" {
		ends = number(command[1])
	}
	if ends <= ms && !over(ops, j, ends, ms) {
		return int64(1), 0, asItWas
	}
	args := []any{command[0], key}
	for _, word := range command[1:] {
		args = append(args, word)
	}
	if said = r.pcall(args...); ends <= ms && said == int64(1) { // else there was nothing to end
		ended = ends
	}
	switch command[0] {
	case "PEXPIREAT":
		if said != int64(1) {
			ends = asItWas
		}
	case "PERSIST", "DEL":
		ends = 0
	default:
		ends = asItWas
	}
	return said, ended, ends
}

const asItWas = -1

func operate(r *run) any {
	now, n := r.clock(), r.count()/2
	if refusal := untimely(now, r.args[0]); refusal != nil {
		return refusal
	}
	full, keep, lives := r.whenFull(), int64(-1), number(r.args[2])
	if r.args[1] != "" {
		keep = number(r.args[1])
	}
	answers := make([]any, n)
	for i := range answers {
		o := operating{r: r, i: i, n: n, now: now, keep: keep, lives: lives, full: full, id: r.args[3*i+3], u: number(r.args[3*i+4])}
		answers[i] = o.run(operations(r.args[3*i+5]))
	}
	return answers
}

// operating is what operate does for one key.
type operating struct {
	r                        *run
	i, n                     int
	now, keep, lives, u      int64
	full                     any
	id, was, noted, progress string
}

func (o *operating) run(ops []operation) any {
	r, ms := o.r, o.now/1000
	key, book, kept := r.keys[o.i], r.keys[o.n+o.i], o.id != ""
	if kept {
		led := r.call("HMGET", book, o.id, o.id+"!").([]any)
		if led[0] == nil {
			return []any{int64(5)}
		}
		o.progress = led[0].(string)
		o.was, _ = led[1].(string)
		o.noted = o.was
	} else if o.full != nil {
		for _, op := range ops {
			if !shrinks(op) {
				return []any{int64(7), string(o.full.(failure))}
			}
		}
	}
	var c left
	var head string
	if o.keep >= 0 {
		c, head, _ = r.stampOf(o.i)
	}
	since := int64(0)
	if c != nil {
		o.u, since = max(o.u, c.Margin), c.Micros
		if c.Other != 0 { // one of the two may be an operation
			since = min(since, c.Other)
		}
	}
	doneAt, verdict, gone, ending := int64(0), int64(2), int64(0), int64(0)
	if o.progress != "" {
		doneAt = bigEndian(o.progress[:7])
	}
	if len(o.progress) > 27 {
		ending = number(o.progress[27:])
	}
	out, ran := []any{}, false
	var last *operation
	var failed any
	for j := range ops {
		op := &ops[j]
		if kept && op.by.Micros <= doneAt {
			verdict = 1
			if ending > 0 && (j+1 == len(ops) || ops[j+1].by.Micros > doneAt) && over(ops, j, ending, ms) {
				gone = ending
			}
			continue
		}
		later := c != nil && !c.Changed && since > op.by.Micros+o.u
		if c != nil && !c.Changed && c.Client == op.by.Client && c.Other == 0 {
			later = c.Number > op.by.Number
		}
		if kept && (later || gone > 0 && op.by.Micros < gone*1000) {
			last = op
			continue
		}
		if o.full != nil && !shrinks(*op) {
			failed = o.full
			break
		}
		if !ran {
			if head, ok := r.pcall("GETRANGE", key, 0, 11).(string); ok && (strings.HasPrefix(head, wire.Absent) || strings.HasPrefix(head, wire.AbsentHeaderPrefix) || strings.HasPrefix(head, wire.LockPrefix)) {
				r.call("UNLINK", key)
			}
			ran = true
		}
		said, ended, ends := r.perform(key, ops, j, ms)
		if err, ok := said.(failure); ok {
			if !kept && j == 0 && !forGood(err) {
				return []any{int64(7), string(err)}
			}
			if kept && !forGood(err) {
				failed = said
				break
			}
			o.noted += op.packed + string(binary.BigEndian.AppendUint32(nil, uint32(len(err)))) + string(err)
		}
		if n, ok := said.(int64); ok && !kept && (n >= 1<<53 || n <= -1<<53) { // Lua has it rounded
			if op.command[0] == "HINCRBY" {
				said = r.call("HGET", key, op.command[1])
			} else {
				said = r.call("GET", key)
			}
		}
		if ended > 0 {
			gone = ended
		}
		if _, failed := said.(failure); !failed && ends != asItWas {
			ending = ends
		}
		verdict, last = 1, op
		out = append(out, said)
	}
	if last != nil && kept {
		entry := last.packed + micros(o.now)
		if ending > 0 {
			entry += strconv.FormatInt(ending, 10)
		}
		r.call("HSET", book, o.id, entry)
		if o.noted != o.was {
			r.call("HSET", book, o.id+"!", o.noted)
		}
		r.call("PEXPIRE", book, o.lives)
	}
	var mark stamp.Left
	if last != nil {
		mark = stamp.Left{Stamp: last.by, Changed: true}
		if kept {
			mark.Micros, mark.Margin = min(mark.Micros, o.now), o.u
		} else {
			mark.Micros = o.now
		}
	}
	newer := c == nil || c.Micros < mark.Micros
	if last != nil && verdict == 1 && o.keep >= 0 && (newer || ran) {
		left := r.call("PTTL", key).(int64)
		if left == -1 {
			left = longestTTL
		}
		ends := int64(0)
		if left > 0 {
			ends = ms + left
		}
		was := int64(-1)
		if !newer { // there is a value all the same, which an earlier Set or Del must leave
			mark, was = *c, c.Ends
		}
		if mark.Ends = ends; ends != was {
			if o.full != nil {
				r.forget(o.i)
			}
			r.placeIn(r.bucket(o.i), head, ms, ends, o.keep, stamp.Field(key), mark.String())
		}
	}
	if failed != nil {
		return []any{int64(7), string(failed.(failure))}
	}
	if !kept {
		return []any{int64(1), out}
	}
	refused := []any{}
	for at := o.noted; at != ""; {
		n := 24 + int(binary.BigEndian.Uint32([]byte(at[20:])))
		refused = append(refused, at[:20], at[24:n])
		at = at[n:]
	}
	return []any{verdict, refused}
}
