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

// stampIn is what a bucket has for a field, if it is a stamp; the bucket's head; and whether there is
// something that is no stamp we know.
func (r *run) stampIn(bucket, field string) (was left, head string, unknown bool) {
	were, head, unknowns := r.stampsIn(bucket, []string{field})
	return were[0], head, unknowns[0]
}

// stampsIn is stampIn for several fields.
func (r *run) stampsIn(bucket string, fields []string) (were []left, head string, unknown []bool) {
	were, unknown = make([]left, len(fields)), make([]bool, len(fields))
	args := []any{"HMGET", bucket}
	for _, field := range fields {
		args = append(args, field)
	}
	said := r.pcall(append(args, "")...)
	got, ok := said.([]any)
	if !ok {
		failed, _ := said.(failure)
		r.noHash(bucket, failed)
		for i := range unknown {
			unknown[i] = true
		}
		return were, "", unknown
	}
	head, _ = got[len(fields)].(string)
	for i := range fields {
		text, there := got[i].(string)
		if l, ok := stamp.ParseLeft(text); ok {
			were[i] = &l
		} else {
			unknown[i] = there
		}
	}
	return were, head, unknown
}

// headOf is the head of the bucket of the ith key.
func (r *run) headOf(i int) string {
	said := r.pcall("HMGET", r.bucket(i), "")
	if failed, ok := said.(failure); ok {
		r.noHash(r.bucket(i), failed)
		return ""
	}
	head, _ := said.([]any)[0].(string)
	return head
}

// noHash deals with a bucket that could not be read: it deletes what is no hash.
func (r *run) noHash(bucket string, why failure) {
	if !strings.Contains(string(why), "WRONGTYPE") {
		r.call("HMGET", bucket, "")
	}
	r.call("DEL", bucket)
}

func (r *run) bucket(i int) string { return r.keys[r.count()+i] }

func (r *run) stampOf(i int) (was left, head string, unknown bool) {
	return r.stampIn(r.bucket(i), stamp.Field(r.keys[i]))
}

// overtaken: the stamp that is there is of this operation, or of a later one of the same client.
func overtaken(was left, mine stamp.Stamp) bool {
	return was != nil && was.Client == mine.Client && was.Number >= mine.Number
}

// later is what mine leaves now: its time is later than that of the stamp that was there. false: that one
// is of this operation, or of a later one of the same client.
func later(now int64, was left, mine stamp.Stamp) (stamp.Left, bool) {
	if overtaken(was, mine) {
		return stamp.Left{}, false
	}
	mine.Micros = now
	if was != nil {
		mine.Micros = max(now, was.Micros+1)
	}
	return stamp.Left{Stamp: mine, Margin: 2 * (mine.Micros - now)}, true
}

// written is what a Set or Del leaves, whose third argument says whether it may have been done, and the
// head of the ith key's bucket. false: it has been.
func (r *run) written(i int, now int64, mine stamp.Stamp) (l stamp.Left, head string, ok bool) {
	if r.args[2] != "" {
		was, head, _ := r.stampOf(i)
		l, ok = later(now, was, mine)
		return l, head, ok
	}
	mine.Micros = now
	return stamp.Left{Stamp: mine}, r.headOf(i), true
}

func padded(n int64) string { return fmt.Sprintf("%016d", n) }

// proposed reads a stamp among the arguments.
func proposed(packed string) stamp.Stamp {
	mine, ok := stamp.ParseLeft("\x10" + packed)
	if !ok {
		panic(failure(fmt.Sprintf("ERR %q is no stamp", packed)))
	}
	return mine.Stamp
}

// head is what a bucket's head says, in ms.
type head struct{ lives, due, longest int64 }

func bigEndian(s string) (n int64) {
	for i := range len(s) {
		n = n<<8 | int64(s[i])
	}
	return n
}

