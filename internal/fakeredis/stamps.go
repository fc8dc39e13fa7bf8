package fakeredis

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/redaside/aside/internal/stamp"
)

// The twins of the scripts that read or leave stamps.

// lib/stamps.lua

// left is a stamp as it is found; nil: there is none.
type left = *stamp.Left

// count is the number of data keys.
func (r *run) count() int { return int(number(r.args[len(r.args)-1])) }

// whenFull is the error of a full server, or nil.
func (r *run) whenFull() any {
	if said := r.pcall("SETRANGE", r.keys[0], 0, ""); said == isFull {
		return said
	}
	return nil
}

// peek is what a key holds, without its being tracked, or an error.
func (r *run) peek(key string) any {
	s := r.pcall("GETEX", key)
	if _, failed := s.(failure); failed {
		s = r.pcall("GET", key)
	}
	return s
}

// stampIn is what a key of stamps holds, if it is a stamp.
func (r *run) stampIn(key string) left {
	text, _ := r.peek(key).(string)
	if l, ok := stamp.ParseLeft(text); ok {
		return &l
	}
	return nil
}

func (r *run) stampOf(i int) left { return r.stampIn(r.keys[r.count()+i]) }

// overtaken: the stamp that is there is of this operation, or of a later one of the same client.
func overtaken(was left, mine stamp.Stamp) bool {
	return was != nil && was.Client == mine.Client && was.Number >= mine.Number
}

func padded(n int64) string { return fmt.Sprintf("%016d", n) }

// proposed reads a stamp among the arguments.
func proposed(text string) stamp.Stamp {
	mine, ok := stamp.Parse(text)
	if !ok {
		panic(failure(fmt.Sprintf("ERR %q is no stamp", text)))
	}
	return mine
}

func (r *run) place(i int, l stamp.Left, keep int64) {
	r.call("SET", r.keys[r.count()+i], l.String(), "PX", keep)
}

// leaveIn leaves a stamp that is greater than the one that is there.
func (r *run) leaveIn(key string, now int64, was left, l stamp.Left, keep int64) {
	l.Micros = max(now, l.Micros)
	if was != nil {
		l.Micros = max(l.Micros, was.Micros+1)
	}
	r.call("SET", key, l.String(), "PX", keep)
}

func (r *run) leave(i int, now int64, was left, l stamp.Left, keep int64) {
	r.leaveIn(r.keys[r.count()+i], now, was, l, keep)
}

func setStamped(r *run) any {
	now := r.clock()
	if refusal := untimely(now, r.args[0]); refusal != nil {
		return refusal
	}
	if full := r.whenFull(); full != nil {
		return full
	}
	keep, ms := number(r.args[1]), now/1000
	for i := range r.count() {
		mine, ttl := proposed(r.args[3*i+2]), number(r.args[3*i+4])
		was := r.stampOf(i)
		if !overtaken(was, mine) {
			r.put(r.keys[i], r.args[3*i+3], ttl)
			r.leave(i, now, was, stamp.Left{Stamp: mine, Ends: ms + ttl}, max(keep, ttl))
		}
	}
	return int64(1)
}

func delStamped(r *run) any {
	now := r.clock()
	if refusal := untimely(now, r.args[0]); refusal != nil {
		return refusal
	}
	one := len(r.args) == 4
	for i := range r.count() {
		at := 2 + i
		if one {
			at = 2
		}
		mine, was := proposed(r.args[at]), r.stampOf(i)
		if !overtaken(was, mine) {
			r.call("UNLINK", r.keys[i])
			r.leave(i, now, was, stamp.Left{Stamp: mine}, number(r.args[1]))
		}
	}
	return int64(1)
}

func mark(r *run) any {
	now := r.clock()
	if refusal := untimely(now, r.args[0]); refusal != nil {
		return refusal
	}
	mine := proposed(r.args[2])
	for i := range r.count() {
		was := r.stampOf(i)
		if overtaken(was, mine) {
			continue
		}
		left, ends := r.call("PTTL", r.keys[i]).(int64), int64(0)
		if left == -1 {
			left = number(r.args[3])
		}
		if left > 0 {
			ends = now/1000 + left
		}
		r.leave(i, now, was, stamp.Left{Stamp: mine, Ends: ends}, max(number(r.args[1]), left))
	}
	return int64(1)
}

func stampOnly(r *run) any {
	now := r.clock()
	if refusal := untimely(now, r.args[0]); refusal != nil {
		return refusal
	}
	if full := r.whenFull(); full != nil {
		return full
	}
	was, mine, ttl := r.stampIn(r.keys[0]), proposed(r.args[1]), number(r.args[3])
	if overtaken(was, mine) {
		return int64(2)
	}
	ends := int64(0)
	if ttl > 0 {
		ends = now/1000 + ttl
	}
	r.leaveIn(r.keys[0], now, was, stamp.Left{Stamp: mine, Ends: ends}, max(number(r.args[2]), ttl))
	return int64(1)
}

// replayOf are the arguments for one key.
type replayOf struct {
	op     string
	mine   stamp.Stamp
	u      int64
	value  string
	ends   int64
	unsure bool
}

func replay(r *run) any {
	keep, lock, now := number(r.args[1]), r.args[2], r.clock()
	if refusal := untimely(now, r.args[0]); refusal != nil {
		return refusal
	}
	answers := make([]any, r.count())
	full := r.whenFull()
	for i := range answers {
		a := r.args[6*i+3:]
		answers[i] = r.replay(i, replayOf{a[0], proposed(a[1]), number(a[2]), a[3], number(a[4]), a[5] == "1"}, keep, lock, now, full)
	}
	return answers
}

