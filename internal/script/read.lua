-- include: look
-- Reads a key and changes nothing.
--
-- KEYS:       k
-- ARGV:       lock prefix, most bytes to answer
-- Answer:     v, ttl
--             v: what the key holds, and ttl its PTTL; false: it holds nothing, or a lock; 2: more
--             bytes than asked for, and ttl is their number
-- Second run: changes nothing either

local size = redis.pcall('SETRANGE', KEYS[1], 0, '')
if type(size) == 'number' and size > tonumber(ARGV[2]) then return {2, size} end
local v = look(KEYS[1])
if not v or string.sub(v, 1, #ARGV[1]) == ARGV[1] then return {false, -2} end
return {v, redis.call('PTTL', KEYS[1])}
