-- Reads a key, or locks it where it holds nothing: "here it is", "you load it" or "somebody is
-- loading it".
--
-- KEYS:       k
-- ARGV:       marker, LockTTL in ms, most bytes to answer
-- Answer:     v, ttl
--             v: what the key holds, and ttl its PTTL; 1: our marker now; 2: more bytes than asked
--             for, and ttl is their number
-- Second run: finds the marker of the first, which the caller knows as its own
--
-- SETRANGE of nothing tells the length. Unlike STRLEN it is no read, and what is read is tracked.

local key, call = KEYS[1], redis.call
local locked = redis.pcall('SET', key, ARGV[1], 'NX', 'PX', ARGV[2])
if locked and locked.ok then return {1, 0} end
local size = redis.pcall('SETRANGE', key, 0, '')
if type(size) == 'number' and size > tonumber(ARGV[3]) then return {2, size} end
local v = call('GET', key)
if not v then return locked end
return {v, call('PTTL', key)}
