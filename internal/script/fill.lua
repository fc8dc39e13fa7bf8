-- include: put
-- Stores a loaded value, if the key still holds the marker of that load.
--
-- KEYS:       k
-- ARGV:       marker, value, ttl in ms
-- Answer:     {1} stored, {0} refused
-- Second run: finds no marker and is refused
--
-- GETEX counts as a write, so a fill is stored even on a server that has become full since the lock
-- was taken.

local key, call = KEYS[1], redis.call
local v = redis.pcall('GETEX', key)
if type(v) == 'table' then v = call('GET', key) end
if v ~= ARGV[1] then return {0} end
put(key, ARGV[2], ARGV[3])
call('EXISTS', key)
return {1}
