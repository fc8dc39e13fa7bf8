-- include: stamps
-- Deletes the keys of Dels, and leaves the stamp of its Del for each.
--
-- KEYS:       k…, and the bucket of each
-- ARGV:       window, StampTTL in ms, the stamp of each key, or one for all; then the number of k
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: finds the stamps of the first, or of later operations of the same client, and does
--             nothing. Another client's write in between hides them; then the window bounds how
--             late the second run can be

local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local args, keys, keep, ms = ARGV, KEYS, tonumber(ARGV[2]), floor(now / 1000)
local one, before, behind = #args == 4, around(now, 0)
for i = 1, count do
  local key, bucket, mine = keys[i], keys[count+i], args[one and 3 or 2+i]
  local field = fieldOf(key)
  local was, head = stampIn(bucket, field)
  local t, client, number = later(now, was, mine)
  if t then
    call('UNLINK', key)
    local stamp = t == now and before .. identity(mine) .. behind or stored(t, client, number, 0, 0, false, 2 * (t - now))
    placeIn(bucket, head, ms, 0, keep, field, stamp)
  end
end
return 1