func (h head) String() string {
	b := []byte{16}
	for _, n := range []int64{h.lives, h.due, h.longest} {
		for shift := 40; shift >= 0; shift -= 8 {
			b = append(b, byte(n>>shift))
		}
	}
	return string(b)
}

// sweep is a step of a sweep, which here sees all stamps.
func (r *run) sweep(bucket string, ms, longest int64) (last int64) {
	all := r.call("HGETALL", bucket).([]any)
	for i := 0; i < len(all); i += 2 {
		l, ok := stamp.ParseLeft(all[i+1].(string))
		if all[i] == "" || !ok {
			continue
		}
		needed := max(l.Micros/1000+longest, l.Ends)
		if needed < ms {
			r.call("HDEL", bucket, all[i])
		}
		last = max(last, needed)
	}
	return last + 10
}

// placeIn puts stamps, each behind its field, into a bucket with that head.
func (r *run) placeIn(bucket, was string, ms, ends, keep int64, stamps ...any) {
	h := head{longest: keep}
	known := len(was) == 19 && was[0] == 16
	if known {
		h = head{bigEndian(was[1:7]), bigEndian(was[7:13]), bigEndian(was[13:19])}
	} else {
		h.lives = ms + max(r.call("PTTL", bucket).(int64), 0)
	}
	must := max(ms+keep, ends)
	if must <= h.lives && keep <= h.longest && ms < h.due {
		r.call(append([]any{"HSET", bucket}, stamps...)...)
		return
	}
	h.longest = max(h.longest, keep)
	if ms >= h.due {
		if known {
			h.lives = r.sweep(bucket, ms, h.longest)
		}
		h.due = ms + h.longest/4
	}
	h.lives = max(h.lives, must+h.longest/2)
	r.call(append([]any{"HSET", bucket, "", h.String()}, stamps...)...)
	r.call("PEXPIREAT", bucket, h.lives)
}

// place is placeIn for the stamp of the ith key.
func (r *run) place(i int, head string, ms int64, l stamp.Left, keep int64) {
	r.placeIn(r.bucket(i), head, ms, l.Ends, keep, stamp.Field(r.keys[i]), l.String())
}

func (r *run) forget(i int) { r.call("HDEL", r.bucket(i), stamp.Field(r.keys[i])) }

func setStamped(r *run) any {
	now := r.clock()
	if refusal := untimely(now, r.args[0]); refusal != nil {
		return refusal
	}
	for i := range r.count() {
		mine, value, ttl := proposed(r.args[3*i+3]), r.args[3*i+4], number(r.args[3*i+5])
		if l, head, ok := r.written(i, now, mine); ok {
			r.put(r.keys[i], value, ttl)
			l.Ends = now/1000 + ttl
			r.place(i, head, now/1000, l, number(r.args[1]))
		}
	}
	return int64(1)
}

func delStamped(r *run) any {
	now := r.clock()
	if refusal := untimely(now, r.args[0]); refusal != nil {
		return refusal
	}
	one := len(r.args) == 5
	for i := range r.count() {
		mine := r.args[3]
		if !one {
			mine = r.args[3+i]
		}
		if l, head, ok := r.written(i, now, proposed(mine)); ok {
			r.call("UNLINK", r.keys[i])
			r.place(i, head, now/1000, l, number(r.args[1]))
		}
	}
	return int64(1)
}

func expireStamped(r *run) any {
	now := r.clock()
	if refusal := untimely(now, r.args[0]); refusal != nil {
		return refusal
	}
	mine, grace := proposed(r.args[2]), number(r.args[3])
	for i := range r.count() {
		was, head, _ := r.stampOf(i)
		l, ok := later(now, was, mine)
		if !ok {
			continue
		}
		left := r.shorten(r.keys[i], grace, r.args[4:len(r.args)-1])
		if was != nil && left > 0 && was.Ends > now/1000 {
			l.Ends = min(was.Ends, now/1000+left)
		}
		r.place(i, head, now/1000, l, number(r.args[1]))
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
		was, head, _ := r.stampOf(i)
		l, ok := later(now, was, mine)
		if !ok {
			continue
		}
		left := r.call("PTTL", r.keys[i]).(int64)
		if left == -1 {
			left = number(r.args[3])
		}
		if left > 0 {
			l.Ends = now/1000 + left
		}
		l.Changed = true
		r.forget(i)
		r.place(i, head, now/1000, l, number(r.args[1]))
	}
	return int64(1)
}

