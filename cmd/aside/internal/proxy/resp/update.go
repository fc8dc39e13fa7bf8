package resp

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/wire"
)

// Commands that read and write in one step are done by Redis alone, through scripts: a command of
// Redis's own would take a lock or a remembered absence for a value, and the library's longest ttl
// for one. What Redis 6.0 does not know yet (expire.go) is spelled out for it.

// scriptUpdate runs a command on a key.
//
//	KEYS  the key
//	ARGV  what the library's own begins with; what a value that looks like it begins with; the longest ttl in ms; kind; command…
//
// It returns the command's reply or error. kind "number": the value instead, as a Lua number holds
// 53 bits.
//
// Running it twice runs the command twice: the client is told ASIDEUNKNOWN, and nothing is tried
// again.
const scriptUpdate = scriptClean + `
local reply = redis.pcall(unpack(ARGV, 5))
if ARGV[4] == 'number' and type(reply) ~= 'table' then
	return redis.call('GET', KEYS[1])
end
return reply`

// scriptClean makes the key what it is taken for: no key where it holds no value, without end where
// that is too far to be one. What other libraries leave in a key while they load it is told as
// package wire tells it. Where a value has a header, nothing is done, see cleaning.
const scriptClean = `
local function idOf(s)
	for _, prefix in ipairs({'rueidisid:', 'valkeyid:', '__redcache:lock:'}) do
		if string.sub(s, 1, #prefix) == prefix then
			return string.sub(s, #prefix + 1)
		end
	end
end
local function mark(s)
	local id = idOf(s)
	return id and #id > 0 and #id <= 64 and not string.find(id, '[^%w_:{}%-]')
end
local head = redis.pcall('GETRANGE', KEYS[1], 0, 127) -- longer than any mark, escaped or not
if type(head) == 'string' then
	local escape = string.sub(ARGV[2], 1, #ARGV[2] - #ARGV[1])
	local own = string.sub(head, 1, #ARGV[1]) == ARGV[1]
	local escaped = string.sub(head, 1, #ARGV[2]) == ARGV[2] or string.sub(head, 1, #escape) == escape and idOf(string.sub(head, #escape + 1))
	if own and string.sub(head, #ARGV[1] + 1, #ARGV[1] + 2) == '1h' then
		return redis.error_reply('ASIDEHEADER')
	elseif own and not escaped or mark(head) then
		redis.call('DEL', KEYS[1])
	end
end
if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[3]) then
	redis.call('PERSIST', KEYS[1])
end`

// scriptAppend appends ARGV[4] to a value that stays at most ARGV[5] bytes long. What is stored for
// a short value depends on what it begins with, so that is left to the caller. It returns
//
//	{length, beginning}  of what is stored now; the beginning only where it may be a header
//	{-1, what is stored} nothing was done, as that is short; nil if there is nothing
const scriptAppend = scriptClean + `
local length = redis.pcall('STRLEN', KEYS[1])
if type(length) == 'table' then
	return length
end
if length + #ARGV[4] > tonumber(ARGV[5]) then
	return redis.error_reply('ERR string exceeds maximum allowed size (proto-max-bulk-len)')
end
if length < 16 then
	return {-1, redis.call('GET', KEYS[1])}
end
length = redis.pcall('APPEND', KEYS[1], ARGV[4])
if type(length) == 'table' then
	return length
end
local first = redis.call('GETRANGE', KEYS[1], 0, 0)
if first == '\0' or first == '\1' then
	return {length, redis.call('GETRANGE', KEYS[1], 0, 4095)}
end
return {length, ''}`

// scriptSwap stores ARGV[3] for ARGV[2], or, if ARGV[1] is "0", for nothing. It returns 1 if it
// did; again, it would not, unless the value was changed back.
const scriptSwap = `
local now = redis.call('GET', KEYS[1])
if ARGV[1] == '0' and now == false or ARGV[1] == '1' and now == ARGV[2] then
	redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL')
	return 1
end
return 0`

// swaps is how often a swap is tried against others that change the same short value.
const swaps = 100

var errContended = errors.New("resp: too many others change the key")

// changed says from a script's reply whether it has changed the key; nil: always.
type changed func(reply rueidis.RedisMessage) bool

func ifOne(reply rueidis.RedisMessage) bool      { n, err := reply.ToInt64(); return err != nil || n == 1 }
func ifAnything(reply rueidis.RedisMessage) bool { return !reply.IsNil() }
func ifNothing(reply rueidis.RedisMessage) bool  { return reply.IsNil() }

func (c *conn) script(script, key string, changed changed, args ...string) (rueidis.RedisMessage, error) {
	return c.server.store.Do(c.ctx, proxy.Command{Name: []string{"EVAL", script, "1"}, Key: key, Args: args, Changed: changed})
}

// cleaning runs a script that begins with scriptClean. A value that has a header loses it first: what
// it says is of the value that is changed now.
func (c *conn) cleaning(script, key string, changed changed, args ...string) (reply rueidis.RedisMessage, err error) {
	for range swaps {
		reply, err = c.cleanly(script, key, changed, args...)
		if refused, ok := rueidis.IsRedisErr(err); !ok || !strings.Contains(refused.Error(), "ASIDEHEADER") {
			return reply, err
		}
		if err := c.behead(key); err != nil {
			return reply, err
		}
	}
	return reply, errContended
}

