-- Locks a key that holds something unreadable, given by its SHA-1, as if it held nothing.
--
-- KEYS:       k
-- ARGV:       marker, LockTTL in ms, SHA-1
-- Answer:     v, ttl, as in read_or_lock.lua
-- Second run: finds the marker of the first, which the caller knows as its own

local v = redis.call('GET', KEYS[1])
if v and redis.sha1hex(v) ~= ARGV[3] then
  return {v, redis.call('PTTL', KEYS[1])}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, 0}
