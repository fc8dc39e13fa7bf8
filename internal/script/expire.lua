-- include: stamps shorten
-- Makes values stale: each has a grace left, at most. Leaves the stamp of the Expire for each key.
--
-- KEYS:       k…, and the bucket of each
-- ARGV:       window, StampTTL in ms, stamp, grace in ms, lock prefix…; then the number of k
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: finds the stamps of the first, or of later operations of the same client, and does
--             nothing. Another client's write in between hides them; then the window bounds how
--             late the second run can be
--
-- What is there remains the value of the explicit write that the stamp before was of, if it was one:
-- a newer Set may overwrite it.

local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local keep, grace, ms = tonumber(ARGV[2]), tonumber(ARGV[4]), floor(now / 1000)
for i = 1, count do
  local was, head = stampOf(i)
  local t, client, number = later(now, was, ARGV[3])
  if t then
    local left, ends = shorten(KEYS[i], grace, 5, #ARGV - 1), 0
    if was then
      local _, _, _, before = parts(was)
      if left > 0 and before > ms then ends = math.min(before, ms + left) end
    end
    placeIn(KEYS[count+i], head, ms, ends, keep, fieldOf(KEYS[i]), stored(t, client, number, ends, 0, false, 2 * (t - now)))
  end
end
return 1
