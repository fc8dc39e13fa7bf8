-- include: stamps
-- Deletes the keys of a Del, and leaves its stamp for each.
--
-- KEYS:       k…, and where their stamps stand
-- ARGV:       window, stamp, StampTTL in ms, number of k
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: finds the stamps of the first, or of later operations of the same client, and does
--             nothing. Another client's write in between hides them; then the window bounds how
--             late the second run can be

local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
for i = 1, count do
  local was = stampOf(i)
  if not overtaken(was, ARGV[2]) then
    call('UNLINK', KEYS[i])
    leave(i, now, was, ARGV[2], 0, ARGV[3])
  end
end
return 1
