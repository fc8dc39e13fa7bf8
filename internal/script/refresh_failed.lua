-- include: look
-- Leaves a refresh lock for a back-off, if it is still ours: see refresh.lua.
--
-- KEYS:       a refresh lock
-- ARGV:       marker, failed:<how often>:<ms>, ttl in ms
-- Answer:     {1} left, {0} it is not ours any more
-- Second run: finds no marker of ours

if look(KEYS[1]) ~= ARGV[1] then return {0} end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return {1}
