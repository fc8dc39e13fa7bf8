-- include: stamps
-- Leaves stamps for what other commands have done to keys, see Client.Update: a value that is there
-- counts as written with the stamp.
--
-- KEYS:       k…, their stamps…
-- ARGV:       window, stamp, StampTTL in ms, ms for what does not expire
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
    local left, ends = call('PTTL', KEYS[i]), 0
    if left == -1 then left = tonumber(ARGV[4]) end
    if left > 0 then ends = math.floor(now / 1000) + left end
    call('SET', KEYS[n+i], later(now, was, ARGV[2], ends), 'PX', digits(math.max(ARGV[3], left)))
  end
end
return 1
