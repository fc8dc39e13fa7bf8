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
local one = #ARGV == 4
for i = 1, count do
  local mine, was = ARGV[one and 3 or 2+i], stampOf(i)
  if not overtaken(was, mine) then
    call('UNLINK', KEYS[i])
    leave(i, now, was, mine, 0, ARGV[2])
  end
end
return 1
