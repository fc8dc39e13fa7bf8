-- include: stamps
-- Deletes the keys of Dels, and leaves the stamp of its Del for each.
--
-- KEYS:       k…, and the bucket of each
-- ARGV:       window, StampTTL in ms, '' or, if it may have been done, 'again', the stamp of each key, or one
--             for all; then the number of k
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: as that of set.lua

local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local args, keys, keep, ms = ARGV, KEYS, tonumber(ARGV[2]), floor(now / 1000)
local again, one, before, behind = args[3] ~= '', #args == 5, around(now, 0)
for i = 1, count do
  local key, bucket, mine = keys[i], keys[count+i], args[one and 4 or 3+i]
  local field = fieldOf(key)
  local head, t, client, number = written(bucket, field, now, mine, again)
  if t then
    call('UNLINK', key)
    local stamp = t == now and before .. identity(mine) .. behind or stored(t, client, number, 0, 0, false, 2 * (t - now))
    placeIn(bucket, head, ms, 0, keep, field, stamp)
  end
end
return 1
