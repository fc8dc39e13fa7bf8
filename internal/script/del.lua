-- include: stamps
-- Deletes the keys of a Del, and leaves its stamp for each.
--
-- KEYS:       k…, their stamps…
-- ARGV:       window, stamp, StampTTL in ms
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: finds the stamps of the first, or of later operations of the same client, and does
--             nothing. Another client's write in between hides them; then the window bounds how
--             late the second run can be

local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local n = #KEYS / 2
for i = 1, n do
  local was = stampOf(KEYS[n+i])
  if not overtaken(was, ARGV[2]) then
    call('UNLINK', KEYS[i])
    call('SET', KEYS[n+i], later(now, was, ARGV[2], 0), 'PX', ARGV[3])
  end
end
return 1