func stampOnly(r *run) any {
	now := r.clock()
	if refusal := untimely(now, r.args[0]); refusal != nil {
		return refusal
	}
	field, ttl, mine := stamp.Field(r.args[4]), number(r.args[3]), proposed(r.args[1])
	was, head, _ := r.stampIn(r.keys[0], field)
	l, ok := later(now, was, mine)
	if !ok {
		return int64(2)
	}
	if ttl > 0 {
		l.Ends = now/1000 + ttl
	}
	r.placeIn(r.keys[0], head, now/1000, l.Ends, number(r.args[2]), field, l.String())
	return int64(1)
}

func replay(r *run) any {
	keep, lock, now := number(r.args[1]), r.args[2], r.clock()
	if refusal := untimely(now, r.args[0]); refusal != nil {
		return refusal
	}
	answers, applied := make([]any, r.count()), true
	full := r.whenFull()
	r.free = true
	for from := 0; from < len(answers); {
		bucket, past := r.bucket(from), from
		var fields []string
		for past < len(answers) && r.bucket(past) == bucket {
			fields = append(fields, stamp.Field(r.keys[past]))
			past++
		}
		were, head, unknown := r.stampsIn(bucket, fields)
		var stamps []any
		last := int64(0)
		func() {
			defer func() { // also if one of them ends the script
				if len(stamps) > 0 {
					r.placeIn(bucket, head, now/1000, last, keep, stamps...)
				}
			}()
			for i := from; i < past; i++ {
				verdict, l := r.replay(i, were[i-from], unknown[i-from], keep, lock, now, full)
				answers[i], applied = verdict, applied && verdict == int64(1)
				if l != nil {
					stamps, last = append(stamps, fields[i-from], l.String()), max(last, l.Ends)
				}
			}
		}()
		from = past
	}
	if applied {
		return int64(1)
	}
	return answers
}

// replay says what has become of the record of the ith key, and which stamp that leaves, if any.
func (r *run) replay(i int, c left, unknown bool, keep int64, lock string, now int64, full any) (any, left) {
	what, value := r.args[2*i+3], r.args[2*i+4]
	mine, u, ends := proposed(what[1:21]), bigEndian(what[21:28]), bigEndian(what[28:34])
	key, ms, at, verdict := r.keys[i], now/1000, mine.Micros, int64(1)
	op, newest := strings.ToLower(what[:1]), now-keep*1000
	set, fill, unsure := op == "s", op == "f", op != what[:1] || at > now+u
	if (set || fill) && (ms >= ends || at < newest+u) || fill && unsure {
		if fill {
			return int64(4), nil
		}
		// what it has replaced must not come back
		set, verdict = false, 3
	}
	if full != nil && (set || fill) {
		return full, nil
	}

	if fill {
		if unknown || c != nil && (c.Micros >= newest || c.Ends > ms) || !r.create(key, value, ends-ms) {
			return int64(2), nil
		}
		return int64(1), nil
	}
	if overtaken(c, mine) {
		return int64(2), nil
	}

	at = min(at, now)
	mine.Micros = at
	by, other, contested, apart, margin := mine, int64(0), unknown, u, u
	if c != nil {
		apart = max(u, c.Margin)
	}
	switch {
	case unsure:
		// a delete that happens now
		if set {
			set, verdict = false, 3
		}
		by.Micros = now
		if c != nil {
			by.Micros = max(now, c.Micros+1)
		}
		margin = 2 * (by.Micros - now)
	case c != nil && c.Client == mine.Client:
		by.Micros, margin = max(at, c.Micros), apart
		if c.Other != 0 && c.Other >= by.Micros-apart {
			other, contested = c.Other, true
		}
	case c != nil && c.Micros > at+apart:
		if c.Ends <= ms { // what is there is no Set's. An Expire leaves what may be older than this
			if v := r.held(key); v != nil && !strings.HasPrefix(v.(string), lock) {
				r.call("UNLINK", key)
			}
		}
		return int64(2), nil
	case c != nil && c.Micros >= at-apart:
		contested, margin = true, apart
		if c.Stamp.String() < mine.String() {
			other = c.Micros
		} else {
			by, other = c.Stamp, max(c.Other, at)
		}
	}

	wins, stays := set && !contested, int64(0)
	if wins && r.free && r.create(key, value, ends-ms) {
		return verdict, &stamp.Left{Stamp: by, Other: other, Ends: ends, Margin: margin}
	}
	v := r.held(key)
	held, _ := v.(string)
	locked := v != nil && strings.HasPrefix(held, lock)
	switch {
	case locked && !unsure && lockedAt(held) > at+u:
		// the load has read what this has written, or newer
		if wins {
			verdict = 2
		}
	case wins && (v == nil || locked || c != nil && ms < c.Ends):
		stays = ends
		r.put(key, value, ends-ms)
	default:
		if set {
			verdict = 3
		}
		if v != nil {
			r.call("UNLINK", key)
		}
	}
	if full != nil {
		r.forget(i)
	}
	return verdict, &stamp.Left{Stamp: by, Other: other, Ends: stays, Margin: margin}
}

