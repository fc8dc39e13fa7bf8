package resp

import (
	"math"
	"strconv"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// Commands that are done here while Redis is away. Each is a function of its arguments and of what is
// known of its keys, and says what it answers and what is kept instead: it asks nobody, and changes
// nothing by itself.

// step is such a command.
type step struct {
	arity int // as in command
	keys  [3]int
	reads bool // it changes nothing: then what was read before Redis went away is known, too
	run   func(s *stage, args []string) answer
}

// steps are all commands that are done here while Redis is away. Immutable after init.
var steps = make(map[string]*step)

// keysOf are the keys among args, which begin behind the command's name.
func (st *step) keysOf(args []string) []string { return keysAt(st.keys, args) }

// fits reports whether so many arguments, without the name, are right.
func (st *step) fits(args int) bool {
	return st.arity < 0 && args+1 >= -st.arity || st.arity == args+1
}

// stage is where steps are done: what is known, and what they change of it. It belongs to one
// goroutine.
type stage struct {
	now     time.Time
	most    int // bytes of a value
	known   map[string]*entry
	changed map[string]bool
	held    map[string]bool // keys that are there by what is known for reading; nil: nobody has asked

	missing bool // a step needs what is not known: then nothing of all this is done
	inexact bool // an answer counts only what is known here
	wrong   bool // a key holds another type than the step is for
}

func newStage(most int) *stage {
	return &stage{now: time.Now(), most: most, known: make(map[string]*entry), changed: make(map[string]bool)}
}

// entry is what is known of what a key holds.
type entry struct {
	proxy.Value // Data of a string, and the TTL of anything

	kind   kind
	exists bool
	part   bool // Redis may hold more than is known here; if it does not exist, either, nobody knows whether it does

	vague      bool // Data counts only what is known here
	endUnknown bool // TTL says nothing

	fields     map[string]hashField // of a hash
	members    map[string]bool      // of a set: whether it has them
	head, tail []string             // of a list: if it is known as a whole, all of it is in these two
}

// kind is the type of what a key holds.
type kind string

const (
	aString kind = "string"
	aHash   kind = "hash"
	aSet    kind = "set"
	aList   kind = "list"
)

// hashField is what is known of a field of a hash.
type hashField struct {
	value string
	there bool
	vague bool // its value counts only what is known here
}

// entry is what is known of key, to be changed.
func (s *stage) entry(key string) *entry {
	e := s.known[key]
	if e == nil {
		e = unknown()
		s.known[key] = e
	}
	return e
}

// there reports whether key exists; ok: that is known.
func (s *stage) there(key string) (exists, ok bool) {
	e := s.entry(key)
	ok = e.exists || !e.part
	s.missing = s.missing || !ok
	return e.exists, ok
}

// get returns what key holds, as a string. false: it holds something else, or that is not known, and
// whatever the step answers is not used.
func (s *stage) get(key string) (entry, bool) {
	e := s.entry(key)
	switch {
	case e.exists && e.kind != aString:
		s.wrong = true
	case e.part:
		s.missing = true
	default:
		return *e, true
	}
	return entry{}, false
}

// put has key hold a string for v.TTL, which may have passed.
func (s *stage) put(key string, v proxy.Value) {
	if v.TTL != proxy.NoExpiry && v.TTL <= 0 {
		s.drop(key)
		return
	}
	if v.TTL > proxy.LongestTTL {
		v.TTL = proxy.NoExpiry
	}
	s.known[key] = &entry{Value: v, kind: aString, exists: true}
	s.changed[key] = true
}

// drop has key hold nothing.
func (s *stage) drop(key string) {
	s.known[key] = &entry{}
	s.changed[key] = true
}

// do does a step.
func (s *stage) do(st *step, args []string) answer {
	reply := st.run(s, args)
	if s.wrong {
		s.wrong = false
		return failure(wrongType)
	}
	return reply
}

// answer is what a command answers: nil, int64, string, status, failure, or a list of such.
type answer any

type (
	status  string
	failure string
)

const (
	done     = status("OK")
	noSuch   = failure("ERR no such key")
	tooLong  = failure("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
	overflow = failure("ERR increment or decrement would overflow")
)

// write writes an answer in the client's version of the protocol.
func (c *conn) write(a answer) {
	switch a := a.(type) {
	case nil:
		c.null()
	case int64:
		c.int(a)
	case bool:
		if a {
			c.int(1)
		} else {
			c.int(0)
		}
	case string:
		c.bulk(a)
	case pairs:
		c.mapping(len(a) / 2)
		for _, one := range a {
			c.bulk(one)
		}
	case members:
		c.setOf(len(a))
		for _, one := range a {
			c.bulk(one)
		}
	case status:
		c.simple(string(a))
	case failure:
		c.error(string(a))
	case []answer:
		c.array(len(a))
		for _, one := range a {
			c.write(one)
		}
	default:
		panic("resp: an answer of no type that is written")
	}
}

// sumOf adds; false: the sum is no int64.
func sumOf(n, by int64) (int64, bool) {
	if by > 0 && n > math.MaxInt64-by || by < 0 && n < math.MinInt64-by {
		return 0, false
	}
	return n + by, true
}

// whole is a number, as a value holds it.
func whole(n int64) string { return strconv.FormatInt(n, 10) }
