package resp

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// Commands that change or remove a ttl.

// scriptSet sets a value under conditions.
//
//	ARGV  three for scriptClean; the value; NX, XX or nothing; 1 if the old value is asked for; KEEPTTL, a ttl in ms (0: it has passed),
//	      "@" and an end in ms since 1970, or nothing
//
// It returns the old value if that is asked for, else OK; nil if there is none, or the condition is
// not met.
const scriptSet = scriptClean + `
local old = false
if ARGV[6] == '1' then
	old = redis.pcall('GET', KEYS[1])
	if type(old) == 'table' then
		return old
	end
end
local exists = redis.call('EXISTS', KEYS[1]) == 1
if ARGV[5] == 'NX' and exists or ARGV[5] == 'XX' and not exists then
	return old
end
local done
if ARGV[7] == '' or ARGV[7] == '0' then
	done = redis.pcall('SET', KEYS[1], ARGV[4])
elseif ARGV[7] == 'KEEPTTL' then
	done = redis.pcall('SET', KEYS[1], ARGV[4], 'KEEPTTL')
elseif string.sub(ARGV[7], 1, 1) == '@' then
	done = redis.pcall('SET', KEYS[1], ARGV[4])
	if not done.err then
		redis.call('PEXPIREAT', KEYS[1], string.sub(ARGV[7], 2))
	end
else
	done = redis.pcall('SET', KEYS[1], ARGV[4], 'PX', ARGV[7])
end
if done.err then
	return done
end
if ARGV[7] == '0' then
	redis.call('DEL', KEYS[1])
end
if ARGV[6] == '1' then
	return old
end
return done`

// scriptGetAnd returns the value, or nil, and gives it the end that ARGV[4] says: 0 deletes it,
// PERSIST takes its end away, "@" and a number is an end in ms since 1970, anything else a ttl in
// ms.
const scriptGetAnd = scriptClean + `
local value = redis.pcall('GET', KEYS[1])
if type(value) ~= 'string' then
	return value
end
if ARGV[4] == '0' then
	redis.call('DEL', KEYS[1])
elseif ARGV[4] == 'PERSIST' then
	redis.call('PERSIST', KEYS[1])
elseif string.sub(ARGV[4], 1, 1) == '@' then
	redis.call('PEXPIREAT', KEYS[1], string.sub(ARGV[4], 2))
else
	redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return value`

// scriptExpire gives the key a ttl of ARGV[4] ms under the conditions of which ARGV[5] has the
// letters: N, only if it has none; X, only if it has one; G, only if that is shorter; L, only if
// that is longer. No ttl is the longest. It returns whether it did.
const scriptExpire = scriptClean + `
local left = redis.call('PTTL', KEYS[1])
if left == -2 then
	return 0
end
local has = function(letter) return string.find(ARGV[5], letter, 1, true) end
local ttl = tonumber(ARGV[4])
if has('N') and left >= 0 or has('X') and left < 0 or has('G') and (left < 0 or ttl <= left) or has('L') and left >= 0 and ttl >= left then
	return 0
end
return redis.pcall('PEXPIRE', KEYS[1], ARGV[4])`

func (c *conn) setIf(key, value string, o setOptions, ttl time.Duration) {
	condition, old, end := "", "0", ""
	switch {
	case o.nx:
		condition = "NX"
	case o.xx:
		condition = "XX"
	}
	if o.get {
		old = "1"
	}
	switch {
	case o.keepTTL:
		end = "KEEPTTL"
	case ttl != proxy.NoExpiry:
		end = endArg(o.unit, o.amount, ttl)
	}
	changed := ifAnything
	switch {
	case o.get && o.nx:
		changed = ifNothing
	case o.get && !o.xx:
		changed = nil
	}
	reply, err := c.cleaning(scriptSet, key, changed, c.server.store.Pack(value), condition, old, end)
	switch {
	case err != nil:
		c.failWrite(err)
	case o.get:
		c.opened(reply)
	case reply.IsNil():
		c.null()
	default:
		c.ok()
	}
}

// endArg is an end as the scripts take it: an absolute one as it is, so that it does not move by
// how long Redis takes.
func endArg(unit, amount string, ttl time.Duration) string {
	n, _ := number(amount) // endOf has read it
	switch {
	case ttl <= 0:
	case unit == "EXAT":
		return "@" + strconv.FormatInt(n*1000, 10)
	case unit == "PXAT":
		return "@" + strconv.FormatInt(n, 10)
	}
	return inMillis(ttl)
}

