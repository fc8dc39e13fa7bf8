package resp

import (
	"maps"
	"slices"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// Steps on hashes, sets and lists. Of a key that this proxy has not itself made, or deleted before, a
// part is known: what was written here. A read answers from that part what follows from it. A write is
// kept as an operation, and says whether its answer follows, too (stage.inexact).

func init() {
	maps.Copy(steps, map[string]*step{
		"HGET":       {arity: 3, keys: oneKey, reads: true, run: stepHget},
		"HMGET":      {arity: -3, keys: oneKey, reads: true, run: stepHmget},
		"HEXISTS":    {arity: 3, keys: oneKey, reads: true, run: stepHexists},
		"HSTRLEN":    {arity: 3, keys: oneKey, reads: true, run: stepHstrlen},
		"HLEN":       {arity: 2, keys: oneKey, reads: true, run: stepHlen},
		"HGETALL":    {arity: 2, keys: oneKey, reads: true, run: stepHgetall},
		"HKEYS":      {arity: 2, keys: oneKey, reads: true, run: stepHkeys},
		"HVALS":      {arity: 2, keys: oneKey, reads: true, run: stepHvals},
		"SISMEMBER":  {arity: 3, keys: oneKey, reads: true, run: stepSismember},
		"SMISMEMBER": {arity: -3, keys: oneKey, reads: true, run: stepSmismember},
		"SMEMBERS":   {arity: 2, keys: oneKey, reads: true, run: stepSmembers},
		"SCARD":      {arity: 2, keys: oneKey, reads: true, run: stepScard},
		"LRANGE":     {arity: 4, keys: oneKey, reads: true, run: stepLrange},
		"LINDEX":     {arity: 3, keys: oneKey, reads: true, run: stepLindex},
		"LLEN":       {arity: 2, keys: oneKey, reads: true, run: stepLlen},

		"HSET":         {arity: -4, keys: oneKey, run: stepHset},
		"HMSET":        {arity: -4, keys: oneKey, run: stepHmset},
		"HSETNX":       {arity: 4, keys: oneKey, run: stepHsetnx},
		"HDEL":         {arity: -3, keys: oneKey, run: stepHdel},
		"HINCRBY":      {arity: 4, keys: oneKey, run: stepHincrby},
		"HINCRBYFLOAT": {arity: 4, keys: oneKey, run: stepHincrbyfloat},
		"SADD":         {arity: -3, keys: oneKey, run: stepSadd},
		"SREM":         {arity: -3, keys: oneKey, run: stepSrem},
		"LPUSH":        {arity: -3, keys: oneKey, run: stepLpush},
		"RPUSH":        {arity: -3, keys: oneKey, run: stepRpush},
	})
}

// pairs and members are answers that RESP3 has types of its own for.
type (
	pairs   []string
	members []string
)

// of returns what is known of key, a collection of that kind, to be looked at and changed. false: it
// holds something else.
func (s *stage) of(key string, k kind) (*entry, bool) {
	e := s.entry(key)
	if e.exists && e.kind != k {
		s.wrong = true
		return nil, false
	}
	e.kind = k
	if e.fields == nil {
		e.fields, e.members = map[string]hashField{}, map[string]bool{}
	}
	return e, true
}

// begin notes that key is there, and is changed. What was not there before has no end.
func (s *stage) begin(key string, e *entry) {
	if !e.exists && !e.part {
		e.TTL = proxy.NoExpiry
	}
	e.exists = true
	s.changed[key] = true
}

// left notes that key is changed by something that was taken from it: it is there while something is
// known to be left.
func (s *stage) left(key string, e *entry, something bool) {
	s.changed[key] = true
	switch {
	case something:
	case e.part:
		e.exists = false // nobody knows
		e.endUnknown = true
	default:
		s.drop(key)
	}
}

// all reports whether e is known as a whole, and has a read that needs that refused if it is not.
func (s *stage) all(e *entry) bool {
	s.missing = s.missing || e.part
	return !e.part
}

// Hashes.

// field returns what is known of a field. ok: whether it is there is known.
func (e *entry) field(name string) (f hashField, ok bool) {
	f, ok = e.fields[name]
	return f, ok || !e.part
}

// value answers a field.
func (s *stage) value(e *entry, name string) answer {
	f, ok := e.field(name)
	s.missing = s.missing || !ok || f.vague
	if !f.there {
		return nil
	}
	return f.value
}

func stepHget(s *stage, args []string) answer {
	e, ok := s.of(args[0], aHash)
	if !ok {
		return nil
	}
	return s.value(e, args[1])
}

func stepHmget(s *stage, args []string) answer {
	e, ok := s.of(args[0], aHash)
	if !ok {
		return nil
	}
	all := make([]answer, len(args)-1)
	for i, name := range args[1:] {
		all[i] = s.value(e, name)
	}
	return all
}

func stepHexists(s *stage, args []string) answer {
	e, ok := s.of(args[0], aHash)
	if !ok {
		return nil
	}
	f, ok := e.field(args[1])
	s.missing = s.missing || !ok
	return f.there
}

func stepHstrlen(s *stage, args []string) answer {
	value, _ := stepHget(s, args).(string)
	return int64(len(value))
}

func stepHlen(s *stage, args []string) answer {
	all, _ := stepHgetall(s, args).(pairs)
	return int64(len(all) / 2)
}

func stepHgetall(s *stage, args []string) answer {
	e, ok := s.of(args[0], aHash)
	if !ok || !s.all(e) {
		return nil
	}
	all := make(pairs, 0, 2*len(e.fields))
	for _, name := range slices.Sorted(maps.Keys(e.fields)) {
		if f := e.fields[name]; f.there {
			s.missing = s.missing || f.vague
			all = append(all, name, f.value)
		}
	}
	return all
}

// every answers the strings at from, and each second behind it.
func every(all answer, from int) answer {
	both, ok := all.(pairs)
	if !ok {
		return all
	}
	some := make([]answer, 0, len(both)/2)
	for i := from; i < len(both); i += 2 {
		some = append(some, both[i])
	}
	return some
}

func stepHkeys(s *stage, args []string) answer { return every(stepHgetall(s, args), 0) }
func stepHvals(s *stage, args []string) answer { return every(stepHgetall(s, args), 1) }

func stepHset(s *stage, args []string) answer { return s.setFields("hset", args) }

func stepHmset(s *stage, args []string) answer {
	inexact := s.inexact
	if reply, wrong := s.setFields("hmset", args).(failure); wrong {
		return reply
	}
	s.inexact = inexact // its answer is always the same
	return done
}

func (s *stage) setFields(name string, args []string) answer {
	if len(args)%2 == 0 {
		return failure(wrongNumber(name))
	}
	e, ok := s.of(args[0], aHash)
	if !ok {
		return nil
	}
	n := int64(0)
	for i := 1; i < len(args); i += 2 {
		f, ok := e.field(args[i])
		s.inexact = s.inexact || !ok
		if !f.there {
			n++
		}
		e.fields[args[i]] = hashField{value: args[i+1], there: true}
	}
	s.begin(args[0], e)
	return n
}

func stepHsetnx(s *stage, args []string) answer {
	e, ok := s.of(args[0], aHash)
	if !ok {
		return nil
	}
	f, ok := e.field(args[1])
	if f.there {
		return int64(0)
	}
	s.inexact = s.inexact || !ok
	e.fields[args[1]] = hashField{value: args[2], there: true, vague: !ok}
	s.begin(args[0], e)
	return int64(1)
}

func stepHdel(s *stage, args []string) answer {
	e, ok := s.of(args[0], aHash)
	if !ok {
		return nil
	}
	n := int64(0)
	for _, name := range args[1:] {
		f, ok := e.field(name)
		s.inexact = s.inexact || !ok
		if f.there {
			n++
		}
		if ok && !f.there {
			continue
		}
		e.fields[name] = hashField{}
		s.changed[args[0]] = true
	}
	if s.changed[args[0]] {
		s.left(args[0], e, anyThere(e.fields))
	}
	return n
}

func anyThere(fields map[string]hashField) bool {
	for _, f := range fields {
		if f.there {
			return true
		}
	}
	return false
}

// number returns a field as what is added to: "0" where there is none, or where nobody knows, which is
// inexact.
func (s *stage) summand(e *entry, name string) (f hashField) {
	f, ok := e.field(name)
	s.inexact = s.inexact || !ok || f.vague
	if !f.there {
		f.value = "0"
	}
	f.there, f.vague = true, !ok || f.vague
	return f
}

func stepHincrby(s *stage, args []string) answer {
	by, ok := number(args[2])
	if !ok {
		return failure(notInteger)
	}
	e, ok := s.of(args[0], aHash)
	if !ok {
		return nil
	}
	f := s.summand(e, args[1])
	n, ok := number(f.value)
	if !ok {
		s.missing = s.missing || f.vague
		return failure("ERR hash value is not an integer")
	}
	sum, ok := sumOf(n, by)
	if !ok {
		s.missing = s.missing || f.vague
		return overflow
	}
	f.value = whole(sum)
	e.fields[args[1]] = f
	s.begin(args[0], e)
	return sum
}

func stepHincrbyfloat(s *stage, args []string) answer {
	if notFloat(args[2]) { // which Redis looks at before the key
		return failure(noFloat)
	}
	e, ok := s.of(args[0], aHash)
	if !ok {
		return nil
	}
	f := s.summand(e, args[1])
	sum, ok := sumOfFloats(f.value, args[2])
	if !ok {
		s.missing = true
		return nil
	}
	f.value = sum
	e.fields[args[1]] = f
	s.begin(args[0], e)
	return sum
}

// Sets.

// member reports whether a set has name; ok: that is known.
func (e *entry) member(name string) (has, ok bool) {
	has, ok = e.members[name]
	return has, ok || !e.part
}

func stepSismember(s *stage, args []string) answer {
	e, ok := s.of(args[0], aSet)
	if !ok {
		return nil
	}
	has, ok := e.member(args[1])
	s.missing = s.missing || !ok
	return has
}

func stepSmismember(s *stage, args []string) answer {
	e, ok := s.of(args[0], aSet)
	if !ok {
		return nil
	}
	all := make([]answer, len(args)-1)
	for i, name := range args[1:] {
		has, ok := e.member(name)
		s.missing = s.missing || !ok
		all[i] = has
	}
	return all
}

func stepSmembers(s *stage, args []string) answer {
	e, ok := s.of(args[0], aSet)
	if !ok || !s.all(e) {
		return nil
	}
	all := members{}
	for _, name := range slices.Sorted(maps.Keys(e.members)) {
		if e.members[name] {
			all = append(all, name)
		}
	}
	return all
}

func stepScard(s *stage, args []string) answer {
	all, _ := stepSmembers(s, args).(members)
	return int64(len(all))
}

func stepSadd(s *stage, args []string) answer { return s.setMembers(args, true) }
func stepSrem(s *stage, args []string) answer { return s.setMembers(args, false) }

// setMembers counts those whose being there has changed, as far as is known.
func (s *stage) setMembers(args []string, there bool) answer {
	e, ok := s.of(args[0], aSet)
	if !ok {
		return nil
	}
	n, changed := int64(0), false
	for _, name := range args[1:] {
		has, ok := e.member(name)
		s.inexact = s.inexact || !ok
		if has != there {
			n++
		}
		if has != there || !ok {
			e.members[name], changed = there, true
		}
	}
	switch {
	case !changed:
	case there:
		s.begin(args[0], e)
	default:
		s.left(args[0], e, slices.Contains(slices.Collect(maps.Values(e.members)), true))
	}
	return n
}

// Lists.

func stepLlen(s *stage, args []string) answer {
	e, ok := s.of(args[0], aList)
	if !ok {
		return nil
	}
	s.all(e)
	return int64(len(e.head) + len(e.tail))
}

func stepLrange(s *stage, args []string) answer {
	from, ok := number(args[1])
	to, also := number(args[2])
	if !ok || !also {
		return failure(notInteger)
	}
	e, ok := s.of(args[0], aList)
	if !ok || !s.all(e) {
		return nil
	}
	list := slices.Concat(e.head, e.tail)
	size := int64(len(list))
	if from < 0 {
		from = max(from+size, 0)
	}
	if to < 0 {
		to += size
	}
	some := []answer{}
	for i := from; i <= min(to, size-1); i++ {
		some = append(some, list[i])
	}
	return some
}

// stepLindex also answers from an end that is known, as far as that goes.
func stepLindex(s *stage, args []string) answer {
	at, ok := number(args[1])
	if !ok {
		return failure(notInteger)
	}
	e, ok := s.of(args[0], aList)
	if !ok {
		return nil
	}
	switch list := slices.Concat(e.head, e.tail); {
	case e.part && at >= 0 && at < int64(len(e.head)):
		return e.head[at]
	case e.part && at < 0 && at >= -int64(len(e.tail)):
		return e.tail[int64(len(e.tail))+at]
	case !s.all(e):
		return nil
	case at < 0:
		at += int64(len(list))
		fallthrough
	default:
		if at < 0 || at >= int64(len(list)) {
			return nil
		}
		return list[at]
	}
}

func stepLpush(s *stage, args []string) answer {
	e, ok := s.of(args[0], aList)
	if !ok {
		return nil
	}
	more := slices.Clone(args[1:])
	slices.Reverse(more)
	e.head = append(more, e.head...)
	return s.pushed(args[0], e)
}

func stepRpush(s *stage, args []string) answer {
	e, ok := s.of(args[0], aList)
	if !ok {
		return nil
	}
	e.tail = append(slices.Clip(e.tail), args[1:]...)
	return s.pushed(args[0], e)
}

func (s *stage) pushed(key string, e *entry) answer {
	s.inexact = s.inexact || e.part
	s.begin(key, e)
	return int64(len(e.head) + len(e.tail))
}
