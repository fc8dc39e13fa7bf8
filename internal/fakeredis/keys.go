package fakeredis

import (
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// What is about keys of any type.

// present are the keys that hold something, in order.
func (s *Server) present() (keys []string) {
	for _, key := range slices.Sorted(maps.Keys(s.data.byKey)) {
		if s.find(key) != nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// matches is path.Match for a key, in which a slash is a character like any other.
func matches(pattern, key string) bool {
	const slash, other = "/", "\uE000"
	ok, err := path.Match(strings.ReplaceAll(pattern, slash, other), strings.ReplaceAll(key, slash, other))
	return ok && err == nil
}

func keysLike(s *Server, _ *client, args []string) any {
	found := []any{}
	for _, key := range s.present() {
		if args[0] == "*" || matches(args[0], key) {
			found = append(found, key)
		}
	}
	return found
}

func exists(s *Server, _ *client, args []string) any {
	n := int64(0)
	for _, key := range args {
		if s.find(key) != nil {
			n++
		}
	}
	return n
}

func typeOf(s *Server, _ *client, args []string) any {
	if v := s.find(args[0]); v != nil {
		return status(v.kind)
	}
	return status("none")
}

func del(s *Server, _ *client, args []string) any {
	n := int64(0)
	for _, key := range args {
		if s.find(key) != nil && s.remove(key) {
			n++
		}
	}
	return n
}

// left is how long a key has to live, in units of so many ms, rounded as TTL does.
func (s *Server) left(key string, unit int64) any {
	switch v := s.find(key); {
	case v == nil:
		return int64(-2)
	case v.ends == 0:
		return int64(-1)
	default:
		return (max(v.ends-s.ms(), 0) + unit/2) / unit
	}
}

// endOf is when something ends that ends at, or after, text in units of so many ms.
func (s *Server) endOf(name, text string, unit int64, after bool) (ms int64, failed any) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, notNumber
	}
	base := int64(0)
	if after {
		base = s.ms()
	}
	if n > math.MaxInt64/unit || n < math.MinInt64/unit || n*unit > math.MaxInt64-base {
		return 0, badExpire(name)
	}
	return n*unit + base, nil
}

func (s *Server) expiry(name string, args []string, unit int64, after bool) any {
	ends, failed := s.endOf(name, args[1], unit, after)
	if failed != nil {
		return failed
	}
	v := s.find(args[0])
	switch {
	case v == nil:
		return int64(0)
	case ends <= s.ms():
		s.remove(args[0])
	default:
		s.expireAt(args[0], v, ends)
		s.touched(args[0])
	}
	return int64(1)
}

func persist(s *Server, _ *client, args []string) any {
	v := s.find(args[0])
	if v == nil || v.ends == 0 {
		return int64(0)
	}
	v.ends = 0
	s.touched(args[0])
	return int64(1)
}
