package fakeredis

import (
	"math"
	"strconv"
	"strings"
)

// What is about strings.

// text returns what a key holds: a string, nil if that is nothing, or the failure that it is of
// another type.
func (s *Server) text(key string) any {
	switch v := s.find(key); {
	case v == nil:
		return nil
	case v.kind != "string":
		return wrongType
	default:
		return v.text
	}
}

func get(s *Server, _ *client, args []string) any { return s.text(args[0]) }

func mget(s *Server, _ *client, args []string) any {
	all := make([]any, len(args))
	for i, key := range args {
		if text, ok := s.text(key).(string); ok {
			all[i] = text
		}
	}
	return all
}

func getex(s *Server, _ *client, args []string) any {
	var ends int64
	persists := false
	switch len(args) {
	case 1:
	case 2:
		if !strings.EqualFold(args[1], "PERSIST") {
			return syntax
		}
		persists = true
	case 3:
		var failed any
		if ends, failed = s.endIn("getex", args[1], args[2]); failed != nil {
			return failed
		}
	default:
		return syntax
	}
	text, ok := s.text(args[0]).(string)
	if !ok {
		return s.text(args[0])
	}
	v := s.find(args[0])
	switch {
	case persists && v.ends != 0:
		v.ends = 0
		s.touched(args[0])
	case ends == 0:
	case ends <= s.ms():
		s.remove(args[0])
	default:
		s.expireAt(args[0], v, ends)
		s.touched(args[0])
	}
	return text
}

func getdel(s *Server, _ *client, args []string) any {
	text := s.text(args[0])
	if _, ok := text.(string); ok {
		s.remove(args[0])
	}
	return text
}

func getrange(s *Server, _ *client, args []string) any {
	from, err := strconv.Atoi(args[1])
	to, also := strconv.Atoi(args[2])
	if err != nil || also != nil {
		return notNumber
	}
	text, ok := s.text(args[0]).(string)
	if !ok {
		if s.text(args[0]) == nil {
			return ""
		}
		return wrongType
	}
	switch {
	case from < 0 && to < 0 && from > to:
		return ""
	case to < 0:
		to = max(len(text)+to, 0) // so that there may be a first byte
	}
	from, to = slice(from, to, len(text))
	return text[from:to]
}

// slice makes bounds of Redis's, which count from the end where they are negative, Go's.
func slice(from, to, n int) (int, int) {
	if from < 0 {
		from = max(n+from, 0)
	}
	if to < 0 {
		to = n + to
	}
	to = min(to+1, n)
	if from >= to {
		return 0, 0
	}
	return from, to
}

func strlen(s *Server, _ *client, args []string) any {
	switch text := s.text(args[0]).(type) {
	case string:
		return int64(len(text))
	case nil:
		return int64(0)
	default:
		return text
	}
}

// endIn reads an end of life as SET and GETEX take it.
func (s *Server) endIn(name, option, text string) (ms int64, failed any) {
	units := map[string]struct {
		unit  int64
		after bool
	}{"EX": {1000, true}, "PX": {1, true}, "EXAT": {1000, false}, "PXAT": {1, false}}
	of, ok := units[strings.ToUpper(option)]
	if !ok {
		return 0, syntax
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n <= 0 {
		return 0, badExpire(name)
	}
	return s.endOf(name, text, of.unit, of.after)
}

func set(s *Server, _ *client, args []string) any {
	key, next := args[0], &value{kind: "string", text: args[1]}
	var onlyNew, onlyOld, gets, keeps bool
	for rest := args[2:]; len(rest) > 0; {
		switch option := strings.ToUpper(rest[0]); {
		case option == "NX" && !onlyOld:
			onlyNew, rest = true, rest[1:]
		case option == "XX" && !onlyNew:
			onlyOld, rest = true, rest[1:]
		case option == "GET":
			gets, rest = true, rest[1:]
		case option == "KEEPTTL" && next.ends == 0:
			keeps, rest = true, rest[1:]
		case len(rest) > 1 && next.ends == 0 && !keeps:
			var failed any
			if next.ends, failed = s.endIn("set", option, rest[1]); failed != nil {
				return failed
			}
			rest = rest[2:]
		default:
			return syntax
		}
	}
	old := s.find(key)
	var answer any = okay
	if gets {
		if answer = s.text(key); answer == wrongType {
			return wrongType
		}
	}
	if onlyNew && old != nil || onlyOld && old == nil {
		if gets {
			return answer
		}
		return nil
	}
	if keeps && old != nil {
		next.ends = old.ends
	}
	if next.ends != 0 && next.ends <= s.ms() {
		s.remove(key)
		return answer
	}
	s.put(key, next)
	return answer
}

func (s *Server) setFor(name string, c *client, args []string, unit int64) any {
	n, err := strconv.ParseInt(args[1], 10, 64)
	switch {
	case err != nil:
		return notNumber
	case n <= 0:
		return badExpire(name)
	}
	ends, failed := s.endOf(name, args[1], unit, true)
	if failed != nil {
		return failed
	}
	s.put(args[0], &value{kind: "string", text: args[2], ends: ends})
	return okay
}

func mset(s *Server, _ *client, args []string) any {
	if len(args)%2 != 0 {
		return badNumber("mset")
	}
	for i := 0; i < len(args); i += 2 {
		s.put(args[i], &value{kind: "string", text: args[i+1]})
	}
	return okay
}

func setrange(s *Server, _ *client, args []string) any {
	at, err := strconv.Atoi(args[1])
	if err != nil {
		return notNumber
	}
	if at < 0 {
		return failure("ERR offset is out of range")
	}
	was := s.text(args[0])
	if was == wrongType {
		return wrongType
	}
	text, _ := was.(string)
	if args[2] == "" {
		return int64(len(text))
	}
	if at+len(args[2]) > longestArg {
		return failure("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
	}
	bytes := []byte(text)
	if short := at + len(args[2]) - len(bytes); short > 0 {
		bytes = append(bytes, make([]byte, short)...)
	}
	copy(bytes[at:], args[2])
	s.rewrite(args[0], string(bytes))
	return int64(len(bytes))
}

// rewrite changes a string, which keeps its end.
func (s *Server) rewrite(key, text string) {
	next := &value{kind: "string", text: text}
	if old := s.find(key); old != nil {
		next.ends = old.ends
	}
	s.put(key, next)
}

func appendTo(s *Server, _ *client, args []string) any {
	was := s.text(args[0])
	if was == wrongType {
		return wrongType
	}
	text, _ := was.(string)
	s.rewrite(args[0], text+args[1])
	return int64(len(text) + len(args[1]))
}

func (s *Server) add(key, text string, sign int64) any {
	by, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return notNumber
	}
	by *= sign
	n := int64(0)
	switch was := s.text(key).(type) {
	case string:
		if n, err = strconv.ParseInt(was, 10, 64); err != nil {
			return notNumber
		}
	case failure:
		return was
	}
	sum, ok := sumOf(n, by)
	if !ok {
		return overflow
	}
	s.rewrite(key, strconv.FormatInt(sum, 10))
	return sum
}

const overflow = failure("ERR increment or decrement would overflow")

// sumOf adds; false: the sum is no int64.
func sumOf(n, by int64) (int64, bool) {
	if by > 0 && n > math.MaxInt64-by || by < 0 && n < math.MinInt64-by {
		return 0, false
	}
	return n + by, true
}