// create writes a value where there is none, and reports whether it has.
func (r *run) create(key, value string, ttl int64) bool {
	args := []any{"SET", key, value, "PX", ttl, "NX"}
	if ttl > longestTTL {
		args = []any{"SET", key, value, "NX"}
	}
	r.free = r.call(args...) == okay
	return r.free
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
	if l, _, _ := r.stampOf(i); l != nil {
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
	within := r.args[2]
	forced := within == "" || strings.HasPrefix(within, "+")
	at, ok := r.end(r.keys[0])
	if !forced && !ok || within != "" && r.call("PTTL", r.keys[0]).(int64) > number(within) {
		return []any{int64(0)}
	}
	held, failures := r.look(r.keys[1]), int64(0)
	if held != nil && held != r.args[0] {
		left := r.call("PTTL", r.keys[1]).(int64)
		parts := failedLock.FindStringSubmatch(held.(string))
		if parts == nil {
			return []any{int64(1), left}
		}
		if keep := number(parts[2]); !forced && left > keep {
			return []any{int64(1), left - keep, number(parts[1])}
		}
		failures = number(parts[1])
	}
	r.call("SET", r.keys[1], r.args[0], "PX", r.args[1])
	return []any{int64(2), failures, sha1hex(v.(string)), fmt.Sprint(max(at, 0)), r.stampText(0)}
}

func refreshed(r *run) any {
	if r.look(r.keys[1]) != r.args[0] {
		return []any{int64(0)}
	}
	v, same := r.look(r.keys[0]), false
	var was left
	if v != nil {
		at, _ := r.end(r.keys[0])
		if at = max(at, 0); at-number(r.args[2]) >= -3 && at-number(r.args[2]) <= 3 {
			text := ""
			if was, _, _ = r.stampOf(0); was != nil {
				text = was.String()
			}
			same = text == r.args[3] && sha1hex(v.(string)) == r.args[1]
		}
	}
	if same {
		if was != nil {
			was.Ends = 0
			r.call("HSET", r.bucket(0), stamp.Field(r.keys[0]), was.String())
		}
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

// held is what a key holds; nil: nothing.
func (r *run) held(key string) any {
	v := r.pcall("GET", key)
	r.free = v == nil
	if _, failed := v.(failure); failed { // of another type: somebody's value
		v = ""
	}
	return v
}
