package fakeredis

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/redaside/aside/internal/sums"
)

// run is one run of a script. A twin has from it what Lua has from Redis: KEYS, ARGV, redis.call and
// redis.pcall. Both count from 1 there, and from 0 here; false is nil.
type run struct {
	s     *Server
	c     *client
	keys  []string
	args  []string
	full  bool // the server was when the script began
	dirty bool // it has begun with a write, so that it may go on
	free  bool // of replay
}

// call is redis.call: it ends the script where the command fails. Arguments are strings and
// integers.
func (r *run) call(args ...any) any {
	answer := r.pcall(args...)
	if failed, ok := answer.(failure); ok {
		panic(failed)
	}
	return answer
}

// pcall is redis.pcall: the answer may be a failure.
func (r *run) pcall(args ...any) any {
	texts := make([]string, len(args))
	for i, arg := range args {
		texts[i] = fmt.Sprint(arg)
	}
	answer := r.s.perform(r.c, texts, r.full && !r.dirty)
	if kind := commands[strings.ToUpper(texts[0])].kind; answer != isFull && (kind == writes || kind == grows) {
		r.dirty = true
	}
	switch v := answer.(type) {
	case verbatim:
		return string(v)
	case pairs:
		return []any(v)
	}
	return answer
}

// callKeys is call for a command of many keys: unpack.
func (r *run) callKeys(name string, keys []string) any {
	args := []any{name}
	for _, key := range keys {
		args = append(args, key)
	}
	return r.call(args...)
}

// number is tonumber of what has to be one; else the script ends, as Lua does where it calculates
// with nil.
func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(failure(fmt.Sprintf("ERR %q is no number", text)))
	}
	return n
}

// isNumber is tonumber of what may be one.
func isNumber(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

func sha1hex(text string) string {
	sum := sums.SHA1(text)
	return hex.EncodeToString(sum[:])
}

// noTwin is the answer to a script that there is no function for.
const noTwin = failure("ERR this server, which is a fake, runs no Lua: it knows the scripts of aside only, as functions of internal/fakeredis")

const noScript = failure("NOSCRIPT No matching script. Please use EVAL.")

func scriptCommand(s *Server, _ *client, args []string) any {
	switch strings.ToUpper(args[0]) {
	case "FLUSH":
		clear(s.known)
		return okay
	case "LOAD":
		if len(args) != 2 {
			return badNumber("script|load")
		}
		sum := sha1hex(args[1])
		if twins[sum].run == nil {
			return noTwin
		}
		s.known[sum] = true
		return sum
	case "EXISTS":
		there := make([]any, len(args)-1)
		for i, sum := range args[1:] {
			there[i] = int64(0)
			if s.known[strings.ToLower(sum)] {
				there[i] = int64(1)
			}
		}
		return there
	}
	return failure("ERR unknown subcommand '" + args[0] + "'. Try SCRIPT HELP.")
}

// evalWhole is EVAL, which remembers the script.
func evalWhole(s *Server, c *client, args []string) any {
	sum := sha1hex(args[0])
	if twins[sum].run == nil {
		return noTwin
	}
	s.known[sum] = true
	return evalKnown(s, c, append([]string{sum}, args[1:]...))
}

// evalKnown is EVALSHA.
func evalKnown(s *Server, c *client, args []string) (answer any) {
	sum := strings.ToLower(args[0])
	if !s.known[sum] {
		return noScript
	}
	n, err := strconv.Atoi(args[1])
	switch {
	case err != nil:
		return notNumber
	case n < 0:
		return failure("ERR Number of keys can't be negative")
	case n > len(args)-2:
		return failure("ERR Number of keys can't be greater than number of args")
	}
	defer func() {
		switch failed := recover().(type) {
		case nil:
		case failure:
			answer = failed
		default:
			panic(failed)
		}
	}()
	return twins[sum].run(&run{s: s, c: c, keys: args[2 : 2+n], args: args[2+n:], full: s.full()})
}