// behead takes the header from a value; a value whose header cannot be read becomes an absence.
func (c *conn) behead(key string) error {
	reply, err := c.server.store.Ask(c.ctx, "GET", []string{key})
	if err != nil {
		return err
	}
	stored, err := reply.ToString()
	if err != nil {
		return nil //nolint:nilerr // it is gone, or of another type, which the command itself answers
	}
	value, h, what := wire.Unpack(stored)
	switch {
	case what == wire.Value && h != nil:
		value = wire.Pack(value)
	case what == wire.Unreadable:
		value = wire.Absent
	default:
		return nil
	}
	_, err = c.swap(key, stored, true, value)
	return err
}

func (c *conn) cleanly(script, key string, changed changed, args ...string) (rueidis.RedisMessage, error) {
	return c.script(script, key, changed, append([]string{wire.Prefix, wire.Escape + wire.Prefix, strconv.FormatInt(proxy.LongestTTL.Milliseconds(), 10)}, args...)...)
}

// opened answers a value that Redis has returned.
func (c *conn) opened(reply rueidis.RedisMessage) {
	if stored, err := reply.ToString(); err == nil {
		if v, ok := c.server.store.Open(stored); ok {
			c.bulk(v.Data)
			return
		}
	}
	c.null()
}

// updateInt runs a command whose reply is 1 if it has changed the key, else 0.
func (c *conn) updateInt(key string, command ...string) {
	if !c.fits(key) {
		return
	}
	reply, err := c.cleaning(scriptUpdate, key, ifOne, append([]string{""}, command...)...)
	if err != nil {
		c.failWrite(err)
		return
	}
	n, _ := reply.ToInt64()
	c.int(n)
}

func setnx(c *conn, args []string) {
	c.updateInt(args[0], "SETNX", args[0], c.server.store.Pack(args[1]))
}

func persist(c *conn, args []string) { c.updateInt(args[0], "PERSIST", args[0]) }

func incr(c *conn, args []string) { c.add(args[0], 1, "INCR", args[0]) }
func decr(c *conn, args []string) { c.add(args[0], -1, "DECR", args[0]) }

func incrby(c *conn, args []string) {
	n, ok := number(args[1])
	if !ok {
		c.error(notInteger)
		return
	}
	c.add(args[0], n, "INCRBY", args[0], args[1])
}

func decrby(c *conn, args []string) {
	n, ok := number(args[1])
	switch {
	case !ok:
		c.error(notInteger)
	case n == math.MinInt64:
		c.error("ERR decrement would overflow")
	default:
		c.add(args[0], -n, "DECRBY", args[0], args[1])
	}
}

// add runs INCR or the like. Where Redis finds no number the reason may be that the value was put
// by HTTP and has a content type before it: that is kept.
func (c *conn) add(key string, by int64, command ...string) {
	if !c.fits(key) {
		return
	}
	reply, err := c.cleaning(scriptUpdate, key, nil, append([]string{"number"}, command...)...)
	if err == nil {
		text, _ := reply.ToString()
		n, _ := number(text)
		c.int(n)
		return
	}
	if refused, ok := rueidis.IsRedisErr(err); !ok || !strings.Contains(refused.Error(), "not an integer") {
		c.failWrite(err)
		return
	}
	for range swaps {
		reply, readErr := c.server.store.Ask(c.ctx, "GET", []string{key})
		if readErr != nil {
			c.failWrite(readErr)
			return
		}
		stored, _ := reply.ToString()
		v, _ := c.server.store.Open(stored)
		n, ok := number(v.Data)
		if !ok || v.ContentType == "" {
			c.failWrite(err) // what Redis has said
			return
		}
		sum, ok := sumOf(n, by)
		if !ok {
			c.error(string(overflow))
			return
		}
		swapped, swapErr := c.swap(key, stored, true, c.repacked(stored, v, whole(sum)))
		if swapErr != nil {
			c.failWrite(swapErr)
			return
		}
		if swapped {
			c.int(sum)
			return
		}
	}
	c.failWrite(errContended)
}

// ifAppended is for scriptAppend.
func ifAppended(reply rueidis.RedisMessage) bool {
	answer, err := reply.ToArray()
	if err != nil || len(answer) == 0 {
		return true
	}
	length, err := answer[0].ToInt64()
	return err != nil || length >= 0
}

func appendTo(c *conn, args []string) {
	key, more := args[0], args[1]
	if !c.fits(key) {
		return
	}
	for range swaps {
		reply, err := c.cleaning(scriptAppend, key, ifAppended, more, strconv.Itoa(c.server.options.MaxValueBytes))
		if err != nil {
			c.failWrite(err)
			return
		}
		answer, _ := reply.ToArray()
		length, _ := answer[0].ToInt64()
		stored, _ := answer[1].ToString()
		v, _ := c.server.store.Open(stored)
		if length >= 0 {
			c.int(length - int64(len(stored)-len(v.Data))) // without the header
			return
		}
		swapped, err := c.swap(key, stored, !answer[1].IsNil(), c.repacked(stored, v, v.Data+more))
		if err != nil {
			c.failWrite(err)
			return
		}
		if swapped {
			c.int(int64(len(v.Data) + len(more)))
			return
		}
	}
	c.failWrite(errContended)
}

// repacked is the string to store for data in place of stored, which was v: with v's content type,
// if it had one.
func (c *conn) repacked(stored string, v proxy.Value, data string) string {
	if v.ContentType == "" {
		return c.server.store.Pack(data)
	}
	return stored[:len(stored)-len(v.Data)] + data
}

func (c *conn) swap(key, old string, existed bool, value string) (bool, error) {
	flag := "0"
	if existed {
		flag = "1"
	}
	reply, err := c.script(scriptSwap, key, ifOne, flag, old, value)
	if err != nil {
		return false, err
	}
	n, err := reply.ToInt64()
	return n == 1, err
}
