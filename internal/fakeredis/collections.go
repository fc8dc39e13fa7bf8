package fakeredis

import (
	"maps"
	"slices"
	"strconv"
)

// What is about hashes, lists and sets.

// of returns what key holds, if it is of this kind; nil if that is nothing.
func (s *Server) of(key, kind string) (v *value, failed any) {
	if v = s.find(key); v != nil && v.kind != kind {
		return nil, wrongType
	}
	return v, nil
}

// made is of, which makes what is not there.
func (s *Server) made(key, kind string) (v *value, failed any) {
	if v, failed = s.of(key, kind); v == nil && failed == nil {
		v = &value{kind: kind, fields: make(map[string]string), members: make(map[string]bool)}
		s.data.byKey[key] = v
		s.data.bytes += v.size() + int64(len(key))
	}
	return v, failed
}

func hset(s *Server, _ *client, args []string) any {
	if len(args)%2 != 1 {
		return badNumber("hset")
	}
	v, failed := s.made(args[0], "hash")
	if failed != nil {
		return failed
	}
	before, had := v.size(), len(v.fields)
	for i := 1; i < len(args); i += 2 {
		v.fields[args[i]] = args[i+1]
	}
	s.changed(args[0], v, before)
	return int64(len(v.fields) - had)
}

func hget(s *Server, _ *client, args []string) any {
	v, failed := s.of(args[0], "hash")
	if v == nil {
		return failed
	}
	if text, ok := v.fields[args[1]]; ok {
		return text
	}
	return nil
}

func hsetnx(s *Server, c *client, args []string) any {
	switch was := hget(s, c, args).(type) {
	case nil:
		return hset(s, c, args)
	case string:
		return int64(0)
	default:
		return was
	}
}

func hincrby(s *Server, c *client, args []string) any {
	by, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return notNumber
	}
	n := int64(0)
	switch was := hget(s, c, args).(type) {
	case string:
		if n, err = strconv.ParseInt(was, 10, 64); err != nil {
			return failure("ERR hash value is not an integer")
		}
	case failure:
		return was
	}
	sum, ok := sumOf(n, by)
	if !ok {
		return overflow
	}
	hset(s, c, []string{args[0], args[1], strconv.FormatInt(sum, 10)})
	return sum
}

func hkeys(s *Server, c *client, args []string) any {
	all, ok := hgetall(s, c, args).(pairs)
	if !ok {
		return hgetall(s, c, args)
	}
	keys := []any{}
	for i := 0; i < len(all); i += 2 {
		keys = append(keys, all[i])
	}
	return keys
}

func hmget(s *Server, _ *client, args []string) any {
	v, failed := s.of(args[0], "hash")
	if failed != nil {
		return failed
	}
	all := make([]any, len(args)-1)
	for i, field := range args[1:] {
		if v == nil {
			break
		}
		if text, ok := v.fields[field]; ok {
			all[i] = text
		}
	}
	return all
}

func hgetall(s *Server, _ *client, args []string) any {
	v, failed := s.of(args[0], "hash")
	if failed != nil {
		return failed
	}
	all := pairs{}
	if v != nil {
		for _, field := range slices.Sorted(maps.Keys(v.fields)) {
			all = append(all, field, v.fields[field])
		}
	}
	return all
}

func hexists(s *Server, c *client, args []string) any {
	switch text := hget(s, c, args).(type) {
	case string:
		return int64(1)
	case nil:
		return int64(0)
	default:
		return text
	}
}

func hlen(s *Server, _ *client, args []string) any {
	return s.count(args[0], "hash", func(v *value) int { return len(v.fields) })
}

func hdel(s *Server, _ *client, args []string) any {
	return s.removeFrom(args, "hash", func(v *value, field string) bool {
		_, there := v.fields[field]
		delete(v.fields, field)
		return there
	})
}

// count returns how many elements a key of this kind has.
func (s *Server) count(key, kind string, elements func(v *value) int) any {
	v, failed := s.of(key, kind)
	switch {
	case failed != nil:
		return failed
	case v == nil:
		return int64(0)
	}
	return int64(elements(v))
}

// removeFrom removes elements from a key, args[0], of this kind, and returns how many there were. one
// removes one of them and reports whether it was there.
func (s *Server) removeFrom(args []string, kind string, one func(v *value, element string) bool) any {
	v, failed := s.of(args[0], kind)
	switch {
	case failed != nil:
		return failed
	case v == nil:
		return int64(0)
	}
	before, gone := v.size(), 0
	for _, element := range args[1:] {
		if one(v, element) {
			gone++
		}
	}
	if gone > 0 {
		s.changed(args[0], v, before)
	}
	return int64(gone)
}

func (s *Server) push(args []string, inFront bool) any {
	v, failed := s.made(args[0], "list")
	if failed != nil {
		return failed
	}
	before := v.size()
	for _, element := range args[1:] {
		if inFront {
			v.list = slices.Insert(v.list, 0, element)
		} else {
			v.list = append(v.list, element)
		}
	}
	s.changed(args[0], v, before)
	return int64(len(v.list))
}

func llen(s *Server, _ *client, args []string) any {
	return s.count(args[0], "list", func(v *value) int { return len(v.list) })
}

func lrange(s *Server, _ *client, args []string) any {
	from, err := strconv.Atoi(args[1])
	to, also := strconv.Atoi(args[2])
	if err != nil || also != nil {
		return notNumber
	}
	v, failed := s.of(args[0], "list")
	if failed != nil {
		return failed
	}
	all := []any{}
	if v != nil {
		from, to = slice(from, to, len(v.list))
		for _, element := range v.list[from:to] {
			all = append(all, element)
		}
	}
	return all
}

func sadd(s *Server, _ *client, args []string) any {
	v, failed := s.made(args[0], "set")
	if failed != nil {
		return failed
	}
	before, had := v.size(), len(v.members)
	for _, member := range args[1:] {
		v.members[member] = true
	}
	if len(v.members) == had {
		return int64(0)
	}
	s.changed(args[0], v, before)
	return int64(len(v.members) - had)
}

func srem(s *Server, _ *client, args []string) any {
	return s.removeFrom(args, "set", func(v *value, member string) bool {
		there := v.members[member]
		delete(v.members, member)
		return there
	})
}

func smembers(s *Server, _ *client, args []string) any {
	v, failed := s.of(args[0], "set")
	if failed != nil {
		return failed
	}
	all := []any{}
	if v != nil {
		for _, member := range slices.Sorted(maps.Keys(v.members)) {
			all = append(all, member)
		}
	}
	return all
}