func (r *run) replay(i int, of replayOf, keep int64, lock string, now int64, full any) any {
	key, op, mine, u, value, ends, unsure := r.keys[i], of.op, of.mine, of.u, of.value, of.ends, of.unsure
	ms, at, verdict := now/1000, mine.Micros, int64(1)
	if at > now+u {
		unsure = true
	}
	if op != "del" && (ms >= ends || now > at+keep*1000-u) || op == "fill" && unsure {
		if op == "fill" {
			return int64(4)
		}
		// what it has replaced must not come back
		op, verdict = "del", 3
	}
	if op != "del" && full != nil {
		return full
	}

	c := r.stampOf(i)
	v := r.peek(key)
	if _, failed := v.(failure); failed { // of another type: somebody's value
		v = ""
	}
	held, _ := v.(string)
	if op == "fill" {
		if c != nil || v != nil {
			return int64(2)
		}
		r.put(key, value, max(ends-ms, 1))
		return int64(1)
	}
	if overtaken(c, mine) {
		return int64(2)
	}

	by, other, contested := mine, int64(0), false
	switch {
	case unsure:
		// a delete that happens now
		if op == "set" {
			op, verdict = "del", 3
		}
		by.Micros = now
		if c != nil {
			by.Micros = max(now, c.Micros+1)
		}
	case c != nil && c.Client == mine.Client:
		by.Micros = max(at, c.Micros)
		if c.Other != 0 && c.Other >= by.Micros-u {
			other, contested = c.Other, true
		}
	case c != nil && c.Micros > at+u:
		return int64(2)
	case c != nil && c.Micros >= at-u:
		contested = true
		if c.Stamp.String() < mine.String() {
			other = c.Micros
		} else {
			by, other = c.Stamp, max(c.Other, at)
		}
	}

	wins, stays, left := op == "set" && !contested, int64(0), keep
	locked := v != nil && strings.HasPrefix(held, lock)
	switch {
	case locked && !unsure && lockedAt(held) > at+u:
		// the load has read what this has written, or newer
		if wins {
			verdict = 2
		}
	case wins && (v == nil || locked || c != nil && ms < c.Ends):
		stays, left = ends, max(keep, ends-ms)
		r.put(key, value, max(ends-ms, 1))
	default:
		if op == "set" {
			verdict = 3
		}
		if v != nil {
			r.call("UNLINK", key)
		}
	}
	r.place(i, stamp.Left{Stamp: by, Other: other, Ends: stays}, left)
	return verdict
}

// lockedAt is when a lock was taken, as its marker says at its end.
func lockedAt(marker string) int64 {
	n, _ := isNumber(marker[max(0, len(marker)-16):])
	return n
}

// lib/ends.lua

// end is when a key expires, in ms since 1970; false: it does not. The fake has no PEXPIRETIME.
func (r *run) end(key string) (at int64, ok bool) {
	at, ok = r.pcall("PEXPIRETIME", key).(int64)
	if !ok {
		at = -1
		if left := r.call("PTTL", key).(int64); left > 0 {
			at = r.clock()/1000 + left
		}
	}
	return at, at > 0
}

// stampText is stampOf as text; "" for none.
func (r *run) stampText(i int) string {
	if l := r.stampOf(i); l != nil {
		return l.String()
	}
	return ""
}

// The refresh of a stale value.

var failedLock = regexp.MustCompile(`^failed:(\d+):(\d+)$`)

func refresh(r *run) any {
	v := r.look(r.keys[0])
	if v == nil || strings.HasPrefix(v.(string), r.args[3]) {
		return []any{int64(0)}
	}
	at, ok := r.end(r.keys[0])
	if !ok || r.call("PTTL", r.keys[0]).(int64) > number(r.args[2]) {
		return []any{int64(0)}
	}
	held, failures := r.look(r.keys[1]), int64(0)
	if held != nil && held != r.args[0] {
		left := r.call("PTTL", r.keys[1]).(int64)
		parts := failedLock.FindStringSubmatch(held.(string))
		if parts == nil {
			return []any{int64(1), left}
		}
		if keep := number(parts[2]); left > keep {
			return []any{int64(1), left - keep}
		}
		failures = number(parts[1])
	}
	r.call("SET", r.keys[1], r.args[0], "PX", r.args[1])
	return []any{int64(2), failures, sha1hex(v.(string)), fmt.Sprint(at), r.stampText(0)}
}

func refreshed(r *run) any {
	if r.look(r.keys[1]) != r.args[0] {
		return []any{int64(0)}
	}
	v, same := r.look(r.keys[0]), false
	if v != nil {
		if at, ok := r.end(r.keys[0]); ok {
			off := at - number(r.args[2])
			same = off >= -3 && off <= 3 && r.stampText(0) == r.args[3] && sha1hex(v.(string)) == r.args[1]
		}
	}
	if same {
		if r.args[5] == "0" {
			r.call("UNLINK", r.keys[0])
		} else {
			r.put(r.keys[0], r.args[4], number(r.args[5]))
		}
	}
	r.call("DEL", r.keys[1])
	if same {
		return []any{int64(1)}
	}
	return []any{int64(0)}
}

func refreshFailed(r *run) any {
	if r.look(r.keys[0]) != r.args[0] {
		return []any{int64(0)}
	}
	r.call("SET", r.keys[0], r.args[1], "PX", r.args[2])
	return []any{int64(1)}
}
