-- Tells what Redis has of a key, and changes nothing.
--
-- KEYS:       k, its refresh lock or not, and where their stamps stand
-- ARGV:       the last byte of the value to answer, the field of k's stamp, the number of keys
-- Answer:     type, size, ttl, v, stamp, held, ttl of that
--             type: as TYPE says it, or '' where that is not permitted; size: in bytes, -1 for no
--             string; ttl: PTTL; v: what the value begins with; stamp: as it is stored; held: what
--             the refresh lock holds. v, stamp and held are false where there is none
-- Second run: changes nothing either
--
-- All of it is read without being tracked, as the client sends CLIENT CACHING NO ahead. What is not
-- permitted, or is of another type, is left out.

local k, call, count = KEYS[1], redis.pcall, tonumber(ARGV[3])
local lock = KEYS[count]
local function text(v) return type(v) == 'string' and v end
local function number(v) return type(v) == 'number' and v end
local size = number(call('STRLEN', k)) or number(call('SETRANGE', k, 0, '')) or -1
return {
  call('TYPE', k).ok or '', size, number(call('PTTL', k)) or -1, size > 0 and text(call('GETRANGE', k, 0, ARGV[1])),
  text(call('HMGET', KEYS[count+1], ARGV[2])[1]), count > 1 and text(call('GET', lock)), number(call('PTTL', lock)) or -2,
}
