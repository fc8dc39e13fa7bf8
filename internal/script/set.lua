-- include: stamps put
-- Stores the value of a Set, and its stamp.
--
-- KEYS:       k, and where its stamp stands
-- ARGV:       window, stamp, StampTTL in ms, value, ttl in ms, 1 for the number of k
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: finds the stamp of the first, or of a later operation of the same client, and does
--             nothing. Another client's write in between hides that stamp; then the window bounds
--             how late the second run can be

local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local full = whenFull()
if full then return full end
local was = stampOf(1)
if overtaken(was, ARGV[2]) then return 1 end
put(KEYS[1], ARGV[4], ARGV[5])
leave(1, now, was, ARGV[2], math.floor(now / 1000) + ARGV[5], math.max(ARGV[3], ARGV[5]))
return 1