// putAt sets a value with an absolute end. Where Redis cannot be asked now, put keeps it, with that
// end.
func (c *conn) putAt(key, value string, o setOptions, ttl time.Duration) {
	_, err := c.cleaning(scriptSet, key, ifAnything, c.server.store.Pack(value), "", "0", endArg(o.unit, o.amount, ttl))
	switch {
	case errors.Is(err, aside.ErrRedisAway), errors.Is(err, aside.ErrUnknownOutcome): // doing it twice does no harm
		c.put(key, value, ttl)
	case err != nil:
		c.failWrite(err)
	default:
		c.ok()
	}
}

func inMillis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func getdel(c *conn, args []string) { c.getAnd(args[0], "0") }

func (c *conn) getAnd(key, end string) {
	if !c.fits(key) {
		return
	}
	reply, err := c.cleaning(scriptGetAnd, key, ifAnything, end)
	if err != nil {
		c.failWrite(err)
		return
	}
	c.opened(reply)
}

func getex(c *conn, args []string) {
	if len(args) == 1 {
		get(c, args)
		return
	}
	unit, amount, ok := parseGetex(args[1:])
	if !ok {
		c.error(syntaxError)
		return
	}
	if unit == "PERSIST" {
		c.getAnd(args[0], unit)
		return
	}
	ttl, wrong := endOf("getex", unit, amount)
	switch {
	case wrong != "": // which Redis says only where there is a value
		if _, ok := c.value(args[0], c.null); ok {
			c.error(wrong)
		}
	case ttl == proxy.NoExpiry:
		c.getAnd(args[0], "PERSIST")
	default:
		c.getAnd(args[0], endArg(unit, amount, ttl))
	}
}

func parseGetex(args []string) (unit, amount string, ok bool) {
	for i := 0; i < len(args); i++ {
		option := strings.ToUpper(args[i])
		if unit != "" && unit != option {
			return "", "", false
		}
		switch option {
		case "PERSIST":
		case "EX", "PX", "EXAT", "PXAT":
			if i++; i == len(args) {
				return "", "", false
			}
			amount = args[i]
		default:
			return "", "", false
		}
		unit = option
	}
	return unit, amount, true
}

func expire(c *conn, args []string)  { c.expire("expire", 1000, args) }
func pexpire(c *conn, args []string) { c.expire("pexpire", 1, args) }

// parseExpire reads the options of EXPIRE and its like. wrong: the error reply if they cannot be.
func parseExpire(options []string) (nx, xx, gt, lt bool, wrong string) {
	for _, option := range options {
		switch strings.ToUpper(option) {
		case "NX":
			nx = true
		case "XX":
			xx = true
		case "GT":
			gt = true
		case "LT":
			lt = true
		default:
			return nx, xx, gt, lt, "ERR Unsupported option " + beginning(option, len(option))
		}
	}
	switch {
	case nx && (xx || gt || lt):
		wrong = "ERR NX and XX, GT or LT options at the same time are not compatible"
	case gt && lt:
		wrong = "ERR GT and LT options at the same time are not compatible"
	}
	return nx, xx, gt, lt, wrong
}

func (c *conn) expire(name string, unit int64, args []string) {
	nx, xx, gt, lt, wrong := parseExpire(args[2:])
	if wrong != "" {
		c.error(wrong)
		return
	}
	n, ok := number(args[1])
	switch {
	case !ok:
		c.error(notInteger)
		return
	case n > math.MaxInt64/unit || n < math.MinInt64/unit || n > 0 && n*unit > math.MaxInt64-time.Now().UnixMilli():
		c.error("ERR invalid expire time in '" + name + "' command")
		return
	case !c.fits(args[0]):
		return
	}
	conditions := make([]byte, 0, 2)
	for letter, wanted := range map[byte]bool{'N': nx, 'X': xx, 'G': gt, 'L': lt} {
		if wanted {
			conditions = append(conditions, letter)
		}
	}
	reply, err := c.cleaning(scriptExpire, args[0], ifOne, strconv.FormatInt(n*unit, 10), string(conditions))
	if err != nil {
		c.failWrite(err)
		return
	}
	done, _ := reply.ToInt64()
	c.int(done)
}
