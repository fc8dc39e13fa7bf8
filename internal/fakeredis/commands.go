package fakeredis

import (
	"fmt"
	"strconv"
	"strings"
)

// command is one that the server knows.
type command struct {
	do    func(s *Server, c *client, args []string) any // of what follows the name
	arity int                                           // as in Redis: with the name; negative: at least
	kind  kind
	keys  func(args []string) []string // of those that read; nil: none
}

// kind tells what a command does to keys.
type kind uint8

const (
	neither kind = iota
	reads        // and what it reads is tracked
	writes       // also if it changes nothing
	grows        // writes what a full server refuses
)

func first(args []string) []string { return args[:1] }
func every(args []string) []string { return args }

// commands are what the server knows, by name.
var commands map[string]command

func init() { // they use the table themselves
	commands = map[string]command{
		// Connections.
		"PING":   {ping, -1, neither, nil},
		"ECHO":   {func(_ *Server, _ *client, a []string) any { return a[0] }, 2, neither, nil},
		"HELLO":  {hello, -1, neither, nil},
		"AUTH":   {func(*Server, *client, []string) any { return okay }, -2, neither, nil},
		"SELECT": {selectDB, 2, neither, nil},
		"CLIENT": {clientCommand, -2, neither, nil},
		"QUIT": {func(_ *Server, c *client, _ []string) any {
			c.say(okay)
			c.leave()
			return okay
		}, -1, neither, nil},

		// The server.
		"TIME": {func(s *Server, _ *client, _ []string) any {
			now := s.time()
			return []any{strconv.FormatInt(now/1e6, 10), strconv.FormatInt(now%1e6, 10)}
		}, 1, neither, nil},
		"INFO":     {info, -1, neither, nil},
		"CONFIG":   {config, -2, neither, nil},
		"CLUSTER":  {func(*Server, *client, []string) any { return failure("ERR This instance has cluster support disabled") }, -2, neither, nil},
		"DBSIZE":   {func(s *Server, _ *client, _ []string) any { return int64(len(s.present())) }, 1, neither, nil},
		"FLUSHALL": {flush, -1, writes, nil},
		"FLUSHDB":  {flush, -1, writes, nil},
		"SCRIPT":   {scriptCommand, -2, neither, nil},
		"EVAL":     {evalWhole, -3, neither, nil},
		"EVALSHA":  {evalKnown, -3, neither, nil},

		// Any key.
		"KEYS":      {keysLike, 2, neither, nil},
		"EXISTS":    {exists, -2, reads, every},
		"TYPE":      {typeOf, 2, reads, first},
		"DEL":       {del, -2, writes, nil},
		"UNLINK":    {del, -2, writes, nil},
		"TTL":       {func(s *Server, _ *client, a []string) any { return s.left(a[0], 1000) }, 2, reads, first},
		"PTTL":      {func(s *Server, _ *client, a []string) any { return s.left(a[0], 1) }, 2, reads, first},
		"EXPIRE":    {func(s *Server, _ *client, a []string) any { return s.expiry("expire", a, 1000, true) }, 3, writes, nil},
		"PEXPIRE":   {func(s *Server, _ *client, a []string) any { return s.expiry("pexpire", a, 1, true) }, 3, writes, nil},
		"EXPIREAT":  {func(s *Server, _ *client, a []string) any { return s.expiry("expireat", a, 1000, false) }, 3, writes, nil},
		"PEXPIREAT": {func(s *Server, _ *client, a []string) any { return s.expiry("pexpireat", a, 1, false) }, 3, writes, nil},
		"PERSIST":   {persist, 2, writes, nil},

		// Strings.
		"GET":      {get, 2, reads, first},
		"MGET":     {mget, -2, reads, every},
		"GETEX":    {getex, -2, writes, nil},
		"GETDEL":   {getdel, 2, writes, nil},
		"GETRANGE": {getrange, 4, reads, first},
		"STRLEN":   {strlen, 2, reads, first},
		"SET":      {set, -3, grows, nil},
		"SETEX":    {func(s *Server, c *client, a []string) any { return s.setFor("setex", c, a, 1000) }, 4, grows, nil},
		"PSETEX":   {func(s *Server, c *client, a []string) any { return s.setFor("psetex", c, a, 1) }, 4, grows, nil},
		"SETNX": {func(s *Server, _ *client, a []string) any {
			if s.find(a[0]) != nil {
				return int64(0)
			}
			s.put(a[0], &value{kind: "string", text: a[1]})
			return int64(1)
		}, 3, grows, nil},
		"MSET":     {mset, -3, grows, nil},
		"SETRANGE": {setrange, 4, grows, nil},
		"APPEND":   {appendTo, 3, grows, nil},
		"INCR":     {func(s *Server, _ *client, a []string) any { return s.add(a[0], "1", 1) }, 2, grows, nil},
		"DECR":     {func(s *Server, _ *client, a []string) any { return s.add(a[0], "1", -1) }, 2, grows, nil},
		"INCRBY":   {func(s *Server, _ *client, a []string) any { return s.add(a[0], a[1], 1) }, 3, grows, nil},
		"DECRBY":   {func(s *Server, _ *client, a []string) any { return s.add(a[0], a[1], -1) }, 3, grows, nil},

		// Hashes, lists and sets, as far as a test wants a key of another type.
		"HSET":     {hset, -4, grows, nil},
		"HSETNX":   {hsetnx, 4, grows, nil},
		"HINCRBY":  {hincrby, 4, grows, nil},
		"HKEYS":    {hkeys, 2, reads, first},
		"HGET":     {hget, 3, reads, first},
		"HMGET":    {hmget, -3, reads, first},
		"HGETALL":  {hgetall, 2, reads, first},
		"HEXISTS":  {hexists, 3, reads, first},
		"HLEN":     {hlen, 2, reads, first},
		"HDEL":     {hdel, -3, writes, nil},
		"RPUSH":    {func(s *Server, _ *client, a []string) any { return s.push(a, false) }, -3, grows, nil},
		"LPUSH":    {func(s *Server, _ *client, a []string) any { return s.push(a, true) }, -3, grows, nil},
		"LLEN":     {llen, 2, reads, first},
		"LRANGE":   {lrange, 4, reads, first},
		"SADD":     {sadd, -3, grows, nil},
		"SREM":     {srem, -3, writes, nil},
		"SMEMBERS": {smembers, 2, reads, first},
	}
}

