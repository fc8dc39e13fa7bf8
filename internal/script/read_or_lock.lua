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
-- GETRANGE answers no more than is asked for, however long the value is. It answers '' for nothing,
-- which PTTL tells apart. SETRANGE of nothing tells the length.

local key, call, most = KEYS[1], redis.call, tonumber(ARGV[3])
local locked = redis.pcall('SET', key, ARGV[1], 'NX', 'PX', ARGV[2])
if locked and locked.ok then return {1, 0} end
local v, left = call('GETRANGE', key, 0, most), call('PTTL', key)
if left == -2 then return locked end
if #v > most then return {2, call('SETRANGE', key, 0, '')} end
return {v, left}
