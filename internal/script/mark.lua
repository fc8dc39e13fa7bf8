-- include: stamps
-- Leaves stamps for what other commands have done to keys, see Client.Update: a value that is there
-- counts as written with the stamp. They say that the key was changed: it may have been set, too, but
-- operations that somebody has kept are not dropped for that.
--
-- KEYS:       k…, and the bucket of each
-- ARGV:       window, StampTTL in ms, stamp, ms for what does not expire, number of k
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: finds the stamps of the first, or of later operations of the same client, and does
--             nothing. Another client's write in between hides them; then the window bounds how
--             late the second run can be
--
-- A full server has done the commands that this is about, so it must not refuse the stamps: HDEL
-- is a write that it allows, and a script that has begun with a write may go on to write.

local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local keep, ms = tonumber(ARGV[2]), floor(now / 1000)
for i = 1, count do
  local was, head = stampOf(i)
  local t, client, number = later(now, was, ARGV[3])
  if t then
    local left, ends = call('PTTL', KEYS[i]), 0
    if left == -1 then left = tonumber(ARGV[4]) end
    if left > 0 then ends = ms + left end
    forget(i)
    placeIn(KEYS[count+i], head, ms, ends, keep, fieldOf(KEYS[i]), stored(t, client, number, ends, 0, true, 2 * (t - now)))
  end
end
return 1
