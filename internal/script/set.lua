-- include: stamps put
-- Stores the values of Sets, and their stamps.
--
-- KEYS:       k…, some perhaps more than once, and the bucket of each
-- ARGV:       window, StampTTL in ms, and for each key: stamp, value, ttl in ms; then the number of k
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: finds the stamps of the first, or of later operations of the same client, and does
--             nothing. Another client's write in between hides them; then the window bounds how
--             late the second run can be

local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local keep, ms = tonumber(ARGV[2]), floor(now / 1000)
for i = 1, count do
  local mine, ttl = ARGV[3*i], ARGV[3*i+2]
  local was = stampOf(i)
  if not overtaken(was, mine) then
    put(KEYS[i], ARGV[3*i+1], ttl)
    leave(i, now, was, mine, ms + ttl, keep)
  end
end
return 1
