package resp

import (
	"slices"
	"strings"
)

// What becomes of each command while Redis is away is said here, and nowhere else: conn and pass ask
// it, docs/PROXY.md is made from it, and `aside serve --check-app` tells by it.

// Outage is what becomes of a command while Redis is away.
type Outage int

// From the least to the most that the proxy must know for it.
const (
	// Refused: ASIDEDEGRADED, and nothing is changed.
	Refused Outage = iota

	// Works: as always, it needs no Redis.
	Works

	// Kept: whatever is known. It is replayed.
	Kept

	// Answered: where what it reads is known here, in memory or on disk. Else it is refused.
	Answered

	// KeptIfKnown: where what it depends on was itself kept here, since Redis went away. Else it is
	// refused.
	KeptIfKnown

	// Listed: those of the keys that are known here to be there, if Options.KnownKeys says so. Else it is
	// refused.
	Listed

	// KeptAsOperation: it is done when Redis is back. What it answers follows from what was kept here,
	// or counts that alone, if Options.LocalAnswers says so. Else it is refused.
	KeptAsOperation
)

// String is how `aside serve --check-app` and the documentation call it.
func (o Outage) String() string {
	return [...]string{"refused", "works", "kept", "answered if known here", "kept if known here", "refused, or lists what is known here", "kept, answered if known here"}[o]
}

// OutageRow is what becomes of some commands.
type OutageRow struct {
	Commands []string // upper case; with options in lower case where these decide
	Outage
	Needs string // what must be known for it, or why it is refused; for the documentation
}

// Outages are all commands of which anything but Refused is to be said, and the reasons of some that
// are refused.
var Outages = []OutageRow{
	{names("PING", "ECHO", "HELLO", "AUTH", "SELECT", "QUIT", "RESET", "COMMAND", "INFO", "CLIENT", "CONFIG"), Works, "nothing"},
	{names("SET", "SETEX", "PSETEX", "MSET", "DEL", "UNLINK"), Kept, "nothing; DEL and UNLINK count the keys that are known to be there"},
	{names("HGET", "HMGET", "HEXISTS", "HSTRLEN", "SISMEMBER", "SMISMEMBER"), Answered, "the fields or members that it names; `service.outage_collections: on`: or they were read before, or all of its key"},
	{names("HGETALL", "HKEYS", "HVALS", "HLEN", "SMEMBERS", "SCARD", "LRANGE", "LLEN", "LINDEX"), Answered,
		"all of its key: it was deleted here before it was made here; `service.outage_collections: on`: or all of it was read before; `LINDEX` also answers from an end that was pushed here"},
	{names("GET", "MGET", "EXISTS", "TOUCH", "TYPE", "STRLEN", "GETRANGE", "SUBSTR", "TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME", "GETEX"), Answered,
		"what each of its keys holds, or that it holds nothing"},
	{names("SET nx|xx|get|keepttl", "SETNX", "GETSET", "GETDEL", "GETEX ex|px|exat|pxat|persist"), KeptIfKnown, "its key"},
	{names("SETRANGE", "EXPIRE nx|xx|gt|lt", "PEXPIRE nx|xx|gt|lt", "EXPIREAT nx|xx|gt|lt", "PEXPIREAT nx|xx|gt|lt"), KeptIfKnown, "its key"},
	{names("INCR", "INCRBY", "DECR", "DECRBY", "INCRBYFLOAT"), KeptAsOperation, "its key; `local`: from what was read before, else from 0"},
	{names("APPEND"), KeptAsOperation, "its key; `local`: from what was read before, else from nothing"},
	{names("EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT", "PERSIST"), KeptAsOperation, "whether its key is there, `PERSIST` also how it ends; `local`: 1, as if it were"},
	{names("HSET", "HSETNX"), KeptAsOperation, "its fields; `local`: those of which nothing is known count as new"},
	{names("HMSET"), KeptAsOperation, "nothing: it always answers `OK`"},
	{names("HDEL", "SREM"), KeptAsOperation, "its fields or members; `local`: those of which nothing is known are not counted"},
	{names("SADD"), KeptAsOperation, "its members; `local`: those of which nothing is known count as new"},
	{names("HINCRBY", "HINCRBYFLOAT"), KeptAsOperation, "its field; `local`: from 0"},
	{names("LPUSH", "RPUSH"), KeptAsOperation, "all of its key; `local`: what was pushed here is counted"},
	{names("SCAN", "KEYS", "RANDOMKEY", "DBSIZE"), Listed, "nothing; `service.outage_keys: known`: the keys that `EXISTS` would answer 1 for"},
	{names("RENAME", "COPY replace"), KeptIfKnown, "its source"},
	{names("RENAMENX", "COPY", "MSETNX"), KeptIfKnown, "all its keys"},
	{names("MULTI", "EXEC", "DISCARD"), KeptIfKnown, "what its commands depend on"},
}

func names(words ...string) []string { return words }

// outages are Outages by command.
var outages = func() map[string]Outage {
	all := make(map[string]Outage)
	for _, row := range Outages {
		for _, command := range row.Commands {
			if !strings.Contains(command, " ") {
				all[command] = row.Outage
			}
		}
	}
	return all
}()

// OutageOf says what becomes of a command, with all its arguments, while Redis is away.
func OutageOf(args []string) Outage {
	if len(args) == 0 {
		return Refused
	}
	return outageOf(strings.ToUpper(args[0]), args[1:])
}

func outageOf(name string, args []string) Outage {
	switch name {
	case "SET":
		if len(args) > 2 && slices.ContainsFunc(args[2:], func(option string) bool {
			return slices.Contains([]string{"NX", "XX", "GET", "KEEPTTL"}, strings.ToUpper(option))
		}) {
			return KeptIfKnown
		}
		return Kept
	case "EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT":
		if len(args) > 2 {
			return KeptIfKnown
		}
		return KeptAsOperation
	case "GETEX":
		if len(args) > 1 {
			return KeptIfKnown
		}
		return Answered
	default:
		return outages[name]
	}
}