// do does a command that c has sent.
func (s *Server) do(c *client, args []string) any {
	s.current = c
	defer func() { s.current = nil }()
	s.lookAtClock()
	answer := s.perform(c, args, s.full())
	if !strings.EqualFold(args[0], "CLIENT") {
		c.tracking.caching = false
	}
	return answer
}

// full reports whether the server holds more than it may.
func (s *Server) full() bool { return s.max != 0 && leastMemory+s.data.bytes > s.max }

// leastMemory is about what an empty Redis takes.
const leastMemory = 1 << 20

// perform does a command of a client, or of a script. full: it is refused if it makes the server hold
// more.
func (s *Server) perform(c *client, args []string, full bool) any {
	name := strings.ToUpper(args[0])
	cmd, ok := commands[name]
	switch {
	case !ok:
		return unknown(args)
	case cmd.arity > 0 && len(args) != cmd.arity, len(args) < -cmd.arity:
		return badNumber(name)
	case full && cmd.kind == grows:
		return isFull
	}
	answer := cmd.do(s, c, args[1:])
	if s.watch != nil {
		s.watch(args, answer)
		return answer // nobody is told of what it has read
	}
	if cmd.kind == reads { // also if it failed
		s.remember(c, cmd.keys(args[1:]))
	}
	return answer
}

func unknown(args []string) failure {
	var rest strings.Builder
	for _, arg := range args[1:] {
		if rest.Len() >= 128 {
			break
		}
		fmt.Fprintf(&rest, "'%.128s' ", arg)
	}
	return failure(fmt.Sprintf("ERR unknown command '%.128s', with args beginning with: %s", args[0], rest.String()))
}

func badNumber(name string) failure {
	return failure("ERR wrong number of arguments for '" + strings.ToLower(name) + "' command")
}

func badExpire(name string) failure {
	return failure("ERR invalid expire time in '" + name + "' command")
}
