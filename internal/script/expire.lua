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
local grace, ms = tonumber(ARGV[4]), floor(now / 1000)
for i = 1, count do
  local was, ends = stampOf(i), 0
  if not overtaken(was, ARGV[3]) then
    local left = shorten(KEYS[i], grace, 5, #ARGV - 1)
    if was then
      local _, _, _, before = parts(was)
      if left > 0 and before > ms then ends = min(before, ms + left) end
    end
    leave(i, now, was, ARGV[3], ends, ARGV[2])
  end
end
return 1
