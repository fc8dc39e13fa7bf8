-- include: stamps ends
-- Takes the refresh lock of a key whose value is stale: of all that ask, one refreshes it. Or of any
-- value, for a Refresh.
--
-- KEYS:       k, its refresh lock, and where their stamps stand
-- ARGV:       marker, LockTTL in ms, grace in ms, lock prefix, 2 for the number of keys
--             no grace: any value will do, and a back-off is not heeded
--             a plus before it: a back-off is not heeded, nor that the value does not expire
-- Answer:     0: there is nothing to refresh: no value, one that is fresh or does not expire, a lock
--             1, ms: somebody refreshes it, and nobody should try for so long
--             1, ms, failures: so many have failed in a row, and nobody should try for so long
--             2, failures, SHA-1, end, stamp: our marker is the lock; how often it has failed in a
--             row, and what the refresh sets out to replace
--             (an end of 0: it does not expire)
-- Second run: finds the marker of the first, and answers the same but for the failures
--
-- A refresh lock holds a marker, or, where a refresh has failed, failed:<how often>:<ms>: then it is
-- held until only so many ms are left, and is there that long to be counted.

local v = look(KEYS[1])
if not v or v:sub(1, #ARGV[4]) == ARGV[4] then return {0} end
local any, at = ARGV[3] == '' or ARGV[3]:sub(1, 1) == '+', ends(KEYS[1])
if not at and not any or ARGV[3] ~= '' and call('PTTL', KEYS[1]) > tonumber(ARGV[3]) then return {0} end
local held, failures = look(KEYS[2]), 0
if held and held ~= ARGV[1] then
  local left = call('PTTL', KEYS[2])
  local n, keep = held:match('^failed:(%d+):(%d+)$')
  if not n then return {1, left} end
  if not any and left > tonumber(keep) then return {1, left - keep, tonumber(n)} end
  failures = tonumber(n)
end
call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {2, failures, redis.sha1hex(v), string.format('%.0f', at or 0), stampOf(1) or ''}
