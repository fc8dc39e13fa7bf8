-- include: stamps ends put
-- Stores a refreshed value, if the refresh lock is still ours and the key holds what the refresh set
-- out to replace: the same bytes with the same end, and the same stamp. So whatever was written or
-- deleted since wins.
--
-- KEYS:       k, its refresh lock, and where their stamps stand
-- ARGV:       marker, SHA-1, end, stamp, value, ttl in ms, 2 for the number of keys
--             ttl 0: there is no value that may be stored, so that k is deleted
-- Answer:     {1} stored, {0} refused
-- Second run: finds no marker and is refused
--
-- The end may differ by the error of ends.lua.
--
-- A stamp that is there has no end afterwards: what is there is a load's, so that a replay does not
-- take it for the value that came with the stamp, and an older Set does not overwrite it.

if look(KEYS[2]) ~= ARGV[1] then return {0} end
local v = look(KEYS[1])
local at = v and (ends(KEYS[1]) or 0)
local same, was = at and math.abs(at - ARGV[3]) <= 3
if same then
  was = stampOf(1)
  same = (was or '') == ARGV[4] and redis.sha1hex(v) == ARGV[2]
end
if same then
  if was then
    local t, client, number, _, other, changed, margin = parts(was)
    call('HSET', KEYS[3], fieldOf(KEYS[1]), stored(t, client, number, 0, other, changed, margin))
  end
  if ARGV[6] == '0' then call('UNLINK', KEYS[1]) else put(KEYS[1], ARGV[5], ARGV[6]) end
end
call('DEL', KEYS[2])
return {same and 1 or 0}
